"""Where a run's work is placed: the cluster, whether it has room, and how the GPUs are shared."""
