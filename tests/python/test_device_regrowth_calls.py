"""RigL and SET on a device, call by call: states, moves, faults, trainings; as on the CPU."""

import copy
import pickle
from contextlib import nullcontext

import datasparse
import numpy as np
import pytest
import torch
from datasparse import DataScheduler
from datasparse.regrowth import SET, RigL
from datasparse.schedules import Cosine
from datasparse.torch import attach
from device_cases import ever_of

THERE = pytest.mark.device("pretended", "cuda")


def weights_of(seed=0, shape=(16, 12)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rigl(weight, **config):
    config = {"sparsity_level": 0.75, "drop_fraction": 0.5} | config
    return RigL({"w": weight}, **config)


def step(sparsifier, seed):
    """By gradients that lie where the data are."""
    data = sparsifier.get_data("w")
    sparsifier.set_gradients({"w": weights_of(seed, tuple(data.shape)).to(data.device)})
    sparsifier.step()


def look(sparsifier):
    """All that a step changes, in CPU memory."""
    data = sparsifier.get_data("w")
    return data.cpu().clone(), sparsifier.get_mask("w").cpu().clone(), ever_of(sparsifier)


def require_alike(one, other):
    for here, there in zip(look(one), look(other), strict=True):
        assert np.array_equal(np.asarray(here), np.asarray(there))


@THERE
def test_a_first_mask_is_copied_there_and_later_ones_are_made_there(device):
    sparsifier = rigl(device.put(weights_of()))
    sparsifier.draw()
    step(sparsifier, 1)  # once, it asks the device how it computes
    sparsifier.set_gradients({"w": device.put(weights_of(2))})
    with device.never_waits():
        sparsifier.step()
    assert sparsifier.get_mask("w").device == device.at()
    assert int(sparsifier.get_mask("w").sum()) == 48 < sparsifier.ever_active("w")


@pytest.mark.device("pretended")
@pytest.mark.parametrize("kind", [RigL, SET])
@pytest.mark.parametrize("within", [False, True])
def test_a_step_without_memory_leaves_all_as_it_was(device, kind, within):
    config = {"sparse_block_shape": (1, 4), "zeros_per_block": 2} if within else {}
    sparsifier = kind(sparsity_level=1.0 if within else 0.5, drop_fraction=0.5, **config)
    for name, shape in (("a", (8, 8)), ("b", (5, 12)), ("w", (8, 8))):
        sparsifier.add_data(name, device.put(weights_of(3, shape)), keep_zeros=name == "b")
    weight = sparsifier.get_data("a")
    gradients = {n: device.put(weights_of(4, tuple(sparsifier.get_data(n).shape))) for n in "abw"}

    def everything():
        return [
            [sparsifier.get_data(n).cpu().clone(), sparsifier.get_mask(n).cpu().clone(),
             torch.tensor(sparsifier.ever_active(n)), torch.tensor(sparsifier.is_drawn(n))]
            for n in "abw"
        ]  # fmt: skip

    for _ in range(2):
        before, refused, nth = everything(), [True], 0
        while refused[-1]:
            sparsifier.set_gradients(gradients)
            with device.refusing(nth) as refused:
                try:
                    sparsifier.step()
                except torch.OutOfMemoryError:
                    now = everything()
                    assert all(
                        torch.equal(one, other)
                        for own, others in zip(now, before, strict=True)
                        for one, other in zip(own, others, strict=True)
                    ), nth
                else:
                    assert nth > 3
                    break
            nth += max(1, nth // 8)
        assert sparsifier.step_count >= 1
    assert not torch.equal(weight.cpu(), weights_of(3, (8, 8)))


@THERE
@pytest.mark.parametrize("how", ["state", "pickle", "deepcopy", "checkpoint"])
def test_what_is_saved_goes_on_as_it_would_have(device, how, tmp_path):
    here, there = rigl(weights_of()), rigl(device.put(weights_of()))
    for sparsifier in (here, there):
        for seed in range(3):
            step(sparsifier, seed)
    if how == "state":
        other = rigl(there.get_data("w"))
        other.load_state_dict(there.state_dict())
    elif how == "checkpoint":
        datasparse.save(tmp_path / "saved", there)
        other = rigl(there.get_data("w"))
        datasparse.load(tmp_path / "saved", other)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(there))
    else:
        other = copy.deepcopy(there)
    require_alike(other, here)
    for sparsifier in (here, other):
        step(sparsifier, 7)
    require_alike(other, here)


@THERE
def test_a_state_is_loaded_over_what_a_device_has(device):
    here, there = rigl(weights_of()), rigl(device.put(weights_of()))
    states = []
    for sparsifier in (here, there):
        step(sparsifier, 0)
        states.append(sparsifier.state_dict())
        for seed in range(1, 4):
            step(sparsifier, seed)
    require_alike(there, here)
    for sparsifier, state in zip((here, there), states, strict=True):
        sparsifier.load_state_dict(state)
    require_alike(there, here)
    for sparsifier in (here, there):
        step(sparsifier, 9)
    require_alike(there, here)


@THERE
def test_data_move_and_bits_with_them(device):
    here, there = rigl(weights_of()), rigl(device.put(weights_of()))
    for seed, place in enumerate((device.at(), torch.device("cpu"), device.other, device.at())):
        weight = there.get_data("w")
        weight.data = weight.data.to(place)
        for sparsifier in (here, there):
            for again in range(2):
                step(sparsifier, 10 * seed + again)
        assert there.get_mask("w").device == place
        require_alike(there, here)


@THERE
def test_bits_are_written_and_erased_as_on_the_cpu(device):
    here, there = rigl(weights_of()), rigl(device.put(weights_of()))
    for sparsifier in (here, there):
        step(sparsifier, 0)
        step(sparsifier, 1)
        bits = torch.full((24,), 3, dtype=torch.uint8).to(sparsifier.get_data("w").device)
        sparsifier.set_array("w", "ever_active", bits)
        assert sparsifier.ever_active("w") == 48
        step(sparsifier, 2)
        assert sparsifier.report()["w"].ever_active == sparsifier.ever_active("w") > 48
        sparsifier.get_data("w").mul_(-1)
    require_alike(there, here)
    for sparsifier in (here, there):
        sparsifier.add_data("w", sparsifier.get_data("w"))  # and takes what there is
        step(sparsifier, 3)
    require_alike(there, here)
    for sparsifier in (here, there):
        sparsifier.set_array("w", "ever_active", None)
        assert not sparsifier.is_drawn("w")
        step(sparsifier, 4)
    require_alike(there, here)
    for sparsifier in (here, there):
        sparsifier.set_array("w", "ever_active", np.zeros(3, np.uint8))
        with pytest.raises(ValueError, match="'ever_active' of 'w' must have 24 bytes"):
            step(sparsifier, 5)


class Failing(RigL):
    """Fails in an override that has written to the bits."""

    def get_gradients(self, name, data, **config):
        if self.fails:
            self.set_array("w", "ever_active", np.zeros(24, np.uint8))
            raise RuntimeError("no gradient today")
        return super().get_gradients(name, data, **config)


@THERE
def test_an_override_that_fails_leaves_the_bits_of_the_device(device):
    sparsifier = Failing({"w": device.put(weights_of())}, sparsity_level=0.75)
    sparsifier.fails = False
    for seed in range(3):
        step(sparsifier, seed)
    before = look(sparsifier)
    sparsifier.get_data("w").mul_(2)
    step(sparsifier, 4)
    count = sparsifier.ever_active("w")
    assert count > np.unpackbits(before[2]).sum()
    sparsifier.fails = True
    with pytest.raises(RuntimeError, match="no gradient today"):
        step(sparsifier, 5)
    assert sparsifier.ever_active("w") == count


@THERE
def test_what_cannot_be_zeroed_is_refused_before_anything_moves(device):
    expanded = device.put(weights_of(shape=(16, 1))).expand(16, 12)
    sparsifier = rigl(expanded)
    sparsifier.draw()
    before = sparsifier.get_mask("w").cpu().clone()
    with pytest.raises(ValueError, match="needs memory whose elements do not overlap"):
        step(sparsifier, 1)
    assert torch.equal(sparsifier.get_mask("w").cpu(), before)


class Momentum(RigL):
    """Grows by a running mean, which lies where the data do."""

    def accumulate(self):
        for name in self.data_groups:
            mean, new = self.get_array(name, "mean"), self.get_gradient(name).abs()
            if isinstance(mean, np.ndarray):
                mean = torch.from_numpy(mean.copy())
            self.set_array(name, "mean", new if mean is None else 0.5 * mean + 0.5 * new)

    def get_gradients(self, name, data, **config):
        return self.get_array(name, "mean")


@THERE
def test_a_method_of_ones_own_stays_on_the_device(device):
    masks = []
    for place in (torch.device("cpu"), device.at()):
        sparsifier = Momentum({"w": weights_of().to(place)}, sparsity_level=0.75)
        sparsifier.draw()
        for seed in range(6):
            sparsifier.set_gradients({"w": weights_of(seed).to(place)})
            with device.never_waits() if seed > 2 and place.type != "cpu" else nullcontext():
                sparsifier.accumulate()
                if seed % 2:
                    sparsifier.step()
        masks.append(sparsifier.get_mask("w").cpu())
    assert torch.equal(*masks)


@THERE
def test_gradients_elsewhere_are_refused(device):
    sparsifier = rigl(device.put(weights_of()))
    sparsifier.draw()
    sparsifier.set_gradients({"w": weights_of(1)})
    with pytest.raises(TypeError, match="gradient of 'w' must be on the device of its data"):
        sparsifier.step()


@THERE
def test_pools_of_two_kinds_are_refused_as_on_the_cpu(device):
    sparsifier = SET(pool="p", sparsity_level=1.0, sparse_block_shape=(1, 4))
    for name, zeros in (("a", 2), ("b", 4)):
        weight, mask = device.put(weights_of()), np.ones((16, 12), bool)
        sparsifier.add_data(name, weight, mask=mask, zeros_per_block=zeros)
    with pytest.raises(ValueError, match="must be of groups that all have zeros_per_block"):
        sparsifier.step()


@THERE
def test_a_pool_on_several_devices_is_refused_where_masks_move(device):
    sparsifier = SET(pool="p", sparsity_level=0.5)
    for name, weight in (("a", weights_of()), ("b", device.put(weights_of()))):
        sparsifier.add_data(name, weight, mask=np.ones((16, 12), bool))
    with pytest.raises(TypeError, match="what pool 'p' ranks must be on one device"):
        sparsifier.step()
    assert all(bool(sparsifier.get_mask(name).cpu().all()) for name in "ab")


@THERE
@pytest.mark.parametrize("kind", [RigL, SET])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.Rprop])
def test_a_training_is_that_of_the_cpu(device, kind, optimizer):
    trained = []
    for place in (torch.device("cpu"), device.at()):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        model.to(place)
        sparsifier = kind(sparsity_level=0.5, drop_fraction=0.4)
        attachment = attach(model, sparsifier)
        sparsifier.draw()
        attachment.apply()
        own = optimizer(model.parameters(), lr=0.01)
        scheduler = DataScheduler(sparsifier, "drop_fraction", Cosine(initial=0.4, end=9))
        attachment.follow(own, every=2, scheduler=scheduler)
        inputs = weights_of(1, (8, 6)).to(place)
        for number in range(9):
            own.zero_grad()
            model(inputs).square().mean().backward()
            if number < 5 or place.type == "cpu":
                own.step()
            else:
                with device.never_waits():
                    own.step()
        trained.append((model, sparsifier))
    (here, ours), (there, theirs) = trained
    for expected, found in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(found.detach().cpu(), expected.detach())
    for name in ours.data_groups:
        assert torch.equal(theirs.get_mask(name).cpu(), ours.get_mask(name))
        assert theirs.ever_active(name) == ours.ever_active(name) > int(ours.get_mask(name).sum())
