"""The checks of scripts/test-gpu, on the device that --device names."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_checks import CHECKS, CannotBeAsked

ROOT = Path(__file__).resolve().parents[2]


SCRIPT = ROOT / "scripts/test-gpu"


@pytest.mark.device("cpu", "pretended", "cuda")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_holds(check, device):
    try:
        check(device)
    except CannotBeAsked as reason:
        pytest.skip(str(reason))


def test_the_script_runs_dry(tmp_path):
    result = tmp_path / "result.json"
    command = [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--json", result]
    done = subprocess.run([*command, "--largest", "4096"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    contents = json.loads(result.read_text())
    holding = [check["check"] for check in contents["checks"] if check["result"] == "holds"]
    assert "20 random cases" in holding
    assert "masks are those of the cpu" in holding
    assert {row["section"] for row in contents["rows"]} == {"device", "device_groups"}
    assert all(row["right"] is not False for row in contents["rows"])
    assert contents["left_out"] == []


@pytest.fixture(scope="module")
def main():
    """The script's, in this process: another one would have to import torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])  # the script puts folders in front
        return runpy.run_path(str(SCRIPT))["main"]


def test_what_time_does_not_suffice_for_is_named(main, capsys):
    assert main(["--device", "cpu", "--quick", "--seconds", "0"]) == 0
    printed = capsys.readouterr().out
    assert "- left out, for want of time: masks are those of the cpu, operations" in printed
    assert "0 checks hold, 0 failed" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_so(main, capsys):
    assert main([]) == 2
    assert "torch finds no GPU" in capsys.readouterr().err
