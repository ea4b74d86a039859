"""Packed files: the same bits come back, no bigger than they should be, and no damage passes."""

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
from datasparse import cli
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


def test_flipped_bytes_are_refused_or_read(tmp_path):
    # No checksum is in the format: a value may change unseen, and nothing else may happen.
    good, _ = two_layouts(tmp_path)
    text = good.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(text)
        for at in rng.integers(0, len(text), rng.integers(1, 4)):
            changed[at] ^= 1 << rng.integers(8)
        path = tmp_path / "bad"
        path.write_bytes(changed)
        try:
            with load_packed(path) as loaded:
                assert all(value.shape for value in loaded.values())
        except ValueError as error:
            refused += f"{path}: " in str(error)
    assert refused > 50
    for length in rng.integers(0, len(text), 30):
        path.write_bytes(text[:length])
        with pytest.raises(ValueError, match="bad"):
            load_packed(path)


def test_tensors_are_read_when_they_are_asked_for(tmp_path):
    good, weights = two_layouts(tmp_path)
    damaged(good, tmp_path / "bad", data=set_bits("datasparse.places:a", -1, 128))
    with load_packed(tmp_path / "bad") as loaded:
        assert np.array_equal(loaded["b"], weights["b"])
        assert list(loaded) == ["a", "b", "c"]
        assert len(loaded) == 3
        with pytest.raises(ValueError, match="places:a"):
            loaded["a"]
        with pytest.raises(KeyError, match="none"):
            loaded["none"]
    with pytest.raises(ValueError, match="closed"):
        loaded["b"]
    loaded.close()


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


def a_folder(path):
    """A checkpoint of two files with its index, and what else lies there."""
    (path / "original").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        safetensors.numpy.save_file(
            {name: pruned(rng, (64, 64), 0.9)}, path / f"{name}.safetensors"
        )
    index = {"weight_map": {name: f"{name}.safetensors" for name in ("a", "b")}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text("{}")
    (path / "original" / "params.json").write_text("[]")
    (path / "link.txt").symlink_to("config.json")
    return path


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_folders_are_packed_file_by_file(tmp_path):
    dense = a_folder(tmp_path / "dense")
    told = []
    done = pack(dense, tmp_path / "packed", progress=lambda *step: told.append(step))
    assert (done.files, done.tensors, done.packed) == (2, 2, 2)
    assert [name for _, _, name in told] == ["a", "b"]
    assert [share for share, _, _ in told] == [64 * 64 * 4, 2 * 64 * 64 * 4]
    assert contents(tmp_path / "packed").keys() == contents(dense).keys()
    with load_packed(tmp_path / "packed") as loaded:
        assert sorted(loaded) == ["a", "b"]
    unpack(tmp_path / "packed", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(dense)
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "packed", "back"}


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    dense = a_folder(tmp_path / "dense")
    (dense / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        pack(dense, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_name_that_two_files_have_is_refused(tmp_path):
    dense = a_folder(tmp_path / "dense")
    (dense / "c.safetensors").write_bytes((dense / "a.safetensors").read_bytes())
    with pytest.raises(ValueError, match="'a' must be in one file"):
        load_packed(dense)


@pytest.mark.parametrize("convert", [pack, unpack])
def test_places_that_are_taken_are_refused(convert, tmp_path):
    dense = a_folder(tmp_path / "dense")
    for taken in ("target", "target.partial"):
        (tmp_path / taken).write_text("mine")
        with pytest.raises(ValueError, match=f"{taken} must not be there"):
            convert(dense / "a.safetensors", tmp_path / "target")
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()
    with pytest.raises(ValueError, match="must not be within"):
        convert(dense, dense / "target")
    with pytest.raises(ValueError, match="must not be there"):
        convert(dense, dense)
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_is_packed_is_not_packed_again(tmp_path):
    good, _ = two_layouts(tmp_path)
    with pytest.raises(ValueError, match="good is packed"):
        pack(good, tmp_path / "twice")
    safetensors.numpy.save_file({"datasparse.values:w": np.zeros(3)}, tmp_path / "named")
    with pytest.raises(ValueError, match=r"'datasparse.values:w' must not be a name"):
        pack(tmp_path / "named", tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_framework_of_no_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match='framework must be "numpy" or "torch", got \'jax\''):
        load_packed(tmp_path, "jax")


def test_a_source_that_changes_while_it_is_packed_leaves_nothing(tmp_path, monkeypatch):
    values = pruned(np.random.default_rng(0), (400, 40), 2, 4)
    safetensors.numpy.save_file({"w": values}, tmp_path / "dense")
    write = packing.write_packed

    def changed(file, tensor, layout, target):
        with (tmp_path / "dense").open("r+b") as source:
            source.seek(-64, 2)
            source.write(b"\1" * 64)
        write(file, tensor, layout, target)

    monkeypatch.setattr(packing, "write_packed", changed)
    with pytest.raises(ValueError, match=r"dense: 'w' .*changed"):
        pack(tmp_path / "dense", tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_memory_is_that_of_a_part_and_not_of_the_file(tmp_path, run_python):
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


def test_the_commands_pack_and_unpack(tmp_path, capsys):
    two_layouts(tmp_path)
    dense, target, back = (str(tmp_path / name) for name in ("dense", "packed", "back"))
    assert cli.main(["pack", dense, target]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 file, 2 of 3 tensors packed: 4.5 kB for 8.7 kB dense, 0.5")
    assert cli.main(["unpack", target, back]) == 0
    assert capsys.readouterr().out == out
    assert (tmp_path / "back").read_bytes() == (tmp_path / "dense").read_bytes()
    assert cli.main(["pack", dense, target]) == 2
    assert "packed must not be there" in capsys.readouterr().err
    assert cli.main(["unpack", str(tmp_path / "none"), str(tmp_path / "x")]) == 1
    assert "none: No such file" in capsys.readouterr().err
