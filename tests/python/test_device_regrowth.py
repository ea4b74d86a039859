"""RigL, SET and Static on a device: the masks, weights and bits of the CPU, and no value read.

Two sparsifiers of the same groups, one of which has its tensors on the device that --device names;
and, on any, the function of the device by itself, asked on tensors in CPU memory.
"""

import copy
import importlib
import math
import pickle
from contextlib import nullcontext
from dataclasses import replace

import datasparse
import devices
import numpy as np
import pytest
import regrowth_reference
import torch
from datasparse import DataScheduler
from datasparse.regrowth import SET, RigL, Static
from datasparse.schedules import Cosine
from datasparse.torch import attach
from datasparse.torch.device.job import Move, MovePool
from datasparse.torch.device.operations import move
from datasparse.torch.device.operations.arithmetic import require_exact
from device_cases import (
    BITS,
    DTYPES,
    job_of,
    pattern_of,
    plan_of,
    random_values,
    strided,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:step\(\) pruned all weights")

THERE = pytest.mark.device("pretended", "cuda")
KINDS = [RigL, SET, Static]
BLOCKS = [(1, 1), (1, 4), (4, 4), (2, 3), (-1, 1), (1, -1), (1, 1)]
N_OF_M = [((1, 4), 2), ((1, 8), 5), ((2, 2), 1), ((1, 3), 1), ((1, 32), 20), ((-1, 1), 1)]


def random_shape(rng):
    kind = rng.random()
    if kind < 0.1:
        return tuple(rng.integers(0, 3, 2).tolist())
    if kind < 0.2:
        return [(3, 1500), (5000,), (40, 9, 10)][rng.integers(3)]
    return tuple(rng.integers(1, 12, int(rng.integers(0, 4))).tolist())


def random_config(rng, is_within):
    block = BLOCKS[rng.integers(len(BLOCKS))]
    config = {"sparsity_level": float(rng.choice([0, 0.5, 0.9, 1, rng.random()]))}
    config["norm"] = [None, "L1", "L1", "L2"][rng.integers(4)]
    config["drop_fraction"] = float(rng.choice([0, 0.3, 1, rng.random()]))
    config["seed"] = int(rng.integers(3))
    if is_within:
        block, config["zeros_per_block"] = N_OF_M[rng.integers(len(N_OF_M))]
        config["sparsity_level"] = 1.0
    elif rng.random() < 0.2:
        config["min_kept"] = int(rng.integers(3))
    return {**config, "sparse_block_shape": block}


def random_kept(rng, shape):
    return torch.from_numpy(np.asarray(rng.random(shape) < rng.choice([0.1, 0.6, 1])))


def ever_of(sparsifier, name="w"):
    """The bits of what was ever active, in CPU memory."""
    array = sparsifier.get_array(name, "ever_active")
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def bits_of(tensor):
    return tensor.detach().cpu().view(BITS[tensor.element_size()])


class Twins:
    """A sparsifier in CPU memory, and one on a device."""

    def __init__(self, seed, device):
        self.rng = rng = np.random.default_rng(seed)
        self.device = device
        self.kind = KINDS[rng.choice(3, p=[0.5, 0.4, 0.1])]
        self.here, self.there = self.kind(), self.kind()
        self.weights, self.given = {}, {}
        is_within, is_pooled = rng.random() < 0.3, rng.random() < 0.4
        alike = rng.random() < 0.3
        shape, config, dtype = None, None, None
        for name in "abcd"[: rng.integers(1, 5)]:
            if shape is None or not alike:
                shape, dtype = random_shape(rng), DTYPES[rng.integers(4)]
                config = random_config(rng, is_within)
            own = dict(config)
            # One row is a block as high as it, and no N:M.
            fits = not is_within or -1 not in own["sparse_block_shape"]
            if is_pooled and fits and rng.random() < 0.8:
                own |= {"pool": "p", "normalize": [None, "l2"][int(rng.random() < 0.2)]}
                own.pop("min_kept", None)
            weight = strided(rng, shape, dtype).copy_(random_values(rng, shape, dtype))
            keeps = rng.random() < 0.25
            if keeps:
                weight[random_kept(rng, shape)] = 0
            kept = weight == 0 if keeps else None
            mask = layout = None
            if rng.random() < 0.3:
                mask = torch.from_numpy(np.asarray(rng.random(shape) < rng.random()))
            if len(shape) > 1 and rng.random() < 0.3:
                layout = tuple(rng.permutation(len(shape)).tolist())
            twin = torch.empty_strided(shape, weight.stride(), dtype=dtype, device=device.at())
            twin.copy_(weight)
            for sparsifier, data in ((self.here, weight), (self.there, twin)):
                sparsifier.add_data(name, data, mask=mask, layout=layout, keep_zeros=keeps, **own)
            self.weights[name] = (weight, twin)
            self.given[name] = (own, layout or (), kept)

    def change(self):
        """What a training does between two steps. Returns the gradients here and there."""
        rng, gradients = self.rng, ({}, {})
        for name, (here, there) in self.weights.items():
            here.add_(random_values(rng, tuple(here.shape), here.dtype))
            there.copy_(here)
            dtype = DTYPES[rng.integers(4)]
            gradient = strided(rng, tuple(here.shape), dtype)
            gradient.copy_(random_values(rng, tuple(here.shape), dtype))
            gradients[0][name], gradients[1][name] = gradient, self.device.put(gradient)
            new = {"drop_fraction": float(rng.choice([0, 0.3, 1, rng.random()]))}
            if self.here.data_groups[name]["sparsity_level"] < 1 and rng.random() < 0.2:
                new["sparsity_level"] = rng.random()
            for sparsifier in (self.here, self.there):
                sparsifier.data_groups[name].update(new)
        return gradients

    def step(self, quietly):
        gradients = self.change()
        for sparsifier, given in zip((self.here, self.there), gradients, strict=True):
            sparsifier.set_gradients(given)
        self.here.step()
        if quietly:
            with self.device.never_waits():
                self.there.step()
        else:
            self.there.step()
        self.require_equal()

    def require_equal(self):
        for name, (here, there) in self.weights.items():
            config = dict(self.here.data_groups[name])
            assert torch.equal(self.there.get_mask(name).cpu(), self.here.get_mask(name)), config
            assert torch.equal(bits_of(there), bits_of(here)), config
            assert self.there.ever_active(name) == self.here.ever_active(name), config


def run(seed, device):
    for dtype in (torch.float32, torch.float64):
        require_exact(device.at(), dtype)  # which reads values once
    twins = Twins(seed, device)
    for number in range(4):
        twins.step(quietly=number > 0 and device.name != "cpu")
    for name in twins.weights:
        np.testing.assert_array_equal(ever_of(twins.there, name), ever_of(twins.here, name))


@THERE
@pytest.mark.parametrize("seed", range(40))
def test_random_sequences_are_those_of_the_cpu(device, seed):
    run(seed, device)


@THERE
@pytest.mark.full
def test_many_random_sequences_are_those_of_the_cpu(device):
    for seed in range(100, 1000):
        run(seed, device)


# --- the function by itself -----------------------------------------------------------------------


class ByItself(Twins):
    """The function of the device, on tensors in CPU memory."""

    def moves(self, gradients, number):
        """Of those groups that are moved, and have elements, by name."""
        moves, shapes = {}, {}
        for name, (weight, _) in self.weights.items():
            own, layout, kept = self.given[name]
            if not self.here.is_drawn(name) or weight.numel() == 0 or self.kind is Static:
                continue
            own = own | {key: value for key, value in self.here.data_groups[name].items()
                         if key in ("sparsity_level", "drop_fraction")}  # fmt: skip
            job = job_of(weight, own, layout, self.here.get_mask(name).clone(), kept)
            shapes[name] = (tuple(weight.shape), own, layout)
            _, _, _, blocks = pattern_of(*shapes[name])
            least = max(blocks - own.get("min_kept", 0), 0)
            bits = np.unpackbits(self.here.get_array(name, "ever_active"), bitorder="little")
            ever = bits[: weight.numel()].astype(bool).reshape(tuple(weight.shape))
            stream = regrowth_reference.stream_of(own["seed"], name, number)
            moves[name] = Move(
                job=replace(job, pruned=min(job.pruned, least)),
                gradient=gradients[name] if self.kind is RigL else None,
                weight=weight.clone(),
                ever_active=torch.from_numpy(ever),
                is_within=own.get("zeros_per_block", math.inf) < math.prod(job.block),
                fraction=own["drop_fraction"],
                stream=stream - (stream >> 63 << 64),
            )
        return moves, shapes

    def pools(self, moves, shapes):
        pooled = [name for name in moves if "pool" in self.given[name][0]]
        if not pooled:
            return []
        places = [list(moves).index(name) for name in pooled]
        plan = plan_of(places, [shapes[name] for name in pooled])
        is_within = moves[pooled[0]].is_within
        weights = (1,) * len(pooled) if is_within else plan.weights
        return [MovePool(plan.jobs, weights, plan.budget, plan.normalize)]

    def step_by_itself(self, number):
        gradients, _ = self.change()
        moves, shapes = self.moves(gradients, number)
        made = dict(zip(moves, move(list(moves.values()), self.pools(moves, shapes)), strict=True))
        self.here.set_gradients(gradients)
        self.here.step()
        for name, moved in made.items():
            weight, _ = self.weights[name]
            where = f"{self.kind.__name__} {moves[name]}"
            assert torch.equal(moved.mask, self.here.get_mask(name)), where
            zeroed = moves[name].weight.masked_fill_(moved.grown, 0)
            assert torch.equal(bits_of(zeroed), bits_of(weight)), where
            bits = np.packbits(moved.ever_active.reshape(-1).numpy(), bitorder="little")
            np.testing.assert_array_equal(bits, self.here.get_array(name, "ever_active"))
            assert all(made.is_contiguous() for made in (moved.mask, moved.ever_active))


def run_by_itself(seed):
    twins = ByItself(seed, devices.named("cpu"))
    for number in range(1, 5):
        twins.step_by_itself(number)


@pytest.mark.parametrize("seed", range(60))
def test_the_function_by_itself_does_what_the_core_does(seed):
    run_by_itself(seed)


@pytest.fixture
def small_limits(monkeypatch):
    """Tiles, parts and batches as small as they may be, so that small tensors have several."""
    limits = {"select": {"TILE": 8}, "draw": {"PART_LEAST": 4}, "move": {"BATCH_LEAST": 1},
              "within": {"PART_LEAST": 1, "FEW": 3}, "keys": {"SIGNS_LEAST": 1}}  # fmt: skip
    for name, values in limits.items():
        module = importlib.import_module(f"datasparse.torch.device.operations.{name}")
        for key, value in values.items():
            monkeypatch.setattr(module, key, value)


@pytest.mark.parametrize("seed", range(60, 80))
def test_tiles_parts_and_batches_change_no_move(small_limits, seed):
    run_by_itself(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 2000, 200))
def test_the_function_by_itself_does_what_the_core_does_of_many(first):
    for seed in range(first, first + 200):
        run_by_itself(seed)


# --- on a device, call by call --------------------------------------------------------------------


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


def test_a_device_without_doubles_is_refused(monkeypatch):
    module = importlib.import_module("datasparse.torch.device.operations.move")
    monkeypatch.setattr(module, "is_exact", lambda device, dtype: dtype != torch.float64)
    twins = ByItself(0, devices.named("cpu"))
    twins.here.draw()
    gradients, _ = twins.change()
    moves, _ = twins.moves(gradients, 1)
    with pytest.raises(ValueError, match=r"a product in float64.*move the tensors to the CPU"):
        move(list(moves.values()), [])


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
