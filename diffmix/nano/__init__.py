"""The embedded defaults: a data set, a base model and an oracle that need no download."""
