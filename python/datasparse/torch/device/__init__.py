"""Masks of tensors that are not in CPU memory, computed where they lie."""
