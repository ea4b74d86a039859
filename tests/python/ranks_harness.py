"""Runs functions on several ranks: processes that torch.distributed connects by gloo.

A start takes seconds, so `Ranks` stay, and run one function after another.
"""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60  # seconds, of a collective: also where a busy machine takes long to connect


def serve(rank: int, size: int, folder: str, pipe, timeout: float) -> None:
    """What a rank does until it is told to end: calls functions, and sends what they return."""
    os.environ["OMP_NUM_THREADS"] = "1"
    gc.freeze()  # what was imported
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group(
        "gloo", rank=rank, world_size=size, store=store, timeout=timedelta(seconds=timeout)
    )
    ignored: list[str] = []  # what was raised where nothing may be: no test is to miss that
    sys.unraisablehook = lambda one: ignored.append(f"{one.err_msg}: {one.exc_value!r}")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            break
        if task is None:
            break
        function, args = task
        try:
            result = function(rank, *args)
            assert not ignored, ignored
            pipe.send((True, result))
        except BaseException as error:
            pipe.send((False, (type(error).__name__, str(error), traceback.format_exc())))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may wait for a rank that is gone


# torch._dynamo is what DTensors import at their first operation.
PRELOADED = ["torch._dynamo", "sharded_cases", "sharded_moves", "ranks_harness"]


def context_of_ranks():
    """Ranks are forks of one process that has imported all they need, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # It passes over what it cannot import, and does not take over this process's sys.path.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()
    return context


class Failed(AssertionError):  # noqa: N818 (it says what ranks have done)
    """What functions have raised, by rank."""

    def __init__(self, errors: dict[int, tuple[str, str, str]]) -> None:
        super().__init__("\n".join(f"rank {rank}: {e[2] or e[1]}" for rank, e in errors.items()))
        self.errors = errors


class Ranks:
    """So many ranks, until close()."""

    def __init__(self, size: int, folder: Path, timeout: float = TIMEOUT) -> None:
        context = context_of_ranks()
        self.pipes, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, size, str(folder), there, timeout), daemon=True
            )
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def begin(self, function: Callable[..., Any], *args: Any) -> None:
        """Has all ranks call function(rank, *args): one of a module that they can import."""
        for pipe in self.pipes:
            pipe.send((function, args))

    def results(self) -> list[tuple[bool, Any]]:
        """What each has returned, or its error: (True, result) or (False, (class, text, trace))."""
        found: dict[int, tuple[bool, Any]] = {}
        while len(found) < len(self.pipes):
            waiting = {
                self.pipes[rank]: rank for rank in range(len(self.pipes)) if rank not in found
            }
            for pipe in wait(waiting, timeout=3 * TIMEOUT) or waiting:
                rank = waiting[pipe]
                try:
                    found[rank] = pipe.recv() if pipe.poll() else (False, ("", "no answer", ""))
                except EOFError:
                    found[rank] = (False, ("", "it is gone", ""))
        return [found[rank] for rank in range(len(self.pipes))]

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What all ranks return; Failed if one of them raises."""
        self.begin(function, *args)
        results = self.results()
        errors = {rank: value for rank, (fine, value) in enumerate(results) if not fine}
        if errors:
            raise Failed(errors)
        return [value for _, value in results]

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            if process.is_alive():
                with suppress(OSError):
                    pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
