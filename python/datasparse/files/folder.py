"""What a checkpoint consists of: one safetensors file, or a folder of them with what lies beside.

Checkpoints of several files have an index, `*.safetensors.index.json`, whose weight_map names the
file of each tensor. Caches consist of links, so links to files are followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .closing import Closing
from .header import MOST_HEADER, Tensor, is_packed, json_of, shortened
from .pickles import refuse_pickles
from .safetensors import Reader

INDEX = ".safetensors.index.json"
DENSE = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz"),
    *(".bin.index.json", ".h5.index.json", ".msgpack.index.json"),
)
"""The ends of names of weights in files: beside pruned ones they would be the dense ones again."""


@dataclass(frozen=True)
class Beside:
    """What lies in a folder beside its tensors.

    copied: the files that belong to a copy, by their paths within the folder, with their status.
    folders: the folders of these, also empty ones, each behind the one that it lies in.
    left: dense weights and hidden folders, which do not.
    """

    copied: Mapping[str, os.stat_result]
    folders: tuple[str, ...]
    left: tuple[str, ...]


class Checkpoint(Closing):
    """The files of a checkpoint, open and checked, and what lies beside them.

    path: the file or folder.
    files: a Reader for each safetensors file, sorted by name.
    is_folder: whether they lie in a folder, of which `beside` tells the rest.

    Opening is a ValueError, naming the file and the tensor, for what is damaged, contradicts itself
    or is no checkpoint, and an OSError where the system says so. Nothing is written. Close it, or
    use it in a `with`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.beside = Beside({}, (), ())
        self.is_folder = self.path.is_dir()
        index: dict[str, str] | None = None
        if self.is_folder:
            index, names, index_name = files_in(self.path)
            places = {name: self.path / name for name in names}
            self.beside = beside(self.path, set(names), index_name)
        else:
            places = {self.path.name: self.path}
        self._files = ExitStack()
        try:
            self.files = {
                name: self._files.enter_context(Reader(place)) for name, place in places.items()
            }
            for reader in self.files.values():
                refuse_packed(reader)
            self.tensors = tensors_of(self.path, self.files, index)
        except BaseException:
            self._files.close()
            raise

    tensors: dict[str, tuple[str, Tensor]]
    """The file and the place of each tensor, sorted by the tensors' names."""

    @property
    def paths(self) -> list[Path]:
        """Of its files."""
        return [reader.path for reader in self.files.values()]

    def reader(self, name: str) -> Reader:
        """The file that a tensor lies in."""
        return self.files[self.tensors[name][0]]

    def close(self) -> None:
        self._files.close()


def refuse_packed(file: Reader) -> None:
    """ValueError for a file that is packed: its tensors are no longer those of a model."""
    if is_packed(file.header):
        raise ValueError(f"{file.path} is packed: unpack it first, by `datasparse unpack`")


def safetensors_in(path: Path) -> list[Path]:
    """A file itself, or the *.safetensors of a folder. FileNotFoundError where there are none, and
    ValueError where an index names one that is not there."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        refuse_pickles(path)
        raise FileNotFoundError(f"{path} must have files *.safetensors, got none")
    names = {file.name for file in files}
    for index in sorted(path.glob(f"*{INDEX}")):
        for tensor, name in read_index(index).items():
            if name not in names:
                raise ValueError(f"{index}: {tensor!r} lies in {name}, which is not there")
    return files


def files_in(folder: Path) -> tuple[dict[str, str] | None, list[str], str | None]:
    """The index of a folder if it has one, its safetensors files, and the index's name."""
    names = sorted(path.name for path in folder.iterdir())
    indices = [name for name in names if name.endswith(INDEX)]
    if len(indices) > 1:
        raise ValueError(
            f"{folder} must have one *{INDEX}, got {', '.join(indices)}: name a folder with one"
        )
    if indices:
        index = read_index(folder / indices[0])
        return index, sorted(set(index.values())), indices[0]
    files = [name for name in names if name.endswith(".safetensors")]
    if len(files) == 1:
        return None, files, None
    if files:
        raise ValueError(
            f"{folder} has {len(files)} safetensors files and no *{INDEX}, which says what belongs "
            f"together: name one of {', '.join(files[:4])}"
        )
    refuse_pickles(folder)
    raise ValueError(f"{folder} must have a safetensors file, got none")


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, by the index's weight_map."""
    if not path.is_file():
        raise ValueError(f"{path} must be a regular file")
    if path.stat().st_size > MOST_HEADER:
        raise ValueError(f"{path} must have at most {MOST_HEADER:,} bytes")
    files = json_of(str(path), path.read_bytes()).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path}: weight_map must map tensors to files, got {shortened(files)}")
    for tensor, file in files.items():
        if not isinstance(file, str) or not is_plain_name(file):
            raise ValueError(
                f"{path}: the file of {tensor!r} must be the name of a safetensors file in the "
                f"folder, got {shortened(file)}"
            )
        if not os.path.lexists(path.parent / file):
            raise ValueError(f"{path}: {tensor!r} lies in {file}, which is not there")
    return files


def is_plain_name(name: str) -> bool:
    """Whether a text names a file in this folder, and in no other."""
    separators = {"/", "\\", "\0", os.sep}
    return name.endswith(".safetensors") and not separators & set(name)


def tensors_of(
    path: Path, files: Mapping[str, Reader], index: Mapping[str, str] | None
) -> dict[str, tuple[str, Tensor]]:
    """All tensors by name. ValueError where the index and the files disagree."""
    found: dict[str, tuple[str, Tensor]] = {}
    for file, reader in files.items():
        for name, tensor in reader.header.tensors.items():
            if name in found:
                raise ValueError(
                    f"{path}: {name!r} must lie in one file, got {found[name][0]} and {file}"
                )
            if index is not None and index.get(name) != file:
                where = index.get(name, "no file")
                raise ValueError(f"{path}: the index has {name!r} in {where}, it lies in {file}")
            found[name] = file, tensor
    for name, file in (index or {}).items():
        if name not in found:
            raise ValueError(f"{path}: the index has {name!r} in {file}, which has none")
    return dict(sorted(found.items()))


def beside(folder: Path, files: set[str], index: str | None) -> Beside:
    """What else lies in a folder, sorted. ValueError for what is neither a file nor a folder."""
    copied: dict[str, os.stat_result] = {}
    folders: list[str] = []
    left: list[str] = []

    def add(inner: str) -> None:
        for place in sorted((folder / inner).iterdir()):
            name, at = place.name, str(place.relative_to(folder))
            if at in files:
                continue
            status = status_of(place)
            if stat.S_ISDIR(status.st_mode) and not place.is_symlink():
                if name.startswith("."):  # .git, .cache: the dense weights, in other words
                    left.append(at)
                else:
                    folders.append(at)
                    add(at)
            elif not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{place} must be a file, or a link to one, to be copied")
            elif name.endswith(DENSE) and at != index:
                left.append(at)
            else:
                copied[at] = status

    add("")
    return Beside(copied, tuple(folders), tuple(left))


def status_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise ValueError(f"{path} is a link to what is not there") from None
