"""What a set of shards holds: every sample checked as training reads it, or a random sample of them looked at."""
