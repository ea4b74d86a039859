"""The header of a safetensors file: read strictly, since whoever made the file may have lied.

A file is eight bytes with the length of the header, little-endian, the header as JSON, and the
data. The header gives each tensor its dtype, its shape, and where its bytes lie in the data.
https://github.com/huggingface/safetensors describes the format.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._bfloat16 import BFLOAT16

PREFIX = 8  # bytes of the header's length
MOST_HEADER = 100_000_000  # bytes, as in the safetensors library
METADATA = "__metadata__"  # no tensor has that name
ABOUT = "datasparse.packed"  # in a packed file's metadata: JSON with version, size and layouts

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16},
    **{"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
"""The bits of one element, by the format's name of its dtype."""

FLOATS: dict[str, np.dtype[Any]] = {
    "BF16": BFLOAT16,
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""What masks are made of: the dtypes that the core computes with, as NumPy has them."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    dtype: as the format writes it, a key of BITS.
    begin, end: where its bytes lie, counted from the first byte behind the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    text: the length and the JSON, byte for byte, with the spaces behind it.
    tensors: by name, in the order of their bytes, which follow each other without gap or overlap.
    metadata: the texts beside them; None where the file has no such entry.
    """

    text: bytes
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] | None

    @property
    def data_begin(self) -> int:
        """The place of the first byte behind the header."""
        return len(self.text)

    @property
    def data_size(self) -> int:
        return max((tensor.end for tensor in self.tensors.values()), default=0)

    @property
    def file_size(self) -> int:
        return self.data_begin + self.data_size


def bytes_of(dtype: str, shape: Iterable[int]) -> int | None:
    """The bytes of a tensor; None where its bits are no whole number of bytes."""
    bits = BITS[dtype] * math.prod(shape)
    return None if bits % 8 else bits // 8


def make_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Header:
    """The header of tensors, given as (name, dtype, shape), whose bytes follow in that order.

    It is filled up with spaces, so that the data begin at a multiple of eight.
    """
    made: dict[str, Tensor] = {}
    end = 0
    for name, dtype, shape in tensors:
        size = bytes_of(dtype, shape)
        if size is None or name in made or name == METADATA:
            raise ValueError(f"{name!r} of {dtype} {shape} must be a new name, and of whole bytes")
        made[name] = Tensor(name, dtype, tuple(shape), end, end + size)
        end += size
    entries: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
    for tensor in made.values():
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (tensor.begin, tensor.end),
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % PREFIX)
    if len(text) > MOST_HEADER:
        raise ValueError(f"a header must have at most {MOST_HEADER:,} bytes, got {len(text):,}")
    return Header(len(text).to_bytes(PREFIX, "little") + text, made, metadata)


def parse_header(where: str, text: bytes, file_size: int) -> Header:
    """The header in the first bytes of a file of that size.

    text: the length and the JSON, as `header_size()` says. where: the file, for messages.
    ValueError, naming the file and the tensor, for all that breaks a rule of the format: what is no
    JSON, keys that come twice, unknown dtypes, shapes that do not fit their bytes, tensors that
    overlap or leave a gap, and a file that does not end with its last tensor.
    """
    entries = json_of(where, text[PREFIX:])
    metadata = entries.pop(METADATA, None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError(f"{where}: {METADATA} must map texts to texts, got {shortened(metadata)}")
    data_size = file_size - len(text)
    found = [tensor_of(where, name, entry, data_size) for name, entry in entries.items()]
    found.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end, before = 0, "the header"
    for tensor in found:
        if tensor.begin != end:
            what = "overlap" if tensor.begin < end else "leave a gap"
            raise ValueError(
                f"{where}: {tensor.name!r} must begin where {before} ends, at {end}, got "
                f"{tensor.begin}: tensors that {what} are damage"
            )
        end, before = tensor.end, repr(tensor.name)
    if end != data_size:
        raise ValueError(
            f"{where}: the file must end with its last tensor, {before}, got {data_size - end} "
            "bytes behind it"
        )
    return Header(text, {tensor.name: tensor for tensor in found}, metadata)


def header_size(where: str, prefix: bytes, file_size: int) -> int:
    """The bytes of length and JSON, by the first eight of a file. ValueError for what is none."""
    if len(prefix) < PREFIX:
        raise ValueError(f"{where}: a safetensors file has at least 8 bytes, got {len(prefix)}")
    size = int.from_bytes(prefix, "little")
    if size > MOST_HEADER:
        raise ValueError(
            f"{where}: the header must have at most {MOST_HEADER:,} bytes, the first eight say "
            f"{size:,}: this is no safetensors file, or it is damaged"
        )
    if PREFIX + size > file_size:
        raise ValueError(
            f"{where}: the header has {size:,} bytes, and the file {file_size:,} in all: it is "
            "truncated, or no safetensors file"
        )
    return PREFIX + size


def json_of(where: str, text: bytes) -> dict[str, Any]:
    """A JSON object in which no key comes twice. ValueError for all else."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=once)
        if b"\\u" in text:  # half a surrogate pair is text that no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not the JSON that is expected: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: the JSON must be an object, got {shortened(value)}")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {name!r} comes twice")
    return made


def tensor_of(where: str, name: str, entry: object, data_size: int) -> Tensor:
    """A tensor by its entry. ValueError for an entry that says what cannot be."""
    keys = ("dtype", "shape", "data_offsets")
    if not isinstance(entry, dict) or sorted(entry) != sorted(keys):
        raise ValueError(
            f"{where}: {name!r} must have dtype, shape and data_offsets, got {shortened(entry)}"
        )
    dtype, shape, offsets = (entry[key] for key in keys)
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(
            f"{where}: dtype of {name!r} must be one of {', '.join(BITS)}, got {shortened(dtype)}"
        )
    if not is_lengths(shape) or not fits(shape):
        raise ValueError(
            f"{where}: shape of {name!r} must be lengths of 0 or more, of less than 2^63 elements "
            f"in all, got {shortened(shape)}"
        )
    if not is_lengths(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_size:
        raise ValueError(
            f"{where}: data_offsets of {name!r} must be a begin and an end within the "
            f"{data_size} bytes behind the header, got {shortened(offsets)}: the file is "
            "truncated, or damaged"
        )
    size = bytes_of(dtype, shape)
    if size != offsets[1] - offsets[0]:
        raise ValueError(
            f"{where}: {name!r} of {dtype} and shape {shortened(shape)} takes {size} bytes, its "
            f"data_offsets say {offsets[1] - offsets[0]}"
        )
    return Tensor(name, dtype, tuple(shape), *offsets)


def is_lengths(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def fits(shape: list[int]) -> bool:
    """Whether the elements can be counted: checked axis by axis, as a product may be endless."""
    elements = 1
    for length in shape:
        if length > sys.maxsize:
            return False
        elements *= length
        if elements > sys.maxsize:
            return False
    return True


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_packed(header: Header) -> bool:
    """Whether a file says that it was packed."""
    return header.metadata is not None and ABOUT in header.metadata
