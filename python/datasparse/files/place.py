"""Where a new checkpoint lies while it is made, and how it gets its name."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from .folder import Checkpoint
from .safetensors import flush, named, write_at


def refuse_places(
    checkpoint: Checkpoint, read: list[Path], target: Path, partial: Path, outputs: list[Path]
) -> None:
    """ValueError for places in which a new file would change what is read, or lie in the target.

    read: the files beside the source's own. partial: where the target is made, which is no place
    for other files either.
    """
    source = checkpoint.path.resolve()
    goal = target.resolve()
    if not target.absolute().parent.is_dir():
        raise ValueError(f"{target}: there is no folder {target.absolute().parent}: make it first")
    if goal == source or goal in source.parents or source in goal.parents:
        raise ValueError(f"{target} must be neither the source, {checkpoint.path}, nor within it, "
                         "nor hold it")  # fmt: skip
    files = {path.resolve() for path in [*checkpoint.paths, *read]}
    if len(set(outputs)) < len(outputs):
        raise ValueError(f"report and masks must be two files, got {outputs[0]} for both")
    for path in outputs:
        place = path.resolve()
        if place in files or {source, goal, partial.resolve()} & {place, *place.parents}:
            raise ValueError(
                f"{path} must be no file that is read, and lie in neither the source nor the target"
            )
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise ValueError(f"{path} must be a file in a folder that is there")


def require_space(folder: Path, needed: int) -> None:
    """OSError where the disk is too small for what is to come: now, and not after hours."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        full = f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, full, str(folder))


def copy_beside(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy what belongs to a checkpoint beside its tensors."""
    for inner in checkpoint.beside.folders:
        (folder / inner).mkdir(exist_ok=True)
    for name in checkpoint.beside.copied:
        path = folder / name
        path.unlink(missing_ok=True)
        try:
            shutil.copy(checkpoint.path / name, path)
        except OSError as error:
            # An error of writing names both files, or none; any other the one that it is of.
            own = error.filename if error.filename2 is None else None
            raise named(error, Path(own or path)) from None
        with path.open("rb") as file:
            flush(file.fileno(), path)
    for inner in checkpoint.beside.folders:
        flush_folder(folder / inner)


def place(checkpoint: Checkpoint, folder: Path, target: Path) -> None:
    """Give what is whole the target's name."""
    refuse_arrived(target)
    if checkpoint.is_folder:
        rename(folder, target)
    else:
        rename(folder / checkpoint.path.name, target)
        folder.rmdir()


def refuse_arrived(target: Path) -> None:
    """ValueError for a target that somebody else has made during the work."""
    if os.path.lexists(target):
        raise ValueError(f"{target} is there now, and was not when the work began: move it away")


def rename(path: Path, target: Path) -> None:
    path.replace(target)
    flush_folder(target.absolute().parent)


def write_whole(path: Path, text: bytes) -> None:
    """Write a file that is seen whole or not at all."""
    unfinished = Path(f"{path}.partial")
    with unfinished.open("wb") as file:
        write_at(file.fileno(), unfinished, 0, text)
        flush(file.fileno(), unfinished)
    rename(unfinished, path)


def flush_folder(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(file, path)
    finally:
        os.close(file)
