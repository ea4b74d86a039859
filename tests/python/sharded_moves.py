"""What ranks do in the tests of masks that move: run by ranks_harness, as sharded_cases."""

import warnings
from contextlib import nullcontext

import numpy as np
import torch
import torch.distributed as dist
from datasparse import DataScheduler, schedules
from datasparse.regrowth import SET, RigL, Static
from datasparse.torch import attach
from datasparse.torch.sharded import RankError, device
from datasparse.torch.sharded.core_parts import CoreParts
from device_cases import DTYPES, random_values
from sharded_cases import (
    layouts,
    mesh_of,
    part_of,
    same,
    sharded_model,
    spread,
    whole_of,
)
from sharded_faults import failing, local_masks_of
from test_device_regrowth import random_config, random_kept, random_shape
from torch.distributed.tensor import Replicate, Shard


def fits(whole, config, layout, place):
    """Whether masks of the tensor move in that layout: no block is cut."""
    try:
        alone = SET(sparse_block_shape=config["sparse_block_shape"])
        before = torch.ones(whole.shape, dtype=torch.bool)
        alone.add_data("x", spread(whole, *place), layout=layout, mask=before)
        alone.step()
    except (ValueError, RankError) as error:
        if "must lie on one rank" in str(error) or "rectangle" in str(error):
            return False
        raise
    return True


KINDS = {"RigL": RigL, "SET": SET, "Static": Static}


class Twins:
    """A sparsifier of whole tensors, and one of the same, sharded."""

    def __init__(self, rng):
        self.rng = rng
        self.kind = [RigL, SET, Static][rng.choice(3, p=[0.5, 0.4, 0.1])]
        self.here, self.there = self.kind(), self.kind()
        self.data = {}
        is_within, is_pooled = rng.random() < 0.3, rng.random() < 0.4
        for name in "abcd"[: rng.integers(1, 5)]:
            shape, dtype = random_shape(rng), DTYPES[rng.integers(4)]
            config = random_config(rng, is_within)
            whole = random_values(rng, shape, dtype)
            keeps = bool(rng.random() < 0.25)
            if keeps:
                whole[random_kept(rng, shape)] = 0
            layout = None
            if len(shape) > 1 and rng.random() < 0.3:
                layout = tuple(rng.permutation(len(shape)).tolist())
            mask = None
            if rng.random() < 0.3:
                mask = torch.from_numpy(np.asarray(rng.random(shape) < rng.random()))
            place = self.place_for(whole, config, layout)
            data = whole.clone() if place is None else spread(whole, *place)
            has_no_row = not is_within or -1 not in config["sparse_block_shape"]
            if place is not None and is_pooled and has_no_row:
                config |= {"pool": "p", "normalize": [None, "l2"][int(rng.random() < 0.2)]}
                config.pop("min_kept", None)
            for sparsifier, own in ((self.here, whole), (self.there, data)):
                sparsifier.add_data(name, own, mask=mask, layout=layout, keep_zeros=keeps, **config)
            self.data[name] = (whole, data, place)

    def place_for(self, whole, config, layout):
        """A layout that cuts no block, if one is found soon; else None."""
        choices = layouts() if whole.ndim > 1 else layouts()[: whole.ndim]
        for _ in range(6 if choices else 0):
            place = choices[self.rng.integers(len(choices))]
            if fits(whole, config, layout, place):
                return place
        return None

    def step(self):
        rng, gradients = self.rng, ({}, {})
        for name, (whole, data, place) in self.data.items():
            whole.add_(random_values(rng, tuple(whole.shape), whole.dtype))
            if place is None:
                data.copy_(whole)
            else:
                data.to_local().copy_(part_of(whole, data))
            gradient = random_values(rng, tuple(whole.shape), DTYPES[rng.integers(4)])
            gradients[0][name] = gradient
            gradients[1][name] = gradient if place is None else spread(gradient, *place)
        for sparsifier, own in zip((self.here, self.there), gradients, strict=True):
            sparsifier.set_gradients(own)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "step.. pruned all weights")
                sparsifier.step()

    def resume(self):
        """Goes on with another sparsifier, from what this one has saved."""
        again = self.kind()
        for name, (_, data, _) in self.data.items():
            again.add_data(name, data)
        again.load_state_dict(self.there.state_dict())
        self.there = again

    def require_equal(self, case):
        for name, (whole, data, place) in self.data.items():
            about = (case, name, self.kind, dict(self.here.data_groups[name]), place)
            mask, right = self.there.get_mask(name), self.here.get_mask(name)
            if place is not None:
                mask, right, whole, data = (
                    mask.to_local(), part_of(right, data), part_of(whole, data), data.to_local()
                )  # fmt: skip
            assert torch.equal(mask, right), about
            assert same(data, whole), about
            assert self.there.ever_active(name) == self.here.ever_active(name), about


def random_moves(rank, seed, n):
    """Random sparsifiers whose masks move, some of their tensors sharded. How many of these."""
    sharded = 0
    for case in range(n):
        twins = Twins(np.random.default_rng([seed, case]))
        sharded += sum(place is not None for _, _, place in twins.data.values())
        for step in range(3):
            twins.step()
            twins.require_equal((seed, case, step))
        assert str(twins.here.state_dict()) == str(twins.there.state_dict())
        twins.resume()
        twins.step()
        twins.require_equal((seed, case, "resumed"))
    return sharded


# --- trainings --------------------------------------------------------------------------------


def train(rank, kind, name, config, replaces_step=False, steps=4):
    """Trains a sharded model, and holds masks and weights at each step to those of the same move of
    its gathered weights, by its gathered gradients."""
    model = sharded_model(kind)
    sparsifier, here = KINDS[name](**config), KINDS[name](**config)
    attachment = attach(model, sparsifier)
    for group in attachment.names:
        # The mask is drawn by name and seed.
        here.add_data(group, whole_of(sparsifier.get_data(group)))
        here.data_groups[group].update(dict(sparsifier.data_groups[group]))
    here.draw()
    here.apply_mask()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.01)
    schedule = schedules.Cosine(initial=0.5, final=0.1, end=steps)
    scheduler = DataScheduler(sparsifier, "drop_fraction", schedule)
    grown = 0

    def mirror(*_):
        """What masks move by: before follow() moves them."""
        for group in attachment.names:
            here.get_data(group).copy_(whole_of(sparsifier.get_data(group)))
        here.set_gradients(
            {group: whole_of(sparsifier.get_data(group).grad) for group in attachment.names}
        )

    optimizer.register_step_pre_hook(mirror)
    attachment.follow(optimizer, scheduler=scheduler, mask_state=True, replaces_step=replaces_step)
    torch.manual_seed({"tp": 0, "fsdp_tp": rank // 2}.get(kind, rank))
    for _ in range(steps):
        model(torch.randn(8, 16)).square().mean().backward()
        before = {group: here.get_mask(group).clone() for group in attachment.names}
        optimizer.step()
        optimizer.zero_grad()
        for group in attachment.names:
            fraction = sparsifier.data_groups[group]["drop_fraction"]
            here.data_groups[group]["drop_fraction"] = fraction
        here.step()
        for group in attachment.names:
            mask = here.get_mask(group)
            grown += int((mask & ~before[group]).sum())
            assert torch.equal(whole_of(sparsifier.get_mask(group)), mask), group
            assert sparsifier.ever_active(group) == here.ever_active(group)
            data = sparsifier.get_data(group)
            assert not whole_of(data)[~mask].any()
            if not replaces_step:  # which updates nothing, and so has no state
                assert not whole_of(optimizer.state[data]["exp_avg"])[~mask].any()
    return grown


# --- what goes wrong --------------------------------------------------------------------------


def sparsifier_of(kind=RigL, **config):
    """Of three sharded tensors, each in another layout of as many as there are."""
    generator = torch.Generator().manual_seed(0)
    mesh = mesh_of(dist.get_world_size())
    sparsifier = kind(**({"sparsity_level": 0.5, "drop_fraction": 0.5} | config))
    for name, placement in (("a", Shard(0)), ("b", Shard(1)), ("c", Replicate())):
        whole = torch.randn(16, 8, generator=generator)
        sparsifier.add_data(name, spread(whole, mesh, (placement,)))
    return sparsifier


def hand_in(sparsifier):
    sparsifier.set_gradients({name: sparsifier.get_data(name) for name in sparsifier.data_groups})


def look(sparsifier):
    """All that a step changes, without a word to other ranks."""
    data = [sparsifier.get_data(name).to_local().clone() for name in sparsifier.data_groups]
    return [*data, *local_masks_of(sparsifier)]


def raised(sparsifier, call):
    """The error of a call, which must leave all as it was."""
    before = look(sparsifier)
    try:
        call()
    except Exception as error:
        assert all(torch.equal(a, b) for a, b in zip(before, look(sparsifier), strict=True))
        return type(error).__name__, str(error)
    return None


def disagree(rank, key, value, draws):
    """Another value on rank 1, when masks are drawn or when they move; what each rank raises."""
    sparsifier = sparsifier_of(SET)
    if not draws:
        sparsifier.draw()
    if rank == 1:
        sparsifier.data_groups["b"][key] = value
    hand_in(sparsifier)
    error = raised(sparsifier, sparsifier.draw if draws else sparsifier.step)
    sparsifier.data_groups["b"][key] = sparsifier.data_groups["a"][key]
    sparsifier.step()
    return error


class Failing(RigL):
    """It fails while gradients are asked for."""

    fails = False

    def get_gradients(self, name, data, **config):
        if self.fails and name == "b":
            raise KeyError("no gradient")
        return super().get_gradients(name, data, **config)


def fail(rank, method, at):
    """An error on rank 1, in a call of a method of CoreParts, of unpack() when masks are drawn, or
    of get_gradients(); what each rank raises. Then all go on."""
    sparsifier = sparsifier_of(Failing)
    draws = method == "unpack"
    if not draws:
        sparsifier.draw()
    hand_in(sparsifier)
    call = sparsifier.draw if draws else sparsifier.step
    of = device if draws else CoreParts
    sparsifier.fails = rank == 1 and method == "get_gradients"
    fails = rank == 1 and method != "get_gradients"
    with failing(method, at, of) if fails else nullcontext():
        error = raised(sparsifier, call)
    sparsifier.fails = False
    sparsifier.step()
    for name in sparsifier.data_groups:
        assert int(whole_of(sparsifier.get_mask(name)).sum()) == 64
    return error


def refused(rank):
    """What moves cannot do; the error of each."""
    mesh = mesh_of(dist.get_world_size())
    tensor = torch.arange(1.0, 25.0).reshape(6, 4)
    rows = spread(tensor, mesh, (Shard(0),))
    columns = spread(tensor, mesh, (Shard(1),))
    mask = torch.ones(6, 4, dtype=torch.bool)
    cut = SET([], sparsity_level=0.5, sparse_block_shape=(2, 2))
    cut.add_data("w", rows, mask=mask)
    beside = RigL([], sparsity_level=0.5)
    beside.add_data("w", rows, mask=mask)
    beside.set_gradients({"w": columns})
    mixed, turned = (SET([], sparsity_level=0.5, pool="p") for _ in range(2))
    mixed.add_data("w", rows, mask=mask)
    mixed.add_data("plain", tensor, mask=mask)
    turned.add_data("plain", tensor, mask=mask)
    turned.add_data("w", rows, mask=mask)
    errors = []
    for sparsifier in (cut, beside, mixed, turned):
        try:
            sparsifier.step()
        except Exception as error:
            errors.append((type(error).__name__, str(error)))
        assert bool(sparsifier.get_mask("w").to_local().all())
    return errors
