"""Has something stopped working without an error?"""
