"""Packed files: the same bits come back, no bigger than they should be, and no damage passes."""

import json
import math
import struct

import numpy as np
import pytest
import torch
from datasparse.files import load_packed, pack, unpack

SIZES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 8},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1},
}
SHAPES = [(), (0,), (1,), (7,), (1000,), (3, 0, 4), (64, 48), (33, 7), (8, 3, 5, 16), (5, 1, 24)]


def make_file(path, tensors, metadata=None, pad=0):
    """A safetensors file of (name, dtype, shape, bytes), written by hand."""
    entries, end = {}, 0
    if metadata is not None:
        entries["__metadata__"] = metadata
    for name, dtype, shape, data in tensors:
        entries[name] = {
            "data_offsets": [end, end + len(data)],
            "dtype": dtype,
            "shape": list(shape),
        }
        end += len(data)
    text = json.dumps(entries, indent=1).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[3] for t in tensors))


def random_bytes(rng, dtype, shape):
    """Elements of random bits, NaN of all kinds among them, with zeros as pruning leaves them."""
    size, count = SIZES[dtype], math.prod(shape)
    values = rng.integers(0, 2 if dtype == "BOOL" else 256, (count, size), np.uint8)
    how = rng.integers(0, 4)
    if how == 0:  # none
        return values.tobytes()
    if how == 1:
        values[rng.random(count) < rng.choice([0.1, 0.5, 0.9, 1.0])] = 0
    else:  # N:M, with more zeros here and there
        width = int(rng.choice([2, 3, 4, 5, 8, 12, 16]))
        zeros = int(rng.integers(1, width))
        groups = count // width
        order = rng.permuted(np.tile(np.arange(width), (groups, 1)), axis=1)
        gone = (order < zeros) | (rng.random((groups, 1)) < 0.1)
        values[: groups * width].reshape(groups, width, size)[gone] = 0
    if dtype != "BOOL" and count:  # the sign alone
        values[rng.random(count) < 0.02] = [0] * (size - 1) + [128]
    return values.tobytes()


def random_tensors(rng):
    return [
        (f"layer.{dtype}.{shape}.é", dtype, shape, random_bytes(rng, dtype, shape))
        for dtype in SIZES
        for shape in SHAPES
    ]


def check_round_trip(rng, folder, metadata=None, pad=0):
    dense, packed, back = (folder / name for name in ("dense", "packed", "back"))
    tensors = random_tensors(rng)
    make_file(dense, tensors, metadata, pad)
    done = pack(dense, packed)
    assert done.packed > 20
    assert (done.tensors, done.bytes_dense) == (len(tensors), dense.stat().st_size)
    assert done.bytes_packed == packed.stat().st_size
    assert unpack(packed, back) == done
    assert back.read_bytes() == dense.read_bytes()
    for framework in ("numpy", "torch"):
        with load_packed(packed, framework) as loaded:
            assert list(loaded) == [name for name, *_ in tensors]
            for name, dtype, shape, data in tensors:
                value = loaded[name]
                assert tuple(value.shape) == shape
                if framework == "torch":
                    value = value.reshape(-1).view(torch.uint8).numpy()
                assert value.tobytes() == data, (name, dtype)
    for path in (packed, back):
        path.unlink()


@pytest.mark.parametrize("seed", range(3))
def test_all_dtypes_and_shapes_come_back_bit_for_bit(seed, tmp_path):
    check_round_trip(np.random.default_rng(seed), tmp_path, {"format": "pt", "a": "b"}, seed)


@pytest.mark.full
def test_all_dtypes_and_shapes_come_back_bit_for_bit_at_length(tmp_path):
    for seed in range(3, 60):
        check_round_trip(np.random.default_rng(seed), tmp_path)
