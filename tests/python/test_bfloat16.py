"""Bits of bfloat16 numbers in NumPy arrays, without ml_dtypes."""

import datasparse
import numpy as np
import pytest
from datasparse._bfloat16 import BFLOAT16


def bits_of(values):
    """The upper halves of float32 numbers, which are bfloat16 numbers near them."""
    return (np.asarray(values, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bits_are_ranked_as_the_numbers_they_stand_for():
    bits = bits_of(np.random.default_rng(0).normal(size=(8, 12)))
    numbers = (bits.astype(np.uint32) << 16).view(np.float32)
    config = {"sparsity_level": 0.5, "sparse_block_shape": (2, 3)}
    mask = datasparse.block_mask(bits.view(BFLOAT16), **config)
    np.testing.assert_array_equal(mask, datasparse.block_mask(numbers, **config))


def test_they_are_zeroed_in_place():
    bits = bits_of([[4.0, -1.0, 3.0, 0.5]])
    sparsifier = datasparse.DataNormSparsifier(
        {"w": bits.view(BFLOAT16)}, sparsity_level=0.5, sparse_block_shape=(1, 1)
    )
    sparsifier.step()
    sparsifier.apply_mask()
    assert bits.tolist() == bits_of([[4.0, 0.0, 3.0, 0.0]]).tolist()


def test_other_structures_are_refused():
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
        datasparse.block_mask(
            np.zeros(4, dtype=[("weight", "<u2")]), sparsity_level=0.5, sparse_block_shape=(1, 1)
        )
