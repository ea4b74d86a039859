"""
Blocks
======

A block is pruned whole or not at all. Kernels and caches like large blocks. Models like small ones,
since a block goes with the good weights that are in it.
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import block_mask

weights = np.random.default_rng(0).standard_normal((32, 32))
shapes = {"single weights": (1, 1), "1 x 4": (1, 4), "4 x 4": (4, 4), "whole rows": (1, -1)}

figure, panels = plt.subplots(1, 4, figsize=(9, 2.9), layout="constrained")
for axes, (title, shape) in zip(panels, shapes.items(), strict=True):
    mask = block_mask(weights, sparsity_level=0.75, sparse_block_shape=shape)
    axes.imshow(mask, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    kept = np.square(weights[mask]).sum() / np.square(weights).sum()
    axes.set(title=title, xlabel=f"{kept:.0%} of the squares", xticks=[], yticks=[])

# %%
# Blue is kept: a quarter of all weights in each of the four. Below each, how much is left of the
# sum of all squares. These weights are independent, which is the worst case for blocks.
