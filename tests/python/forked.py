"""Children that need not import anew what this process has: to import torch takes seconds."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def start(function: Callable[[], object]) -> int:
    """Calls it in a child, which ends with it: with 0, or with 1 where it raises. Its process id.

    No thread may run in this process yet."""
    child = os.fork()
    if child != 0:
        return child
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def times_killed(function: Callable[[], object]) -> int:
    """Calls it in a child, and in another one as often as one is killed: how often that was."""
    kills = 0
    while (status := os.waitpid(start(function), 0)[1]) != 0:
        if status != signal.SIGKILL:
            raise SystemExit(f"wait status {status} after {kills} kills")
        kills += 1
    return kills


def train_in_children(training):
    """The program FOLDER STEPS DEVICE KILLED...: it prints how often a child was killed.

    training(folder, steps): goes on where the last one was saved; run(killed) returns it.
    """
    import devices
    import torch
    from devices.made_there import making_on

    folder, steps, device, *killed = sys.argv[1:]

    def train():
        torch.set_num_threads(1)
        with making_on(devices.named(device)):
            result = training(Path(folder), int(steps)).run(set(map(int, killed))).result()
        (Path(folder) / "result").write_text(result)

    print(times_killed(train))
