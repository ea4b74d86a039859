"""The routes that compute masks on a device, asked on devices: the core's bits, and no wait."""

import pytest
from datasparse.torch.device import operations
from device_checks import random_cases_are_those_of_the_cpu

# On the CPU they are asked in files of their own.
pytestmark = pytest.mark.device("wrapped", "pretended", "cuda")


def number_of(cases, device):
    """A tenth of them where each operation passes through Python."""
    return cases // 10 if device.name == "wrapped" else cases


@pytest.mark.parametrize("seed", range(10))
def test_operations_give_the_bits_of_the_core(seed, device):
    random_cases_are_those_of_the_cpu(operations.compute, number_of(50, device), seed)(device)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10, 110))
def test_operations_give_the_bits_of_the_core_in_many_cases(seed, device):
    random_cases_are_those_of_the_cpu(operations.compute, number_of(200, device), seed)(device)
