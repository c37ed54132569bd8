"""Time, memory and parts of a step, for any benchmark."""
