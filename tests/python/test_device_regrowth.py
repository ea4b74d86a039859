"""RigL, SET and Static on a device: the masks, weights and bits of the CPU, and no value read.

Two sparsifiers of the same groups, one of which has its tensors on the device that --device names;
and, on any, the function of the device by itself, asked on tensors in CPU memory.
"""

import math
from dataclasses import replace

import devices
import numpy as np
import pytest
import regrowth_reference
import torch
from datasparse.regrowth import SET, RigL, Static
from datasparse.torch.device.job import Move, MovePool
from datasparse.torch.device.operations import move
from datasparse.torch.device.operations.arithmetic import require_exact
from device_cases import (
    BITS,
    DTYPES,
    MODULES,
    ever_of,
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

    function = staticmethod(move)

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
        pools = self.pools(moves, shapes)
        made = dict(zip(moves, self.function(list(moves.values()), pools), strict=True))
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
        for key, value in values.items():
            monkeypatch.setattr(MODULES[name], key, value)


@pytest.mark.parametrize("seed", range(60, 80))
def test_tiles_parts_and_batches_change_no_move(small_limits, seed):
    run_by_itself(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 2000, 200))
def test_the_function_by_itself_does_what_the_core_does_of_many(first):
    for seed in range(first, first + 200):
        run_by_itself(seed)


def test_a_device_without_doubles_is_refused(monkeypatch):
    monkeypatch.setattr(MODULES["move"], "is_exact", lambda device, dtype: dtype != torch.float64)
    twins = ByItself(0, devices.named("cpu"))
    twins.here.draw()
    gradients, _ = twins.change()
    moves, _ = twins.moves(gradients, 1)
    with pytest.raises(ValueError, match=r"a product in float64.*move the tensors to the CPU"):
        move(list(moves.values()), [])
