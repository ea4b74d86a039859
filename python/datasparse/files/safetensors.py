"""Safetensors files, read into memory that is given and written piece by piece.

The safetensors library reads whole tensors into memory of its own, and writes whole files. A stream
needs neither: its memory is what it was told to take, whatever the size of the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .closing import Closing
from .header import FLOATS, PREFIX, Header, Tensor, header_size, make_header, parse_header
from .pickles import refuse_pickle

Bytes = Any  # an array in C order, or what memoryview() takes


class Reader(Closing):
    """An open file, whose header is checked.

    header: what the file says of itself.
    status: of the file when it was opened.

    Opening is a ValueError, naming file and tensor, for a damaged or foreign file, for a path to
    what is no regular file, and an OSError where the system says so. Links are followed. Reads give
    their place, so threads may share a Reader. Close it, or use it in a `with`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:  # not blocked by a pipe, which is refused below
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if self.path.is_symlink():
                raise ValueError(f"{path} is a link to what is not there") from None
            raise
        try:
            self.status = os.fstat(self._file)
            if not stat.S_ISREG(self.status.st_mode):
                raise ValueError(f"{path} must be a regular file")
            size = self.status.st_size
            prefix = os.pread(self._file, PREFIX, 0)
            refuse_pickle(self.path, prefix)
            text = bytearray(header_size(str(path), prefix, size))
            self.read_into(0, text)
            self.header = parse_header(str(path), bytes(text), size)
        except BaseException:
            os.close(self._file)
            raise

    def read_into(self, begin: int, buffer: Bytes) -> None:
        """Fill a writable buffer with what lies in the file from byte `begin` on.

        ValueError where the file ends before: it was cut after it was opened. Without the GIL.
        """
        left = view_of(buffer)
        while left:
            try:
                count = os.preadv(self._file, [left[:MOST_AT_ONCE]], begin)
            except OSError as error:
                raise named(error, self.path) from None
            if count == 0:
                raise ValueError(f"{self.path} ends at byte {begin}: it was cut while it was read")
            left, begin = left[count:], begin + count

    def read(self, name: str) -> NDArray[Any]:
        """A tensor as a new array.

        Of a float dtype in FLOATS it has that dtype and the tensor's shape; of any other it is the
        bytes. KeyError for an unknown name.
        """
        tensor = self.header.tensors[name]
        buffer = np.empty(tensor.size, np.uint8)
        self.read_into(self.header.data_begin + tensor.begin, buffer)
        return as_array(tensor, buffer)

    def require_unchanged(self) -> None:
        """ValueError where somebody has written to the file since it was opened."""
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            raise ValueError(f"{self.path} was changed while it was read")

    def close(self) -> None:
        os.close(self._file)


class Writer:
    """A new file, its tensors written in the order of its header, each in as many pieces as wanted.

        with Writer(path, [("w", "F32", (2, 3))], {"format": "pt"}) as file:
            file.write("w", first_half)
            file.write("w", second_half)

    tensors: (name, dtype, shape), as `make_header()` takes them; or a header, whose text is
        written as it is.

    FileExistsError for a path that is there. The file is whole, and flushed to the disk, when the
    `with` has ended without an error; that is a ValueError where bytes of a tensor are missing.
    After an error the unfinished file is removed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Header | Iterable[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.header = tensors if isinstance(tensors, Header) else make_header(tensors, metadata)
        self._left = [tensor for tensor in self.header.tensors.values() if tensor.size]
        self._left.reverse()
        self._written = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_at(self._file, self.path, 0, self.header.text)
        except BaseException:
            self._remove()
            raise

    def write(self, name: str, data: Bytes) -> None:
        """Write the next bytes of a tensor. ValueError for another than the one that is due."""
        view = view_of(data)
        if not view:
            return
        due = self._left[-1] if self._left else None
        if due is None or due.name != name or self._written + len(view) > due.end:
            missing = due and f"{due.end - self._written} bytes of {due.name!r}"
            raise ValueError(
                f"{self.path}: {missing or 'nothing'} must come next, got {len(view)} bytes of "
                f"{name!r}"
            )
        write_at(self._file, self.path, self.header.data_begin + self._written, view)
        self._written += len(view)
        if self._written == due.end:
            self._left.pop()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._remove()
            return
        try:
            if self._left:
                raise ValueError(f"{self.path}: bytes of {self._left[-1].name!r} are missing")
            flush(self._file, self.path)
        except BaseException:
            self._remove()
            raise
        os.close(self._file)

    def _remove(self) -> None:
        os.close(self._file)
        self.path.unlink()


MOST_AT_ONCE = 1 << 30  # bytes of one call: Linux stops short of 2 GiB


def as_array(tensor: Tensor, buffer: NDArray[np.uint8]) -> NDArray[Any]:
    """The bytes of a tensor as the array that they are, without a copy."""
    dtype = FLOATS.get(tensor.dtype)
    return buffer if dtype is None else buffer.view(dtype).reshape(tensor.shape)


def view_of(data: Bytes) -> memoryview:
    """The bytes of what a caller gave, in the caller's memory."""
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous:
            raise ValueError("an array must be in C order to be read or written as bytes")
        data = data.reshape(-1).view(np.uint8)
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")


def write_at(file: int, path: Path, begin: int, data: Bytes) -> None:
    """Write all of data, from byte `begin` of a file on. OSError, naming the file. No GIL."""
    left = view_of(data)
    while left:
        try:
            count = os.pwrite(file, left[:MOST_AT_ONCE], begin)
        except OSError as error:
            raise named(error, path) from None
        left, begin = left[count:], begin + count


def flush(file: int, path: Path) -> None:
    """Wait until a file is on the disk. OSError, naming the file."""
    try:
        os.fsync(file)
    except OSError as error:
        raise named(error, path) from None


def named(error: OSError, path: Path) -> OSError:
    """The same error, with the file in its message."""
    return OSError(error.errno, error.strerror, str(path))
