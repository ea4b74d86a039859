"""What a pruning that was killed has done already, so that the next run goes on from there.

A folder TARGET.partial holds the unfinished files and the journal: a line of JSON that says of what
the work consists, and then one for every so many bytes that have safely arrived on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .closing import Closing
from .safetensors import flush, write_at

NAME = "journal"


class Journal(Closing):
    """The journal of a folder, which is made if it is not there, and locked.

    identity: all that decides what is written, as plain data.

    ValueError where another run is at work, or the folder holds work of another identity, which is
    named, or what is no such work at all. Then nothing has changed.

    written: for each file, up to which byte it is on the disk.
    records: for each tensor that is, what is known of it.
    cuts: how many blocks each tensor in a pool loses; None until that was counted.
    finished: whether all of it is, and the rest is a matter of renaming.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.path = folder / NAME
        self.written: dict[str, int] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.cuts: dict[str, int] | None = None
        self.finished = False
        folder.mkdir(exist_ok=True)
        present = [path.name for path in folder.iterdir()]
        if present and NAME not in present:
            raise ValueError(f"{folder} is there, and no work of datasparse: remove it, or move it")
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._begin(json.loads(json.dumps(identity)))
        except BaseException:
            os.close(self._file)
            raise

    def mark(self, file: str, end: int, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Note that a file is on the disk up to a byte, with these tensors."""
        self._add({"file": file, "end": end, "tensors": records})

    def cut(self, pruned: Mapping[str, int]) -> None:
        """Note how many blocks each tensor in a pool loses."""
        self._add({"cuts": pruned})

    def finish(self) -> None:
        """Note that all files are."""
        self._add({"finished": True})

    def _begin(self, identity: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.folder} is being worked at by another run") from None
        text = self.path.read_bytes()
        # A line that was being written when the run was killed counts for nothing.
        self._size = text.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in text[: self._size].splitlines()]
            if lines:
                refuse_difference(self.folder, lines[0]["identity"], identity)
            for line in lines[1:]:
                self._take(line)
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError(f"{self.path} is damaged: remove {self.folder}") from None
        os.ftruncate(self._file, self._size)
        if not lines:
            self._add({"identity": identity})

    def _take(self, line: dict[str, Any]) -> None:
        if "finished" in line:
            self.finished = True
        elif "cuts" in line:
            self.cuts = {name: int(pruned) for name, pruned in line["cuts"].items()}
        elif "identity" not in line:
            self.written[line["file"]] = int(line["end"])
            self.records |= line["tensors"]

    def _add(self, line: dict[str, Any]) -> None:
        text = json.dumps(line).encode() + b"\n"
        write_at(self._file, self.path, self._size, text)
        flush(self._file, self.path)
        self._size += len(text)
        self._take(line)

    def close(self) -> None:
        os.close(self._file)


def refuse_difference(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """ValueError that names the first thing in which the work that is there differs."""

    def differing(one: Any, other: Any, path: str) -> str | None:
        if isinstance(one, dict) and isinstance(other, dict):
            for key in {**one, **other}:
                found = differing(one.get(key), other.get(key), f"{path}.{key}" if path else key)
                if found:
                    return found
            return None
        return None if one == other else f"{path} was {one!r}, and is {other!r}"

    found = differing(there, now, "")
    if found:
        raise ValueError(
            f"{folder} holds other work: {found}; give what was given then to go on, or remove it"
        )
