"""Trainings by scores and by masks that move, whose process is killed, go on to the same bits."""

import random
import signal
import subprocess
import sys

import interrupted_regrowth
import interrupted_scores
import pytest
from support import ON_DEVICES

# Each begins a process or more, which takes seconds.
pytestmark = [*ON_DEVICES, pytest.mark.full_there]

KILLS = [1, pytest.param(50, marks=[pytest.mark.full, pytest.mark.device("cpu")])]
STEPS = 60


def result_of(program, folder, device, killed):
    """Starts the program as often as it dies; it dies once at each of these steps."""
    arguments = [str(folder), str(STEPS), device.name, *map(str, killed)]
    command = [sys.executable, program.__file__, *arguments]
    for _ in killed:
        died = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert died.returncode == -signal.SIGKILL, died.stderr
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return (folder / "result").read_text()


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize(
    "program", [interrupted_scores, interrupted_regrowth], ids=lambda program: program.__name__
)
def test_killed_and_resumed_is_never_killed(program, kills, tmp_path, threads, device):
    threads(1)  # as the programs have
    killed = sorted(random.Random(kills).sample(range(STEPS), kills))
    unbroken = program.Training(None, STEPS).run().result()
    assert result_of(program, tmp_path, device, killed) == unbroken
