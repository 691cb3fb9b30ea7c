"""Files that several processes or nodes share: files that only one of them may make, copies that a
node downloads once, ranges of files in buckets, and trees of which only the names are here.
"""
