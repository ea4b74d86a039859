"""Masks of data that move from one device to another, between two calls."""

import contextlib
import copy
import gc

import datasparse
import pytest
import torch
from datasparse.scores import Taylor
from datasparse.torch import attach
from torch import nn
from torch.nn.utils import parametrizations

pytestmark = pytest.mark.device("pretended", "cuda")


@pytest.fixture
def weight():
    return nn.Parameter(torch.arange(1.0, 9.0))


@pytest.fixture
def sparsifier(weight):
    return datasparse.DataNormSparsifier([("w", weight)], 0.5, (1, 1))


def move(weight, place):
    weight.data = weight.data.to(place)


CALLS = {
    "get_mask": lambda sparsifier: sparsifier.get_mask("w"),
    "layout": lambda sparsifier: sparsifier.layout("w"),
    "frozen": lambda sparsifier: sparsifier.frozen("w"),
    "get_array": lambda sparsifier: sparsifier.get_array("w", "none"),
    "state_dict": lambda sparsifier: sparsifier.state_dict(),
    "apply_mask": lambda sparsifier: sparsifier.apply_mask(),
    "masked copy": lambda sparsifier: sparsifier.get_data("w", return_original=False),
    "report": lambda sparsifier: sparsifier.report(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_mask_that_was_pointed_elsewhere_is_taken_along(sparsifier, weight, device, call):
    """mask.data = ... counts, whatever is called first after the data have moved."""
    mask = sparsifier.get_mask("w")
    wanted = torch.tensor([True, False] * 4)
    mask.data = wanted.clone()
    move(weight, device.at())
    call(sparsifier)
    found = sparsifier.get_mask("w")
    assert found.device == device.at()
    assert torch.equal(found.cpu(), wanted)
    assert found is mask


def test_what_a_user_holds_shows_the_mask_wherever_it_went(sparsifier, weight, device):
    mask = sparsifier.get_mask("w")
    for place in (device.at(), torch.device("cpu"), device.other, device.at()):
        move(weight, place)
        sparsifier.step()
        assert mask.device == place
        assert int(mask.sum()) == 4
        mask[0] = True
        assert bool(sparsifier.get_mask("w")[0])


@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("other", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_model_may_move_before_its_first_step(device, other, is_gone):
    """The mask follows in forward(), beside parametrizations of others, which it leaves alone."""
    torch.manual_seed(0)
    layer = other(nn.Linear(6, 4))
    sparsifier = datasparse.DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    model = nn.Sequential(layer)
    attach(model, sparsifier, mode="parametrize")
    if is_gone:  # its layer lives on
        del model
        gc.collect()
    layer.to(device.at())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    sparsifier.get_mask("0.weight")
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), "get_mask() has moved it on"
    layer(torch.ones(2, 6).to(device.at()))
    assert sparsifier.get_mask("0.weight").device == device.at()


@pytest.mark.parametrize("release", [None, "remove_data", "squash_mask"])
def test_masks_of_a_model_that_was_moved_are_counted_and_computed_with(device, release):
    """No forward() has come between, and the group may be gone."""
    layer = nn.Linear(6, 4)
    model = nn.Sequential(layer)
    sparsifier = datasparse.DataNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 1))
    attachment = attach(model, sparsifier, mode="parametrize")
    sparsifier.step()
    computed = model(torch.ones(2, 6))
    if release is not None:
        getattr(sparsifier, release)("0.weight")
    model.to(device.at())
    copied = copy.deepcopy(model).to(device.other)
    if release != "remove_data":
        assert attachment.sparsity() == attachment.sparsity(copied) == 0.5
    for one, place in ((model, device.at()), (copied, device.other)):
        found = one(torch.ones(2, 6).to(place)).cpu()
        torch.testing.assert_close(found, computed)


def test_sums_follow_their_data(device):
    weight = nn.Parameter(torch.arange(1.0, 9.0))
    sparsifier = datasparse.DataNormSparsifier([("w", weight)], 0.5, (1, 1), score=Taylor())
    for place in (torch.device("cpu"), device.at(), device.other, torch.device("cpu")):
        move(weight, place)
        weight.grad = torch.ones(8).to(place)
        sparsifier.accumulate()
    sums = sparsifier.get_array("w", "sums")
    assert (sums == 4 * weight.detach().numpy() ** 2).all()
    assert int(sparsifier.get_array("w", "samples")) == 4


def test_sums_of_all_groups_are_as_before_where_memory_ends(device):
    if not hasattr(device, "refusing"):
        pytest.skip(f"the memory of {device.name} cannot be limited")
    weights = {name: nn.Parameter(device.put(torch.ones(64))) for name in ("a", "b")}
    weights["cpu"] = nn.Parameter(torch.ones(64))
    sparsifier = datasparse.DataNormSparsifier(weights, 0.5, (1, 1), score=Taylor())
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    sparsifier.accumulate()
    before = repr(sparsifier.state_dict())
    for nth in range(100):
        with device.refusing(nth) as refused, contextlib.suppress(torch.OutOfMemoryError):
            sparsifier.accumulate()
        if not refused[0]:
            break
        assert repr(sparsifier.state_dict()) == before, nth
    assert nth > 4
    assert repr(sparsifier.state_dict()) != before


def test_zeros_are_written_into_all_weights_or_none_where_memory_ends(device):
    if not hasattr(device, "refusing"):
        pytest.skip(f"the memory of {device.name} cannot be limited")
    weights = {name: device.put(torch.arange(64.0)) for name in ("a", "b")}
    sparsifier = datasparse.DataNormSparsifier(weights, 0.5, (1, 1))
    sparsifier.step()
    before = {name: weight.cpu() for name, weight in weights.items()}
    for nth in range(100):
        with device.refusing(nth) as refused, contextlib.suppress(torch.OutOfMemoryError):
            sparsifier.apply_mask()
        if not refused[0]:
            break
        for name, weight in weights.items():
            assert torch.equal(weight.cpu(), before[name]), nth
    assert nth > 0
    assert int((weights["b"] == 0).sum()) == 32
