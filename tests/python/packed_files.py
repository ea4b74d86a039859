"""Packed files for tests."""

import json

import numpy as np
import safetensors.numpy
import safetensors.torch
from datasparse.files import pack
from safetensors import safe_open


def layouts_of(path):
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["datasparse.packed"])["layouts"]


def pruned(rng, shape, zeros, size=None):
    """Random numbers with a share of zeros, or with so many zeros in each group of that size."""
    values = rng.standard_normal(shape).astype(np.float32)
    if size is None:
        values[rng.random(shape) < zeros] = 0
    else:
        order = rng.permuted(np.tile(np.arange(size), (values.size // size, 1)), axis=1)
        values.reshape(-1, size)[order < zeros] = 0
    return values


def two_layouts(folder):
    """A packed file of three tensors: by bits, by 2:4, dense. Returns its path and the weights."""
    rng = np.random.default_rng(5)
    weights = {
        "a": pruned(rng, (31, 33), 0.7),
        "b": pruned(rng, (30, 36), 2, 4),
        "c": pruned(rng, (5, 5), 0.0),
    }
    safetensors.numpy.save_file(weights, folder / "dense", {"format": "np"})
    pack(folder / "dense", folder / "good")
    assert layouts_of(folder / "good") == {"a": "bits", "b": "2:4"}
    return folder / "good", weights
