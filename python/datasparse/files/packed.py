"""Packed files: safetensors files without their zeros, read tensor by tensor.

docs/packed.md describes the format. In short: a tensor NAME lies there as it was, or as two others,
`datasparse.places:NAME` and `datasparse.values:NAME` (`layouts.py`). The metadata say which, and
hold the header of the file that was packed, byte for byte.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._core import _count_bits, _expand, get_num_threads
from .closing import Closing
from .dtypes import NUMPY, TORCH, item_size, unsigned
from .folder import safetensors_in
from .header import (
    ABOUT,
    PREFIX,
    Header,
    Tensor,
    is_packed,
    json_of,
    parse_header,
    shortened,
)
from .layouts import Layout, layout_named
from .safetensors import Reader

if TYPE_CHECKING:
    import torch

VERSION = 1
HEADER = "datasparse.header"  # in the metadata: the JSON that the file began with
PLACES = "datasparse.places:"  # and the tensor's name
VALUES = "datasparse.values:"
STEP = 1 << 16  # elements that are unpacked at once: what they take stays in the cache


def reserved(header: Header) -> list[str]:
    """The names of tensors, and in the metadata, that packed files have."""
    names = [*header.tensors, *(header.metadata or {})]
    return [name for name in names if name == HEADER or name.startswith((PLACES, VALUES))]


class PackedFile(Closing):
    """An open file, packed or not, whose tensors are read as those that were packed.

    header: the one of the file that was packed: `header.text` are its first bytes.
    layouts: how tensors lie in it, by name, but for those that lie there as they were.

    ValueError, naming file and tensor, for damage, and for a file of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        with ExitStack() as stack:
            self._reader = stack.enter_context(Reader(path))
            self._where = str(path)
            outer = self._reader.header
            self.header, self.layouts = outer, dict[str, Layout]()
            if is_packed(outer):
                self.header, names = unpacked_header(self._where, outer)
                self.layouts = dict(self._layouts(names))
                self._check_names()
            else:
                for name in reserved(outer):
                    raise ValueError(
                        f"{path}: {name!r} is a name in packed files, and {ABOUT} is missing in "
                        "the metadata: damaged"
                    )
            stack.pop_all()

    def parts(self, name: str) -> Iterator[NDArray[Any]]:
        """The elements of a tensor in pieces, in C order: unsigned integers with their bits.

        A tensor that was not packed comes in pieces of bytes. ValueError for damage.
        """
        tensor = self.header.tensors[name]
        layout = self.layouts.get(name)
        if layout is None:
            for first in range(0, tensor.size, STEP):
                part = np.empty(min(STEP, tensor.size - first), np.uint8)
                self.read_into(name, first, part)
                yield part
            return
        places, step = self._places(tensor, layout), STEP // layout.step * layout.step
        done = 0
        for first in range(0, tensor.elements, step):
            part = np.empty(min(step, tensor.elements - first), unsigned(tensor.dtype))
            done = self._unpack(tensor, layout, places, first, done, part)
            yield part

    def read(self, name: str) -> NDArray[Any]:
        """A tensor as a new, contiguous array of the dtype in `NUMPY` and its shape.

        Elements of fewer than eight bits come as their bytes, one axis of uint8.
        """
        tensor = self.header.tensors[name]
        layout = self.layouts.get(name)
        if layout is None:
            data: NDArray[Any] = np.empty(tensor.size, np.uint8)
            self.read_into(name, 0, data)
        else:
            data = np.empty(tensor.elements, unsigned(tensor.dtype))
            self._unpack_all(tensor, layout, data)
        dtype = NUMPY.get(tensor.dtype)
        return data if dtype is None else data.view(dtype).reshape(tensor.shape)

    def read_into(self, name: str, begin: int, buffer: NDArray[Any]) -> None:
        """Fill an array with a tensor that lies there as it was, from its byte `begin` on."""
        self._reader.read_into(self._begin(name) + begin, buffer)

    def size(self, name: str) -> int:
        """The bytes that a tensor takes in this file."""
        outer = self._reader.header.tensors
        names = [PLACES + name, VALUES + name] if name in self.layouts else [name]
        return sum(outer[each].size for each in names)

    def close(self) -> None:
        self._reader.close()

    def _begin(self, name: str) -> int:
        outer = self._reader.header
        return outer.data_begin + outer.tensors[name].begin

    def _places(self, tensor: Tensor, layout: Layout) -> NDArray[np.uint8]:
        """Where the values of a tensor belong, as the layout writes it."""
        places = np.empty(self._reader.header.tensors[PLACES + tensor.name].size, np.uint8)
        self._reader.read_into(self._begin(PLACES + tensor.name), places)
        with self._named(tensor):
            layout.check(places, tensor.elements)
        return places

    def _unpack_all(self, tensor: Tensor, layout: Layout, data: NDArray[Any]) -> None:
        """Fill an array with a tensor, by the threads of `set_num_threads()` where it is large."""
        places, step = self._places(tensor, layout), STEP // layout.step * layout.step
        threads = min(get_num_threads(), tensor.elements // (4 * step))
        if threads < 2:
            self._unpack(tensor, layout, places, 0, 0, data)
            return
        size = -(-tensor.elements // threads // step) * step

        def unpack(first: int) -> None:
            done = layout.before(places, first)
            self._unpack(tensor, layout, places, first, done, data[first : first + size])

        with ThreadPoolExecutor(threads) as pool:
            parts = [pool.submit(unpack, first) for first in range(0, tensor.elements, size)]
        for part in parts:
            part.result()  # the first error of all

    def _unpack(
        self,
        tensor: Tensor,
        layout: Layout,
        places: NDArray[np.uint8],
        begin: int,
        done: int,
        data: NDArray[Any],
    ) -> int:
        """Fill an array with the elements of a tensor from `begin` on, a multiple of the step.

        done: how many values belong before these. Returns how many belong before what follows.
        """
        count = self._reader.header.tensors[VALUES + tensor.name].elements
        values, item = self._begin(VALUES + tensor.name), data.itemsize
        step = STEP // layout.step * layout.step
        for first in range(begin, begin + len(data), step):
            part = data[first - begin : first - begin + step]
            last = first + len(part)
            with self._named(tensor):
                bits = layout.bits(places, first, last)
                here = _count_bits(bits)
                if done + here > count or (last == tensor.elements and done + here < count):
                    raise ValueError(f"must be of {count} elements, got {done + here} or more")
            # The values are read to where they do not have to make room for each other.
            self._reader.read_into(values + done * item, part[len(part) - here :])
            _expand(part, bits)
            done += here
        return done

    @contextmanager
    def _named(self, tensor: Tensor) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._where}: {PLACES + tensor.name!r} {error}: damaged") from None

    def _layouts(self, names: Mapping[str, object]) -> Iterator[tuple[str, Layout]]:
        for name, value in names.items():
            tensor = self.header.tensors.get(name)
            if tensor is None or not tensor.elements or item_size(tensor.dtype) is None:
                raise ValueError(
                    f"{self._where}: layouts in {ABOUT} must be of tensors with elements of whole "
                    f"bytes, got {name!r}"
                )
            try:
                yield name, layout_named(value, tensor.shape[-1] if tensor.shape else 1)
            except ValueError as error:
                raise ValueError(f"{self._where}: layout of {name!r} {error}") from None

    def _check_names(self) -> None:
        """ValueError unless the file has the tensors that there must be, and no others."""
        there = dict(self._reader.header.tensors)
        for name, tensor in self.header.tensors.items():
            if name not in self.layouts:
                self._check(there.pop(name, None), name, tensor.dtype, tensor.shape)
                continue
            layout = self.layouts[name]
            places, values = there.pop(PLACES + name, None), there.pop(VALUES + name, None)
            size = layout.places_size(tensor.elements)
            self._check(places, PLACES + name, "U8", (size,))
            count = layout.values(tensor.elements, values.elements if values else 0)
            self._check(values, VALUES + name, tensor.dtype, (count,))
        for name in there:
            raise ValueError(f"{self._where}: {name!r} must not be there: it belongs to no tensor")

    def _check(self, found: Tensor | None, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        if found is None or (found.dtype, found.shape) != (dtype, shape):
            got = f"{found.dtype} {list(found.shape)}" if found else "no such tensor"
            raise ValueError(
                f"{self._where}: {name!r} must be {dtype} {list(shape)}, got {got}: damaged"
            )


class Packed(Closing, Mapping[str, Any]):
    """The tensors of packed files by name, read each time they are asked for.

    `dict(packed)` reads all of them. The files stay open until `close()`, the end of a `with`, or
    until the mapping is gone; threads may share it.
    """

    def __init__(self, files: Mapping[str, PackedFile], framework: str) -> None:
        self._files = files
        self._framework = framework
        opened = list({id(file): file for file in files.values()}.values())
        self._finalizer = weakref.finalize(self, close_all, opened)

    def __getitem__(self, name: str) -> Any:
        file = self._files[name]
        if not self._finalizer.alive:
            raise ValueError(f"{name!r} cannot be read: the files are closed")
        array = file.read(name)
        if self._framework == "numpy":
            return array
        return as_torch(array, file.header.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"<Packed: {len(self)} tensors>"

    def close(self) -> None:
        """Close the files. Arrays that were read are not affected."""
        self._finalizer()


def load_packed(path: str | os.PathLike[str], framework: str = "numpy") -> Packed:
    """Return the tensors of a packed file by name, each of them read when it is asked for.

    path: a file, or a folder, of which all *.safetensors are meant. Those that are not packed are
        read as they are.
    framework: "numpy" or "torch". In NumPy, bfloat16 and float8 are records of one field, whose
        name is the dtype's; `array.view(ml_dtypes.bfloat16)` makes numbers of them. In torch,
        tensors are on the CPU. Elements of fewer than eight bits come as their bytes, as uint8.

    Opening reads the headers alone. An element whose bits were all zero is zero again, all others
    have their bits, so that NaN and -0 come back. Memory: the tensor, an eighth of a byte
    per element, and a few MiB. ValueError, naming file and tensor, for damage, for another version
    of the format, and for a tensor that is in two files; KeyError for an unknown name.

    >>> import numpy as np
    >>> from datasparse.files import load_packed, pack
    >>> from safetensors.numpy import save_file
    >>> save_file({"w": np.eye(100, dtype=np.float32)}, "eye.safetensors")
    >>> print(pack("eye.safetensors", "eye.packed.safetensors"))
    1 file, 1 of 1 tensors packed: 2.0 kB for 40.1 kB dense, 0.050
    >>> with load_packed("eye.packed.safetensors") as packed:
    ...     print(packed["w"].sum())
    100.0
    """
    if framework not in ("numpy", "torch"):
        raise ValueError(f'framework must be "numpy" or "torch", got {framework!r}')
    files: dict[str, PackedFile] = {}
    with ExitStack() as stack:
        for each in safetensors_in(Path(path)):
            file = stack.enter_context(PackedFile(each))
            for name in file.header.tensors:
                if name in files:
                    raise ValueError(
                        f"{path}: {name!r} must be in one file, got {each} and another"
                    )
                files[name] = file
        stack.pop_all()
    return Packed(files, framework)


def unpacked_header(where: str, outer: Header) -> tuple[Header, Mapping[str, object]]:
    """The header of the file that was packed, and the names of layouts by tensor."""
    metadata = outer.metadata or {}
    where = f"{where}: {ABOUT} in the metadata"
    about = json_of(where, metadata[ABOUT].encode())
    if type(about.get("version")) is not int or about["version"] != VERSION:
        raise ValueError(
            f"{where} must say version {VERSION}, got {shortened(about.get('version'))}: it needs "
            "another version of datasparse"
        )
    size, layouts, text = about.get("size"), about.get("layouts"), metadata.get(HEADER)
    if type(size) is not int or not isinstance(layouts, dict) or text is None:
        raise ValueError(f"{where} must have a size and layouts, and {HEADER} beside it: damaged")
    encoded = text.encode()
    prefix = len(encoded).to_bytes(PREFIX, "little")
    return parse_header(where.replace(ABOUT, HEADER), prefix + encoded, size), layouts


def as_torch(array: NDArray[Any], tensor: Tensor) -> torch.Tensor:
    """The same memory as a tensor of torch. TypeError where this torch has no such dtype."""
    import torch

    if tensor.dtype not in TORCH:
        return torch.from_numpy(array)
    dtype = getattr(torch, TORCH[tensor.dtype], None)
    if dtype is None:
        raise TypeError(
            f"{tensor.name!r} is of {tensor.dtype}, and torch {torch.__version__} has no "
            f'{TORCH[tensor.dtype]}: upgrade torch, or use framework="numpy"'
        )
    # NumPy's integers are torch's, whatever the elements are.
    bits = array.reshape(-1).view(f"<i{array.itemsize}")
    return torch.from_numpy(bits).view(dtype).reshape(tensor.shape)


def close_all(files: list[PackedFile]) -> None:
    for file in files:
        file.close()
