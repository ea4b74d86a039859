"""
A level for each layer
======================

A distribution makes a level for each layer of one for the whole model, from shapes alone.
``erk`` prunes large layers most, and leaves small ones dense (Evci et al., 2020).
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import distributions

shapes = {
    "conv1": (16, 3, 3, 3),
    "conv2": (32, 16, 3, 3),
    "conv3": (64, 32, 3, 3),
    "conv4": (128, 64, 3, 3),
    "fc1": (256, 2048),
    "fc2": (10, 256),
}
sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}

figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
for level, marker in ((0.5, "o"), (0.8, "s"), (0.9, "D"), (0.98, "^")):
    levels = distributions.erk(shapes, level)
    axes.plot(list(levels), list(levels.values()), marker=marker, label=f"{level:.0%} in all")
    zeros = sum(levels[name] * sizes[name] for name in shapes)
    print(f"{level:.0%} in all: {zeros:,.0f} of {sum(sizes.values()):,} weights")
axes.set(ylabel="sparsity_level of the layer", ylim=(-0.05, 1.05))
axes.set_xticks(range(len(sizes)), [f"{name}\n{size:,}" for name, size in sizes.items()])
axes.grid(alpha=0.25)
axes.legend(frameon=False, loc="lower center")

# %%
# ``attach(model, sparsifier, distribution="erk")`` does this for a model. The sums are those that
# were asked for.
