"""Trainings by scores and by masks that move, whose process is killed, go on to the same bits."""

import random
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
    """The program dies once at each of these steps, and is each time begun anew."""
    arguments = [str(folder), str(STEPS), device.name, *map(str, killed)]
    command = [sys.executable, program.__file__, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == len(killed)
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
