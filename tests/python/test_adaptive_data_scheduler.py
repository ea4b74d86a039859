"""AdaptiveDataScheduler from Python; its rule is tested in C++."""

import copy
import pickle

import numpy as np
import pytest
import torch
from datasparse import AdaptiveDataScheduler, DataNormSparsifier
from datasparse._restore import empty
from datasparse.schedules import Cyclic, Linear, Polynomial
from hypothesis import given
from hypothesis import strategies as st
from support import ON_DEVICES, placed

pytestmark = ON_DEVICES

RAMP = Linear(final=1.0, end=8)


def adaptive(schedule=RAMP, **rule):
    sparsifier = DataNormSparsifier([("w", placed(np.ones(8)))])
    sparsifier.step()
    return AdaptiveDataScheduler(sparsifier, "sparsity_level", schedule, **rule)


def follow(scheduler, metrics):
    seen = []
    for metric in metrics:
        scheduler.step(metric)
        level = scheduler.data_sparsifier.data_groups["w"]["sparsity_level"]
        seen.append((scheduler.position, scheduler.best, scheduler.bad_steps, level))
    return seen


def expected(metrics, mode, tolerance, patience, back_off, steps):
    """The rule again, as plainly as possible."""
    position, best, bad, seen = 0, None, 0, []
    for metric in metrics:
        good = False
        if np.isfinite(metric):
            if best is None or (metric < best if mode == "min" else metric > best):
                best = metric
            good = metric <= best + tolerance if mode == "min" else metric >= best - tolerance
        if good:
            position, bad = min(position + 1, steps), 0
        else:
            bad += 1
            if bad > patience:
                position, bad = max(position - back_off, 0), 0
        seen.append((position, best, bad, position / 8))
    return seen


@pytest.mark.full_there
@given(
    metrics=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, np.nan, np.inf, -np.inf])),
    mode=st.sampled_from(["min", "max"]),
    tolerance=st.sampled_from([0.0, 0.25]),
    patience=st.integers(0, 2),
    back_off=st.integers(1, 3),
    stop=st.integers(0, 20),
)
def test_the_rule_also_after_a_resume(metrics, mode, tolerance, patience, back_off, stop):
    rule = {"mode": mode, "tolerance": tolerance, "patience": patience, "back_off": back_off}
    first, resumed = adaptive(**rule), adaptive(**rule)
    seen = follow(first, metrics[:stop])
    resumed.load_state_dict(first.state_dict())
    seen += follow(resumed, metrics[stop:])
    assert seen == expected(metrics, mode, tolerance, patience, back_off, 8)


def test_arguments_read_as_they_were_given():
    scheduler = adaptive(mode="max", tolerance=0.25, patience=2, back_off=3, steps=5)
    rule = scheduler.mode, scheduler.tolerance, scheduler.patience, scheduler.back_off
    assert (*rule, scheduler.steps) == ("max", 0.25, 2, 3, 5)
    assert (scheduler.position, scheduler.best, scheduler.bad_steps) == (0, None, 0)
    assert adaptive().steps == 8


@pytest.mark.parametrize(
    "metric", [np.float32(0.5), np.array([0.5]), np.array(0.5), torch.tensor([[0.5]]), 1]
)
def test_whatever_is_one_number_is_a_metric(metric):
    scheduler = adaptive()
    scheduler.step(metric)
    assert scheduler.best == np.asarray(metric).item()


@pytest.mark.parametrize(
    "metric", [None, "0.5", True, [0.5], np.ones(2), np.True_, np.array(["0.5"])]
)
def test_what_is_no_metric_changes_nothing(metric):
    scheduler = adaptive()
    with pytest.raises(TypeError, match="metric must be a number, got"):
        scheduler.step(metric)
    assert (scheduler.last_epoch, scheduler.position) == (0, 0)


def test_a_step_needs_a_metric():
    with pytest.raises(TypeError):
        adaptive().step()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"mode": "mean"}, "mode must be 'min' or 'max', got 'mean'"),
        ({"tolerance": -0.5}, "tolerance must be finite and at least 0, got -0.5"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"back_off": 0}, "back_off must be at least 1, got 0"),
        ({"steps": 0.5}, "steps must be an integer, got 0.5"),
        ({"schedule": Cyclic(0.0, 0.5, 4)}, "steps must be given for a schedule that never ends"),
    ],
)
def test_a_rule_that_cannot_be(rule, message):
    with pytest.raises(ValueError, match=message):
        adaptive(**rule)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_alone(way):
    scheduler = adaptive({"w": Polynomial(final=0.875, end=4)}, mode="max", patience=1)
    follow(scheduler, [0.5, 0.75, 0.5])
    twin = way(scheduler)
    assert follow(twin, [0.5, 0.75]) == follow(copy.deepcopy(scheduler), [0.5, 0.75])
    assert (scheduler.position, scheduler.bad_steps) == (2, 1)
    assert twin.schedule == scheduler.schedule


def test_a_plan_is_for_good_metrics():
    scheduler = adaptive(steps=2)
    assert scheduler.plan(4).values["w"].tolist() == [0.0, 0.125, 0.25, 0.25]


@pytest.mark.device("cpu")
def test_one_that_is_not_filled_yet_says_so():
    """As a pickle makes it before it gives it its state."""
    with pytest.raises(RuntimeError, match="the sparsifier of this scheduler is gone"):
        _ = empty(AdaptiveDataScheduler).steps
