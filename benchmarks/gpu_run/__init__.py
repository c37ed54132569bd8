"""What `make gpu` does: which jobs in which order, how one is run, what is remembered between two calls."""
