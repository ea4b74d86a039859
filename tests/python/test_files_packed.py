"""Packed files: the same bits come back, no bigger than they should be, and no damage passes."""

import itertools
import json
import math
import struct

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from datasparse.files import load_packed, pack, packed, packing, unpack
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


def damaged(good, path, metadata=None, header=None, data=None):
    """A copy of a packed file, changed by functions of its metadata, its header and its data."""
    text = good.read_bytes()
    length = int.from_bytes(text[:8], "little")
    entries = json.loads(text[8 : 8 + length])
    about = json.loads(entries["__metadata__"]["datasparse.packed"])
    inner = json.loads(entries["__metadata__"]["datasparse.header"])
    body = bytearray(text[8 + length :])
    about["size"] = fitting = size_of(inner)
    if metadata:
        metadata(about, inner)
    if about["size"] == fitting:
        about["size"] = size_of(inner)
    entries["__metadata__"]["datasparse.packed"] = json.dumps(about)
    entries["__metadata__"]["datasparse.header"] = json.dumps(inner)
    if header:
        header(entries)
    if data:
        data(
            body, {name: entry["data_offsets"] for name, entry in entries.items() if name[0] != "_"}
        )
    changed = json.dumps(entries).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + body)


def set_bits(name, at, value):
    """Data whose byte of a tensor, counted from its begin or end, has these bits set too."""

    def change(body, offsets):
        begin, end = offsets[name]
        body[(begin if at >= 0 else end) + at] |= value

    return change


def moved_entry(entries, old, new):
    entries[new] = entries.pop(old)


def size_of(header):
    """The bytes of a file with that header."""
    offsets = (entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    return 8 + len(json.dumps(header)) + sum(end - begin for begin, end in offsets)


DAMAGE = {
    "version 2": ({"metadata": lambda about, _: about.update(version=2)}, "version 1, got 2"),
    "no version": ({"metadata": lambda about, _: about.pop("version")}, "version 1, got None"),
    "a version of true": (
        {"metadata": lambda about, _: about.update(version=True)},
        "version 1, got True",
    ),
    "no layouts": ({"metadata": lambda about, _: about.pop("layouts")}, "size and layouts"),
    "a size that is text": ({"metadata": lambda about, _: about.update(size="9")}, "size and"),
    "a size that does not fit": (
        {"metadata": lambda about, _: about.update(size=about["size"] + 1)},
        "must end with its last tensor",
    ),
    "a layout of no name": (
        {"metadata": lambda about, _: about["layouts"].update(a="byte")},
        "layout of 'a' must be",
    ),
    "a layout that is a number": (
        {"metadata": lambda about, _: about["layouts"].update(a=4)},
        "layout of 'a' must be",
    ),
    "groups that do not divide the axis": (
        {"metadata": lambda about, _: about["layouts"].update(b="2:5")},
        "layout of 'b' must be .* 36",
    ),
    "groups too long": (
        {"metadata": lambda about, _: about["layouts"].update(b="9:18")},
        "layout of 'b' must be",
    ),
    "nothing but zeros": (
        {"metadata": lambda about, _: about["layouts"].update(b="4:4")},
        "layout of 'b' must be",
    ),
    "a layout of no tensor": (
        {"metadata": lambda about, _: about["layouts"].update(d="bits")},
        "must be of tensors .*'d'",
    ),
    "a layout too few": (
        {"metadata": lambda about, _: about["layouts"].pop("a")},
        "'a' must be F32 .31, 33., got no such tensor",
    ),
    "a layout too many": (
        {"metadata": lambda about, _: about["layouts"].update(c="bits")},
        "'datasparse.places:c' must be U8",
    ),
    "another pattern": (
        {"metadata": lambda about, _: about["layouts"].update(b="1:4")},
        "'datasparse.(places|values):b' must be",
    ),
    "another dtype": (
        {"metadata": lambda _, inner: inner["a"].update(dtype="I32")},
        "'datasparse.values:a' must be I32",
    ),
    "another shape": (
        {"metadata": lambda _, inner: inner["c"].update(shape=[25])},
        "'c' must be F32 .25., got F32 .5, 5.",
    ),
    "an overlap in what was packed": (
        {"metadata": lambda _, inner: inner["b"].update(data_offsets=[0, 4320])},
        "overlap|must begin",
    ),
    "no header": (
        {"header": lambda entries: entries["__metadata__"].pop("datasparse.header")},
        "datasparse.header",
    ),
    "no mark": (
        {"header": lambda entries: entries["__metadata__"].pop("datasparse.packed")},
        "'datasparse.*:a' .* datasparse.packed is missing",
    ),
    "values of another name": (
        {"header": lambda e: moved_entry(e, "datasparse.values:a", "datasparse.values:z")},
        "'datasparse.values:a' must be F32",
    ),
    "values in a matrix": (
        {"header": lambda e: e["datasparse.values:b"].update(shape=[270, 2])},
        "'datasparse.values:b' must be F32 .540., got F32 .270, 2.",
    ),
    "a bit beyond the end": (
        {"data": set_bits("datasparse.places:a", -1, 128)},
        "'datasparse.places:a' must not have bits beyond the end",
    ),
    "a group beyond the end": (
        {"data": set_bits("datasparse.places:b", -1, 128)},
        "'datasparse.places:b' must not have bits beyond the end",
    ),
    "a place too many": (
        {"data": set_bits("datasparse.places:a", 3, 255)},
        "'datasparse.places:a' must be of [0-9]+ elements",
    ),
    "a code too high": (
        {"data": lambda body, offsets: [
            set_bits("datasparse.places:b", at, 2)(body, offsets) for at in (34, 68)
        ]},
        "'datasparse.places:b' must be of codes below 6, got [67]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_name(name, tmp_path):
    good, _ = two_layouts(tmp_path)
    change, message = DAMAGE[name]
    path = tmp_path / "bad.safetensors"
    damaged(good, path, **change)
    with pytest.raises(ValueError, match=message) as caught, load_packed(path) as loaded:
        dict(loaded)
    assert "bad.safetensors" in str(caught.value)
    with pytest.raises(ValueError, match=message):
        unpack(path, tmp_path / "target")
    assert {each.name for each in tmp_path.iterdir()} == {"dense", "good", "bad.safetensors"}
