"""
N:M sparsity
============

2:4 means two zeros in each four weights along a row. Hardware reads it fast, since each group has
the same number of weights. It is a config: all blocks, ``(1, M)`` wide, with N zeros in each.
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import block_mask

weights = np.random.default_rng(0).standard_normal((8, 16))
masks = {
    "half of all weights": block_mask(weights, sparsity_level=0.5, sparse_block_shape=(1, 1)),
    "2:4": block_mask(weights, sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2),
    "4:8": block_mask(weights, sparsity_level=1.0, sparse_block_shape=(1, 8), zeros_per_block=4),
}

figure, panels = plt.subplots(1, 3, figsize=(9, 2.2), layout="constrained")
for axes, (title, mask) in zip(panels, masks.items(), strict=True):
    axes.imshow(np.where(mask, np.abs(weights), np.nan), cmap="Blues", vmin=-1, vmax=3)
    width = {"2:4": 4, "4:8": 8}.get(title, 16)
    for edge in range(width, 16, width):
        axes.axvline(edge - 0.5, color="#c8553d", linewidth=1.2)
    left = np.abs(weights[mask]).sum() / np.abs(weights).sum()
    axes.set(title=title, xlabel=f"{left:.0%} of the magnitude is left", xticks=[], yticks=[])

# %%
# White is pruned. Each picture has 64 zeros. The more freedom a group has, the more is left.
for title, mask in masks.items():
    print(f"{title}: zeros in each row {(~mask).sum(axis=1)}")
