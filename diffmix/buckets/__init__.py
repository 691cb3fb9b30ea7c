"""What nodes read of buckets: copies that a node downloads once, ranges of files, and trees of
which only the names are here.
"""
