"""Masks of parts that move, by sums over all of them: those of whole tensors, to the bit."""

import devices
import numpy as np
import pytest
import torch
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
