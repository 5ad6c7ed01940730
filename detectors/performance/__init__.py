"""Is the model still good, by its labels?"""
