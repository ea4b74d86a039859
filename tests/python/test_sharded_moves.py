"""Masks of parts that move, by sums over all of them: those of whole tensors, to the bit."""

import devices
import numpy as np
import pytest
import torch
from datasparse.regrowth import SET, RigL
from device_cases import random_values
from shard_moves import move_on
from test_device_regrowth import ByItself

pytestmark = pytest.mark.filterwarnings(r"ignore:step\(\) pruned all weights")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def check(seed):
    rng = np.random.default_rng([11, seed])
    twins = ByItself(seed, devices.named("cpu"))
    twins.function = move_on(rng, int(rng.choice([1, 2, 3, 4, 6, 9])))
    for number in range(1, 4):
        twins.step_by_itself(number)


@pytest.mark.parametrize("seed", range(30))
def test_moves_are_those_of_whole_tensors(seed):
    check(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(1000, 1300, 30))
def test_moves_are_those_of_whole_tensors_in_many_cases(first):
    for seed in range(first, first + 30):
        check(seed)


class Pooled(ByItself):
    """Of a pool of blocks of several sizes, some of nothing but zeros that stay."""

    def __init__(self, seed, kind):
        self.rng = np.random.default_rng([13, seed])
        self.device, self.kind = devices.named("cpu"), kind
        self.here, self.there = kind(), kind()
        self.weights, self.given = {}, {}
        for name, block in (("a", (1, 1)), ("b", (1, 8)), ("c", (3, 4)), ("d", (1, 2))):
            weight = random_values(self.rng, (6, 16), torch.float32)
            weight[:, :4] = 0
            own = {"sparsity_level": 0.3, "drop_fraction": 0.2, "seed": 0, "norm": "L1"}
            own |= {"pool": "p", "sparse_block_shape": block}
            own["normalize"] = "l2" if name in "ad" else None
            keeps = name in "bd"
            for sparsifier in (self.here, self.there):
                sparsifier.add_data(name, weight.clone(), keep_zeros=keeps, **own)
            self.weights[name] = (self.here.get_data(name), self.there.get_data(name))
            self.given[name] = (own, (), weight == 0 if keeps else None)
        self.here.draw()

    def change(self):
        gradients = super().change()
        level = float(self.rng.random())
        for name in self.weights:
            new = {"sparsity_level": level, "drop_fraction": float(self.rng.choice([0, 0.2]))}
            for sparsifier in (self.here, self.there):
                sparsifier.data_groups[name].update(new)
        return gradients


@pytest.mark.parametrize("kind", [RigL, SET])
@pytest.mark.parametrize("seed", range(4))
def test_pools_of_blocks_of_several_sizes_move(kind, seed):
    """More survives than there is room for where the lowest that is left weighs too much."""
    twins = Pooled(seed, kind)
    twins.function = move_on(twins.rng, 3)
    for number in range(1, 6):
        twins.step_by_itself(number)
