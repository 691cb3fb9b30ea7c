"""The forms in which people keep labeled images: class folders, Parquet, Hugging Face data sets.

Each form has a function `find`, which says which splits there are and what is left out.
"""
