"""Sharded tensors on ranks of gloo."""

import pytest
import sharded_cases
import sharded_faults
from ranks_harness import Ranks


def started(size, tmp_path_factory):
    ranks = Ranks(size, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    yield from started(2, tmp_path_factory)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    yield from started(4, tmp_path_factory)


@pytest.fixture(params=["two", "four"])
def ranks(request):
    return request.getfixturevalue(request.param)


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


@pytest.mark.parametrize("name", sharded_faults.DISAGREEMENTS)
def test_ranks_that_differ_raise_and_say_in_what(four, name):
    errors = four.run(sharded_faults.disagree, name)
    assert all(kind == "RankError" for kind, _ in errors)
    assert len({text for _, text in errors}) == 1
    text = errors[0][1]
    assert text.startswith("rank 1 differs from rank 0 in step(): "), text
    assert sharded_faults.DISAGREEMENTS[name][1] in text
    assert text.endswith("; no rank has changed a mask")


@pytest.mark.parametrize("fault", sharded_faults.FAULTS)
def test_an_error_on_one_rank_raises_on_all(four, fault):
    own, *others = sorted(four.run(sharded_faults.fail, fault), key=lambda e: e[0] == "RankError")
    assert own[0] in ("KeyError", "MemoryError", "ValueError")
    assert [kind for kind, _ in others] == ["RankError"] * 3
    assert all(text.startswith("rank 1 failed in step(): ") for _, text in others)
    assert all(text.endswith(own[1]) for _, text in others)


@pytest.mark.parametrize("at", ["prelude", "count", "contents"])
def test_a_rank_that_dies_ends_the_others(at, tmp_path):
    ranks = Ranks(3, tmp_path, timeout=4)
    try:
        ranks.begin(sharded_faults.killed, at)
        (_, first), (_, dead), (_, last) = ranks.results()
        assert dead == ("", "it is gone", "")
        for text in (first, last):
            assert text.startswith(("the sum", "the agreement", "rank")), text
            assert "in step(), call 2 of these ranks, failed on rank" in text
    finally:
        ranks.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_ranks_send(two, dtype):
    (cold, hinted), *others = two.run(sharded_cases.traffic, dtype)
    assert all(other == (cold, hinted) for other in others)
    assert cold.most <= 65536 + 8
    assert hinted.rounds < cold.rounds
    assert hinted.agreements == cold.agreements == 2
    assert hinted.agreement_bytes == 48


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
def test_masks_are_those_of_whole_tensors_in_many_cases(ranks, seed):
    ranks.run(sharded_cases.random_sparsifiers, seed, 15)


def test_a_state_that_is_filled_is_no_step(two):
    two.run(sharded_cases.warm_up)


@pytest.mark.parametrize("name", ["Gradient", "Movement", "Taylor", "Fisher"])
def test_scores_are_those_of_whole_tensors(two, name):
    two.run(sharded_cases.scored, name)
