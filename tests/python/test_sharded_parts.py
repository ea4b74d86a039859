"""Masks of parts, by counts that are summed up: those of whole tensors, to the bit."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasparse.torch.sharded.core_parts import CoreParts
from datasparse.torch.sharded.counts import Packing
from datasparse.torch.sharded.device_parts import DeviceParts
from datasparse.torch.sharded.parts import Search
from device_cases import check_route
from shard_cases import compute_on

KINDS = [CoreParts, DeviceParts]


@pytest.fixture(autouse=True)
def operations(monkeypatch):
    """Not Triton's interpreter, which other tests turn on: it is slow, and warns of NaN."""
    monkeypatch.setenv("DATASPARSE_DEVICE_ROUTE", "operations")


def check(kind, seed, n):
    rng = np.random.default_rng([7, seed])
    for case in range(n):
        ranks = int(
            rng.choice([1, 2, 3, 4, 6, 9, 16, 64], p=[0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.07, 0.03])
        )
        hints = [] if rng.random() < 0.5 else None
        most = int(rng.choice([64, 8192]))
        for _ in range(1 if hints is None else 2):
            check_route(compute_on(rng, ranks, kind, hints, most=most), 1000 * seed + case, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_masks_are_those_of_whole_tensors(seed, kind):
    check(kind, seed, 25)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(100, 110))
def test_masks_are_those_of_whole_tensors_in_many_cases(seed, kind):
    check(kind, seed, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_those_of_a_matrix_whose_order_does_not_matter(kind):
    """Of 10 x 1 elements, which lie in memory as 1 x 10: no block is wider than one."""
    check_route(compute_on(np.random.default_rng(0), 2, kind), 102095, 1)


@pytest.mark.parametrize("numbers", [0, 1, 2, 7])
@pytest.mark.parametrize("greatest", [2**32 - 1, 2**32])
def test_sums_of_packed_counts_are_those_of_the_counts(numbers, greatest):
    part = SimpleNamespace(blocks=SimpleNamespace(all=greatest))
    search = Search((0,), (1,), (0,), (greatest,), 0, (False,), False, False, False, 0)
    packing = Packing.of([search], [part])
    assert packing.most == (16382 if greatest < 2**32 else 8191)
    # Of two ranks: together, as many as there may be.
    own = [np.full(numbers, greatest // 2), np.full(numbers, greatest - greatest // 2)]
    sent = [packing.pack(counts) for counts in own]
    assert all(len(each) == packing.size(numbers) for each in sent)
    assert packing.unpack(sum(sent), numbers).tolist() == [greatest] * numbers
