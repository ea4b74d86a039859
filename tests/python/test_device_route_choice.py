"""Which route computes masks on a device: what is asked for, and what is there."""

import datasparse.cli
import pytest
import torch
from datasparse.torch.device import kernels, operations, routes
from datasparse.torch.device.job import Job


def job(dtype=torch.float32, block=(1, 4)):
    scores = torch.linspace(-1, 1, 64).to(dtype).view(4, 16)
    mask = torch.ones(4, 16, dtype=torch.bool)
    return Job(scores, mask, (), block, block[1], 3, "L1", False, None)


@pytest.fixture
def kernels_there(monkeypatch):
    """As if Triton compiled for the CPU, with the operations in the place of its kernels."""
    calls = []

    def compute(jobs, pools):
        calls.append(len(jobs))
        return operations.compute(jobs, pools)

    monkeypatch.setattr(kernels, "is_available", lambda device: True)
    monkeypatch.setattr(kernels, "compute", compute)
    monkeypatch.setattr(routes, "_trusted", {})
    monkeypatch.delenv(routes.VARIABLE, raising=False)
    return calls


def test_auto_takes_kernels_that_make_the_masks_of_the_operations(kernels_there):
    for _ in range(2):
        assert routes.route_for([job()], []) is kernels.compute
    assert kernels_there == [3], "they are compared once for a kind"
    routes.route_for([job(torch.float64)], [])
    routes.route_for([job(block=(2, 2))], [])
    assert kernels_there == [3, 3, 3]


def test_auto_leaves_kernels_that_make_other_masks(kernels_there, monkeypatch):
    def compute(jobs, pools):
        return [~mask for mask in operations.compute(jobs, pools)]

    monkeypatch.setattr(kernels, "compute", compute)
    with pytest.warns(UserWarning, match="make other masks on cpu than plain operations do"):
        assert routes.route_for([job()], []) is operations.compute
    assert routes.route_for([job()], []) is operations.compute, "and says so once"


def test_operations_can_be_forced(kernels_there, monkeypatch):
    monkeypatch.setenv(routes.VARIABLE, "operations")
    assert routes.route_for([job()], []) is operations.compute
    assert kernels_there == []


def test_kernels_can_be_forced(kernels_there, monkeypatch):
    monkeypatch.setenv(routes.VARIABLE, "triton")
    assert routes.route_for([job()], []) is kernels.compute
    assert kernels_there == []
    monkeypatch.setattr(kernels, "takes", lambda jobs, pools: False)
    assert routes.route_for([job()], []) is operations.compute
    monkeypatch.setattr(kernels, "is_available", lambda device: False)
    with pytest.raises(RuntimeError, match=r"triton needs Triton, .*got cpu; unset the variable"):
        routes.route_for([job()], [])


def test_anything_else_is_refused(monkeypatch):
    monkeypatch.setenv(routes.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="must be one of auto, operations, triton, got 'cuda'"):
        routes.route_for([job()], [])


def test_info_shows_the_choice(capsys, monkeypatch):
    monkeypatch.setenv(routes.VARIABLE, "operations")
    assert datasparse.cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "plain operations (DATASPARSE_DEVICE_ROUTE=operations)" in shown
