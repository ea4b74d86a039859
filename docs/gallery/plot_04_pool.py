"""
One cut through all layers
==========================

A level prunes each layer alike. A *pool* prunes the lowest weights wherever they are: layers that
hardly need their weights lose many, and layers that need all of them lose few.
"""

import matplotlib.pyplot as plt
import numpy as np
from datasparse import DataNormSparsifier

rng = np.random.default_rng(0)
shapes = {"conv1": (32, 27), "conv2": (64, 288), "conv3": (128, 576), "fc": (10, 128)}
scales = {"conv1": 2.0, "conv2": 1.0, "conv3": 0.6, "fc": 1.2}
weights = {name: scales[name] * rng.standard_normal(shape) for name, shape in shapes.items()}

sharing = {
    "each by itself": {},
    'pool="all"': {"pool": "all"},
    "max_level=0.92": {"pool": "all", "max_level": 0.92},
}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
places = np.arange(len(weights))
for number, (title, config) in enumerate(sharing.items()):
    sparsifier = DataNormSparsifier(
        weights, sparsity_level=0.9, sparse_block_shape=(1, 1), **config
    )
    sparsifier.step()
    levels = [1 - sparsifier.get_mask(name).mean() for name in weights]
    left.bar(places + 0.27 * (number - 1), levels, width=0.25, label=title)
    zeros = sum(int((~sparsifier.get_mask(name)).sum()) for name in weights)
    print(f"{title}: {zeros} zeros in all")
left.set(xticks=places, xticklabels=list(weights), ylabel="share of zeros", ylim=(0, 1.28))
left.legend(frameon=False, ncols=2, loc="upper center")

for name, weight in weights.items():
    right.hist(
        np.abs(weight).ravel(), bins=60, range=(0, 6), density=True, histtype="step", label=name
    )
right.set(xlabel="magnitude", ylabel="density", yticks=[])
right.legend(frameon=False)

# %%
# The three have the same number of zeros in all. The right picture shows why the pool takes most of
# ``conv3``: it has the smallest weights. A bound, ``max_level``, keeps a layer from being emptied.
