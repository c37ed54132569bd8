"""The training benchmark: a step of this project against one glued from public parts, and against plain CLIP."""
