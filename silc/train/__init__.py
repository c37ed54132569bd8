"""The trainer: engine, step, loop, schedules, checkpoints, metrics."""
