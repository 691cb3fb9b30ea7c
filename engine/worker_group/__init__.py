"""A group of Ray Train workers: how it is run, how each begins, and how they talk."""
