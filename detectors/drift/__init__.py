"""Has the input or output changed its shape?"""
