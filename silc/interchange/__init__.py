"""Models from and for other libraries: weights, descriptions and tokenizers in their formats and under their names."""
