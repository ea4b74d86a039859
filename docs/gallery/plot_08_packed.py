"""
Reading a packed file
=====================

Zeros in a file take as much room as any other number. ``pack`` leaves them out. ``load_packed``
reads one tensor at a time from what is left.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from datasparse import block_mask
from datasparse.files import inspect, load_packed, pack
from safetensors.numpy import save_file

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)


def packed_size(**config):
    """What packing makes of a megabyte of float16, over its size."""
    weight = rng.standard_normal((512, 1024)).astype(np.float16)
    weight[~block_mask(weight, **config)] = 0
    dense, packed = (
        folder / f"{len(list(folder.iterdir()))}{kind}" for kind in ("dense", "packed")
    )
    save_file({"weight": weight}, dense)
    return pack(dense, packed).ratio


levels = np.linspace(0.05, 0.95, 10)
singles = [packed_size(sparsity_level=level, sparse_block_shape=(1, 1)) for level in levels]
half = packed_size(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)

figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
axes.plot(levels, singles, marker=".", label="zeros anywhere")
axes.plot([0.5], [half], "D", label="2:4")
axes.plot(
    [0, 1], [1, 0], color="grey", linewidth=0.8, linestyle="--", label="if places took no room"
)
axes.set(xlabel="share of zeros", ylabel="packed size / dense size", xlim=(0, 1), ylim=(0, 1.02))
axes.grid(alpha=0.25)
axes.legend(frameon=False)

# %%
# Each element takes one bit for its place, and 2:4 takes three bits for each four. A packed file
# reads as a mapping, and any tensor comes back with the bits that it had.
weights = {"up": rng.standard_normal((64, 256)).astype(np.float32), "bias": np.ones(64, np.float32)}
weights["up"][np.abs(weights["up"]) < 1.2] = 0
save_file(weights, folder / "model.safetensors")
pack(folder / "model.safetensors", folder / "small.safetensors")
print(inspect(folder / "small.safetensors"))
with load_packed(folder / "small.safetensors") as packed:
    print(np.array_equal(packed["up"], weights["up"]))
