"""From what the user has (folders, Parquet, Hugging Face, published data sets) to validated
training, validation and test images.

`prepare.prepare` is the way in and `real.RealSet` is what comes out.
"""
