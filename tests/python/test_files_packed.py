"""Packed files: the same bits come back, and they take no more than they should."""

import itertools
import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from datasparse import _core
from datasparse.files import load_packed, pack, packed, packing, unpack
from packed_files import layouts_of, pruned, two_layouts
from safetensors import safe_open

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


def test_parts_of_all_lengths_come_back(tmp_path, monkeypatch):
    # Tensors of the tests are shorter than a part is; here a part is shorter than they are.
    for step in (128, 1000):
        monkeypatch.setattr(packed, "STEP", step)
        monkeypatch.setattr(packing, "STEP", step)
        check_round_trip(np.random.default_rng(step), tmp_path)


# The bound on the bytes: what is left of 16 bits, one bit or a code for its place, and 1% for the
# header of so small a tensor.
@pytest.mark.parametrize(
    ("zeros", "size", "layout", "bound"),
    [
        (0.9, None, "bits", 0.165),
        (0.5, None, "bits", 0.5 + 0.5 / 8 + 0.01),
        (2, 4, "2:4", 0.57),
        (4, 8, "4:8", 0.5 + 7 / 8 / 16 + 0.01),
        (3, 4, "3:4", 0.25 + 2 / 4 / 16 + 0.01),
        (8, 16, "8:16", 0.5 + 14 / 16 / 16 + 0.01),
        (1, 2, "1:2", 0.5 + 1 / 2 / 16 + 0.01),
        (6, 15, "6:15", 9 / 15 + 13 / 15 / 16 + 0.01),
    ],
)
def test_bfloat16_takes_what_its_zeros_leave(zeros, size, layout, bound, tmp_path):
    shape = (480, 480)
    weight = torch.from_numpy(pruned(np.random.default_rng(0), shape, zeros, size)).bfloat16()
    safetensors.torch.save_file({"w": weight}, tmp_path / "dense")
    done = pack(tmp_path / "dense", tmp_path / "packed")
    assert layouts_of(tmp_path / "packed") == {"w": layout}
    assert done.ratio <= bound
    with load_packed(tmp_path / "packed", "torch") as loaded:
        assert torch.equal(loaded["w"], weight)


def test_a_tensor_that_would_grow_stays_dense(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "few zeros": pruned(rng, (64, 64), 0.02),
        "short": np.zeros(4, np.float32),
        "integers": rng.integers(1, 9, (64, 64)).astype(np.int8),
    }
    safetensors.numpy.save_file(weights, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    assert layouts_of(tmp_path / "packed") == {}
    with safe_open(tmp_path / "packed", "numpy") as file:
        assert sorted(file.keys()) == sorted(weights)


def test_zeros_that_have_a_sign_stay(tmp_path):
    values = pruned(np.random.default_rng(0), (50, 50), 0.8)
    values[::3, ::2] = -0.0
    safetensors.numpy.save_file({"w": values}, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    with safe_open(tmp_path / "packed", "numpy") as file:
        left = file.get_tensor("datasparse.values:w")
        places = file.get_tensor("datasparse.places:w")
    # As the format is described, by hand: lowest bits first, in C order.
    there = [bool(byte >> bit & 1) for byte in places.tolist() for bit in range(8)][: values.size]
    assert there == (values.reshape(-1).view(np.uint32) != 0).tolist()
    assert left.tobytes() == values.reshape(-1)[np.array(there)].tobytes()


@pytest.mark.parametrize(("zeros", "size"), [(2, 4), (3, 8), (10, 16), (1, 3), (11, 13)])
def test_codes_are_ranks_of_sets_of_places(zeros, size, tmp_path):
    """The format by its description, with other code: what a reader in another language does."""
    rng = np.random.default_rng(size)
    values = pruned(rng, (24, 13 * size), zeros, size)
    values[rng.random(values.shape) < 0.002] = 0  # more zeros than N here and there
    safetensors.numpy.save_file({"w": values}, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    assert layouts_of(tmp_path / "packed") == {"w": f"{zeros}:{size}"}
    with safe_open(tmp_path / "packed", "numpy") as file:
        left = iter(file.get_tensor("datasparse.values:w").tolist())
        places = file.get_tensor("datasparse.places:w").tolist()
    sets = sorted(
        itertools.combinations(range(size), size - zeros), key=lambda s: sum(1 << i for i in s)
    )
    width = math.ceil(math.log2(len(sets)))
    groups = values.size // size
    plane = math.ceil(groups / 8)
    assert len(places) == width * plane
    back = []
    for group in range(groups):
        bits = [places[b * plane + group // 8] >> group % 8 & 1 for b in range(width)]
        there = sets[sum(bit << b for b, bit in enumerate(bits))]
        back += [next(left) if place in there else 0.0 for place in range(size)]
    assert next(left, None) is None
    assert back == values.reshape(-1).tolist()


def test_what_is_read_can_be_changed_and_is_read_anew(tmp_path):
    good, weights = two_layouts(tmp_path)
    for framework in ("numpy", "torch"):
        with load_packed(good, framework) as loaded:
            for name, weight in weights.items():
                loaded[name][...] = 7
                assert np.array_equal(np.asarray(loaded[name]), weight)


def test_threads_may_share_a_mapping(tmp_path):
    good, weights = two_layouts(tmp_path)
    with load_packed(good) as loaded, ThreadPoolExecutor(8) as pool:
        for name, value in pool.map(lambda name: (name, loaded[name]), list(weights) * 100):
            assert np.array_equal(value, weights[name])


def test_numpy_gets_records_where_it_has_no_such_numbers(tmp_path):
    values = torch.arange(-64, 64).reshape(8, 16) * (torch.arange(16) > 11)
    dtypes = {"b": torch.bfloat16, "e4": torch.float8_e4m3fn, "e5": torch.float8_e5m2}
    tensors = {name: values.to(dtype) for name, dtype in dtypes.items()}
    safetensors.torch.save_file(tensors, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    with load_packed(tmp_path / "packed") as loaded:
        for name, dtype in (("b", "bfloat16"), ("e4", "float8_e4m3fn"), ("e5", "float8_e5m2")):
            assert loaded[name].dtype.names == (dtype,)
            numbers = loaded[name].view(getattr(ml_dtypes, dtype))
            assert np.array_equal(numbers.astype(np.float32), tensors[name].float().numpy())


def test_elements_of_four_bits_stay_as_they_are(tmp_path):
    data = (torch.arange(512) % 251).to(torch.uint8)
    data[:400] = 0
    tensors = {"small": data.reshape(8, 64).view(torch.float4_e2m1fn_x2), "w": torch.zeros(40, 40)}
    safetensors.torch.save_file(tensors, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    assert layouts_of(tmp_path / "packed") == {"w": "bits"}
    for framework in ("numpy", "torch"):
        with load_packed(tmp_path / "packed", framework) as loaded:
            assert np.array_equal(np.asarray(loaded["small"]), data.numpy())
    unpack(tmp_path / "packed", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "dense").read_bytes()


def test_a_framework_of_no_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match='framework must be "numpy" or "torch", got \'jax\''):
        load_packed(tmp_path, "jax")


def test_memory_is_that_of_a_part_and_not_of_the_file(tmp_path, run_python, measurable_memory):
    values = np.zeros((4096, 4096), np.float32)  # 64 MiB
    values[::2, ::2] = 1
    safetensors.numpy.save_file({"w": values}, tmp_path / "dense")
    script = f"""
import re, os
from pathlib import Path
from datasparse.files import inspect, pack, unpack

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

os.chdir({str(tmp_path)!r})
before = peak()
pack("dense", "packed")
unpack("packed", "back")
inspect("dense", (4, 4))
print(peak() - before < 24, Path("dense").read_bytes() == Path("back").read_bytes())
"""
    assert run_python(script) == "True True\n"


def test_reading_files_imports_neither_torch_nor_matplotlib(tmp_path, run_python):
    good, _ = two_layouts(tmp_path)
    script = f"""
import sys
from datasparse.files import inspect, load_packed
print(dict(load_packed({str(good)!r})).keys(), len(str(inspect({str(good)!r}))) > 100)
print({{"torch", "matplotlib", "rich", "safetensors", "ml_dtypes"}} & set(sys.modules))
"""
    assert run_python(script) == "dict_keys(['a', 'b', 'c']) True\nset()\n"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_large_tensors_are_unpacked_by_several_threads(number, threads, tmp_path, rng):
    threads(number)
    tensors = {
        "bits": pruned(rng, (1003, 1001), 0.5),
        "2:4": pruned(rng, (1003, 1004), 2, 4),
        "3:5": pruned(rng, (1003, 1005), 3, 5),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    assert layouts_of(tmp_path / "packed") == {name: name for name in tensors}
    with load_packed(tmp_path / "packed") as loaded:
        for name, tensor in tensors.items():
            assert np.array_equal(loaded[name], tensor)


def test_values_are_expanded_in_place_or_refused():
    data = np.array([9, 9, 9, 1, 2], np.uint16)
    _core._expand(data, np.array([0b01001], np.uint8))
    assert data.tolist() == [1, 0, 0, 2, 0]
    assert _core._count_bits(np.array([0b01001, 255], np.uint8)) == 10
    for bits, message in (([1, 0], "bits must be 1 bytes"), ([32], "must not be set beyond")):
        with pytest.raises(ValueError, match=message):
            _core._expand(data, np.array(bits, np.uint8))
    for wrong in (data[::2], np.zeros(5, "S3"), np.frombuffer(bytes(5), np.uint8)):
        with pytest.raises(ValueError, match="data must be writable, in C order"):
            _core._expand(wrong, np.array([0], np.uint8))
