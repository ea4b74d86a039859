"""Every row of the table of errors in the design, quoted where it is tested.

After each refusal everything that a user can see is exactly as before: epoch, config, masks,
counters, and the data. States that do not fit are the matter of test_state.py.
"""

import math
import sys
import warnings

import datasparse
import numpy as np
import pytest
import torch
from datasparse.regrowth import RigL
from support import (
    BAD_VALUES,
    MAY_PRUNE_ALL,
    ON_DEVICES,
    as_numpy,
    first_there,
    name_of,
    named,
    placed,
)
from torch import nn

pytestmark = ON_DEVICES

SHAPE = (4, 8)


def ramp(shape=SHAPE, start=1.0):
    size = math.prod(shape)
    return np.arange(start, start + size, dtype=np.float32).reshape(shape)


def stepped(*names, sparsifier_class=datasparse.DataNormSparsifier, **options):
    """A sparsifier with a torch group for every second name, after one step."""
    sparsifier = sparsifier_class(
        [
            (name, torch.from_numpy(ramp()) if index % 2 else ramp())
            for index, name in enumerate(names)
        ],
        **options,
    )
    sparsifier.step()
    return sparsifier


class Scheduled(datasparse.BaseDataScheduler):
    """Does at each step after the initial one what the test wants."""

    def __init__(self, data_sparsifier, then, schedule_param="sparsity_level"):
        self._then = then
        super().__init__(data_sparsifier, schedule_param)

    def get_schedule_param(self):
        return self._then(self) if self.last_epoch else self.base_param


# --- messages -------------------------------------------------------------------------------------


def by_block_mask(sparsifier, config):
    datasparse.block_mask(
        placed(ramp()), **{"sparsity_level": 0.5, "sparse_block_shape": (1, 4), **config}
    )


def by_constructor(sparsifier, config):
    datasparse.DataNormSparsifier(**config)


def by_defaults(sparsifier, config):
    sparsifier.defaults.update(config)


def by_add_data(sparsifier, config):
    sparsifier.add_data("new", placed(ramp()), **config)


def by_item(sparsifier, config):
    for key, value in config.items():
        sparsifier.data_groups["emb"][key] = value


def by_update(sparsifier, config):
    sparsifier.data_groups["emb"].update({"zeros_per_block": 1, **config})


def by_groups(sparsifier, config):
    sparsifier.data_groups.update({"other": {"sparsity_level": 0.75}, "emb": config})


def by_scheduler(sparsifier, config):
    ((key, value),) = config.items()
    good = {
        "sparsity_level": 0.75,
        "sparse_block_shape": (1, 2),
        "zeros_per_block": 1,
        "norm": "L2",
    }
    Scheduled(sparsifier, lambda self: {"other": good[key], "emb": value}, key).step()


# The ways in which a config arrives, and the group that a message names.
WAYS = {
    by_block_mask: "",
    by_constructor: "",
    by_defaults: "",
    by_add_data: "'new'",
    by_item: "'emb'",
    by_update: "'emb'",
    by_groups: "'emb'",
    by_scheduler: "'emb'",
}


@pytest.mark.parametrize(("write", "group"), WAYS.items(), ids=[way.__name__ for way in WAYS])
def test_message_names_argument_group_rule_and_value(write, group):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole message is compared)
        write(stepped("other", "emb"), {"sparsity_level": 1.2})
    of_group = f" of {group}" if group else ""
    assert str(caught.value) == f"sparsity_level{of_group} must be in [0, 1], got 1.2"


@pytest.mark.parametrize(("write", "group"), WAYS.items(), ids=[way.__name__ for way in WAYS])
def test_bad_value_is_refused_when_it_arrives(write, group, observe):
    """Checked when the value arrives (constructor, `add_data`, writing `data_groups[...]`, a
    scheduler's returned map), never halfway through a step."""
    sparsifier = stepped("other", "emb")
    before, defaults = observe(sparsifier), dict(sparsifier.defaults)
    for key, value, error in BAD_VALUES:
        with pytest.raises(error) as caught:
            write(sparsifier, {key: value})
        message = str(caught.value)
        assert key in message
        assert group in message
        assert observe(sparsifier) == before, message
        assert sparsifier.defaults == defaults, message


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    "data_list", [3, "emb", [("emb",)], [("emb", 1, 2)], [("emb", None)], [None]], ids=name_of
)
def test_wrong_data_list_is_refused(data_list):
    with pytest.raises((TypeError, ValueError)):
        datasparse.DataNormSparsifier(data_list)


# --- row 1: get_schedule_param --------------------------------------------------------------------


@pytest.fixture
def two_groups():
    return stepped("emb", "head", sparsity_level=0.5)


def refused(scheduler, error, observe):
    """The exception of a step that must leave everything as it was, twice over."""
    before = observe(scheduler.data_sparsifier, scheduler)
    for _ in range(2):
        with pytest.raises(error) as caught:
            scheduler.step()
        assert observe(scheduler.data_sparsifier, scheduler) == before
    return caught.value


@pytest.mark.parametrize("mine", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=name_of)
def test_get_schedule_param_raises(two_groups, observe, mine):
    """`get_schedule_param` raises | the exception ...; epoch, config, masks and counters exactly as
    before the call"""

    def fail(scheduler):
        raise mine

    scheduler = Scheduled(two_groups, fail)
    two_groups.add_data("late", placed(ramp()))  # it would enter base_param
    assert refused(scheduler, type(mine), observe) is mine


def test_get_schedule_param_raises_after_it_wrote_config_of_its_own(two_groups):
    """`get_schedule_param` raises | epoch ... exactly as before: what it wrote itself is its own"""

    def write_then_fail(scheduler):
        scheduler.data_sparsifier.data_groups["emb"]["norm"] = "L2"
        raise ZeroDivisionError

    scheduler = Scheduled(two_groups, write_then_fail)
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert scheduler.last_epoch == 0
    assert two_groups.data_groups["emb"]["sparsity_level"] == 0.5


@pytest.mark.parametrize("returned", [{"emb": 0.25, "haed": 0.125}, {"haed": 0.125, "emb": 0.25}])
def test_get_schedule_param_returns_an_unknown_name(two_groups, observe, returned):
    """returns an unknown name | the exception with the group and value named"""
    scheduler = Scheduled(two_groups, lambda self: returned)
    error = refused(scheduler, datasparse.UnknownNameError, observe)
    assert "haed" in str(error)
    assert "'head'" in str(error)


@pytest.mark.parametrize("value", [[0.5], None, 0.5, "emb", {("emb", 0.5)}], ids=name_of)
def test_get_schedule_param_returns_no_mapping(two_groups, observe, value):
    """returns ... a wrong type | the exception"""
    error = refused(Scheduled(two_groups, lambda self: value), TypeError, observe)
    returned = f"Scheduled.get_schedule_param() returned {type(value).__name__}"
    assert f"{returned}, expected a mapping" in str(error)


@pytest.mark.parametrize(
    ("value", "error"),
    [(value, TypeError) for value in ("0.5", None, True, [0.5], (0.5,), 0.5j, object())]
    + [(value, ValueError) for value in (math.nan, math.inf, -math.inf, -0.25, 1.5, 2)]
    + [(np.float32(-1), ValueError)],
    ids=name_of,
)
def test_get_schedule_param_returns_a_wrong_value(two_groups, observe, value, error):
    """returns ... a wrong type, NaN or an out-of-range value | the exception with the group and
    value named"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 0.25, "head": value})
    message = str(refused(scheduler, error, observe))
    assert "'head'" in message
    assert "sparsity_level" in message
    assert error is TypeError or f"{float(value):g}" in message


def test_mapping_that_raises_while_it_is_read(two_groups, observe):
    """`get_schedule_param` ... returns | ... exactly as before the call"""

    class Broken(dict):
        def items(self):
            yield "emb", 0.25
            raise ZeroDivisionError

        def __getitem__(self, name):
            raise ZeroDivisionError

        def __iter__(self):
            yield "emb"
            raise ZeroDivisionError

        keys = __iter__

    scheduler = Scheduled(two_groups, lambda self: Broken(emb=0.25))
    before = observe(two_groups, scheduler)
    try:
        scheduler.step()
    except ZeroDivisionError:
        assert observe(two_groups, scheduler) == before
    else:  # a dict may also be read past its own methods, as a C function would
        assert two_groups.data_groups["emb"]["sparsity_level"] == 0.25


def test_scheduler_goes_on_after_a_refused_step(two_groups):
    """epoch ... exactly as before the call: the next step is that epoch's"""
    answers = [{"emb": 2.0}, {"emb": 0.25}]
    scheduler = Scheduled(two_groups, lambda self: answers.pop(0))
    with pytest.raises(ValueError, match="sparsity_level"):
        scheduler.step()
    scheduler.step()
    assert scheduler.last_epoch == 1
    assert two_groups.data_groups["emb"]["sparsity_level"] == 0.25


def test_initial_step_that_is_refused_leaves_the_sparsifier_as_before(two_groups, observe):
    """`get_schedule_param` ... returns ... an out-of-range value, in the constructor"""

    class Wrong(datasparse.BaseDataScheduler):
        def get_schedule_param(self):
            return {"emb": 0.25, "head": 1.5}

    before = observe(two_groups)
    with pytest.raises(ValueError, match="'head'"):
        Wrong(two_groups, "sparsity_level")
    assert observe(two_groups) == before


# --- row 2: unknown keys --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("sparsity_levl", "sparsity_level"),
        ("sparsity", "sparsity_level"),
        ("block_shape", "sparse_block_shape"),
        ("zeros_per_blok", "zeros_per_block"),
        ("nrom", "norm"),
    ],
)
@pytest.mark.parametrize("write", [by_constructor, by_defaults, by_add_data, by_item, by_update,
                                   by_groups], ids=lambda way: way.__name__)  # fmt: skip
def test_unknown_config_key(observe, write, wrong, nearest):
    """unknown config key for a built-in sparsifier | TypeError ..., nearest known key named"""
    sparsifier = stepped("emb", "other")
    before, defaults = observe(sparsifier), dict(sparsifier.defaults)
    with pytest.raises(TypeError, match=f"'{wrong}'.*'{nearest}'"):
        write(sparsifier, {wrong: 1})
    assert observe(sparsifier) == before
    assert sparsifier.defaults == defaults


def test_unknown_schedule_param(two_groups, observe):
    """unknown `schedule_param` | ValueError, nearest known key named"""
    before = observe(two_groups)
    with pytest.raises(ValueError, match="sparsity_level") as caught:
        Scheduled(two_groups, None, "sparsty_level")
    assert "sparsty_level" in str(caught.value)
    assert observe(two_groups) == before


# --- row 3: memory that cannot be written ---------------------------------------------------------


def read_only():
    array = ramp()
    array.flags.writeable = False
    return array


UNWRITABLE = {
    "read-only array": read_only,
    "broadcast array": lambda: np.broadcast_to(ramp((8,)), SHAPE),
    "sliding windows": lambda: np.lib.stride_tricks.as_strided(ramp((20,)), SHAPE, (8, 4)),
    "zero strides": lambda: np.lib.stride_tricks.as_strided(ramp((1,)), SHAPE, (0, 0)),
    "expanded tensor": lambda: torch.from_numpy(ramp((8,))).expand(SHAPE),
    "unfolded tensor": lambda: torch.from_numpy(ramp((11,))).unfold(0, 8, 1),
    "expanded Parameter": lambda: nn.Parameter(torch.ones(1).expand(SHAPE)),
}
unwritable = pytest.mark.parametrize("make", UNWRITABLE.values(), ids=UNWRITABLE.keys())


@unwritable
def test_unwritable_memory_can_be_stepped_and_copied(make):
    """read-only memory, or memory that overlaps itself (broadcast views) | `step` works"""
    data = make()
    sparsifier = datasparse.DataNormSparsifier([("emb", data)])
    sparsifier.step()
    expected = datasparse.block_mask(
        np.ascontiguousarray(as_numpy(data)), sparsity_level=0.5, sparse_block_shape=(1, 4)
    )
    assert np.array_equal(np.asarray(sparsifier.get_mask("emb")), expected)
    copy = as_numpy(sparsifier.get_data("emb", return_original=False))
    assert np.count_nonzero(copy) == 16


@unwritable
@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
def test_unwritable_memory_is_not_written(make, write, observe):
    """read-only memory, or memory that overlaps itself | `apply_mask` and `squash_mask` refuse
    before touching anything"""
    first, data, last = ramp(), make(), torch.from_numpy(ramp())
    sparsifier = datasparse.DataNormSparsifier([("first", first), ("emb", data), ("last", last)])
    sparsifier.step()
    before = observe(sparsifier)
    values = as_numpy(data).copy()
    with pytest.raises(ValueError, match="'emb'"):
        getattr(sparsifier, write)()
    assert np.array_equal(as_numpy(data), values)
    assert np.array_equal(first, ramp())
    assert np.array_equal(last.numpy(), ramp())
    assert last._version == 0
    assert observe(sparsifier) == before
    assert all(sparsifier.get_data(name) is not None for name in ("first", "emb", "last"))


def test_other_names_can_still_be_applied():
    """`apply_mask` ... refuse: only where such memory is asked for"""
    first = placed(ramp())
    sparsifier = datasparse.DataNormSparsifier([("first", first), ("emb", read_only())])
    sparsifier.step()
    sparsifier.apply_mask(names=["first"])
    assert np.count_nonzero(first) == 16


# --- row 4: data of other kinds -------------------------------------------------------------------


class OnGPU:
    def __dlpack__(self, **options):
        raise AssertionError("memory of a GPU must not be asked for")

    def __dlpack_device__(self):
        return (2, 0)  # kDLCUDA


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to remove them
        return torch.quantize_per_tensor(torch.ones(SHAPE), 0.1, 0, torch.quint8)


def sparse_csr():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own layout a beta
        return torch.from_numpy(ramp()).to_sparse_csr()


DTYPES = "must be float16, bfloat16, float32 or float64"
# How to make them, what the message says of them, and what to do or what is supported.
UNSUPPORTED = {
    "int64 array": (lambda: ramp().astype(np.int64), "int64", DTYPES),
    "uint8 array": (lambda: ramp().astype(np.uint8), "uint8", DTYPES),
    "bool array": (lambda: ramp() > 3, "bool", DTYPES),
    "complex array": (lambda: ramp().astype(np.complex64), "complex64", r"`exclude`"),
    "complex128 array": (lambda: ramp().astype(complex), "complex128", "np.abs() as scores"),
    "longdouble array": (lambda: ramp().astype(np.longdouble), "128", DTYPES),
    "big-endian array": (lambda: ramp().astype(">f4"), "byte order", "astype"),
    "big-endian float64 array": (lambda: ramp().astype(">f8"), "byte order", "astype"),
    "object array": (lambda: ramp().astype(object), "object", DTYPES),
    "string array": (lambda: ramp().astype(str), "U", DTYPES),
    "record array": (lambda: np.zeros(3, dtype=[("a", "f4")]), "a", DTYPES),
    "int64 tensor": (lambda: torch.ones(SHAPE, dtype=torch.int64), "int64", DTYPES),
    "int32 tensor": (lambda: torch.ones(SHAPE, dtype=torch.int32), "int32", DTYPES),
    "bool tensor": (lambda: torch.ones(SHAPE, dtype=torch.bool), "bool", DTYPES),
    "complex tensor": (lambda: torch.ones(SHAPE, dtype=torch.complex64), "complex64", "`exclude`"),
    "complex128 tensor": (lambda: torch.ones(SHAPE, dtype=torch.complex128), "complex128",
                          ".abs() as scores"),
    "conjugated view": (lambda: torch.ones(SHAPE, dtype=torch.complex64).conj(), "complex64",
                        "`exclude`"),
    "quantized tensor": (lambda: quantized(), "quint8", ".dequantize()"),
    "float8 tensor": (lambda: torch.ones(SHAPE).to(torch.float8_e4m3fn), "float8", DTYPES),
    "sparse COO tensor": (lambda: torch.ones(SHAPE).to_sparse(), "sparse", "to_dense"),
    "sparse CSR tensor": (sparse_csr, "sparse", "to_dense"),
    "meta tensor": (lambda: torch.ones(SHAPE, device="meta"), "meta", "to_empty"),
    "meta Embedding": (lambda: nn.Embedding(4, 8, device="meta"), "meta", "to_empty"),
    "negated view": (lambda: torch.ones(SHAPE, dtype=torch.complex64).conj().imag, "negated",
                     "resolve_neg"),
    "GPU array": (OnGPU, "CPU", "CPU"),
}  # fmt: skip
# Arrays, what says itself where it lies, and what torch cannot make on a pretended device.
OF_THE_CPU_ALONE = [
    *(name for name in UNSUPPORTED if "array" in name or "meta" in name),
    "quantized tensor",
    "sparse COO tensor",
    "negated view",
]


@pytest.mark.parametrize(
    ("make", "says", "advice"), named(UNSUPPORTED, on_the_cpu_alone=OF_THE_CPU_ALONE)
)
def test_data_of_an_unsupported_kind(make, says, advice, observe):
    """integer, bool, complex, sparse, big-endian, GPU or meta data | TypeError that says what is
    supported and what to do"""
    sparsifier = stepped("other")
    before = observe(sparsifier)
    for add in (lambda data: sparsifier.add_data("emb", data),
                lambda data: datasparse.block_mask(data, sparsity_level=0.5,
                                                   sparse_block_shape=(1, 1))):  # fmt: skip
        with pytest.raises(TypeError) as caught:
            add(make())
        assert says in str(caught.value)
        assert advice in str(caught.value)
    with pytest.raises(TypeError, match="'emb'"):
        sparsifier.add_data("emb", make())
    assert observe(sparsifier) == before


@pytest.mark.device("cpu")
@pytest.mark.parametrize(
    "data",
    [[[1.0, 2.0]], 1.5, None, "text", object(), {"a": 1.0}, nn.Linear(2, 2), np.float32],
    ids=lambda data: type(data).__name__,
)
def test_data_that_are_no_array(data):
    """Wrong kinds raise TypeError"""
    sparsifier = datasparse.DataNormSparsifier()
    with pytest.raises(TypeError, match="'emb'"):
        sparsifier.add_data("emb", data)
    assert len(sparsifier.data_groups) == 0
    with pytest.raises(TypeError, match="data must be"):
        datasparse.block_mask(data, sparsity_level=0.5, sparse_block_shape=(1, 1))


@pytest.mark.device("cpu")
@pytest.mark.parametrize("make", ["complex", "string", "record", "date"])
def test_no_advice_is_better_than_a_wrong_one(make):
    """What .astype(np.float32) or .float() would spoil, or cannot convert, is not advised to be."""
    data = {
        "complex": ramp().astype(complex),
        "string": ramp().astype(str),
        "record": np.zeros(3, dtype=[("a", "f4")]),
        "date": np.zeros(3, "datetime64[s]"),
    }[make]
    with pytest.raises(TypeError) as caught:
        datasparse.DataNormSparsifier([("emb", data)])
    assert "float32)" not in str(caught.value)
    with pytest.raises(TypeError, match=r"got int64; convert it with \.astype\(np\.float32\)"):
        datasparse.DataNormSparsifier([("emb", ramp().astype(np.int64))])


def to_complex(layer):
    layer.weight.data = layer.weight.data.to(torch.complex64)


@pytest.mark.parametrize("spoil", [to_complex, lambda layer: layer.to("meta")])
def test_data_that_became_unsupported_are_refused_at_the_next_step(observe, spoil):
    """complex, GPU or meta data | TypeError, also when known ones became so; no mask is changed"""
    good, layer = torch.from_numpy(ramp()), nn.Embedding(4, 8)
    sparsifier = datasparse.DataNormSparsifier([("good", good), ("layer", layer)])
    sparsifier.step()
    before = observe(sparsifier)
    good.copy_(good.flip(0))
    spoil(layer)
    with pytest.raises(TypeError, match=r"'layer'.*(complex|meta)"):
        sparsifier.step()
    assert observe(sparsifier) == before


# --- row 7: update_mask ---------------------------------------------------------------------------


class FailsAtHead(datasparse.BaseDataSparsifier):
    """Clears masks and writes states, then raises at the second group."""

    error = ZeroDivisionError("mine")
    replaces = False

    def update_mask(self, name, data, **config):
        self.state[name]["lost"] = 1
        if isinstance(data, torch.Tensor) and self.replaces:
            self.get_mask(name).data = torch.zeros(data.shape)
        else:
            self.get_mask(name)[...] = False
        if name == "head":
            raise self.error


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt(), SystemExit(3)],
                         ids=lambda error: type(error).__name__)  # fmt: skip
@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("first", ["numpy", "torch"])
def test_update_mask_raises_for_the_second_of_two_groups(observe, error, replaces, first):
    """exception in one group's `update_mask` | that exception; all masks change or none"""
    pair = [ramp(), torch.from_numpy(ramp())]
    if first == "torch":
        pair.reverse()
    sparsifier = FailsAtHead([("emb", pair[0]), ("head", pair[1])])
    sparsifier.error, sparsifier.replaces = error, replaces
    sparsifier.get_mask("emb")[0] = False
    before = observe(sparsifier)
    objects = [sparsifier.get_mask(name) for name in ("emb", "head")]
    with pytest.raises(type(error)) as caught:
        sparsifier.step()
    assert caught.value is error
    assert observe(sparsifier) == before
    assert sparsifier.step_count == 0
    for name, mask in zip(("emb", "head"), objects, strict=True):
        assert sparsifier.get_mask(name) is mask
        assert tuple(mask.shape) == SHAPE


def test_update_mask_raises_after_the_built_in_rule_ran(observe):
    """exception in one group's `update_mask` | that exception; all masks change or none"""

    class Late(datasparse.DataNormSparsifier):
        fail = False

        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)
            if self.fail and name == "c":
                assert np.asarray(self.get_mask("a")).any()  # read: the built-in rule has run
                raise ZeroDivisionError

    sparsifier = stepped("a", "b", "c", "d", sparsifier_class=Late, sparsity_level=0.5)
    before = observe(sparsifier)
    for name in "abcd":
        sparsifier.data_groups[name]["sparsity_level"] = 0.75
    before["config"] = observe(sparsifier)["config"]
    sparsifier.fail = True
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    assert observe(sparsifier) == before


@MAY_PRUNE_ALL
def test_step_succeeds_after_one_that_raised():
    """all masks change or none: and the sparsifier is usable afterwards"""
    sparsifier = FailsAtHead([("emb", placed(ramp())), ("head", placed(ramp()))])
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    sparsifier.remove_data("head")
    sparsifier.step()
    assert sparsifier.step_count == 1
    assert not sparsifier.get_mask("emb").any()


class WrongLevel(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        level = 1.5 if name == "b" else config["sparsity_level"]
        super().update_mask(name, data, **{**config, "sparsity_level": level})


class WrongMask(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        self.get_mask(name).data = torch.zeros(3 if name == "b" else data.numel())


class NoConfig(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data):
        self.get_mask(name)[...] = False


@pytest.mark.parametrize(
    ("kind", "defaults", "error", "says"),
    [
        (WrongLevel, {}, ValueError, "sparsity_level"),
        (WrongMask, {}, ValueError, "'b'"),
        (NoConfig, {"threshold": 0.5}, TypeError, "threshold"),  # as Python says it of a call
    ],
)
def test_mistake_inside_update_mask(observe, kind, defaults, error, says):
    """exception in one group's `update_mask` | that exception; all masks change or none"""
    sparsifier = kind([("a", torch.ones(SHAPE)), ("b", torch.ones(SHAPE))], **defaults)
    before = observe(sparsifier)
    with pytest.raises(error, match=says):
        sparsifier.step()
    assert observe(sparsifier) == before


@pytest.mark.parametrize("count", first_there([3, 1, 40]))
def test_first_middle_or_last_group_raises(observe, count):
    """exception in one group's `update_mask` | all masks change or none"""

    class FailsAt(datasparse.BaseDataSparsifier):
        failing = None

        def update_mask(self, name, data, **config):
            self.get_mask(name)[...] = False
            if name == self.failing:
                raise ZeroDivisionError

    names = [f"group {index}" for index in range(count)]
    sparsifier = FailsAt([(name, placed(ramp())) for name in names])
    before = observe(sparsifier)
    for name in names:
        sparsifier.failing = name
        with pytest.raises(ZeroDivisionError):
            sparsifier.step()
        assert observe(sparsifier) == before


class Raises(RigL):
    """In the hook that is named, at the second of two groups."""

    where = ""

    def hook(self, method, name):
        if name == "b" and method == self.where:
            raise ZeroDivisionError("mine")

    def get_scores(self, name, data, **config):
        self.hook("get_scores()", name)
        return data

    def get_gradients(self, name, data, **config):
        self.hook("get_gradients()", name)
        return data


class RaisesInUpdate(datasparse.BaseDataSparsifier):
    def update_mask(self, name, data, **config):
        if name == "b":
            raise ZeroDivisionError("mine")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from 3.11 on")
@pytest.mark.parametrize("where", ["update_mask()", "get_scores()", "get_gradients()"])
def test_an_exception_of_an_override_says_of_which_group(where):
    kind = RaisesInUpdate if where == "update_mask()" else Raises
    sparsifier = kind([("a", placed(ramp())), ("b", placed(ramp()))])
    if where != "update_mask()":
        sparsifier.step()  # draws
    sparsifier.where = where
    with pytest.raises(ZeroDivisionError) as caught:
        sparsifier.step()
    assert caught.value.args == ("mine",)
    assert caught.value.__notes__ == [f"in {where} of 'b'"]
