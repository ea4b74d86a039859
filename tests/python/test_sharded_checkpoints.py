"""Checkpoints of sharded trainings, which any number of ranks resumes."""

import re
from pathlib import Path

import pytest
import sharded_checkpoints as cases
from datasparse import DataNormSparsifier, DataScheduler
from datasparse.schedules import Linear
from datasparse.torch.sharded import ShardedState
from ranks_harness import Ranks

SIZES = {"one": 1, "two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def ranks_of(tmp_path_factory):
    """Ranks by their number, which stay."""
    started = {}

    def ranks(size):
        if size not in started:
            started[size] = Ranks(size, tmp_path_factory.mktemp("ranks"))
        return started[size]

    yield ranks
    for some in started.values():
        some.close()


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ((2, "fsdp"), [(3, "fsdp"), (1, "fsdp"), (1, "plain")]),
        ((1, "fsdp"), [(2, "fsdp")]),
        ((1, "plain"), [(2, "fsdp")]),
        pytest.param(
            (4, "fsdp_tp"), [(4, "hsdp"), (3, "fsdp"), (2, "mixed"), (1, "plain"), (4, "fsdp_tp")],
            marks=pytest.mark.full,
        ),
        pytest.param(
            (4, "hsdp"), [(4, "fsdp_tp"), (4, "fsdp"), (1, "fsdp")], marks=pytest.mark.full
        ),
    ],
)  # fmt: skip
def test_what_some_ranks_save_others_resume(ranks_of, saved, resumed, tmp_path):
    size, kind = saved
    first, *others = ranks_of(size).run(cases.save, str(tmp_path), kind)
    assert all(other == first for other in others)
    facts, next_masks = first
    assert facts["steps"] == 3
    for size, kind in resumed:
        for found, masks in ranks_of(size).run(cases.resume, str(tmp_path), kind):
            assert found == facts
            assert masks == next_masks
        for state, masks in ranks_of(size).run(cases.resume_file, str(tmp_path), kind):
            assert state == facts["state"]
            assert masks == next_masks


@pytest.mark.parametrize("name", cases.WRONG)
def test_what_does_not_fit_is_refused_and_changes_nothing(ranks_of, name, tmp_path):
    _, text = cases.WRONG[name]
    errors = ranks_of(2).run(cases.refuse, str(tmp_path), name)
    assert all(error is not None for error in errors)
    assert any(re.search(text, message) for _, message in errors), errors


def test_where_one_rank_fails_none_has_loaded(ranks_of, tmp_path):
    for on in range(2):
        ranks_of(2).run(cases.fail_on_one, str(tmp_path / str(on)), on)


def test_sums_of_scores_are_saved(ranks_of, tmp_path):
    ranks_of(2).run(cases.score, str(tmp_path))


def test_masks_that_move_go_on_moving(ranks_of, tmp_path):
    first, *others = ranks_of(2).run(cases.save_moved, str(tmp_path))
    resumed = ranks_of(2).run(cases.resume_moved, str(tmp_path))
    resumed += ranks_of(1).run(cases.resume_moved, str(tmp_path))
    assert all(other == first for other in [*others, *resumed])


def test_a_state_is_made_without_a_word_to_other_ranks(ranks_of, tmp_path):
    ranks_of(2).run(cases.nothing_is_sent, str(tmp_path))


def test_other_schedulers_are_refused():
    one, two = DataNormSparsifier(), DataNormSparsifier()
    scheduler = DataScheduler(two, "sparsity_level", Linear(initial=0.1, final=0.5, end=3))
    with pytest.raises(ValueError, match="belongs to another sparsifier"):
        ShardedState(one, scheduler)
    with pytest.raises(TypeError, match="must be data schedulers of datasparse, got 3"):
        ShardedState(one, 3)


@pytest.mark.full
def test_the_trainer_of_transformers_saves_shards(ranks_of, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    ranks_of(2).run(cases.trainer_saves, str(tmp_path))


@pytest.mark.full
def test_lightning_trains_and_resumes_shards(run_file, tmp_path):
    pytest.importorskip("lightning", reason="needs Lightning")
    printed = run_file(Path(__file__).parent / "lightning_shards.py", tmp_path)
    assert printed.count("the same masks") == 2
