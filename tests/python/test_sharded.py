"""Sharded tensors on ranks of gloo."""

import pytest
import replica_cases
import sharded_cases
import sharded_faults
import sharded_moves
import sharded_transformer
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


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    yield from started(1, tmp_path_factory)


def test_masks_of_one_rank_are_those_of_whole_tensors(one):
    ((taken, _),) = one.run(sharded_cases.random_sparsifiers, 2, 20)
    assert taken >= 20


def test_one_rank_counts_nothing(one):
    """The engine has whole tensors then."""
    (sent,) = one.run(sharded_cases.traffic, "float32")
    assert [each.rounds for each in sent] == [0, 0]


def test_memory_of_one_rank_is_looked_up_at_each_step(one):
    one.run(sharded_cases.replaced_memory)


def test_a_pool_of_one_rank_is_pruned_as_a_whole(one):
    one.run(sharded_cases.pool_of_two_kinds)


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


@pytest.mark.parametrize(
    "at",
    ["count", *(pytest.param(at, marks=pytest.mark.full) for at in ("prelude", "contents"))],
)
def test_a_rank_that_dies_ends_the_others(at, tmp_path):
    ranks = Ranks(3, tmp_path, timeout=15)
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
    assert cold.most <= 65536
    (without, _), *_ = two.run(sharded_cases.traffic, dtype, 40, "all", 2, False)
    assert cold.rounds < without.rounds <= 3
    assert hinted.rounds == 1
    assert hinted.agreements == cold.agreements == 2
    assert hinted.agreement_bytes == 432


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    yield from started(3, tmp_path_factory)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(200, 205))
def test_masks_of_three_ranks_are_those_of_whole_tensors(three, seed):
    three.run(sharded_cases.random_sparsifiers, seed, 10)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
def test_masks_are_those_of_whole_tensors_in_many_cases(ranks, seed):
    ranks.run(sharded_cases.random_sparsifiers, seed, 15)


def test_a_state_that_is_filled_is_no_step(two):
    two.run(sharded_cases.warm_up)


@pytest.mark.parametrize("name", ["Gradient", "Movement", "Taylor", "Fisher"])
def test_scores_are_those_of_whole_tensors(two, name):
    two.run(sharded_cases.scored, name)


# --- masks that move --------------------------------------------------------------------------


def test_masks_move_as_those_of_whole_tensors(ranks):
    first, *others = ranks.run(sharded_moves.random_moves, 1, 6)
    assert first >= 6
    assert all(other == first for other in others)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(200, 210))
def test_masks_move_as_those_of_whole_tensors_in_many_cases(ranks, seed):
    ranks.run(sharded_moves.random_moves, seed, 15)


N_OF_M = {"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2}
POOL = {"sparsity_level": 0.6, "pool": "all"}


@pytest.mark.parametrize(
    ("kind", "name", "config"),
    [
        ("fsdp", "RigL", POOL),
        ("fsdp", "SET", {"sparsity_level": 0.6, "sparse_block_shape": (1, 2)}),
        ("mixed", "RigL", N_OF_M),
        ("tp", "SET", N_OF_M),
    ],
)
def test_models_move_as_their_gathered_weights(two, kind, name, config):
    first, *others = two.run(sharded_moves.train, kind, name, config)
    assert first > 100
    assert all(other == first for other in others)


def test_moves_replace_a_step_on_all_ranks(four):
    config = {"sparsity_level": 0.6}
    first, *others = four.run(sharded_moves.train, "hsdp", "RigL", config, True)
    assert first > 100
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("kind", "name", "config"),
    [("hsdp", "SET", POOL), ("fsdp_tp", "RigL", N_OF_M), ("fsdp_tp", "SET", POOL)],
)
def test_models_on_meshes_move_as_their_gathered_weights(four, kind, name, config):
    first, *others = four.run(sharded_moves.train, kind, name, config)
    assert first > 100
    assert all(other == first for other in others)


@pytest.mark.parametrize("draws", [True, False])
@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("seed", 3, ("the hash of drawn mask 1", "draws from")),
        ("sparsity_level", 0.75, ("the hash of drawn mask 1", "prunes 96 blocks")),
        ("drop_fraction", 0.25, (None, "drops 0.25 of what is active")),
    ],
)
def test_ranks_whose_moves_differ_raise_and_say_in_what(four, key, value, what, draws):
    errors = four.run(sharded_moves.disagree, key, value, draws)
    text = what[0 if draws else 1]
    if text is None:  # it is of no account yet
        assert errors == [None] * 4
        return
    assert len(set(errors)) == 1
    assert errors[0][0] == "RankError"
    assert text in errors[0][1]


@pytest.mark.parametrize(
    ("method", "at"),
    [("unpack", 1), ("unpack", 3), ("get_gradients", 1)]
    + [(method, at) for method in ("__init__", "prelude", "begin", "count", "contents")
       for at in (1, 2)],
)  # fmt: skip
def test_a_move_that_fails_on_one_rank_raises_on_all(two, method, at):
    own, other = sorted(two.run(sharded_moves.fail, method, at), key=lambda e: e[0] == "RankError")
    assert own[0] in ("KeyError", "MemoryError")
    assert other[0] == "RankError"
    assert other[1].startswith("rank 1 failed in step(): ")
    assert other[1].endswith(own[1])


def test_what_moves_of_shards_refuse(two):
    """On two ranks, whose shards of six rows end at row 3."""
    for cut, beside, mixed, turned in two.run(sharded_moves.refused):
        assert cut[0] == "ValueError"
        assert "must lie on one rank each, got a shard that ends at row 3" in cut[1]
        assert beside[0] == "TypeError"
        assert "gradient of 'w' must be on the device of its data" in beside[1]
        assert mixed[0] == "TypeError"
        assert "what pool 'p' ranks must be on one device, got some in CPU memory" in mixed[1]
        assert turned == mixed, "whichever comes first"


@pytest.mark.parametrize(
    ("ranks", "kind", "depth", "steps"),
    [
        ("two", "fsdp", 2, 6),
        pytest.param("two", "fsdp", 20, 50, marks=pytest.mark.full),
        pytest.param("four", "fsdp_tp", 20, 50, marks=pytest.mark.full),
    ],
    indirect=["ranks"],
)
def test_a_transformer_has_the_masks_of_its_gathered_weights(ranks, kind, depth, steps):
    losses = ranks.run(sharded_transformer.train, kind, depth, steps)
    if steps >= 50:
        assert all(sum(own[-5:]) < 0.9 * sum(own[:5]) for own in losses)


# --- replicas, which see batches of their own -----------------------------------------------------


@pytest.mark.parametrize("name", replica_cases.SCORES)
def test_scores_on_batches_are_those_of_all_ranks(four, name):
    first, *others = four.run(replica_cases.score, name)
    assert all(other == first for other in others)


def test_with_a_decay_each_rank_has_as_many_batches(two):
    errors = two.run(replica_cases.score_with_decay)
    assert errors == 2 * [
        "each rank must have as many batches, since Fisher(decay=0.5) has a decay, got [1, 2]"
    ]


def test_norms_of_inputs_are_those_of_all_ranks(two):  # of whom each has an expert
    first, *others = two.run(replica_cases.calibrated)
    assert all(other == first for other in others)


@pytest.mark.parametrize("call", ["score_once", "record_inputs"])
def test_a_rank_without_batches_is_an_error_of_all(two, call):
    what = "ValueError: batches must hold at least one, got none"
    assert two.run(replica_cases.failing, call) == [
        f"RankError: rank 1 failed in {call}(): {what}",
        what,
    ]


def test_a_rank_that_cannot_read_its_batches_is_an_error_of_all(two):
    assert two.run(replica_cases.failing_loader) == [
        "RankError: rank 1 failed in score_once(): OSError: no such batch",
        "OSError: no such batch",
    ]


def test_replicas_are_alike(two):
    for said in two.run(replica_cases.of_other_shapes):
        assert said.startswith("'weight' must be alike on all ranks, got ((1, 4), 'float64') and")


def test_norms_are_written_by_one_rank_for_all(two, tmp_path):
    assert two.run(replica_cases.written, str(tmp_path)) == ["FileNotFoundError", "RankError"]


def test_batches_of_one_rank_alone_are_said(two):
    without, of_one = two.run(replica_cases.alone)[0]
    assert without == 4 * ["these are the batches of one rank of 2,"]
    assert of_one == []


def test_scores_on_batches_are_of_whole_weights(two):
    for said in two.run(replica_cases.refused_shards):
        assert [text.partition(": ")[0].rpartition("and ")[2] for text in said] == [
            "score_once() needs whole weights",
            "record_inputs() needs whole weights",
            "calibrate() needs whole weights",
        ]
        assert all("'0.weight' is sharded" in text and "keep_zeros=True" in text for text in said)


def test_what_was_scored_before_sharding_is_kept(two):
    assert two.run(replica_cases.scored_before_sharding) == [0.5, 0.5]
