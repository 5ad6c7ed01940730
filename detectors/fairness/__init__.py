"""Are groups treated alike?"""
