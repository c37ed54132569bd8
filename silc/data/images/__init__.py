"""Image files: which formats are read, within which limits, and how they are turned."""
