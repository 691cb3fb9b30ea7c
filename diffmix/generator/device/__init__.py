"""What depends on a mixer's device: attention kernels, batches, memory, compiling."""
