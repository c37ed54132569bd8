"""What a run needs before it is started: memory on each rank, operations, GPU-hours."""
