"""Whether what SILC claims holds here: the baselines and SILC trained alike, measured alike, side by side."""
