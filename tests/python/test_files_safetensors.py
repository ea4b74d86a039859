"""Safetensors files: what is read and written, and every damage that is refused."""

import contextlib
import json
import os
import re
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from datasparse._bfloat16 import BFLOAT16
from datasparse.files.header import MOST_HEADER, make_header
from datasparse.files.safetensors import Reader, Writer
from safetensors.numpy import save_file

W = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
V = {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]}


def raw(header, data=b"", length=None):
    """The bytes of a file with that header, a text or an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.safetensors"


def refusal(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.safetensors") as caught:
        Reader(path)
    return str(caught.value)


def test_what_the_library_writes_is_read(path, rng):
    arrays = {
        "b": rng.normal(size=(3, 5)).astype(np.float16),
        "a": rng.normal(size=(2, 3, 4)),
        "scalar": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "ints": rng.integers(0, 9, (7,)),
        "ä/../ö": rng.normal(size=6).astype(np.float32),
    }
    save_file(arrays, path, {"format": "pt"})
    with Reader(path) as file:
        assert file.header.metadata == {"format": "pt"}
        assert file.header.tensors.keys() == arrays.keys()
        assert file.header.file_size == path.stat().st_size
        for name, array in arrays.items():
            read = file.read(name)
            if array.dtype.kind == "f":
                assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes()
        begins = [tensor.begin for tensor in file.header.tensors.values()]
        assert begins == sorted(begins)


def test_pieces_are_written_in_the_order_given_and_read_by_the_library(path, rng):
    w = rng.normal(size=(4, 3)).astype(np.float32)
    bits = rng.integers(0, 1 << 16, 5).astype(np.uint16).view(BFLOAT16)
    tensors = [("z", "F32", w.shape), ("none", "F64", (0, 2)), ("y", "BF16", (5,))]
    with Writer(path, tensors, {"b": "1", "a": "ü"}) as file:
        file.write("z", w[:1])
        file.write("z", w[1:].tobytes())
        file.write("none", np.zeros((0, 2)))
        file.write("y", bits)
    read = safetensors.torch.load_file(path)
    assert (read["z"].numpy() == w).all()
    assert read["none"].shape == (0, 2)
    assert (read["y"].view(torch.int16).numpy().view(np.uint16) == bits.view("<u2")).all()
    with Reader(path) as reader:
        assert list(reader.header.tensors) == ["z", "none", "y"]
        assert reader.header.metadata == {"b": "1", "a": "ü"}
        assert reader.header.data_begin % 8 == 0
        assert (reader.read("y").view("<u2") == bits.view("<u2")).all()


def test_a_header_without_metadata_has_none(path):
    path.write_bytes(raw({"w": W, "v": V}, bytes(19)))
    with Reader(path) as file:
        assert file.header.metadata is None
        assert [tensor.size for tensor in file.header.tensors.values()] == [16, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 8 bytes, got 0"),
        (b"\1\2\3", "at least 8 bytes, got 3"),
        (b"PK\3\4" + bytes(60), "truncated"),
        (b"\x80\x02" + b"c" * 60, "no safetensors file"),
        (raw(b"{}", length=MOST_HEADER + 1), f"at most {MOST_HEADER:,} bytes"),
        (raw(b"{}", length=2**64 - 1), "at most"),
        (raw(b"{}", length=3), "truncated"),
        (raw({"w": W, "v": V}, bytes(18)), "'v'.*truncated"),
        (raw({"w": W, "v": V}, bytes(20)), "must end with its last tensor, 'v', got 1"),
        (raw({}, bytes(4)), "must end with its last tensor, the header, got 4"),
        (raw(b"[]"), "must be an object"),
        (raw(b"{"), "not the JSON"),
        (raw(b""), "not the JSON"),
        (raw(b'{"\xff": 1}'), "not the JSON"),
        (
            raw(b'{"\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'),
            "not the JSON",
        ),
        (raw(b'{"a":' * 100_000), "not the JSON"),
        (raw(b'{"w": 1, "w": 2}'), "'w' comes twice"),
        (raw(b'{"w": {"dtype": "U8", "dtype": "U8"}}'), "'dtype' comes twice"),
        (raw({"__metadata__": []}), "map texts to texts"),
        (raw({"__metadata__": {"a": 1}}), "map texts to texts"),
        (raw({"w": 1}), "'w' must have dtype, shape and data_offsets, got 1"),
        (raw({"w": {**W, "more": 1}}, bytes(16)), "'w' must have"),
        (raw({"w": {"dtype": "F32"}}), "'w' must have"),
        (raw({"w": {**W, "dtype": "F31"}}, bytes(16)), "dtype of 'w' must be one of .*'F31'"),
        (raw({"w": {**W, "dtype": ["F32"]}}, bytes(16)), "dtype of 'w'"),
        (raw({"w": {**W, "shape": 4}}, bytes(16)), "shape of 'w'"),
        (raw({"w": {**W, "shape": [2, 2.0]}}, bytes(16)), "shape of 'w'"),
        (raw({"w": {**W, "shape": [True, 4]}}, bytes(16)), "shape of 'w'"),
        (raw({"w": {**W, "shape": [-2, -2]}}, bytes(16)), "shape of 'w'"),
        (raw({"w": {**W, "shape": [2**62, 4, 0]}}, bytes(16)), "shape of 'w'"),
        (raw({"w": {**W, "shape": [2, 3]}}, bytes(16)), "'w' of F32 .* takes 24 bytes, .* say 16"),
        (raw({"w": {**W, "dtype": "F4", "shape": [3]}}, bytes(16)), "'w' of F4"),
        (raw({"w": {**W, "data_offsets": [0]}}, bytes(16)), "data_offsets of 'w'"),
        (raw({"w": {**W, "data_offsets": [16, 0]}}, bytes(16)), "data_offsets of 'w'"),
        (raw({"w": {**W, "data_offsets": [-16, 0]}}, bytes(16)), "data_offsets of 'w'"),
        (raw({"w": {**W, "data_offsets": [0, 2**63]}}, bytes(16)), "data_offsets of 'w'"),
        (raw({"w": {**W, "data_offsets": [0, 16, 16]}}, bytes(16)), "data_offsets of 'w'"),
        (raw({"w": W, "v": {**V, "data_offsets": [15, 18]}}, bytes(18)), "'v' must .*overlap"),
        (raw({"w": W, "x": W}, bytes(16)), "'x' must .*overlap"),
        (raw({"w": W, "v": {**V, "data_offsets": [17, 20]}}, bytes(20)), "'v' must .*a gap"),
        (raw({"v": V}, bytes(19)), "'v' must begin where the header ends, at 0, got 16"),
    ],
)
def test_damage_is_refused(path, content, message):
    assert re.search(message, refusal(path, content))


def test_every_cut_and_every_flipped_byte_of_a_header_is_refused_or_harmless(path):
    content = raw({"w": W, "v": V}, bytes(19))
    for size in range(len(content)):
        refusal(path, content[:size])
    size = len(content) - 19
    for place in range(size):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        # Harmless is another name, or another dtype of the same size.
        with contextlib.suppress(ValueError), Reader(path) as file:
            assert file.header.file_size == len(content)


def test_what_is_no_file_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="must be a regular file"):
            Reader(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        Reader(tmp_path / "absent")


def test_a_file_that_is_cut_while_it_is_read(path):
    save_file({"w": np.ones(1000)}, path)
    with Reader(path) as file:
        os.truncate(path, 500)
        with pytest.raises(ValueError, match="was cut while it was read"):
            file.read("w")


def test_a_writer_takes_its_bytes_in_order_and_nothing_else(path):
    tensors = [("a", "U8", (4,)), ("b", "U8", (2,))]
    with Writer(path, tensors) as file:
        with pytest.raises(ValueError, match="4 bytes of 'a' must come next, got 2 bytes of 'b'"):
            file.write("b", b"12")
        file.write("a", b"123")
        with pytest.raises(ValueError, match="1 bytes of 'a' must come next, got 2 bytes of 'a'"):
            file.write("a", b"45")
        file.write("a", b"4")
        with pytest.raises(ValueError, match="in C order"):
            file.write("b", np.zeros((2, 2), np.uint8)[:, 0])
        file.write("b", b"56")
        with pytest.raises(ValueError, match="nothing must come next"):
            file.write("b", b"7")
    assert path.read_bytes().endswith(b"123456")
    with pytest.raises(FileExistsError):
        Writer(path, tensors)


def test_an_unfinished_file_is_removed(path, monkeypatch):
    tensors = [("a", "U8", (4,))]
    with pytest.raises(ValueError, match="bytes of 'a' are missing"), Writer(path, tensors) as file:
        file.write("a", b"123")
    assert not path.exists()
    with pytest.raises(KeyError), Writer(path, tensors):
        raise KeyError
    assert not path.exists()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("datasparse.files.safetensors.flush", interrupted)
    with pytest.raises(KeyboardInterrupt), Writer(path, tensors) as file:
        file.write("a", b"1234")
    assert not path.exists()


@pytest.mark.parametrize("tensors", [[("a", "U8", (4,))] * 2, [("__metadata__", "U8", (4,))],
                                     [("a", "F4", (3,))]])  # fmt: skip
def test_a_header_that_nobody_could_read_is_not_made(tensors):
    with pytest.raises(ValueError, match="must be a new name, and of whole bytes"):
        make_header(tensors)
