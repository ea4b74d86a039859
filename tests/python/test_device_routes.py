"""The routes that compute masks on a device, asked on devices: the core's bits, and no wait."""

import pytest
from datasparse.torch.device import operations
from device_checks import random_cases_are_those_of_the_cpu

# On the CPU they are asked in files of their own.
pytestmark = pytest.mark.device("wrapped", "pretended", "cuda")


def check_operations(number, seed, device):
    """Few with pools where each operation passes through Python: these take the most."""
    with_pools = number // 20 if device.name == "wrapped" else number
    for some, has in ((with_pools, True), (number - with_pools, False)):
        random_cases_are_those_of_the_cpu(operations.compute, some, seed, with_pools=has)(device)


# The wrapped device takes long. It is asked for what else it refuses, which shows in few cases.
NOT_WRAPPED = pytest.mark.device("pretended", "cuda")


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=NOT_WRAPPED) for seed in range(4, 10))]
)
def test_operations_give_the_bits_of_the_core(seed, device):
    check_operations(100, seed, device)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10, 110))
def test_operations_give_the_bits_of_the_core_in_many_cases(seed, device):
    check_operations(200, seed, device)
