"""Arrays of other libraries: JAX's, which nobody may change, and what only looks like an array."""

import ctypes

import numpy as np
import pytest
from datasparse import DataNormSparsifier, block_mask
from support import HALF
from support import values as any_values

# In a process of its own: JAX starts threads, and os.fork() in other tests would warn of them.
JAX = """
import numpy as np
import jax, jax.numpy as jnp
from datasparse import DataNormSparsifier, block_mask

plain = np.random.default_rng(0).standard_normal((12, 16)).astype(np.float32)
config = dict(sparsity_level=0.5, sparse_block_shape=(1, 1))
for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    array = jnp.asarray(plain, dtype)
    sparsifier = DataNormSparsifier([("w", array)], **config)
    sparsifier.step()
    mask = sparsifier.get_mask("w")
    assert type(mask) is np.ndarray and mask.dtype == bool
    expected = block_mask(np.asarray(array, np.float32), **config)
    assert np.array_equal(mask, expected) and np.array_equal(block_mask(array, **config), expected)
    assert sparsifier.get_data("w") is array
    for write in (sparsifier.apply_mask, sparsifier.squash_mask):
        try:
            write()
        except ValueError as error:
            assert "writable" in str(error)
        else:
            raise AssertionError("an immutable array was written to")
    fresh = np.asarray(jnp.asarray(plain, dtype), np.float32)
    assert np.array_equal(np.asarray(array, np.float32), fresh)
    masked = jnp.where(mask, array, 0)
    assert int((masked == 0).sum()) == 96

    # Training: new arrays under the old names.
    assert np.array_equal(np.asarray(sparsifier.get_data("w", False), np.float32), masked)
    copied = sparsifier.add_data("w", masked * 2)
    assert np.array_equal(np.asarray(copied, np.float32), np.asarray(masked * 2, np.float32))
    sparsifier.data_groups["w"]["sparsity_level"] = 0.75
    new = masked * 2
    sparsifier.set_data("w", new)
    assert sparsifier.get_data("w") is new and np.array_equal(sparsifier.get_mask("w"), mask)
    sparsifier.step()
    assert int((~sparsifier.get_mask("w")).sum()) == 144
    assert not sparsifier.get_mask("w")[~mask].any()
sparsifier.add_data("given", jnp.ones(3), mask=jnp.array([True, False, True]))
assert sparsifier.get_mask("given").tolist() == [True, False, True]
print("served")
"""


def test_jax(run_python):
    pytest.importorskip("jax", reason="needs jax")
    assert run_python(JAX, JAX_PLATFORMS="cpu") == "served\n"


class OnDevice:
    """What CuPy's arrays tell of themselves: DLPack's device type 2 is CUDA."""

    def __init__(self, device_type):
        self.device_type = device_type

    def __dlpack_device__(self):
        return self.device_type, 0

    def __dlpack__(self, **kwargs):
        raise AssertionError("memory on another device was asked for")


@pytest.mark.parametrize("device_type", [2, 8, 10, 13])
def test_memory_on_other_devices_is_refused_unseen(device_type):
    array = OnDevice(device_type)
    sparsifier = DataNormSparsifier()
    with pytest.raises(TypeError, match=r"CPU|cpu"):
        sparsifier.add_data("w", array)
    with pytest.raises(TypeError, match=r"CPU|cpu"):
        block_mask(array, **HALF)
    assert list(sparsifier.data_groups) == []


@pytest.mark.parametrize(
    "array", [[[1.0, 2.0]], (1.0,), {"a": 1.0}, 3.0, "weights", None, object()]
)
def test_what_is_no_array_is_refused(array):
    with pytest.raises(TypeError):
        DataNormSparsifier().add_data("w", array)


def test_ml_dtypes_are_written_in_place():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    array = any_values(3).astype(ml_dtypes.bfloat16)
    expected = block_mask(array.astype(np.float32), **HALF)
    sparsifier = DataNormSparsifier([("w", array)], **HALF)
    sparsifier.step()
    sparsifier.apply_mask()
    assert np.array_equal(array.astype(np.float32) != 0, expected)


class Lender:
    """Lends what it is told to, as memory of the CPU."""

    def __init__(self, lent):
        self.lent = lent

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **options):
        return self.lent


def capsule_of_version(major):
    """A capsule of DLPack whose tensor begins with its version; also the memory behind it."""
    memory = ctypes.create_string_buffer(96)
    ctypes.c_uint32.from_buffer(memory).value = major
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(memory), b"dltensor_versioned", None), memory


def test_a_newer_dlpack_is_refused_and_its_loan_is_not_taken():
    capsule, _memory = capsule_of_version(2)
    sparsifier = DataNormSparsifier()
    with pytest.raises(TypeError) as refusal:
        sparsifier.add_data("w", Lender(capsule))
    assert str(refusal.value) == "data of 'w' must speak version 1 of DLPack, got version 2"
    assert '"dltensor_versioned"' in repr(capsule)  # one that was taken is called "used_..."
    assert list(sparsifier.data_groups) == []


@pytest.mark.parametrize("lent", [None, 42, b"tensor"])
def test_what_is_no_capsule_is_refused(lent):
    returned = f"returned {lent!r}, expected a DLPack capsule"
    with pytest.raises(TypeError) as refusal:
        DataNormSparsifier().add_data("w", Lender(lent))
    assert str(refusal.value) == f"__dlpack__() of the data of 'w' {returned}"
    with pytest.raises(TypeError) as refusal:
        block_mask(Lender(lent), **HALF)
    assert str(refusal.value) == f"__dlpack__() of the data {returned}"
