"""What several test files share."""

import gc
import math
import os
import re

import numpy as np
import pytest
import torch

SANITIZED = "clang_rt.asan" in os.environ.get("LD_PRELOAD", "")  # by scripts/test-sanitized
# For tests whose masks may lose every weight, which a step warns of.
MAY_PRUNE_ALL = pytest.mark.filterwarnings("ignore:step\\(\\) pruned all weights:UserWarning")
# For a file, or a test: it is asked on every device that can train.
ON_DEVICES = [
    pytest.mark.usefixtures("made_there"),
    pytest.mark.device("cpu", "pretended", "cuda"),
]


def on_devices(test):
    """The same for one test of a file."""
    for mark in ON_DEVICES:
        test = mark(test)
    return test


def placed(array):
    """An array; where a test's tensors are made on a device, a tensor of it there."""
    if isinstance(array, torch.Tensor) or torch.empty(0).device.type == "cpu":
        return array
    return torch.from_numpy(array)


def first_there(cases, number=1):
    """Cases of a parameter; on a device, those after the first ones are of the full tier."""
    cases = list(cases)
    rest = (pytest.param(case, marks=pytest.mark.full_there) for case in cases[number:])
    return [*cases[:number], *rest]


def named(cases, on_the_cpu_alone=()):
    """Cases of one parameter or several by their names, some of which no device is asked."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]),
            id=name,
            marks=[pytest.mark.device("cpu")] if name in on_the_cpu_alone else [],
        )
        for name, case in cases.items()
    ]


HALF = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}


def as_numpy(data):
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data


def name_of(value):
    """For a test's id: the repr, without an address, which another process would not have."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def values(seed, shape=(12, 16), dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def zeros(tensor):
    return int((tensor == 0).sum())


def collect():
    for _ in range(3):
        gc.collect()


def misaligned_field(values):
    """The same values as a field of a packed record array: 5, 3 or 9 bytes from one to the next."""
    records = np.zeros(values.shape, dtype=[("tag", np.uint8), ("value", values.dtype)])
    records["value"] = values
    return records["value"]


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "transpose of a transpose": lambda a: np.ascontiguousarray(a.T).T,
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "every third row": lambda a: np.repeat(a, 3, axis=0)[::3],
    "both axes strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "columns backwards": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "rows backwards": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "both backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "misaligned field": misaligned_field,
    "window of a larger array": lambda a: np.pad(a, ((3, 2), (1, 4)))[3:-2, 1:-4],
}

OF_NUMPY_ALONE = ("columns backwards", "rows backwards", "both backwards", "misaligned field")

# Values that no config may hold, whichever way they arrive: (key, value, error).
BAD_VALUES = [
    ("sparsity_level", True, TypeError),
    ("sparsity_level", np.True_, TypeError),
    ("sparsity_level", "0.5", TypeError),
    ("sparsity_level", None, TypeError),
    ("sparsity_level", [0.5], TypeError),
    ("sparsity_level", (0.5,), TypeError),
    ("sparsity_level", np.array([0.5, 0.5]), TypeError),
    ("sparsity_level", 0.5j, TypeError),
    ("sparsity_level", math.nan, ValueError),
    ("sparsity_level", math.inf, ValueError),
    ("sparsity_level", -math.inf, ValueError),
    ("sparsity_level", -1e-9, ValueError),
    ("sparsity_level", 1 + 1e-9, ValueError),
    ("sparsity_level", 2, ValueError),
    ("sparse_block_shape", [1, 4], TypeError),
    ("sparse_block_shape", np.array([1, 4]), TypeError),
    ("sparse_block_shape", "14", TypeError),
    ("sparse_block_shape", 4, TypeError),
    ("sparse_block_shape", None, TypeError),
    ("sparse_block_shape", (True, 4), TypeError),
    ("sparse_block_shape", (1, True), TypeError),
    ("sparse_block_shape", (1, None), TypeError),
    ("sparse_block_shape", ("1", "4"), TypeError),
    ("sparse_block_shape", (0, 4), ValueError),
    ("sparse_block_shape", (1, -2), ValueError),
    ("sparse_block_shape", (4,), ValueError),
    ("sparse_block_shape", (1, 4, 1), ValueError),
    ("sparse_block_shape", (), ValueError),
    ("zeros_per_block", True, TypeError),
    ("zeros_per_block", "4", TypeError),
    ("zeros_per_block", (4,), TypeError),
    ("zeros_per_block", 1.5, ValueError),
    ("zeros_per_block", 5, ValueError),
    ("zeros_per_block", -1, ValueError),
    ("zeros_per_block", math.nan, ValueError),
    ("zeros_per_block", math.inf, ValueError),
    ("norm", "l1", ValueError),
    ("norm", "L3", ValueError),
    ("norm", "", ValueError),
    ("norm", 1, TypeError),
    ("norm", ("L1",), TypeError),
]
