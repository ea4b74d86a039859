"""Packed files that are damaged: refused by name, when they are opened or when they are read."""

import json

import numpy as np
import pytest
from datasparse.files import load_packed, unpack
from packed_files import two_layouts


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
