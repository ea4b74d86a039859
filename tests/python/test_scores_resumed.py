"""Trainings whose process is killed between accumulate() and step() go on to the same bits."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted_scores import Training

PROGRAM = Path(__file__).with_name("interrupted_scores.py")


def result_of(folder, steps, killed):
    """Starts the program as often as it dies; it dies once at each of these steps."""
    command = [sys.executable, str(PROGRAM), str(folder), str(steps), *map(str, killed)]
    for _ in killed:
        died = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert died.returncode == -signal.SIGKILL, died.stderr
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return (folder / "result").read_text()


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.full)])
def test_killed_and_resumed_is_never_killed(kills, tmp_path, threads):
    threads(1)  # as the program has
    steps = 60
    killed = sorted(random.Random(kills).sample(range(steps), kills))
    assert result_of(tmp_path, steps, killed) == Training(None, steps).run().result()
