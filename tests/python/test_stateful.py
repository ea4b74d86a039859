"""Random sequences of public calls against a plain model of what they must do.

The model holds dicts, lists and NumPy arrays, and takes its masks from reference.py. After every
call everything that can be read is compared with it, so that a call that raises is also checked to
have changed nothing.
"""

import contextlib
import copy
import math
import pickle
import warnings
from dataclasses import dataclass, field

import datasparse
import numpy as np
import pytest
import reference
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import as_numpy, on_devices
from torch import nn

# --- the model ------------------------------------------------------------------------------------


@dataclass
class Group:
    written: dict  # the config as it was written
    mask: np.ndarray
    state: dict = field(default_factory=dict)
    data: object = None  # none once squashed
    awaits_data: bool = False  # squashed, but a state was loaded in which it was not
    content: np.ndarray = None  # what the data hold
    mask_object: object = None  # what get_mask() has returned, to be returned again

    def saved(self):
        return Group(dict(self.written), self.mask.copy(), dict(self.state))


def block_of(config, shape):
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape[1:] if len(shape) > 1 else shape)
    height, width = config["sparse_block_shape"]
    return (max(rows, 1) if height == -1 else height, max(columns, 1) if width == -1 else width)


def effective(written, shape):
    """The config as it is read: an automatic zeros_per_block is the whole block."""
    config = dict(written)
    if config["zeros_per_block"] is None:
        config["zeros_per_block"] = math.prod(block_of(config, shape))
    return config


KEYS = ("sparsity_level", "sparse_block_shape", "zeros_per_block", "norm")


def is_good(config, shape=None):
    """Whether the rules of a config hold; without a shape, as far as can be known."""
    if set(config) != set(KEYS):
        return False
    level, block, zeros, norm = (config[key] for key in KEYS)
    if type(level) not in (int, float) or not 0 <= level <= 1 or norm not in ("L1", "L2", None):
        return False
    if type(block) is not tuple or len(block) != 2:
        return False
    if not all(type(length) is int and (length == -1 or length > 0) for length in block):
        return False
    if zeros is None:
        return True
    if type(zeros) is not int or zeros < 0:
        return False
    if shape is None:
        return -1 in block or zeros <= math.prod(block)
    return (-1 in block or zeros <= math.prod(block)) and zeros <= math.prod(
        block_of(config, shape)
    )


def content(data):
    """A copy of the numbers; bfloat16 as float32."""
    return reference.float_values(data)


def shape_of(data):
    return tuple(data.weight.shape if isinstance(data, nn.Module) else data.shape)


def tensor_of(data):
    return data.weight if isinstance(data, nn.Module) else data


def write(data, numbers):
    if isinstance(data, np.ndarray):
        data[...] = numbers
    else:
        with torch.no_grad():
            tensor_of(data).copy_(torch.from_numpy(np.array(numbers)))


# --- what is drawn --------------------------------------------------------------------------------

names = st.sampled_from(["a", "b.weight", "ü", "state"])
SHAPES = ((), (3,), (2, 3), (4, 1), (0, 3), (2, 2, 3), (3, 5))
KINDS = ("float32", "float64", "float16", "tensor", "parameter", "bfloat16", "embedding")
seeds = st.integers(0, 2**16)

GOOD = {
    "sparsity_level": (0.0, 0.25, 0.5, 0.75, 1.0, 1),
    "sparse_block_shape": ((1, 1), (1, 2), (2, 2), (1, 4), (-1, 1), (2, -1), (-1, -1)),
    "zeros_per_block": (None, 0, 1, 2),
    "norm": ("L1", "L2", None),
}
BAD = {
    "sparsity_level": (-0.5, 1.5, math.nan, math.inf, "0.5", None, True, [0.5]),
    "sparse_block_shape": ((0, 1), (1,), (1, -2), 4, "11", None, [1, 4]),
    "zeros_per_block": (-1, 99, 1.5, "1", (1,)),
    "norm": ("L3", 1, b"L1"),
    "nrom": ("L1",),
}
good_values = st.sampled_from([(key, value) for key in KEYS for value in GOOD[key]])
bad_values = st.sampled_from([(key, value) for key, many in BAD.items() for value in many])
good_configs = st.lists(good_values, max_size=3).map(dict)
# mostly good, so that a sequence gets somewhere
configs = st.one_of(
    good_configs,
    good_configs,
    st.tuples(good_configs, bad_values).map(lambda drawn: {**drawn[0], drawn[1][0]: drawn[1][1]}),
)
some_names = st.one_of(st.none(), names, st.lists(names, max_size=3))


def numbers(seed, shape):
    """Many ties, zeros of both signs, and now and then what is no number."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.0, 3.0, -7.0], shape)
    if seed % 4 == 0 and drawn.size:
        drawn.reshape(-1)[seed % drawn.size] = (math.nan, math.inf, -math.inf)[seed % 3]
    return drawn


def make_data(kind, seed, shape):
    values = numbers(seed, shape)
    if kind.startswith("float"):
        return np.array(values, kind)
    if kind == "embedding" and len(shape) == 2 and 0 not in shape:
        return nn.Embedding.from_pretrained(torch.from_numpy(values), freeze=False)
    tensor = torch.from_numpy(np.array(values, np.float32))
    if kind == "bfloat16":
        return tensor.bfloat16()
    return nn.Parameter(tensor) if kind == "parameter" else tensor


def damaged(state, where):
    state = copy.deepcopy(state)
    if where == 0:
        state["version"] += 1
    elif where == 1:
        del state["attributes"]
    elif state.get("data_groups"):
        list(state["data_groups"].values())[-1]["mask"] += b"\0"
    else:
        state["last_epoch" if "last_epoch" in state else "step_count"] = "text"
    return state


# --- what is driven -------------------------------------------------------------------------------


class Sparsifier(datasparse.DataNormSparsifier):
    """Has an attribute, which is part of its state."""

    def __init__(self, **config):
        self.tag = 0
        super().__init__(**config)


class Overriding(Sparsifier):
    """The built-in rule through an override in Python, which can be told to fail."""

    def update_mask(self, name, data, **config):
        if getattr(self, "_fails_at", None) == name:
            self.get_mask(name)[...] = False
            self.state[name]["lost"] = 1
            raise ZeroDivisionError
        super().update_mask(name, data, **config)


class Scheduler(datasparse.BaseDataScheduler):
    """Returns what it is told to."""

    def __init__(self, sparsifier):
        self.calls = 0
        self._returns = {}
        super().__init__(sparsifier, "sparsity_level")

    def get_schedule_param(self):
        self.calls += 1
        self._seen_epoch = self.last_epoch
        if isinstance(self._returns, Exception):
            raise self._returns
        return self._returns


class Machine(RuleBasedStateMachine):
    @initialize(
        defaults=good_configs,
        kind=st.sampled_from([Sparsifier, Overriding]),
        groups=st.dictionaries(
            names, st.tuples(st.sampled_from(KINDS), st.sampled_from(SHAPES), seeds), min_size=1
        ),
    )
    def start(self, defaults, kind, groups):
        self.defaults = {
            "sparsity_level": 0.5,
            "sparse_block_shape": (1, 2),
            "zeros_per_block": None,
            "norm": "L1",
        }
        if is_good({**self.defaults, **defaults}):
            self.defaults.update(defaults)
        self.sparsifier = kind(**self.defaults)
        self.scheduler = Scheduler(self.sparsifier)
        self.groups = {}
        self.waiting = {}
        self.enabled = True
        self.step_count = 0
        self.tag = 0
        self.last_epoch = 0
        self.base = {}
        self.last = {}
        self.calls = 1
        self.saved = []
        self.saved_schedules = []
        for name, (kind_of_data, shape, seed) in groups.items():
            self.attach(name, kind_of_data, shape, seed)
        self.save()
        self.save_the_scheduler()

    # --- what the rules share ---------------------------------------------------------------------

    def refused(self, call, *kinds):
        with pytest.raises(kinds or (TypeError, ValueError)):
            call()

    def attempt(self, good, call, *kinds):
        """Makes the call, which must succeed exactly if `good`; returns `good`."""
        if good:
            call()
        else:
            self.refused(call, *kinds)
        return good

    def live(self):
        return {name: group for name, group in self.groups.items() if group.data is not None}

    def squashed(self):
        return {
            n for n, group in self.groups.items() if group.data is None and not group.awaits_data
        }

    def chosen(self, given):
        """The groups that `given` names, or None if one of them cannot be masked."""
        if given is None:
            return list(self.live().values())
        listed = [given] if isinstance(given, str) else given
        if any(name not in self.live() for name in listed):
            return None
        return [self.groups[name] for name in dict.fromkeys(listed)]

    def writable(self, groups):
        return all(
            group.data.flags.writeable for group in groups if isinstance(group.data, np.ndarray)
        )

    def levels(self):
        return {name: group.written["sparsity_level"] for name, group in self.groups.items()}

    # --- groups -----------------------------------------------------------------------------------

    @rule(
        name=names,
        kind=st.sampled_from(KINDS),
        shape=st.sampled_from(SHAPES),
        seed=seeds,
        reuse=st.booleans(),
        masked=st.booleans(),
        config=good_configs,
    )
    def add_data(self, name, kind, shape, seed, reuse, masked, config):
        self.attach(name, kind, shape, seed, reuse, "good" if masked else None, config, fit=reuse)

    @rule(
        name=names,
        kind=st.sampled_from(KINDS),
        shape=st.sampled_from(SHAPES),
        seed=seeds,
        wrong=st.sampled_from(["name", "shape", "mask shape", "mask value", "config"]),
        config=bad_values,
    )
    def add_data_with_something_wrong(self, name, kind, shape, seed, wrong, config):
        if wrong == "name":
            self.attach("", kind, shape, seed)
        elif wrong == "shape":
            self.attach(name, kind, shape, seed, fit=False)
        elif wrong == "config":
            self.attach(name, kind, shape, seed, config=dict([config]))
        else:
            self.attach(name, kind, shape, seed, mask=wrong)

    def attach(self, name, kind, shape, seed, reuse=True, mask=None, config=None, fit=True):
        config = config or {}
        known = self.groups.get(name, self.waiting.get(name))
        if known is not None and name in self.squashed():
            known = None
        if fit and known is not None:
            shape = known.mask.shape
        data = make_data(kind, seed, shape)
        shape = shape_of(data)

        written = {**(known.written if known else self.defaults), **config}
        group = Group(written, None, data=data, content=content(data))
        good = name != "" and is_good(group.written, shape)
        if known is not None and reuse:
            group.mask, group.state = known.mask.copy(), dict(known.state)
        given = None
        if mask is not None:
            given = np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
            group.mask = given.copy()
        if mask == "mask value":
            given = given.astype(np.int8) + 2
            good = good and given.size == 0
        if mask == "mask shape":
            given, good = np.ones((*shape, 1), bool), False
        has_mask = group.mask is not None
        if not has_mask:
            group.mask = np.ones(shape, bool)
        good = good and group.mask.shape == shape

        def call():
            returned = self.sparsifier.add_data(name, data, reuse, mask=given, **config)
            if has_mask:
                expected = np.where(group.mask, content(data), 0)
                np.testing.assert_array_equal(content(returned), expected)
            else:
                assert returned is tensor_of(data)

        if self.attempt(good, call):
            self.groups[name] = group
            self.waiting.pop(name, None)

    @rule(name=names)
    def remove_data(self, name):
        good = name in self.groups
        if self.attempt(good, lambda: self.sparsifier.remove_data(name), KeyError):
            del self.groups[name]

    @rule(name=names, seed=seeds)
    def change_data(self, name, seed):
        group = self.live().get(name)
        if group is not None and self.writable([group]):
            write(group.data, numbers(seed, group.mask.shape))
            group.content = content(group.data)

    @rule(name=names, seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64]))
    def replace_memory(self, name, seed, dtype):
        group = self.live().get(name)
        if group is not None and not isinstance(group.data, np.ndarray):
            new = torch.from_numpy(np.array(numbers(seed, group.mask.shape))).to(dtype)
            if isinstance(group.data, nn.Module) and seed % 2:
                group.data.weight = nn.Parameter(new)
            else:
                tensor_of(group.data).data = new
            group.content = content(group.data)

    @rule(name=names)
    def freeze_or_thaw(self, name):
        group = self.live().get(name)
        if group is not None and isinstance(group.data, np.ndarray):
            with contextlib.suppress(ValueError):  # pickled while it was frozen: for good
                group.data.flags.writeable = not group.data.flags.writeable

    @rule(name=names, integers=st.booleans())
    def data_that_became_impossible(self, name, integers):
        """Another shape or dtype is refused by every call that needs the memory, then restored."""
        group = self.live().get(name)
        if group is None or isinstance(group.data, np.ndarray):
            return
        tensor = tensor_of(group.data)
        if tensor.requires_grad and integers:
            return
        kept = tensor.data
        if integers:
            tensor.data = kept.nan_to_num(0, 0, 0).int()
        else:
            tensor.data = torch.ones(*kept.shape, 3)
        if self.enabled:
            self.refused(self.sparsifier.step)
        self.refused(lambda: self.sparsifier.apply_mask(name))
        self.refused(lambda: self.sparsifier.squash_mask(name))
        self.refused(lambda: self.sparsifier.get_data(name, return_original=False))
        tensor.data = kept

    # --- masks ------------------------------------------------------------------------------------

    @rule()
    def step(self):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "step\\(\\) pruned all weights", UserWarning)
            self.sparsifier.step()
        self.step_count += 1
        if not self.enabled:
            return
        for group in self.live().values():
            config = effective(group.written, group.mask.shape)
            group.mask = reference.mask(content(group.data), **config)

    @rule(name=names)
    def step_whose_override_fails(self, name):
        if type(self.sparsifier) is Overriding and name in self.live() and self.enabled:
            self.sparsifier._fails_at = name
            self.refused(self.sparsifier.step, ZeroDivisionError)
            del self.sparsifier._fails_at

    @rule(given=some_names)
    def apply_mask(self, given):
        groups = self.chosen(given)
        good = groups is not None and self.writable(groups)
        if self.attempt(good, lambda: self.sparsifier.apply_mask(given)):
            for group in groups:
                group.content = np.where(group.mask, group.content, 0)

    @rule(given=some_names)
    def squash_mask(self, given):
        groups = self.chosen(given)
        good = groups is not None and self.writable(groups)
        if self.attempt(good, lambda: self.sparsifier.squash_mask(given)):
            for group in groups:
                expected = np.where(group.mask, group.content, 0)
                np.testing.assert_array_equal(content(group.data), expected)
                group.data = None

    @rule(name=names, seed=seeds, replace=st.booleans())
    def edit_mask(self, name, seed, replace):
        if name not in self.groups:
            self.refused(lambda: self.sparsifier.get_mask(name), KeyError)
            return
        group = self.groups[name]
        bits = np.random.default_rng(seed).integers(0, 2, group.mask.shape).astype(bool)
        mask = self.sparsifier.get_mask(name)
        if isinstance(mask, np.ndarray):
            mask[...] = bits
        elif replace and group.data is not None:
            mask.data = torch.from_numpy(np.where(bits, 3.0, 0.0))
        else:
            mask.copy_(torch.from_numpy(bits))
        group.mask = bits

    @rule(enable=st.booleans())
    def enable_mask_update(self, enable):
        self.sparsifier.enable_mask_update = enable
        self.enabled = enable

    # --- configs ----------------------------------------------------------------------------------

    @rule(name=names, config=configs, single=st.booleans())
    def update_config(self, name, config, single):
        if name not in self.groups:
            self.refused(lambda: self.sparsifier.data_groups[name].update(config), KeyError)
            return
        group, live = self.groups[name], self.sparsifier.data_groups[name]
        if single:
            config = dict(list(config.items())[:1])
        new = {**group.written, **config}

        def call():
            if single:
                for key, value in config.items():
                    live[key] = value
            else:
                live.update(config)

        if self.attempt(is_good(new, group.mask.shape), call):
            group.written = new

    @rule(given=st.dictionaries(names, configs, max_size=3), single=st.booleans())
    def replace_configs(self, given, single):
        """All are replaced or none."""
        if single:
            given = dict(list(given.items())[:1])
        new = {name: {**self.defaults, **config} for name, config in given.items()}
        good = all(
            name in self.groups and is_good(config, self.groups[name].mask.shape)
            for name, config in new.items()
        )

        def call():
            if single:
                for name, config in given.items():
                    self.sparsifier.data_groups[name] = config
            else:
                self.sparsifier.data_groups.update(given)

        if self.attempt(good, call):
            for name, config in new.items():
                self.groups[name].written = config

    @rule(name=names, key=st.sampled_from([*KEYS, "nrom"]))
    def delete_from_a_config(self, name, key):
        """The built-in rule needs all of its keys; groups go by remove_data() only."""

        def delete():
            del self.sparsifier.data_groups[name][key]

        def delete_group():
            del self.sparsifier.data_groups[name]

        self.refused(delete)
        self.refused(delete_group)
        self.refused(lambda: self.sparsifier.data_groups[name].pop(key), KeyError, ValueError)

    @rule(config=configs)
    def update_defaults(self, config):
        new = {**self.defaults, **config}
        if self.attempt(is_good(new), lambda: self.sparsifier.defaults.update(config)):
            self.defaults = new

    @rule(
        name=names,
        key=st.sampled_from(["x", "y"]),
        value=st.sampled_from([None, True, 3, 0.5, "text", (1, 2), (), [1], b"bytes", {"x": 1}]),
    )
    def write_state(self, name, key, value):
        good = name in self.groups and type(value) not in (list, bytes, dict)

        def call():
            self.sparsifier.state[name][key] = value

        if self.attempt(good, call):
            self.groups[name].state[key] = value

    @precondition(lambda self: any(group.state for group in self.groups.values()))
    @rule(name=names, key=st.sampled_from(["x", "y"]))
    def delete_state(self, name, key):
        good = name in self.groups and key in self.groups[name].state
        if self.attempt(good, lambda: self.sparsifier.state[name].pop(key), KeyError):
            del self.groups[name].state[key]

    @rule(tag=st.integers(0, 9))
    def write_attribute(self, tag):
        self.sparsifier.tag = self.tag = tag

    # --- saving -----------------------------------------------------------------------------------

    @rule()
    def save(self):
        counters = self.enabled, self.step_count, self.tag
        every = {name: group.saved() for name, group in {**self.groups, **self.waiting}.items()}
        state = self.sparsifier.state_dict()
        kept = copy.deepcopy(state)
        self.saved.append((state, kept, every, self.squashed(), dict(self.defaults), counters))

    @rule(
        which=st.integers(0, 99),
        strict=st.booleans(),
        damage=st.sampled_from([None] * 6 + [0, 1, 2]),
    )
    def load(self, which, strict, damage):
        which %= len(self.saved)
        state, _, saved, squashed, defaults, counters = self.saved[which]
        good = damage is None and all(
            group.mask.shape == saved[name].mask.shape
            for name, group in self.groups.items()
            if name in saved
        )
        if strict and self.groups:
            good = good and saved.keys() == self.groups.keys()
        if damage is not None:
            state = damaged(state, damage)
        if not self.attempt(good, lambda: self.sparsifier.load_state_dict(state, strict)):
            return
        self.waiting = {}
        for name, group in saved.items():
            if name in self.groups:
                now = self.groups[name]
                now.written, now.state = dict(group.written), dict(group.state)
                now.mask = group.mask.copy()
                if name in squashed:
                    now.data = None
                now.awaits_data = now.data is None and name not in squashed
            elif name in squashed:
                self.groups[name] = group.saved()
            else:
                self.waiting[name] = group.saved()
        self.defaults = dict(defaults)
        self.enabled, self.step_count, self.tag = counters

    @rule(how=st.sampled_from(["deepcopy", *range(2, pickle.HIGHEST_PROTOCOL + 1)]))
    def go_on_with_a_copy(self, how):
        data = {name: group.data for name, group in self.live().items()}
        everything = (self.sparsifier, self.scheduler, data)
        if how == "deepcopy":
            copied = copy.deepcopy(everything)
        else:
            copied = pickle.loads(pickle.dumps(everything, how))
        self.sparsifier, self.scheduler, data = copied
        assert self.scheduler.data_sparsifier is self.sparsifier
        for name, group in self.groups.items():
            group.data = data.get(name)
            group.mask_object = None

    # --- the scheduler ----------------------------------------------------------------------------

    @rule(
        returned=st.one_of(
            st.dictionaries(names, st.sampled_from(GOOD["sparsity_level"]), max_size=4),
            st.dictionaries(
                names, st.sampled_from([0.5, *BAD["sparsity_level"]]), min_size=1, max_size=3
            ),
            st.sampled_from(
                [None, 0.5, [("a", 0.5)], {1: 0.5}, ZeroDivisionError(), KeyError("a")]
            ),
        ),
        known_only=st.booleans(),
    )
    def step_the_scheduler(self, returned, known_only):
        if isinstance(returned, dict) and known_only:
            returned = {name: level for name, level in returned.items() if name in self.groups}
        good = isinstance(returned, dict) and all(
            name in self.groups and is_good({**self.groups[name].written, "sparsity_level": level})
            for name, level in returned.items()
        )
        self.scheduler._returns = returned
        kinds = (type(returned),) if isinstance(returned, Exception) else ()

        def call():
            with warnings.catch_warnings():
                # before the sparsifier's first step
                warnings.simplefilter("ignore", UserWarning)
                self.scheduler.step()

        base = {**self.levels(), **{n: v for n, v in self.base.items() if n in self.groups}}
        self.calls += 1
        stepped = self.attempt(good, call, *kinds)
        assert self.scheduler._seen_epoch == self.last_epoch + 1
        if stepped:
            for name, level in returned.items():
                self.groups[name].written["sparsity_level"] = level
            self.last_epoch += 1
            self.base, self.last = base, self.levels()

    @rule()
    def save_the_scheduler(self):
        state = self.scheduler.state_dict()
        model = copy.deepcopy([self.last_epoch, self.base, self.last, self.calls])
        self.saved_schedules.append((state, copy.deepcopy(state), model))

    @rule(which=st.integers(0, 99), damage=st.sampled_from([None, None, 0, 1, 2]))
    def load_the_scheduler(self, which, damage):
        state, _, model = self.saved_schedules[which % len(self.saved_schedules)]
        if damage is not None:
            self.refused(lambda: self.scheduler.load_state_dict(damaged(state, damage)))
            return
        self.scheduler.load_state_dict(state)
        base, last = self.base, self.last
        self.last_epoch, self.base, self.last, self.calls = copy.deepcopy(model)
        for name, level in self.last.items():
            if name in self.groups:
                self.groups[name].written["sparsity_level"] = level
        for name in [name for name in base if name in self.groups and name not in self.base]:
            self.base[name] = base[name]  # of groups that the state does not know
            if name in last:
                self.last[name] = last[name]

    @rule(epoch=st.integers(-3, 9))
    def write_last_epoch(self, epoch):
        def call():
            self.scheduler.last_epoch = epoch

        if self.attempt(epoch >= -1, call):
            self.last_epoch = epoch

    # --- what must always hold --------------------------------------------------------------------

    @invariant()
    def names_and_configs(self):
        groups = self.sparsifier.data_groups
        assert list(groups) == list(self.groups)
        assert len(groups) == len(self.groups)
        for name, group in self.groups.items():
            assert groups[name] == effective(group.written, group.mask.shape)
        assert groups == groups.copy()
        assert self.sparsifier.defaults == self.defaults
        assert self.sparsifier.state == {n: group.state for n, group in self.groups.items()}

    @invariant()
    def masks_and_data(self):
        for name, group in self.groups.items():
            mask = self.sparsifier.get_mask(name)
            assert mask.shape == group.mask.shape
            np.testing.assert_array_equal(as_numpy(mask), group.mask)
            if group.mask_object is not None:
                assert mask is group.mask_object
            group.mask_object = mask
            if group.data is None:
                self.refused(lambda name=name: self.sparsifier.get_data(name), ValueError)
                continue
            assert isinstance(mask, np.ndarray) == isinstance(group.data, np.ndarray)
            assert self.sparsifier.get_data(name) is tensor_of(group.data)
            np.testing.assert_array_equal(content(group.data), group.content)
            masked = content(self.sparsifier.get_data(name, return_original=False))
            np.testing.assert_array_equal(masked, np.where(group.mask, group.content, 0))

    @invariant()
    def counters_and_the_scheduler(self):
        assert self.sparsifier.step_count == self.step_count
        assert self.sparsifier.enable_mask_update == self.enabled
        assert self.sparsifier.tag == self.tag
        assert self.scheduler.last_epoch == self.last_epoch
        assert self.scheduler.base_param == self.base
        assert self.scheduler.get_last_param() == self.last
        assert self.scheduler.calls == self.calls

    @invariant()
    def saved_states_are_left_alone(self):
        for state, kept, *_ in (*self.saved, *self.saved_schedules):
            assert state == kept

    @invariant()
    def the_state_is_the_model(self):
        state = self.sparsifier.state_dict()
        every = {**self.groups, **self.waiting}
        assert set(state["data_groups"]) == set(every)
        for name, group in every.items():
            entry = state["data_groups"][name]
            assert entry["config"] == group.written
            assert entry["shape"] == group.mask.shape
            assert entry["state"] == group.state
            assert entry["squashed"] == (name in self.squashed())
            bits = np.packbits(group.mask.reshape(-1), bitorder="little").tobytes()
            assert entry["mask"] == bits


@on_devices
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "sequences",
    [50, pytest.param(300, marks=pytest.mark.full), pytest.param(2000, marks=pytest.mark.long)],
)
def test_random_sequences_of_calls(sequences, device):
    sequences = sequences if device.name == "cpu" else sequences // 10
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=sequences, stateful_step_count=60)
    )
