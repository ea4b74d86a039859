"""Checkpoints of tensors in files, read and written as streams: `datasparse prune` and its kin."""
