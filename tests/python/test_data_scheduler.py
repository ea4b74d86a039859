"""BaseDataScheduler: what a subclass sees, when it is asked, and what is written."""

import collections
import inspect
import types
import warnings

import datasparse
import numpy as np
import pytest
import torch
from support import ON_DEVICES, name_of, placed

pytestmark = ON_DEVICES


def sparsifier_of(*names, level=0.8):
    return datasparse.DataNormSparsifier(
        [(name, placed(np.ones((4, 8), np.float32))) for name in names], sparsity_level=level
    )


def levels(sparsifier):
    return {name: config["sparsity_level"] for name, config in sparsifier.data_groups.items()}


class Halving(datasparse.BaseDataScheduler):
    def __init__(self, data_sparsifier, **options):
        super().__init__(data_sparsifier, "sparsity_level", **options)

    def get_schedule_param(self):
        if self.last_epoch > 0:
            return {
                name: config["sparsity_level"] * 0.5
                for name, config in self.data_sparsifier.data_groups.items()
            }
        return self.base_param


class Returns(datasparse.BaseDataScheduler):
    """Returns what it was given: first at the initial step, then the others one by one."""

    def __init__(self, data_sparsifier, schedule_param, *maps, last_epoch=-1):
        self.maps = list(maps)
        super().__init__(data_sparsifier, schedule_param, last_epoch)

    def get_schedule_param(self):
        return self.maps.pop(0) if self.maps else {}


class Plain(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {}


# --- the constructor's initial step ---------------------------------------------------------------


@pytest.mark.parametrize("last_epoch", [-1, 0, 1, 7])
def test_constructor_makes_the_initial_step(last_epoch):
    """From the epoch that is over to the next: -1 for a new run. It neither warns nor steps the
    sparsifier."""
    sparsifier = sparsifier_of("a", "b")
    scheduler = Returns(sparsifier, "sparsity_level", {"a": 0.125}, last_epoch=last_epoch)
    assert scheduler.last_epoch == last_epoch + 1
    assert scheduler.maps == []
    assert levels(sparsifier) == {"a": 0.125, "b": 0.8}
    assert scheduler.base_param == {"a": 0.8, "b": 0.8}
    assert scheduler.get_last_param() == {"a": 0.125, "b": 0.8}
    assert sparsifier.step_count == 0
    assert sparsifier.get_mask("a").all()


def test_initial_step_sees_attributes_set_before_the_base_constructor():
    class Factor(datasparse.BaseDataScheduler):
        def __init__(self, data_sparsifier):
            self.factor = 0.25
            super().__init__(data_sparsifier, "sparsity_level")

        def get_schedule_param(self):
            return {name: base * self.factor for name, base in self.base_param.items()}

    sparsifier = sparsifier_of("a")
    Factor(sparsifier)
    assert levels(sparsifier) == {"a": 0.2}


def test_initial_step_sees_everything_the_base_class_offers():
    class See(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            seen.append(
                (self.last_epoch, self.schedule_param, self.base_param, self.data_sparsifier)
            )
            return {}

    seen = []
    sparsifier = sparsifier_of("a")
    See(sparsifier, "sparsity_level")
    assert seen[0][:3] == (0, "sparsity_level", {"a": 0.8})
    assert seen[0][3] is sparsifier


def test_positional_order_of_the_constructor_and_its_keywords():
    sparsifier = sparsifier_of("a")
    scheduler = Plain(sparsifier, "zeros_per_block", 4, False)
    assert scheduler.data_sparsifier is sparsifier
    assert scheduler.schedule_param == "zeros_per_block"
    assert scheduler.last_epoch == 5
    scheduler = Plain(
        data_sparsifier=sparsifier, schedule_param="norm", last_epoch=-1, verbose=False
    )
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    "wrong",
    [{"data_sparsifier": value} for value in (None, object(), 3, "sparsifier", {})]
    + [{"last_epoch": value} for value in ("1", 1.5, None)]
    + [{"schedule_param": 3}],
    ids=name_of,
)
def test_constructor_refuses_arguments_of_a_wrong_kind(wrong):
    arguments = {"data_sparsifier": sparsifier_of("a"), "schedule_param": "sparsity_level"}
    with pytest.raises(TypeError):
        Plain(**{**arguments, **wrong})


@pytest.mark.parametrize("kind", [datasparse.DataScheduler, datasparse.AdaptiveDataScheduler])
def test_a_schedule_in_the_place_of_the_key_is_told_from_it(kind):
    sparsifier, schedule = sparsifier_of("a"), datasparse.schedules.Linear(end=3)
    with pytest.raises(TypeError, match=r"schedule_param must be a str, .* got Linear"):
        kind(sparsifier, schedule)
    with pytest.raises(TypeError, match=r"schedule must be a schedule, .* got None"):
        kind(sparsifier, "sparsity_level")


@pytest.mark.parametrize("names", ["a", ""])
def test_unknown_schedule_param_is_refused_with_the_nearest_key(names):
    with pytest.raises(ValueError, match=r"sparsity_levl.*sparsity_level"):
        Plain(sparsifier_of(*names), "sparsity_levl")


# --- step -----------------------------------------------------------------------------------------


def test_epoch_is_already_advanced_in_the_override():
    class Epochs(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            epochs.append(self.last_epoch)
            return {}

    epochs = []
    sparsifier = sparsifier_of("a")
    scheduler = Epochs(sparsifier, "sparsity_level")
    for _ in range(3):
        sparsifier.step()
        scheduler.step()
    assert epochs == [0, 1, 2, 3]
    assert scheduler.last_epoch == 3


def test_partial_map_leaves_the_other_groups():
    sparsifier = sparsifier_of("a", "b", "c")
    scheduler = Returns(sparsifier, "sparsity_level", {}, {"b": 0.25})
    sparsifier.step()
    scheduler.step()
    assert levels(sparsifier) == scheduler.get_last_param() == {"a": 0.8, "b": 0.25, "c": 0.8}


@pytest.mark.parametrize(
    "returned",
    [wrap({"a": 0.25}) for wrap in (types.MappingProxyType, collections.OrderedDict,
                                    collections.UserDict, collections.ChainMap)]
    + [{"a": kind(0.25)} for kind in (np.float16, np.float32, np.float64)],
    ids=name_of,
)  # fmt: skip
def test_any_mapping_and_any_number_may_be_returned(returned):
    sparsifier = sparsifier_of("a")
    scheduler = Returns(sparsifier, "sparsity_level", {}, returned)
    sparsifier.step()
    scheduler.step()
    assert levels(sparsifier) == scheduler.get_last_param() == {"a": 0.25}
    assert type(scheduler.get_last_param()["a"]) is float


@pytest.mark.parametrize("enabled", [True, False])
def test_step_changes_nothing_else(enabled):
    sparsifier = sparsifier_of("a")
    sparsifier.enable_mask_update = enabled
    scheduler = Returns(sparsifier, "sparsity_level")
    assert sparsifier.enable_mask_update is enabled
    sparsifier.step()
    assert scheduler.step() is None
    assert scheduler.last_epoch == 1
    assert sparsifier.enable_mask_update is enabled
    assert sparsifier.step_count == 1
    assert levels(sparsifier) == {"a": 0.8}


def test_squashed_group_may_still_be_scheduled():
    sparsifier = sparsifier_of("a", "b")
    scheduler = Halving(sparsifier)
    sparsifier.step()
    sparsifier.squash_mask(names=["a"])
    scheduler.step()
    assert levels(sparsifier)["b"] == 0.4


# --- base_param and get_last_param ----------------------------------------------------------------


def test_base_param_is_what_each_group_had_and_stays_while_the_values_move():
    sparsifier = sparsifier_of("a", "b")
    sparsifier.data_groups["b"]["sparsity_level"] = 0.4
    scheduler = Halving(sparsifier)
    for epoch in range(4):
        assert type(scheduler.base_param) is dict
        assert scheduler.base_param == {"a": 0.8, "b": 0.4}
        halved = {"a": 0.8 / 2**epoch, "b": 0.4 / 2**epoch}
        assert scheduler.get_last_param() == levels(sparsifier) == halved
        sparsifier.step()
        scheduler.step()


class ScaledBase(datasparse.BaseDataScheduler):
    def get_schedule_param(self):
        return {name: base / (1 + self.last_epoch) for name, base in self.base_param.items()}


def test_group_added_later_is_picked_up():
    sparsifier = sparsifier_of("a")
    scheduler = ScaledBase(sparsifier, "sparsity_level")
    sparsifier.add_data("late", placed(np.ones((4, 8))), sparsity_level=0.6)
    sparsifier.step()
    scheduler.step()
    assert scheduler.base_param == {"a": 0.8, "late": 0.6}
    assert levels(sparsifier) == {"a": 0.4, "late": 0.3}


def test_groups_may_all_be_added_later():
    sparsifier = sparsifier_of()
    scheduler = ScaledBase(sparsifier, "sparsity_level")
    assert scheduler.base_param == {}
    sparsifier.add_data("late", placed(np.ones((4, 8))), sparsity_level=0.6)
    sparsifier.step()
    scheduler.step()
    assert levels(sparsifier) == {"late": 0.3}


@pytest.mark.parametrize(("removed", "left"), [("a", "b"), ("b", "a")])
def test_removed_group_is_dropped(removed, left):
    sparsifier = sparsifier_of("a", "b")
    scheduler = ScaledBase(sparsifier, "sparsity_level")
    sparsifier.step()
    scheduler.step()
    sparsifier.remove_data(removed)
    scheduler.step()
    assert scheduler.base_param == {left: 0.8}
    assert scheduler.get_last_param() == {left: 0.8 / 3}


@pytest.mark.parametrize("before", [{"a": 0.1, "b": 0.2}, {"b": 0.2, "a": 0.1}])
def test_a_group_that_is_not_named_any_more_is_left_alone(before):
    sparsifier = sparsifier_of("a", "b")
    scheduler = Returns(sparsifier, "sparsity_level", before, {"a": 0.3}, {})
    sparsifier.step()
    sparsifier.data_groups["b"]["sparsity_level"] = 0.7
    scheduler.step()
    assert levels(sparsifier) == {"a": 0.3, "b": 0.7}
    sparsifier.data_groups["a"]["sparsity_level"] = 0.5
    scheduler.step()
    assert levels(sparsifier) == {"a": 0.5, "b": 0.7}


def test_changing_the_last_param_changes_nothing():
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    scheduler.get_last_param()["a"] = 0.1
    assert scheduler.get_last_param() == {"a": 0.8}
    assert levels(sparsifier) == {"a": 0.8}


# --- the warning ----------------------------------------------------------------------------------


def recorded(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


def test_step_before_the_sparsifiers_first_step_warns_once_at_the_callers_line():
    """`scheduler.step()` before the first `sparsifier.step()` | a UserWarning, once, pointing at
    the caller's line"""
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    line = inspect.currentframe().f_lineno + 1
    (warning,) = recorded(lambda: scheduler.step())
    assert warning.category is UserWarning
    assert "sparsifier.step()" in str(warning.message)
    assert (warning.filename, warning.lineno) == (__file__, line)
    assert levels(sparsifier) == {"a": 0.4}
    assert recorded(scheduler.step) == recorded(scheduler.step) == []
    assert scheduler.last_epoch == 3


@pytest.mark.parametrize("order", ["made, then stepped", "stepped, then made"])
def test_step_after_the_sparsifiers_first_step_does_not_warn(order):
    sparsifier = sparsifier_of("a")
    if order == "stepped, then made":
        sparsifier.step()
    scheduler = Halving(sparsifier)
    if order == "made, then stepped":
        sparsifier.step()
    assert recorded(scheduler.step) == []


def test_a_scheduler_that_leads_does_not_warn():
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    assert scheduler.leads is False
    scheduler.leads = True
    assert scheduler.leads is True
    assert recorded(scheduler.step) == []
    assert levels(sparsifier) == {"a": 0.4}
    scheduler.leads = False
    assert len(recorded(scheduler.step)) == 1


def test_whether_it_leads_is_not_saved():
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    before = scheduler.state_dict()
    scheduler.leads = True
    assert scheduler.state_dict() == before
    other = Halving(sparsifier)
    other.load_state_dict(scheduler.state_dict())
    assert other.leads is False


@pytest.mark.parametrize("name", ["leads", "counts_renewals"])
def test_what_is_no_bool_is_refused(name):
    scheduler = Halving(sparsifier_of("a"))
    with pytest.raises(TypeError):
        setattr(scheduler, name, "yes")
    assert getattr(scheduler, name) is False


def test_warning_that_is_an_error_is_raised_and_leaves_all_as_before(observe):
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    before = observe(sparsifier, scheduler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            scheduler.step()
    assert observe(sparsifier, scheduler) == before


# --- mistakes in a subclass -----------------------------------------------------------------------


def test_name_that_is_no_string_is_refused():
    sparsifier = sparsifier_of("a")
    with pytest.raises(TypeError):
        Returns(sparsifier, "sparsity_level", {3: 0.5})
    assert levels(sparsifier) == {"a": 0.8}


def test_missing_override_is_reported_by_class_and_method():
    class Unfinished(datasparse.BaseDataScheduler):
        pass

    with pytest.raises(NotImplementedError, match=r"Unfinished.*get_schedule_param"):
        Unfinished(sparsifier_of("a"), "sparsity_level")


def test_base_class_itself_has_no_schedule():
    with pytest.raises((NotImplementedError, TypeError), match="get_schedule_param"):
        datasparse.BaseDataScheduler(sparsifier_of("a"), "sparsity_level")


# --- other parameters, other sparsifiers ----------------------------------------------------------


def test_zeros_per_block_can_be_scheduled(rng):
    data = rng.normal(size=(4, 8)).astype(np.float32)
    sparsifier = datasparse.DataNormSparsifier([("a", placed(data))], 1.0, (1, 4), 1)
    scheduler = Returns(sparsifier, "zeros_per_block", {}, {"a": 2}, {"a": 3.0})
    for zeros in (1, 2, 3):
        assert sparsifier.data_groups["a"]["zeros_per_block"] == zeros
        sparsifier.step()
        assert np.count_nonzero(~sparsifier.get_mask("a")) == 8 * zeros
        scheduler.step()
    assert scheduler.base_param == {"a": 1}


@pytest.mark.parametrize(
    ("key", "value", "base"),
    [("norm", "L2", "L1"), ("norm", None, "L1"), ("sparse_block_shape", (2, 2), (1, 4))],
)
def test_any_other_key_can_be_scheduled(key, value, base):
    sparsifier = sparsifier_of("a")
    scheduler = Returns(sparsifier, key, {"a": value})
    assert sparsifier.data_groups["a"][key] == value
    assert sparsifier.data_groups["a"]["zeros_per_block"] == 4
    assert scheduler.base_param == {"a": base}


def test_two_schedulers_drive_two_parameters():
    sparsifier = datasparse.DataNormSparsifier([("a", placed(np.ones((4, 8))))], 0.8, (1, 4), 4)
    first = Halving(sparsifier)
    second = Returns(sparsifier, "zeros_per_block", {}, {"a": 2}, {"a": 1})
    for _ in range(2):
        sparsifier.step()
        first.step()
        second.step()
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.2
    assert sparsifier.data_groups["a"]["zeros_per_block"] == 1
    assert (first.get_last_param(), second.get_last_param()) == ({"a": 0.2}, {"a": 1})


class Threshold(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, threshold, **config):
        self.get_mask(name)[...] = abs(data) > threshold


def test_key_of_a_custom_sparsifier_can_be_scheduled(rng):
    data = rng.normal(size=(6, 8))
    sparsifier = Threshold([("a", placed(data))], threshold=0.1)
    scheduler = Returns(sparsifier, "threshold", {}, {"a": 1.0})
    sparsifier.step()
    scheduler.step()
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a"), np.abs(data) > 1.0)
    assert scheduler.base_param == {"a": 0.1}


def test_unknown_key_of_a_custom_sparsifier_is_refused():
    sparsifier = Threshold([("a", placed(np.ones((2, 2))))], threshold=0.1)
    with pytest.raises(ValueError, match="threshold"):
        Returns(sparsifier, "treshold")


def test_values_of_a_custom_key_keep_their_type():
    sparsifier = Threshold(
        [("a", placed(np.ones((2, 2))))], threshold=0.1, mode="soft", window=(1, 2)
    )
    Returns(sparsifier, "mode", {"a": "hard"})
    Returns(sparsifier, "window", {"a": (3, 4)})
    Returns(sparsifier, "threshold", {"a": 2})
    config = dict(sparsifier.data_groups["a"])
    assert config == {"threshold": 2, "mode": "hard", "window": (3, 4)}
    assert type(config["threshold"]) is int


def test_override_may_write_other_config_itself():
    class Both(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            self.data_sparsifier.data_groups["a"]["norm"] = "L2"
            return {"a": 0.5}

    sparsifier = sparsifier_of("a")
    Both(sparsifier, "sparsity_level")
    assert sparsifier.data_groups["a"]["norm"] == "L2"
    assert levels(sparsifier) == {"a": 0.5}


def test_scheduler_reads_values_written_by_the_user_in_between():
    sparsifier = sparsifier_of("a")
    scheduler = Halving(sparsifier)
    sparsifier.step()
    sparsifier.data_groups["a"]["sparsity_level"] = 0.4
    scheduler.step()
    assert levels(sparsifier) == {"a": 0.2}


# --- the cases of torch.ao.pruning's own tests of its data scheduler ------------------------------


@pytest.fixture
def torchs():
    """A tensor, a parameter, an embedding and a tensor with a level of its own, and a scheduler."""
    data = [
        ("plain", torch.randn(5, 5)),
        ("parameter", torch.nn.Parameter(torch.randn(10, 10))),
        ("embedding", torch.nn.Embedding(50, 5)),
    ]
    sparsifier = datasparse.DataNormSparsifier(
        data, sparsity_level=0.7, sparse_block_shape=(1, 4), zeros_per_block=2
    )
    sparsifier.add_data(name="own", data=torch.randn(4, 4), sparsity_level=0.3)
    return sparsifier, Halving(sparsifier)


START = {"plain": 0.7, "parameter": 0.7, "embedding": 0.7, "own": 0.3}


def test_as_torchs_once_made(torchs):
    sparsifier, scheduler = torchs
    assert scheduler.data_sparsifier == sparsifier
    assert scheduler._step_count == 1
    assert scheduler.base_param == scheduler._last_param == START


def test_as_torchs_in_the_wrong_order_and_in_the_right_one(torchs):
    sparsifier, scheduler = torchs
    with pytest.warns(UserWarning, match=r"sparsifier\.step\(\)"):
        scheduler.step()
    sparsifier.step()
    assert recorded(scheduler.step) == []


def test_as_torchs_each_step_writes_and_counts(torchs):
    sparsifier, scheduler = torchs
    assert levels(sparsifier) == START
    for step in range(1, 7):
        sparsifier.step()
        scheduler.step()
        assert scheduler._step_count == scheduler.last_epoch + 1 == step + 1
        assert levels(sparsifier) == {name: level * 0.5**step for name, level in START.items()}


def test_as_torchs_a_state_brings_base_and_last_values(torchs):
    sparsifier, first = torchs
    sparsifier.step()
    first.step()
    second = Halving(sparsifier)
    halves = {name: level * 0.5 for name, level in START.items()}
    assert (first.base_param, first._last_param) == (START, halves)
    assert second.base_param == halves
    second.load_state_dict(first.state_dict())
    assert (second.base_param, second._last_param) == (START, halves)
    assert second._step_count == first._step_count == 2


@pytest.mark.parametrize("name", ["_step_count", "_last_param"])
def test_what_torch_counts_privately_is_read_only(torchs, name):
    _, scheduler = torchs
    with pytest.raises(AttributeError):
        setattr(scheduler, name, {})
    scheduler._last_param["plain"] = 0.1
    assert scheduler._last_param == START
