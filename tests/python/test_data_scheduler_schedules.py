"""DataScheduler: schedules for groups, by pattern; what it writes, refuses, saves and plans."""

import copy
import fnmatch
import gc
import pickle
import weakref

import numpy as np
import pytest
from datasparse import (
    AdaptiveDataScheduler,
    BaseDataSparsifier,
    DataNormSparsifier,
    DataScheduler,
)
from datasparse.schedules import (
    Constant,
    Cyclic,
    Exponential,
    Lambda,
    Linear,
    OneShot,
    Polynomial,
    Sequential,
    Step,
)
from hypothesis import given
from hypothesis import strategies as st
from support import MAY_PRUNE_ALL, ON_DEVICES, first_there, placed

pytestmark = ON_DEVICES


def sparsifier_of(*names, level=0.75, **config):
    data = [(name, placed(np.ones((4, 8), np.float32))) for name in names]
    return DataNormSparsifier(data, sparsity_level=level, **config)


def values(sparsifier, param="sparsity_level"):
    return {name: config[param] for name, config in sparsifier.data_groups.items()}


def run(sparsifier, scheduler, steps):
    """The values at the steps from the present one on."""
    seen = []
    for _ in range(steps):
        seen.append(values(sparsifier, scheduler.schedule_param))
        sparsifier.step()
        scheduler.step()
    return seen


# --- what is written ------------------------------------------------------------------------------


def test_one_schedule_for_all_groups_from_each_groups_base():
    sparsifier = sparsifier_of("a", "b")
    sparsifier.data_groups["b"]["sparsity_level"] = 0.5
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=2))
    assert run(sparsifier, scheduler, 4) == [
        {"a": 0.0, "b": 0.0},
        {"a": 0.375, "b": 0.25},
        {"a": 0.75, "b": 0.5},
        {"a": 0.75, "b": 0.5},
    ]
    assert scheduler.base_param == {"a": 0.75, "b": 0.5}


@pytest.mark.full_there
@MAY_PRUNE_ALL
@given(data=st.data())
def test_values_are_those_of_the_schedule_to_the_last_bit(data):
    schedule = data.draw(
        st.sampled_from(
            [Polynomial(end=7), Step(2, 0.9), Cyclic(0.1, None, 5), Exponential(0.97, every=3)]
        )
    )
    bases = data.draw(st.lists(st.floats(0.1, 1), min_size=1, max_size=5))
    sparsifier = sparsifier_of()
    for number, base in enumerate(bases):
        sparsifier.add_data(f"w{number}", placed(np.ones(4)), sparsity_level=base)
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    for step, now in enumerate(run(sparsifier, scheduler, 10)):
        assert now == {f"w{n}": schedule(step, base) for n, base in enumerate(bases)}


def test_gradual_n_of_m_is_scheduled_in_integers():
    sparsifier = sparsifier_of("a", level=1.0, sparse_block_shape=(1, 4))
    scheduler = DataScheduler(sparsifier, "zeros_per_block", Linear(final=2.0, end=4))
    zeros = []
    for _ in range(6):
        sparsifier.step()
        zeros.append(int((~sparsifier.get_mask("a")).sum()) // 8)
        scheduler.step()
    assert zeros == [0, 0, 1, 2, 2, 2]
    assert type(sparsifier.data_groups["a"]["zeros_per_block"]) is int


class Drop(BaseDataSparsifier):
    """Has a share and a count for config keys."""

    def __init__(self, asked=None, says=True):
        self.asked, self.says = asked, says
        super().__init__({"a": placed(np.ones(4)), "b": placed(np.ones(4))}, share=1, count=4)

    def update_mask(self, name, data, **config):
        pass

    def is_integer_param(self, key):
        if self.asked is not None:
            self.asked.append(key)
        return self.says if key == "count" else super().is_integer_param(key)


def test_only_a_key_that_is_declared_an_integer_is_rounded():
    ramp = Linear(initial=None, final=0.5, end=4)
    for key, start, expected in (
        ("share", 1, [1.0, 0.875, 0.75, 0.625, 0.5]),
        ("count", 4, [4, 3, 2, 1, 0]),  # 3.125, 2.25, 1.375, 0.5
    ):
        sparsifier = Drop()
        assert sparsifier.data_groups["a"][key] == start
        scheduler = DataScheduler(sparsifier, key, ramp)
        planned = scheduler.plan(5).values["a"]
        seen = [now["a"] for now in run(sparsifier, scheduler, 5)]
        assert seen == planned.tolist() == expected
        assert {type(value) for value in seen} == {type(expected[0])}


def test_it_is_asked_once_a_step_and_once_a_plan():
    asked = []
    sparsifier = Drop(asked)
    scheduler = DataScheduler(sparsifier, "count", Linear(end=4))
    assert asked == ["count"]
    sparsifier.step()
    scheduler.step()
    assert asked == ["count"] * 2
    scheduler.plan(9)
    assert asked == ["count"] * 3


@pytest.mark.parametrize("says", [1, None, "yes"])
def test_a_declaration_that_is_no_bool_changes_nothing(says):
    sparsifier = Drop()
    scheduler = DataScheduler(sparsifier, "count", Linear(end=4))
    sparsifier.step()
    sparsifier.says = says
    with pytest.raises(TypeError, match=r"Drop\.is_integer_param\(\) returned .*, expected bool"):
        scheduler.step()
    assert scheduler.last_epoch == 0
    assert values(sparsifier, "count") == {"a": 0, "b": 0}


def test_which_keys_of_the_norm_sparsifier_are_integers():
    sparsifier = sparsifier_of("a")
    keys = [*sparsifier.defaults, "min_kept"]
    assert [key for key in keys if sparsifier.is_integer_param(key)] == [
        "zeros_per_block",
        "min_kept",
    ]
    assert not Drop().is_integer_param("share")


def test_zeros_per_block_is_an_integer_by_any_schedule():
    sparsifier = sparsifier_of("a", sparse_block_shape=(1, 4))
    scheduler = DataScheduler(sparsifier, "zeros_per_block", Exponential(0.75))
    assert [now["a"] for now in run(sparsifier, scheduler, 5)] == [4, 3, 2, 2, 1]


def test_the_position_of_a_metric_rounds_no_more_than_a_step():
    sparsifier = Drop()
    scheduler = AdaptiveDataScheduler(
        sparsifier, "share", Linear(initial=1.0, final=0.5, end=2), mode="max"
    )
    seen = []
    for metric in (1.0, 2.0, 0.0):
        sparsifier.step()
        scheduler.step(metric)
        seen.append(values(sparsifier, "share")["a"])
    assert seen == [0.75, 0.5, 0.75]


def test_a_bool_is_no_base():
    sparsifier = Drop()
    sparsifier.data_groups["a"]["share"] = True
    with pytest.raises(TypeError, match="share of 'a' must be a number, got True"):
        DataScheduler(sparsifier, "share", Linear(end=2))


def test_ends_are_the_steps_at_which_schedules_end():
    sparsifier = sparsifier_of("fc1", "fc2", "emb", "out")
    by_name = {
        "fc1": Linear(end=9),
        "fc2": OneShot(4),
        "emb": Cyclic(0.0, 0.5, 4),
        "out": Sequential([Constant(0.0), Polynomial(end=5)], [4]),
    }
    assert DataScheduler(sparsifier, "sparsity_level", by_name).ends == (4, 9)
    assert DataScheduler(sparsifier, "sparsity_level", Exponential(0.5)).ends == ()
    assert DataScheduler(sparsifier, "sparsity_level", Constant(0.5)).ends == (0,)
    assert AdaptiveDataScheduler(sparsifier, "sparsity_level", Linear(end=9)).ends == ()


def test_two_schedulers_of_two_parameters_side_by_side():
    sparsifier = sparsifier_of("a", sparse_block_shape=(1, 4))
    levels = DataScheduler(sparsifier, "sparsity_level", Constant(0.5))
    zeros = DataScheduler(sparsifier, "zeros_per_block", Linear(final=4.0, end=4))
    for _ in range(4):
        sparsifier.step()
        levels.step()
        zeros.step()
    config = sparsifier.data_groups["a"]
    assert (config["sparsity_level"], config["zeros_per_block"]) == (0.5, 4)


class Warm(BaseDataSparsifier):
    def update_mask(self, name, data, temperature):
        self.get_mask(name)[...] = abs(data) > temperature


@MAY_PRUNE_ALL
def test_a_parameter_of_a_sparsifier_of_ones_own():
    sparsifier = Warm([("a", placed(np.ones(4)))], temperature=2.0)
    scheduler = DataScheduler(sparsifier, "temperature", Exponential(0.5))
    assert [now["a"] for now in run(sparsifier, scheduler, 3)] == [2.0, 1.0, 0.5]


def test_continues_after_a_given_epoch():
    sparsifier = sparsifier_of("a")
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=4), last_epoch=1)
    assert scheduler.last_epoch == 2
    assert values(sparsifier) == {"a": 0.375}


def test_an_override_may_change_some_values():
    class Careful(DataScheduler):
        def get_schedule_param(self):
            return {**super().get_schedule_param(), "b": 0.25}

    sparsifier = sparsifier_of("a", "b")
    scheduler = Careful(sparsifier, "sparsity_level", Linear(end=2))
    assert run(sparsifier, scheduler, 2) == [{"a": 0.0, "b": 0.25}, {"a": 0.375, "b": 0.25}]
    assert scheduler.get_schedule_param() == {"a": 0.75, "b": 0.25}


def test_a_value_that_is_refused_changes_nothing(observe):
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", {"a": Linear(end=3), "*": Step(1, 1.5)})
    sparsifier.step()
    before = observe(sparsifier, scheduler)
    with pytest.raises(ValueError, match=r"sparsity_level of 'b' must be in \[0, 1\], got 1.125"):
        scheduler.step()
    assert observe(sparsifier, scheduler) == before


def test_what_a_function_raises_changes_nothing():
    def fail(step):
        return 1 / (1 - step)

    sparsifier = sparsifier_of("a")
    scheduler = DataScheduler(sparsifier, "sparsity_level", Lambda(fail))
    sparsifier.step()
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert (scheduler.last_epoch, values(sparsifier)) == (0, {"a": 0.75})


# --- patterns -------------------------------------------------------------------------------------


def test_a_name_comes_first_then_the_patterns_in_their_order():
    sparsifier = sparsifier_of("fc1", "fc2", "conv", "fc*")
    DataScheduler(
        sparsifier,
        "sparsity_level",
        {
            "*2": Constant(0.125),
            "fc*": Constant(0.25),
            "fc1": Constant(0.5),
            "c[!a]*v": Constant(0),
        },
    )
    assert values(sparsifier) == {"fc1": 0.5, "fc2": 0.125, "conv": 0.0, "fc*": 0.25}


def test_groups_that_no_pattern_matches_keep_their_values():
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", {"a": Constant(0.25)})
    sparsifier.data_groups["b"]["sparsity_level"] = 0.5
    sparsifier.step()
    scheduler.step()
    assert values(sparsifier) == {"a": 0.25, "b": 0.5}
    assert scheduler.get_schedule_param() == {"a": 0.25}


@pytest.mark.device("cpu")  # of names alone
@given(pattern=st.text("ab*?[]!é", max_size=8), name=st.text("ab]é!", min_size=1, max_size=6))
def test_patterns_match_as_those_of_fnmatch(pattern, name):
    sparsifier = sparsifier_of(name)
    scheduler = DataScheduler(sparsifier, "sparsity_level", {pattern: Constant(0)}, strict=False)
    matched = pattern == name or fnmatch.fnmatchcase(name, pattern)
    assert bool(scheduler.get_schedule_param()) == matched


def test_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match=r"'fc3' must match a group, .* did you mean 'fc1'"):
        DataScheduler(sparsifier_of("fc1"), "sparsity_level", {"*": Constant(), "fc3": Constant()})


def test_a_pattern_whose_groups_others_have():
    message = r"'fc\*' must be of use to a group, but others have 'fc1'"
    with pytest.raises(ValueError, match=message):
        DataScheduler(sparsifier_of("fc1"), "sparsity_level", {"*": Constant(), "fc*": Constant()})


@MAY_PRUNE_ALL
def test_patterns_are_checked_once_there_are_groups():
    sparsifier = sparsifier_of()
    scheduler = DataScheduler(sparsifier, "sparsity_level", {"a*": Constant(0), "b*": Constant(1)})
    sparsifier.step()
    scheduler.step()
    sparsifier.add_data("a1", placed(np.ones(4)))
    sparsifier.step()
    with pytest.raises(ValueError, match=r"'b\*' must match a group"):
        scheduler.step()
    sparsifier.add_data("b1", placed(np.ones(4)))
    scheduler.step()
    assert values(sparsifier) == {"a1": 0.0, "b1": 1.0}
    sparsifier.remove_data("b1")  # its pattern has been of use
    scheduler.step()
    assert values(sparsifier) == {"a1": 0.0}


def test_not_strict_is_for_groups_to_come():
    sparsifier = sparsifier_of("a")
    schedule = {"a": Constant(0.25), "late": Linear(end=4)}
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule, strict=False)
    sparsifier.step()
    scheduler.step()
    sparsifier.add_data("late", placed(np.ones(4)), sparsity_level=0.5)
    scheduler.step()
    assert values(sparsifier) == {"a": 0.25, "late": 0.25}
    assert scheduler.base_param == {"a": 0.75, "late": 0.5}


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (None, TypeError, r"schedule must be a schedule, or a mapping .* got None \(NoneType\)"),
        (lambda step: 0.5, TypeError, "schedule must be a schedule, or a mapping from patterns"),
        ({"a": 0.5}, TypeError, r"schedule\['a'\] must be a schedule, got 0.5 \(float\)"),
        ({1: Constant()}, TypeError, "schedule is a dict"),
        ({}, ValueError, "schedule must hold one pattern at least, got none"),
    ],
)
def test_what_is_no_schedule(schedule, error, message):
    with pytest.raises(error, match=message):
        DataScheduler(sparsifier_of("a"), "sparsity_level", schedule)


@pytest.mark.parametrize("param", ["norm", "sparse_block_shape"])
@pytest.mark.parametrize("names", [(), ("a",)])
def test_a_parameter_that_is_not_a_number(param, names):
    with pytest.raises(TypeError, match=f"{param}.* must be a number, got"):
        DataScheduler(sparsifier_of(*names), param, Constant(0.5))


@MAY_PRUNE_ALL
def test_a_late_group_whose_value_is_not_a_number(observe):
    sparsifier = Warm([("a", placed(np.ones(4)))], temperature=2.0)
    scheduler = DataScheduler(sparsifier, "temperature", Constant(1.0))
    sparsifier.step()
    sparsifier.add_data("b", placed(np.ones(4)), temperature="hot")
    before = observe(sparsifier, scheduler)
    with pytest.raises(TypeError, match="temperature of 'b' must be a number, got 'hot'"):
        scheduler.step()
    assert observe(sparsifier, scheduler) == before


# --- saving ---------------------------------------------------------------------------------------


def trained(stop=None, schedule=None):
    """The levels of a training that is broken off at a step and resumed from its states."""
    schedule = schedule or {
        "a": Sequential([Polynomial(final=0.9, end=5, every=2), Cyclic(0.5, None, 4)], [7]),
        "*": Exponential(0.9),
    }
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
    seen = []
    for step in range(15):
        if step == stop:
            states = sparsifier.state_dict(), scheduler.state_dict()
            sparsifier = sparsifier_of("a", "b", level=0.125)
            scheduler = DataScheduler(sparsifier, "sparsity_level", schedule)
            sparsifier.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        seen.append(values(sparsifier))
        sparsifier.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("stop", first_there([8, *range(8), *range(9, 15)]))
def test_a_resumed_training_has_the_same_levels(stop):
    assert trained(stop) == trained()


def test_the_state_holds_step_and_values_and_no_schedule():
    scheduler = DataScheduler(sparsifier_of("a"), "sparsity_level", OneShot(3))
    state = scheduler.state_dict()
    assert state == {
        "version": 2,
        "schedule_param": "sparsity_level",
        "last_epoch": 0,
        "base_param": {"a": 0.75},
        "last_param": {"a": 0.0},
        "own": {},
        "counts_renewals": False,
        "attributes": {},
    }


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("schedule", [Linear(end=4), {"a": Linear(end=4), "late*": Constant(0.5)}])
def test_a_copy_goes_on_alone(way, schedule):
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", schedule, strict=False)
    scheduler.counts_renewals = scheduler.leads = True
    sparsifier.step()
    scheduler.step()
    twin = way(scheduler)
    assert (twin.schedule, twin.strict, twin.last_epoch) == (schedule, False, 1)
    assert (twin.counts_renewals, twin.leads) == (True, False)
    twin.step()
    assert values(twin.data_sparsifier)["a"] == 0.375
    assert values(sparsifier)["a"] == 0.1875


def test_a_schedule_reads_as_it_was_given():
    by_pattern = {"a": Constant(0.5), "*": Linear(end=2)}
    assert (
        DataScheduler(sparsifier_of("a", "b"), "sparsity_level", by_pattern).schedule == by_pattern
    )
    assert DataScheduler(sparsifier_of("a"), "sparsity_level", Step(1, 0.5)).schedule == Step(
        1, 0.5
    )


def test_a_cycle_through_a_function_is_collected():
    class Holder:
        def scale(self, step):
            return 1.0

    sparsifier, holder = sparsifier_of("a"), Holder()
    holder.scheduler = DataScheduler(sparsifier, "sparsity_level", Lambda(holder.scale))
    gone = weakref.ref(holder)
    del sparsifier, holder
    gc.collect()
    assert gone() is None


# --- plans ----------------------------------------------------------------------------------------

CONFIGS = st.fixed_dictionaries(
    {"sparse_block_shape": st.sampled_from([(1, 1), (1, 4), (2, 3), (-1, 2), (3, -1), (5, 5)])},
    optional={"zeros_per_block": st.integers(0, 2), "norm": st.sampled_from(["L1", "L2"])},
)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@MAY_PRUNE_ALL
@given(data=st.data(), seed=st.integers(0, 1000))
def test_a_plan_is_what_a_run_does(data, seed):
    rng = np.random.default_rng(seed)
    sparsifier = DataNormSparsifier()
    for number, shape in enumerate(data.draw(st.lists(SHAPES, min_size=1, max_size=3))):
        config = data.draw(CONFIGS)
        if np.prod(config["sparse_block_shape"]) < 2:  # a whole axis may be short
            config.pop("zeros_per_block", None)
        sparsifier.add_data(f"w{number}", placed(np.asarray(rng.normal(size=shape))), **config)
    scheduler = DataScheduler(sparsifier, "sparsity_level", Polynomial(final=0.9, begin=1, end=6))
    plan = scheduler.plan(8)
    for step in range(8):
        sparsifier.step()
        for name, now in values(sparsifier).items():
            assert plan.values[name][step] == now
            zeros = int((~sparsifier.get_mask(name)).sum())
            assert plan.zeros_least[name][step] <= zeros <= plan.zeros_most[name][step]
        scheduler.step()


@pytest.mark.full_there
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), level=st.floats(0, 1))
def test_zeros_are_exact_where_blocks_are_whole(rows, columns, level):
    data = np.random.default_rng(0).normal(size=(2 * rows, 3 * columns))
    sparsifier = DataNormSparsifier(
        [("w", placed(data))], sparse_block_shape=(2, 3), zeros_per_block=4, sparsity_level=level
    )
    plan = DataScheduler(sparsifier, "sparsity_level", Constant()).plan(1)
    sparsifier.step()
    zeros = int((~sparsifier.get_mask("w")).sum())
    assert plan.zeros_least["w"][0] == plan.zeros_most["w"][0] == zeros


def test_the_bounds_of_partial_blocks_are_met():
    edge = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])  # blocks of 2, 2 and 1
    for data, expected in ((edge, 2), (edge[:, ::-1].copy(), 1)):
        sparsifier = DataNormSparsifier(
            [("w", placed(data))], sparse_block_shape=(1, 2), sparsity_level=0.3
        )
        plan = DataScheduler(sparsifier, "sparsity_level", Constant()).plan(1)
        assert (plan.zeros_least["w"][0], plan.zeros_most["w"][0]) == (1, 2)
        sparsifier.step()
        assert int((~sparsifier.get_mask("w")).sum()) == expected


def test_a_plan_changes_nothing(observe):
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", {"a": Linear(end=5)})
    sparsifier.step()
    scheduler.step()
    before = observe(sparsifier, scheduler)
    plan = scheduler.plan(6)
    assert observe(sparsifier, scheduler) == before
    assert plan.values["a"].tolist() == [Linear(end=5)(step, 0.75) for step in range(6)]
    assert plan.values["b"].tolist() == [0.75] * 6
    assert scheduler.plan(2, first=3).values["a"].tolist() == plan.values["a"].tolist()[3:5]


def test_a_plan_leaves_out_squashed_groups_and_takes_in_late_ones():
    sparsifier = sparsifier_of("a", "b")
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(end=4))
    sparsifier.step()
    sparsifier.squash_mask("a")
    sparsifier.add_data("late", placed(np.ones(4)), sparsity_level=0.5)
    assert list(scheduler.plan(3).values) == ["b", "late"]


def test_zeros_of_an_override_are_not_known():
    class Own(DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)

    plan = DataScheduler(Own([("a", placed(np.ones(4)))]), "sparsity_level", Linear(end=2)).plan(3)
    assert plan.values["a"].tolist() == [0.0, 0.25, 0.5]
    assert plan.zeros_least == plan.zeros_most == {}
    assert str(plan).splitlines()[2].split() == ["0", "0.0000"]


def test_a_plan_that_the_sparsifier_would_refuse():
    scheduler = DataScheduler(sparsifier_of("a"), "sparsity_level", Step(2, 1.5))
    with pytest.raises(ValueError, match="step 2: sparsity_level of 'a' must be in"):
        scheduler.plan(5)


@pytest.mark.parametrize("arguments", [(-1,), (3, -1)])
def test_a_plan_of_no_steps(arguments):
    scheduler = DataScheduler(sparsifier_of("a"), "sparsity_level", Constant())
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        scheduler.plan(*arguments)


# --- where schedules end --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("param", "schedule", "says"),
    [
        ("sparsity_level", Polynomial(initial=0, final=1.5, end=1000),
         r"step 1000 .*: sparsity_level of 'a' must be in \[0, 1\], got 1.5"),
        ("sparsity_level", {"a": Constant(), "b": OneShot(40, value=-0.5)},
         r"step 40 .*: sparsity_level of 'b' must be in \[0, 1\], got -0.5"),
        ("zeros_per_block", Linear(initial=0, final=5, end=9),
         "step 9 .*: zeros_per_block of 'a' must be at most "),
    ],
)  # fmt: skip
def test_an_end_that_the_sparsifier_would_refuse_is_told_at_the_beginning(param, schedule, says):
    sparsifier = sparsifier_of("a", "b")
    with pytest.warns(UserWarning, match=f"^{says}") as warned:
        scheduler = DataScheduler(sparsifier, param, schedule)
    assert len(warned) == 1
    assert scheduler.last_epoch == 0
    assert scheduler.get_last_param() == values(sparsifier, param)


def test_ends_are_looked_at_once_and_only_those_to_come():
    sparsifier = DataNormSparsifier(sparsity_level=0.5)
    scheduler = DataScheduler(sparsifier, "sparsity_level", Linear(initial=0, final=1.5, end=3))
    sparsifier.step()
    sparsifier.add_data("a", placed(np.ones((4, 8), np.float32)))
    with pytest.raises(UserWarning, match="step 3 of the schedule"):  # which steps nowhere
        scheduler.step()
    assert scheduler.last_epoch == 0
    for groups in (
        {"a": Linear(final=0.5, end=3)},
        Exponential(gamma=1.5),
        Cyclic(low=0.0, high=0.5, period=4),
    ):
        DataScheduler(sparsifier_of("a"), "sparsity_level", groups)
    late = DataScheduler(sparsifier_of("a"), "sparsity_level", OneShot(3, value=0.5), last_epoch=7)
    assert late.last_epoch == 8


def test_an_end_is_not_asked_of_an_override_of_check_config():
    class Checked(DataNormSparsifier):
        def check_config(self, name, config):
            assert config["sparsity_level"] < 0.7
            super().check_config(name, config)

    sparsifier = Checked([("a", placed(np.ones((4, 8), np.float32)))], sparsity_level=0.5)
    DataScheduler(sparsifier, "sparsity_level", Linear(initial=0, final=0.9, end=3))
