"""Training with Ray Train and DeepSpeed: the workers' loops, and the pool of mixes that they draw
from.
"""
