"""What depends on the device that a mixer runs on: attention kernels, batches, memory, compiling."""
