"""Sharded tensors on ranks of gloo."""

import pytest
import sharded_cases
from ranks_harness import Ranks


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    started = Ranks(request.param, tmp_path_factory.mktemp("ranks"))
    yield started
    started.close()


def test_masks_are_those_of_whole_tensors(ranks):
    ranks.run(sharded_cases.random_sparsifiers, 1, 10)
