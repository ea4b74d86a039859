"""Kills, full disks and changed sources: TARGET is whole or not there, and the next run goes on."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasparse.files import place, stream
from datasparse.files.options import Options
from datasparse.files.prune import prune
from datasparse.files.ring import Ring, StoppedError
from files_support import Killed, random_files, snapshot, write_checkpoint

HALF = Options(sparse_block_shape=(1, 4))


@pytest.fixture
def source(tmp_path, rng):
    files = random_files(rng, 3)
    path = write_checkpoint(tmp_path / "s", files, {"format": "pt"})
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture
def small_steps(monkeypatch):
    """Every piece gets its line in the journal."""
    monkeypatch.setattr(stream, "FLUSHED", 1)


def stop_after(monkeypatch, calls):
    """Fail the run at that write to a file of the new checkpoint."""
    left = iter(range(calls))
    write = stream.write_at

    def writing(*arguments):
        if next(left, None) is None:
            raise Killed
        write(*arguments)

    monkeypatch.setattr(stream, "write_at", writing)


def test_going_on_from_any_write_ends_with_the_same_bytes(source, tmp_path, small_steps):
    whole = tmp_path / "whole"
    prune(source, whole, HALF, masks=tmp_path / "whole.masks")
    for calls in range(100):
        partial = tmp_path / "t.partial"
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, calls)
            try:
                prune(source, tmp_path / "t", HALF, masks=tmp_path / "masks")
            except Killed:
                assert not (tmp_path / "t").exists()
                lines = (partial / "journal").read_text().splitlines()
                assert len(lines) <= calls + 1
            else:
                break
        seen = []
        prune(source, tmp_path / "t", HALF, masks=tmp_path / "masks",
              progress=lambda *told, seen=seen: seen.append(told[0]))  # fmt: skip
        assert snapshot(tmp_path / "t") == snapshot(whole)
        assert snapshot(tmp_path / "masks") == snapshot(tmp_path / "whole.masks")
        assert not partial.exists()
        shutil.rmtree(tmp_path / "t")
        (tmp_path / "masks").unlink()
    assert calls > 10


def interrupted(source, target, monkeypatch, calls=6):
    with monkeypatch.context() as patch:
        stop_after(patch, calls)
        with pytest.raises(Killed):
            prune(source, target, HALF)
    return target.with_name(target.name + ".partial")


def test_what_is_there_is_not_written_again(source, tmp_path, monkeypatch, small_steps):
    partial = interrupted(source, tmp_path / "t", monkeypatch)
    lines = [json.loads(line) for line in (partial / "journal").read_text().splitlines()]
    done = {line["file"]: line["end"] for line in lines[1:]}
    written = []
    write = stream.write_at
    monkeypatch.setattr(stream, "write_at", lambda file, path, begin, data: (
        written.append((path.name, begin)), write(file, path, begin, data)))  # fmt: skip
    prune(source, tmp_path / "t", HALF)
    assert sum(done.values()) > 0
    assert all(begin >= done.get(name, 0) for name, begin in written)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_line_counts_for_nothing(cut, source, tmp_path, monkeypatch, small_steps):
    prune(source, tmp_path / "whole", HALF)
    journal = interrupted(source, tmp_path / "t", monkeypatch) / "journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    prune(source, tmp_path / "t", HALF)
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")


def test_other_work_is_refused(source, tmp_path, monkeypatch, small_steps):
    partial = interrupted(source, tmp_path / "t", monkeypatch)
    before = snapshot(tmp_path)

    def refused(message, **changes):
        with pytest.raises(ValueError, match=message):
            prune(source, tmp_path / "t", **({"options": HALF} | changes))
        assert snapshot(tmp_path) == before

    refused("options.sparsity_level was 0.5, and is 0.6; give what was given then", options=Options(
        sparsity_level=0.6, sparse_block_shape=(1, 4)))  # fmt: skip
    refused("masks was None", masks=tmp_path / "masks")
    monkeypatch.setattr("datasparse.files.prune.__version__", "9")
    refused("version was .* and is '9'")
    monkeypatch.undo()
    file = next(source.glob("*.safetensors"))
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    refused("mtime_ns")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    (source / "config.json").write_text("{ }")
    before = snapshot(tmp_path)
    refused("copied.config.json.size was 2, and is 3")
    (partial / "journal").write_text('{"no": 1}\n')
    before = snapshot(tmp_path)
    refused("is damaged: remove")
    (partial / "journal").unlink()
    before = snapshot(tmp_path)
    refused("is there, and no work of datasparse")


@pytest.mark.parametrize("line", [b"\xff", b"7", b'{"cuts": 1}', b'{"file": "a"}'])
def test_a_damaged_line_is_refused(line, source, tmp_path, monkeypatch, small_steps):
    journal = interrupted(source, tmp_path / "t", monkeypatch) / "journal"
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="is damaged: remove"):
        prune(source, tmp_path / "t", HALF)
    assert snapshot(tmp_path) == before


def test_bytes_that_were_lost_are_noticed(source, tmp_path, monkeypatch, small_steps):
    partial = interrupted(source, tmp_path / "t", monkeypatch)
    next((partial / "files").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="has lost bytes"):
        prune(source, tmp_path / "t", HALF)


def test_two_runs_at_once(source, tmp_path):
    other = []

    def progress(*told):
        if not other:
            with pytest.raises(ValueError, match="is being worked at by another run"):
                prune(source, tmp_path / "t", HALF)
            other.append(True)

    prune(source, tmp_path / "t", HALF, progress=progress)
    assert other


@pytest.mark.parametrize("at", ["before the rename", "after the rename"])
def test_a_kill_around_the_rename(at, source, tmp_path, monkeypatch):
    prune(source, tmp_path / "whole", HALF)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if at == "before the rename":
            patch.setattr("datasparse.files.prune.place", killed)
        else:
            patch.setattr("datasparse.files.prune.shutil.rmtree", killed)
        with pytest.raises(Killed):
            prune(source, tmp_path / "t", HALF, masks=tmp_path / "masks")
    masks = (tmp_path / "masks").read_bytes()
    assert (tmp_path / "t").exists() == (at == "after the rename")
    done = prune(source, tmp_path / "t", HALF, masks=tmp_path / "masks")
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")
    assert (tmp_path / "masks").read_bytes() == masks
    assert done["total"]["zeros"] > 0
    assert not (tmp_path / "t.partial").exists()
    with pytest.raises(ValueError, match="is there already"):
        prune(source, tmp_path / "t", HALF)


def test_a_kill_behind_the_rename_of_a_file(tmp_path, monkeypatch):
    source = write_checkpoint(tmp_path / "s.safetensors", {"s": {"w": torch.randn(8, 8)}})
    target = tmp_path / "t"
    prune(source, tmp_path / "whole", HALF)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place.Path, "rmdir", killed)
        with pytest.raises(Killed):
            prune(source, target, HALF)
    assert target.exists()
    prune(source, target, HALF)
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()
    assert not (tmp_path / "t.partial").exists()


def test_a_source_that_changes_while_it_is_read(source, tmp_path, monkeypatch):
    file = sorted(source.glob("*.safetensors"))[-1]
    take = Ring.take

    def taking(*arguments):
        os.utime(file, ns=(0, 0))
        return take(*arguments)

    monkeypatch.setattr(Ring, "take", taking)
    with pytest.raises(ValueError, match=f"{file.name} was changed while it was read"):
        prune(source, tmp_path / "t", HALF)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_an_error_of_the_system_leaves_what_can_be_gone_on_from(
    call, source, tmp_path, monkeypatch, small_steps
):
    prune(source, tmp_path / "whole", HALF)
    left = iter(range(9))
    real = getattr(os, call)

    def failing(*arguments):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match="No space left") as caught:
            prune(source, tmp_path / "t", HALF)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / "t.partial") in str(caught.value.filename)
    assert not (tmp_path / "t").exists()
    prune(source, tmp_path / "t", HALF)
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")


def test_a_disk_that_is_too_small_is_known_at_once(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OSError, match="bytes are needed, 10 are free"):
        prune(source, tmp_path / "t", HALF)
    assert not (tmp_path / "t").exists()


def test_what_is_there_needs_no_space_again(source, tmp_path, monkeypatch, small_steps):
    interrupted(source, tmp_path / "t", monkeypatch)
    needed = []
    monkeypatch.setattr(
        "datasparse.files.prune.require_space", lambda _, count: needed.append(count)
    )
    prune(source, tmp_path / "t", HALF)
    files = source.glob("*.safetensors")
    assert 0 < needed[0] < sum(path.stat().st_size for path in files)


def test_masks_need_space_too(source, tmp_path, monkeypatch):
    masks = tmp_path / "masks"
    prune(source, tmp_path / "whole", HALF, masks=masks)
    written = sum(path.stat().st_size for path in (tmp_path / "whole").glob("*.safetensors"))
    needed = written + masks.stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match=f"{needed:,} bytes are needed"):
        prune(source, tmp_path / "t", HALF, masks=tmp_path / "m")
    prune(source, tmp_path / "t2", HALF)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    prune(source, tmp_path / "t", HALF, masks=tmp_path / "m")


def test_masks_on_a_disk_of_their_own_need_space_there(source, small_disk, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "datasparse.files.prune.require_space", lambda *arguments: asked.append(arguments)
    )
    masks = small_disk / "masks"
    prune(source, tmp_path / "t", HALF, masks=masks)
    written = sum(path.stat().st_size for path in (tmp_path / "t").glob("*.safetensors"))
    files = tmp_path / "t.partial" / "files"
    assert dict(asked) == {small_disk: masks.stat().st_size, files: written}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system; an injected error is tried above")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk, tmp_path, monkeypatch, small_steps):
    tensors = {str(number): torch.randn(100, 160) for number in range(6)}
    source = write_checkpoint(tmp_path / "s.safetensors", {"": tensors})
    prune(source, tmp_path / "whole")
    (small_disk / "ballast").write_bytes(bytes(300_000))
    target = small_disk / "t"
    monkeypatch.setattr("datasparse.files.prune.require_space", lambda *_: None)
    with pytest.raises(OSError, match="No space left") as caught:
        prune(source, target)
    assert caught.value.filename.endswith("t.partial/files/s.safetensors")
    assert not target.exists()
    done = (small_disk / "t.partial" / "journal").read_text().count('"end"')
    assert done > 1
    (small_disk / "ballast").unlink()
    prune(source, target)
    assert target.read_bytes() == (tmp_path / "whole").read_bytes()


CHILD = """
import sys
from datasparse.cli import main
from datasparse.files import plan, stream
stream.FLUSHED = 1 << 16
plan.RUN = 1 << 14
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def kill_at_random(times, tmp_path, options=None, own=()):
    """Kill runs at random moments until one is whole; then its bytes are those of any other."""
    rng = np.random.default_rng(times)
    files = {f"{at}.safetensors": {f"{at}.{one}": torch.randn(200, 300 + one) for one in range(4)}
             for at in range(3)}  # fmt: skip
    source = write_checkpoint(tmp_path / "s", files)
    before = snapshot(source)
    prune(source, tmp_path / "whole", options or Options(), masks=tmp_path / "whole.masks")
    command = [sys.executable, "-c", CHILD, "prune", str(source), str(tmp_path / "t"),
               "--level=0.5", f"--masks={tmp_path / 'masks'}", "--threads=1", *own]  # fmt: skip
    kills = finished = 0
    while kills < times:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        try:
            child.wait(rng.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            kills += 1
        printed = child.communicate()
        assert snapshot(source) == before
        if (tmp_path / "t").exists():
            assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")
            assert snapshot(tmp_path / "masks") == snapshot(tmp_path / "whole.masks")
            subprocess.run(command, capture_output=True)  # cleans up what a kill has left
            assert not (tmp_path / "t.partial").exists()
            shutil.rmtree(tmp_path / "t")
            (tmp_path / "masks").unlink()
            finished += 1
        else:
            assert child.returncode == -signal.SIGKILL, printed
    subprocess.run(command, check=True, capture_output=True)
    assert snapshot(tmp_path / "t") == snapshot(tmp_path / "whole")
    return finished


def test_kills_at_random_moments(tmp_path):
    kill_at_random(3, tmp_path)


def test_kills_at_random_moments_of_a_pool(tmp_path):
    kill_at_random(2, tmp_path, Options(pool="all"), ["--pool=all"])


@pytest.mark.full
def test_a_hundred_kills(tmp_path):
    assert kill_at_random(100, tmp_path) > 0


@pytest.mark.full
def test_a_hundred_kills_of_a_pool(tmp_path):
    assert kill_at_random(100, tmp_path, Options(pool="all"), ["--pool=all"]) > 0


def test_a_ring_gives_out_what_is_free_in_order():
    ring = Ring(100, 64)
    ring.take(60)[:] = 1
    second = ring.take(40)
    second[:] = 2
    ring.give_back()
    third = ring.take(50)
    third[:] = 3
    assert (second == 2).all()
    ring.give_back()
    ring.give_back()
    assert len(ring.take(100)) == 100
    ring.stop()
    with pytest.raises(StoppedError):
        ring.take(1)
