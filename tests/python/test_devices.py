"""The devices that other tests are asked on: they count, refuse, run out of memory as GPUs do.

pytest --device pretended, and --device wrapped: a process has one of them.
"""

import contextlib
import copy
import io

import devices
import pytest
import torch
from datasparse.torch.device.operations import arithmetic
from devices import Counts

COUNTING = pytest.mark.device("pretended", "wrapped")
PRETENDED = pytest.mark.device("pretended")


def counts_of(device, call):
    with device.counted() as counted:
        call()
    return counted.counts


def test_what_was_put_there_lies_there(device):
    tensor = torch.arange(6.0).view(2, 3)
    there = device.put(tensor)
    assert there.device == device.at(0)
    assert device.put(tensor).cpu().equal(tensor)
    with device.never_waits():
        there.mul_(2).add_(there)
    assert there.cpu().equal(tensor * 4 if device.name != "cpu" else tensor)


@COUNTING
def test_copies_are_counted_by_their_direction(device):
    here = torch.ones(3)
    there = device.put(here)
    assert counts_of(device, lambda: device.put(here)) == Counts(to_device=1)
    assert counts_of(device, lambda: there.copy_(here)) == Counts(to_device=1)
    assert counts_of(device, there.cpu) == Counts(from_device=1)
    assert counts_of(device, lambda: here.copy_(there)) == Counts(from_device=1)
    assert counts_of(device, lambda: there.to(device.other)) == Counts(between=1)
    assert counts_of(device, there.clone).waits == 0
    assert counts_of(device, lambda: torch.tensor([1.0, 2.0], device=device.at())).to_device == 1


@COUNTING
@pytest.mark.parametrize(
    "read",
    [
        lambda there: there[0].item(),
        lambda there: bool(there.sum() > 0),
        lambda there: there.nonzero(),
        lambda there: there[there > 1],
        lambda there: torch.equal(there, there.clone()),
        lambda there: torch.bincount(there.long()),
        lambda there: there.unique(),
        lambda there: repr(there.sum().item()),
    ],
)
def test_what_depends_on_values_counts_as_a_read(device, read):
    there = device.put(torch.tensor([1.0, 2.0, 3.0]))
    assert counts_of(device, lambda: read(there)).waits == 1
    with pytest.raises(AssertionError, match="Counts"), device.never_waits():
        read(there)


@COUNTING
def test_what_needs_no_value_waits_for_nothing(device):
    there = device.put(torch.randn(4, 8))

    def work():
        for index in (torch.topk(there.flatten(), 3).indices, there.argsort(stable=True)):
            assert index.device == device.at()
        torch.cat([there.abs() > 0.5, there.isnan()]).cumsum(0)
        torch._foreach_mul([there, there.clone()], 2.0)
        there.masked_fill_(there > 1, 0.0).clamp_(max=0.5)
        torch.full((), 3.0, device=device.at()) / torch.arange(4, device=device.at())

    with device.never_waits():
        work()
    assert counts_of(device, work).operations > 10


@COUNTING
def test_a_number_in_the_memory_of_the_process_is_copied_for_where_alone(device):
    there = device.put(torch.ones(3))
    condition = there > 0
    number = torch.tensor(2.0)
    assert counts_of(device, lambda: torch.where(condition, there, number)).to_device == 1
    assert counts_of(device, lambda: there * number).to_device == 0


@COUNTING
def test_views_share_memory_and_count_as_nothing(device):
    there = device.put(torch.zeros(4, 6))
    views = [there.view(-1), there.t(), there[1:, ::2], there.view(torch.int32), there.detach()]
    assert counts_of(device, lambda: (there.view(24), there.t(), there[1:, ::2])) == Counts()
    assert there.is_set_to(there.detach())
    assert not there.is_set_to(there.clone())
    there.fill_(1)
    assert all(bool((view != 0).all()) for view in views)
    views[2].zero_()
    assert there.sum().item() == 24 - 9


@pytest.mark.device("pretended", "wrapped", "cuda")
def test_tensors_of_two_devices_are_refused(device):
    here, there = torch.ones(2, 3), device.put(torch.ones(2, 3))
    for mix in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there.masked_fill_(here > 0, 0.0),
        lambda: torch.where(there > 0, there, here),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mix()
    assert there.sum().item() == 6


@COUNTING
def test_tensors_of_two_of_its_places_are_refused(device):
    first, second = device.put(torch.ones(2)), device.put(torch.ones(2), 1)
    assert second.device == device.other
    with pytest.raises(RuntimeError, match="same device"):
        first + second


def test_operations_in_place_count_versions(device):
    there = device.put(torch.ones(3)).clone()
    before = there._version
    there.mul_(2)
    there[1:].zero_()
    assert there._version == before + 2


@pytest.mark.device("cpu", "pretended", "cuda")
def test_a_model_is_trained_as_on_the_cpu(device):
    def make():
        torch.manual_seed(0)
        layers = (
            torch.nn.Linear(6, 5),
            torch.nn.ReLU(),
            torch.nn.LayerNorm(5),
            torch.nn.Linear(5, 1),
        )
        return torch.nn.Sequential(*layers)

    here, there = make(), make()
    parameters = list(there.parameters())
    device.put(there)
    assert all(now is before for now, before in zip(there.parameters(), parameters, strict=True))
    data = torch.randn(8, 6)
    for model, inputs in ((here, data), (there, device.put(data))):
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    there.to("cpu")
    for expected, found in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.device("cpu", "pretended", "cuda")
def test_models_are_copied_and_saved(device):
    model = device.put(torch.nn.Linear(3, 2))
    assert copy.deepcopy(model).weight.device == device.at()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    for place, where in ((None, device.at()), ("cpu", torch.device("cpu"))):
        file.seek(0)
        weight = torch.load(file, map_location=place)["weight"]
        assert weight.device == where
        assert weight.cpu().equal(model.weight.cpu())


@PRETENDED
def test_memory_is_of_the_device_and_is_counted(device):
    before = device.memory(1)
    device.peak(1)
    there = torch.zeros(1000, device=device.at(1))
    assert there.data_ptr() >> 48 != 0  # no address of the process
    assert device.memory(1) - before == 4000
    (there + 1).add_(1)
    del there
    assert device.memory(1) == before
    assert device.peak(1) - before == 8000
    assert device.peak(1) == before


@PRETENDED
def test_a_pointer_of_the_device_kills_whoever_follows_it(device, run_python):
    script = """
import ctypes, devices, faulthandler, torch
there = torch.ones(1, device=devices.named("pretended").at())
print("before", flush=True)
ctypes.cast(there.data_ptr(), ctypes.POINTER(ctypes.c_float))[0]
"""
    with pytest.raises(AssertionError, match=r"exit status -11\n *before"):
        run_python(script)


@PRETENDED
def test_it_runs_out_of_memory_where_it_is_told_to(device):
    there = torch.zeros(100, device=device.at())
    with device.with_room_for(1000):
        one = there + 1
        with pytest.raises(torch.OutOfMemoryError, match="800 bytes"):
            torch.zeros(200, device=device.at())
        two = one + 1
        with pytest.raises(torch.OutOfMemoryError):
            two + 1
        assert device.put(torch.zeros(200), 1).device == device.other  # it has room of its own
    assert two.sum().item() == 200
    torch.zeros(200, device=device.at())


@PRETENDED
def test_the_nth_request_for_memory_is_refused(device):
    def work():
        return torch.zeros(3, device=device.at()) + torch.ones(3, device=device.at())

    for nth in range(3):
        with device.refusing(nth) as refused, pytest.raises(torch.OutOfMemoryError):
            work()
        assert refused == [True]
    with device.refusing(3) as refused:
        work()
    assert refused == [False]


def test_names():
    assert devices.named("cpu").at() == torch.device("cpu")
    assert devices.named("cpu") is devices.named("cpu")


@PRETENDED
def test_one_that_has_no_memory_left_is_not_taken_for_an_inexact_one(device):
    """Whether it is exact is asked once. Where the question finds no memory it is asked anew."""
    nth, refused = 0, [True]
    while refused == [True]:
        arithmetic._is_exact.cache_clear()
        with device.refusing(nth) as refused, contextlib.suppress(torch.OutOfMemoryError):
            assert arithmetic.is_exact(device.at(), torch.float32)
        nth += 1
    assert nth > 10


@PRETENDED
def test_it_flushes_no_denormals_where_the_process_does(device):
    there = device.put(torch.tensor([1, 2], dtype=torch.int32)).view(torch.float32)
    torch.set_flush_denormal(True)
    try:
        doubled = there + there
    finally:
        torch.set_flush_denormal(False)
    assert doubled.view(torch.int32).tolist() == [2, 4]
