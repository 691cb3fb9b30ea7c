"""Diff-Mix on a Ray cluster: Ray Data makes the mixes while Ray Train and DeepSpeed train the
classifier on them.
"""
