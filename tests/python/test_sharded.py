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
    (taken, refused), *others = ranks.run(sharded_cases.random_sparsifiers, 1, 10)
    assert (taken, refused) == others[0]
    assert taken >= 10


def test_models_are_masked_as_their_gathered_weights(ranks):
    kinds = ["fsdp", "mixed", "tp"] + ["hsdp", "fsdp_tp"] * (len(ranks.pipes) > 2)
    pool = {"pool": "all", "sparse_block_shape": (1, 1)}
    for kind in kinds:
        for config in ({"sparse_block_shape": (1, 2)}, pool):
            if kind == "tp" and config is pool:
                continue
            first, *others = ranks.run(sharded_cases.train, kind, config)
            assert all(other == first for other in others)
