"""Processes that are killed at any moment: checkpoints are whole, and trainings go on from them."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import datasparse
import numpy as np
import pytest
from datasparse import DataNormSparsifier
from interrupted import SCHEDULERS, STEPS

PROGRAM = Path(__file__).with_name("interrupted.py")


def wait_until(process, came):
    """Waits for what another process does to files. Looks all the time, so that none is missed."""
    while not came():
        assert process.poll() is None, f"ended with {process.returncode}"


def start(*arguments):
    """A process that may be killed at any moment: so it must not be writing a report on leaks."""
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"},
    )


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def finish(process):
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.full)])
def test_a_training_that_is_killed_ends_as_if_it_had_not_been(tmp_path, scheduler, kills):
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    finish(start("train", unbroken, scheduler))
    expected = (unbroken / "result").read_text()
    rng = random.Random(kills)
    killed = trial = 0
    while killed < kills:
        folder = tmp_path / str(trial)
        folder.mkdir()
        trial += 1
        process = start("train", folder, scheduler)
        killed_at = rng.randrange(STEPS - 2)
        for line in process.stdout:
            if int(line) > killed_at:
                break
        # At once, or when the next step has begun to write its weights, has them, or has its masks.
        files = [folder / f"{killed_at + 2:04}.{end}" for end in ("part", "npz", "masks")]
        awaited = files[rng.randrange(4) :]
        wait_until(process, lambda awaited=awaited: not awaited or any(map(Path.exists, awaited)))
        kill(process)
        killed += not (folder / "result").exists()  # on a busy machine a kill may come too late
        finish(start("train", folder, scheduler))
        assert (folder / "result").read_text() == expected, f"killed at step {killed_at}"


def unfinished_bytes(folder):
    """The size of the temporary file of a save; -1 where there is none."""
    for file in folder.glob("*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it went just now
            return file.stat().st_size
    return -1


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.full)])
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path, kills):
    path, one, other = (tmp_path / name for name in ("path", "one", "other"))
    sparsifier = DataNormSparsifier([("w", np.arange(8e6, dtype=np.float32))])
    datasparse.save(one, sparsifier)
    sparsifier.step()
    datasparse.save(other, sparsifier)
    whole = {one.read_bytes(), other.read_bytes()}
    rng = random.Random(kills)
    killed = unfinished = 0
    while killed < kills or unfinished == 0:  # one at least must come in the middle of a save
        assert killed < 20 * kills
        killed += 1
        process = start("save", path, one, other)
        process.stdout.readline()
        # When it has written some of the next file: from nothing to all of it.
        some = rng.random() * one.stat().st_size
        wait_until(process, lambda some=some: unfinished_bytes(tmp_path) >= some)
        kill(process)
        assert path.read_bytes() in whole
        datasparse.load(path, DataNormSparsifier())
        for file in set(tmp_path.iterdir()) - {path, one, other}:
            assert file.name.startswith("path.")
            assert file.suffix == ".tmp"
            file.unlink()
            unfinished += 1
