"""`datasparse prune` as it is called from a shell."""

import contextlib
import io
import json
import sys

import datasparse
import pytest
import torch
from datasparse import cli
from datasparse.commands import progress
from files_support import snapshot, tensors_in, write_checkpoint


@pytest.fixture
def source(tmp_path):
    tensors = {
        "a.weight": torch.randn(8, 16),
        "b.weight": torch.randn(6, 8).bfloat16(),
        "conv": torch.randn(4, 4, 3, 3),
        "bias": torch.randn(8),
    }
    return write_checkpoint(tmp_path / "s.safetensors", {"": tensors})


@pytest.fixture
def call(source, tmp_path, capsys):
    """Calls the command with these options, and returns status, target, stdout and stderr."""

    def run(*options, target="t.safetensors"):
        status = cli.main(["prune", str(source), str(tmp_path / target), *map(str, options)])
        return status, tmp_path / target, *capsys.readouterr()

    return run


def share(tensor):
    return float((tensor == 0).float().mean())


def test_it_prunes_and_sums_up(call):
    status, target, out, err = call("--level", "0.5")
    assert (status, err) == (0, "")
    zeros = {name: share(tensor) for name, tensor in tensors_in(target).items()}
    assert zeros == {"a.weight": 0.5, "b.weight": 0.5, "conv": 0.5, "bias": 0.0}
    assert "3 tensors: 160 of 320 elements are zero (50.00%)" in out
    assert "left: bias" in out
    assert "GB/s" in out


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (["--level=0.25"], (0.25, (1, 1), None)),
        (["--level=0.25", "--block=2x4"], (0.25, (2, 4), None)),
        (["--level=0.25", "--block=allx1"], (0.25, (-1, 1), None)),
        (["--level=1", "--block=1x4", "--zeros-per-block=1"], (1.0, (1, 4), 1)),
        (["--pattern=2:4"], (1.0, (1, 4), 2)),
        (["--pattern=4:8", "--level=0.5"], (0.5, (1, 8), 4)),
        (["--per=row", "--level=0.3"], (1.0, (1, -1), 4)),
    ],
)
def test_options_are_the_core_s_config(options, config, call, tmp_path):
    status, *_ = call(*options, "--report", tmp_path / "report.json")
    assert status == 0
    report = json.loads((tmp_path / "report.json").read_text())
    got = report["tensors"]["a.weight"]["config"]
    level, block, zeros = config
    assert got["sparsity_level"] == level
    assert tuple(got["sparse_block_shape"]) == block
    assert got["zeros_per_block"] == zeros


def test_which_and_how_seen(call, tmp_path):
    options = ["--level=0.5", "--include=*weight", "--include=conv", "--exclude=b*",
               "--layout=inputs", "--transposed=a.*", "--distribution=erk", "--threads=1",
               f"--report={tmp_path / 'r'}", f"--masks={tmp_path / 'm'}"]  # fmt: skip
    try:
        status, _, _, _ = call(*options)
    finally:
        datasparse.set_num_threads(0)
    assert status == 0
    report = json.loads((tmp_path / "r").read_text())
    layouts = {name: entry["layout"] for name, entry in report["tensors"].items()}
    assert layouts == {"a.weight": [1, 0], "conv": [0, 2, 3, 1]}
    levels = {entry["config"]["sparsity_level"] for entry in report["tensors"].values()}
    assert len(levels) == 2
    masks = datasparse.DataNormSparsifier()
    datasparse.load(tmp_path / "m", masks)
    assert masks.awaits_data("conv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--level is needed"),
        (["--level=1.5"], "sparsity_level must be in [0, 1], got 1.5"),
        (["--pattern=2:4", "--block=1x4"], "--pattern is a block and its zeros"),
        (["--pattern=2:4", "--per=row"], "--pattern is a block and its zeros"),
        (["--level=0.5", "--include=x"], "'x' matches no tensor; there are a.weight"),
        (["--level=0.5", "--min-level=0.1"], "min_level and max_level bound"),
        (["--level=0.5", "--report=/nowhere/x"], "/nowhere/x must be a file in a folder"),
    ],
)
def test_what_cannot_be_has_status_2(options, message, call, tmp_path):
    before = snapshot(tmp_path)
    status, _, out, err = call(*options)
    assert (status, out) == (2, "")
    assert err.startswith("datasparse prune: ")
    assert message in err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [["--block=4"], ["--block=4x4x4"], ["--block=1x-1"], ["--block=axb"], ["--pattern=4:2"],
     ["--pattern=2"], ["--threads=0"], ["--per=column"], ["--level=much"]],
)  # fmt: skip
def test_what_is_no_value_is_said_by_the_parser(options, call, capsys):
    with pytest.raises(SystemExit) as caught:
        call(*options)
    assert caught.value.code == 2
    assert options[0].split("=")[0] in capsys.readouterr().err


def test_no_target_is_only_for_a_dry_run(source, capsys):
    assert cli.main(["prune", str(source), "--level=0.5"]) == 2
    assert "TARGET is needed" in capsys.readouterr().err
    before = snapshot(source.parent)
    assert cli.main(["prune", str(source), "--level=0.5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "zeros: 160 of 320 (50.00%)" in out
    assert "left, a scalar or a vector: bias" in out
    assert "in one pass" in out
    assert "memory: " in out
    assert cli.main(["prune", str(source), str(source.parent), "--level=0.5", "--dry-run"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert snapshot(source.parent) == before


def test_what_the_system_refuses_has_status_1(call, source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "t.safetensors.partial/files"))

    with monkeypatch.context() as patch:
        patch.setattr("datasparse.files.prune.require_space", full)
        status, target, out, err = call("--level=0.5")
    assert (status, out) == (1, "")
    assert "files: No space left on device" in err
    assert f"{target}.partial: the same command goes on from there" in err
    assert call("--level=0.5")[0] == 0
    source.unlink()
    assert call("--level=0.5", target="other")[0] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_says_how_to_go_on(error, call, monkeypatch):
    def stopped(*_):
        raise error

    monkeypatch.setattr("datasparse.files.stream.zero_lowest", stopped)
    status, target, _, err = call("--level=0.5")
    assert status == 1
    assert "the same command goes on from there" in err
    assert not target.exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("with_rich", [True, False])
def test_progress_is_drawn_on_a_terminal(with_rich, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "SECONDS", 0)
    if not with_rich:
        monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    with progress.shown() as advance:
        advance(1 << 29, 1 << 30, "layer.[0].weight")
        advance(1 << 30, 1 << 30, "layer.[1].weight")
    text = sys.stderr.getvalue()
    assert "GB/s" in text
    if not with_rich:
        assert text.startswith(" 50%  0.5 of 1.1 GB")
        assert text.splitlines()[1].endswith("layer.[1].weight")


def test_nothing_is_drawn_elsewhere():
    with contextlib.redirect_stderr(io.StringIO()) as stderr, progress.shown() as advance:
        advance(1, 1, "x")
    assert stderr.getvalue() == ""
