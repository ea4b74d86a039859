"""How far a long command is: a bar by rich, or lines of text, on a terminal and nowhere else."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 2.0  # between two lines of text


Advance = Callable[[int, int, str], None]


@contextmanager
def shown() -> Iterator[Advance]:
    """A function that is told how many bytes are done, of how many, and of what the last were."""
    if not sys.stderr.isatty():
        yield lambda done, total, name: None
    elif importlib.util.find_spec("rich") is None:
        yield lines()
    else:
        with bar() as advance:
            yield advance


class Speed:
    """Of what is done from now on; what an earlier run has done counts for nothing."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.before: int | None = None

    def text(self, done: int) -> str:
        if self.before is None:
            self.before = done
        seconds = max(time.monotonic() - self.begin, 1e-9)
        return f"{(done - self.before) / seconds / 1e9:.2f} GB/s"


def lines() -> Advance:
    """Write a line every few seconds."""
    speed = Speed()
    last = time.monotonic()

    def advance(done: int, total: int, name: str) -> None:
        nonlocal last
        fast = speed.text(done)
        if time.monotonic() - last < SECONDS and done < total:
            return
        last = time.monotonic()
        gigabytes = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
        print(f"{done / max(total, 1):4.0%}  {gigabytes}  {fast}  {name}", file=sys.stderr)

    return advance


@contextmanager
def bar() -> Iterator[Advance]:
    """Draw a bar by rich, with the speed in GB/s."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        *(BarColumn(), DownloadColumn(), TextColumn("{task.fields[speed]}")),
        *(TimeRemainingColumn(), TextColumn("{task.description}", markup=False)),
    ]
    speed = Speed()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, speed="")

        def advance(done: int, total: int, name: str) -> None:
            progress.update(
                task, completed=done, total=total, description=name, speed=speed.text(done)
            )

        yield advance
