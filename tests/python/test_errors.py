"""Every row of the table of errors in the design, quoted where it is tested.

After each refusal everything that a user can see is exactly as before: epoch, config, masks,
counters, and the data.
"""

import copy
import math
import warnings

import datasparse
import numpy as np
import pytest
import torch
from torch import nn

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


# --- UnknownNameError -----------------------------------------------------------------------------


def test_unknown_name_error_is_a_key_error_and_a_value_error():
    assert issubclass(datasparse.UnknownNameError, KeyError)
    assert issubclass(datasparse.UnknownNameError, ValueError)


ASK_BY_NAME = {
    "get_mask": lambda s, name: s.get_mask(name),
    "get_data": lambda s, name: s.get_data(name),
    "get_data masked": lambda s, name: s.get_data(name, return_original=False),
    "remove_data": lambda s, name: s.remove_data(name),
    "apply_mask": lambda s, name: s.apply_mask(names=["emb", name]),
    "squash_mask": lambda s, name: s.squash_mask(names=["emb", name]),
    "data_groups": lambda s, name: s.data_groups[name],
    "data_groups write": lambda s, name: s.data_groups.update({name: {"sparsity_level": 0.1}}),
}


@pytest.mark.parametrize("ask", ASK_BY_NAME.values(), ids=ASK_BY_NAME.keys())
@pytest.mark.parametrize("kind", [KeyError, ValueError, datasparse.UnknownNameError])
def test_unknown_name_is_reported_with_the_nearest_known_name(ask, kind, observe):
    """Unknown names: an error that is both KeyError and ValueError, with the nearest known name."""
    sparsifier = stepped("emb", "classifier")
    before = observe(sparsifier)
    with pytest.raises(kind) as caught:
        ask(sparsifier, "clasifier")
    assert "clasifier" in str(caught.value)
    assert "classifier" in str(caught.value).replace("clasifier", "")
    assert observe(sparsifier) == before
    assert np.count_nonzero(sparsifier.get_data("emb")) == 32


def test_unknown_name_without_any_group_is_reported():
    with pytest.raises(datasparse.UnknownNameError, match="emb"):
        datasparse.DataNormSparsifier().get_mask("emb")


def test_empty_name_is_refused():
    sparsifier = datasparse.DataNormSparsifier()
    with pytest.raises(ValueError, match="name"):
        sparsifier.add_data("", ramp())
    assert len(sparsifier.data_groups) == 0


@pytest.mark.parametrize("name", [3, None, b"emb", ("emb",)], ids=repr)
def test_name_of_a_wrong_kind_is_refused(name):
    sparsifier = datasparse.DataNormSparsifier()
    with pytest.raises(TypeError):
        sparsifier.add_data(name, ramp())
    assert len(sparsifier.data_groups) == 0


# --- messages -------------------------------------------------------------------------------------

LEVEL_MESSAGE = "sparsity_level of 'emb' must be in [0, 1], got 1.2"


def test_message_of_add_data_names_argument_group_rule_and_value():
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole message is compared)
        datasparse.DataNormSparsifier().add_data("emb", ramp(), sparsity_level=1.2)
    assert str(caught.value) == LEVEL_MESSAGE


def test_message_of_a_config_write_names_argument_group_rule_and_value():
    sparsifier = stepped("emb")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        sparsifier.data_groups["emb"]["sparsity_level"] = 1.2
    assert str(caught.value) == LEVEL_MESSAGE


def test_message_of_a_schedulers_map_names_argument_group_rule_and_value():
    scheduler = Scheduled(stepped("emb"), lambda self: {"emb": 1.2})
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        scheduler.step()
    assert LEVEL_MESSAGE in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("sparsity_level", 1.2, ValueError),
        ("sparsity_level", -0.5, ValueError),
        ("sparsity_level", math.nan, ValueError),
        ("sparsity_level", "0.5", TypeError),
        ("sparsity_level", True, TypeError),
        ("sparse_block_shape", (0, 4), ValueError),
        ("sparse_block_shape", [1, 4], TypeError),
        ("zeros_per_block", 5, ValueError),
        ("zeros_per_block", 1.5, ValueError),
        ("zeros_per_block", -1, ValueError),
        ("norm", "L3", ValueError),
        ("norm", 2, TypeError),
    ],
)
def test_constructor_checks_its_arguments_at_once(option, value, error):
    """Checked when the value arrives (constructor, ...), never halfway through a step."""
    with pytest.raises(error, match=option):
        datasparse.DataNormSparsifier(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("sparsity_level", math.nan, ValueError),
        ("sparsity_level", -0.5, ValueError),
        ("sparsity_level", None, TypeError),
        ("sparse_block_shape", (1, 4, 1), ValueError),
        ("sparse_block_shape", [1, 4], TypeError),
        ("zeros_per_block", 5, ValueError),
        ("norm", "l2", ValueError),
    ],
)
def test_add_data_checks_its_config_at_once(option, value, error, observe):
    """Checked when the value arrives (..., `add_data`, ...), never halfway through a step."""
    sparsifier = stepped("other")
    before = observe(sparsifier)
    with pytest.raises(error) as caught:
        sparsifier.add_data("emb", ramp(), **{option: value})
    assert option in str(caught.value)
    assert "'emb'" in str(caught.value)
    assert observe(sparsifier) == before


@pytest.mark.parametrize(
    "data_list", [3, "emb", [("emb",)], [("emb", 1, 2)], [("emb", None)], [None]], ids=repr
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


def test_get_schedule_param_raises(two_groups, observe):
    """`get_schedule_param` raises | the exception ...; epoch, config, masks and counters exactly as
    before the call"""
    mine = ZeroDivisionError("mine")

    def fail(scheduler):
        raise mine

    assert refused(Scheduled(two_groups, fail), ZeroDivisionError, observe) is mine


def test_get_schedule_param_raises_keyboard_interrupt(two_groups, observe):
    """`get_schedule_param` raises | ... exactly as before the call"""

    def interrupt(scheduler):
        raise KeyboardInterrupt

    refused(Scheduled(two_groups, interrupt), KeyboardInterrupt, observe)


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


def test_get_schedule_param_returns_an_unknown_name(two_groups, observe):
    """returns an unknown name | the exception with the group and value named"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 0.25, "haed": 0.125})
    error = refused(scheduler, datasparse.UnknownNameError, observe)
    assert "haed" in str(error)
    assert "'head'" in str(error)


def test_get_schedule_param_returns_an_unknown_name_first(two_groups, observe):
    """returns an unknown name | ... config ... exactly as before the call"""
    scheduler = Scheduled(two_groups, lambda self: {"phantom": 0.125, "emb": 0.25})
    refused(scheduler, datasparse.UnknownNameError, observe)
    assert "phantom" not in two_groups.data_groups


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], (0.5,), 0.5j, object()], ids=repr)
def test_get_schedule_param_returns_a_value_of_a_wrong_type(two_groups, observe, value):
    """returns ... a wrong type | the exception with the group and value named"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 0.25, "head": value})
    error = refused(scheduler, TypeError, observe)
    assert "'head'" in str(error)
    assert "sparsity_level" in str(error)


@pytest.mark.parametrize("value", [[0.5], None, 0.5, "emb"], ids=repr)
def test_get_schedule_param_returns_no_mapping(two_groups, observe, value):
    """returns ... a wrong type | the exception"""
    error = refused(Scheduled(two_groups, lambda self: value), TypeError, observe)
    returned = f"Scheduled.get_schedule_param() returned {type(value).__name__}"
    assert f"{returned}, expected a mapping" in str(error)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.25, 1.5, 2, np.float32(-1)])
def test_get_schedule_param_returns_nan_or_an_out_of_range_value(two_groups, observe, value):
    """returns ... NaN or an out-of-range value | the exception with the group and value named"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 0.25, "head": value})
    error = refused(scheduler, ValueError, observe)
    assert "'head'" in str(error)
    assert "sparsity_level" in str(error)
    assert f"{float(value):g}" in str(error)


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


@pytest.mark.parametrize("bad", [5, 1.5, -1])
def test_out_of_range_zeros_per_block_from_a_scheduler(two_groups, observe, bad):
    """returns ... an out-of-range value | the exception with the group and value named"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 2, "head": bad}, "zeros_per_block")
    error = refused(scheduler, ValueError, observe)
    assert "zeros_per_block" in str(error)
    assert "'head'" in str(error)
    assert str(bad) in str(error)


# --- row 2: unknown keys --------------------------------------------------------------------------


def test_unknown_config_key_in_add_data(observe):
    """unknown config key for a built-in sparsifier | TypeError ..., nearest known key named"""
    sparsifier = stepped("emb")
    before = observe(sparsifier)
    with pytest.raises(TypeError) as caught:
        sparsifier.add_data("new", ramp(), sparsity_levl=0.3)
    assert "sparsity_levl" in str(caught.value)
    assert "sparsity_level" in str(caught.value)
    assert observe(sparsifier) == before


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
def test_unknown_config_key_in_a_write(observe, wrong, nearest):
    """unknown config key for a built-in sparsifier | TypeError ..., nearest known key named"""
    sparsifier = stepped("emb")
    before = observe(sparsifier)
    with pytest.raises(TypeError) as caught:
        sparsifier.data_groups["emb"][wrong] = 1
    assert wrong in str(caught.value)
    assert nearest in str(caught.value).replace(repr(wrong), "")
    assert observe(sparsifier) == before


def test_unknown_config_key_in_an_update(observe):
    """unknown config key for a built-in sparsifier | TypeError ..., config as before"""
    sparsifier = stepped("emb")
    before = observe(sparsifier)
    with pytest.raises(TypeError, match="nrom"):
        sparsifier.data_groups["emb"].update(sparsity_level=0.9, nrom="L2")
    assert observe(sparsifier) == before


def test_unknown_key_of_the_constructor():
    """unknown config key for a built-in sparsifier | TypeError"""
    with pytest.raises(TypeError, match="sparsity_level"):
        datasparse.DataNormSparsifier(sparsity_levl=0.3)


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


def as_array(data):
    return data.detach().numpy() if isinstance(data, torch.Tensor) else data


@unwritable
def test_unwritable_memory_can_be_stepped(make):
    """read-only memory, or memory that overlaps itself (broadcast views) | `step` works"""
    data = make()
    sparsifier = datasparse.DataNormSparsifier([("emb", data)])
    sparsifier.step()
    expected = datasparse.block_mask(
        np.ascontiguousarray(as_array(data)), sparsity_level=0.5, sparse_block_shape=(1, 4)
    )
    assert np.array_equal(np.asarray(sparsifier.get_mask("emb")), expected)


@unwritable
@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
def test_unwritable_memory_is_not_written(make, write, observe):
    """read-only memory, or memory that overlaps itself | `apply_mask` and `squash_mask` refuse
    before touching anything"""
    first, data, last = ramp(), make(), torch.from_numpy(ramp())
    sparsifier = datasparse.DataNormSparsifier([("first", first), ("emb", data), ("last", last)])
    sparsifier.step()
    before = observe(sparsifier)
    values = as_array(data).copy()
    with pytest.raises(ValueError, match="'emb'"):
        getattr(sparsifier, write)()
    assert np.array_equal(as_array(data), values)
    assert np.array_equal(first, ramp())
    assert np.array_equal(last.numpy(), ramp())
    assert last._version == 0
    assert observe(sparsifier) == before
    assert all(sparsifier.get_data(name) is not None for name in ("first", "emb", "last"))


@unwritable
def test_unwritable_memory_can_be_copied_masked(make):
    """read-only memory, or memory that overlaps itself: a masked copy is no write"""
    sparsifier = datasparse.DataNormSparsifier([("emb", make())])
    sparsifier.step()
    copy = as_array(sparsifier.get_data("emb", return_original=False))
    assert np.count_nonzero(copy) == 16


def test_array_made_read_only_after_add_data():
    """read-only memory | `apply_mask` and `squash_mask` refuse, whenever it became so"""
    data = ramp()
    sparsifier = datasparse.DataNormSparsifier([("emb", data)])
    sparsifier.step()
    data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sparsifier.apply_mask()
    assert np.array_equal(data, ramp())


def test_other_names_can_still_be_applied():
    """`apply_mask` ... refuse: only where such memory is asked for"""
    first = ramp()
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


def sparse_csr():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own layout a beta
        return torch.from_numpy(ramp()).to_sparse_csr()


UNSUPPORTED = {
    "int64 array": (lambda: ramp().astype(np.int64), "int64"),
    "uint8 array": (lambda: ramp().astype(np.uint8), "uint8"),
    "bool array": (lambda: ramp() > 3, "bool"),
    "complex array": (lambda: ramp().astype(np.complex64), "complex64"),
    "longdouble array": (lambda: ramp().astype(np.longdouble), "128"),
    "big-endian array": (lambda: ramp().astype(">f4"), "byte order"),
    "big-endian float64 array": (lambda: ramp().astype(">f8"), "byte order"),
    "object array": (lambda: ramp().astype(object), "object"),
    "string array": (lambda: ramp().astype(str), "U"),
    "record array": (lambda: np.zeros(3, dtype=[("a", "f4")]), "a"),
    "int64 tensor": (lambda: torch.ones(SHAPE, dtype=torch.int64), "int64"),
    "bool tensor": (lambda: torch.ones(SHAPE, dtype=torch.bool), "bool"),
    "complex tensor": (lambda: torch.ones(SHAPE, dtype=torch.complex64), "complex64"),
    "float8 tensor": (lambda: torch.ones(SHAPE).to(torch.float8_e4m3fn), "float8"),
    "sparse COO tensor": (lambda: torch.ones(SHAPE).to_sparse(), "sparse"),
    "sparse CSR tensor": (sparse_csr, "sparse"),
    "meta tensor": (lambda: torch.ones(SHAPE, device="meta"), "meta"),
    "meta Embedding": (lambda: nn.Embedding(4, 8, device="meta"), "meta"),
    "GPU array": (OnGPU, "CPU"),
}


@pytest.mark.parametrize(("make", "says"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_data_of_an_unsupported_kind(make, says, observe):
    """integer, bool, complex, sparse, big-endian, GPU or meta data | TypeError that says what is
    supported and what to do"""
    sparsifier = stepped("other")
    before = observe(sparsifier)
    with pytest.raises(TypeError) as caught:
        sparsifier.add_data("emb", make())
    assert "'emb'" in str(caught.value)
    assert says in str(caught.value)
    assert observe(sparsifier) == before


@pytest.mark.parametrize(
    "kind", ["int64 array", "bool array", "complex array", "int64 tensor", "bool tensor"]
)
def test_unsupported_dtype_names_the_supported_ones(kind):
    """TypeError that says what is supported"""
    make, _ = UNSUPPORTED[kind]
    with pytest.raises(TypeError) as caught:
        datasparse.DataNormSparsifier([("emb", make())])
    for supported in ("float16", "float32", "float64"):
        assert supported in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("sparse COO tensor", "dense"),
        ("sparse CSR tensor", "dense"),
        ("GPU array", "CPU"),
        ("big-endian array", "astype"),
    ],
)
def test_unsupported_data_come_with_advice(kind, advice):
    """TypeError that says ... what to do"""
    make, _ = UNSUPPORTED[kind]
    with pytest.raises(TypeError) as caught:
        datasparse.DataNormSparsifier([("emb", make())])
    assert advice in str(caught.value)


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


def test_tensor_that_became_complex_is_refused_at_the_next_step(observe):
    """complex ... data | TypeError, also when a known tensor became so; no mask is changed"""
    good, layer = torch.from_numpy(ramp()), nn.Linear(8, 4)
    sparsifier = datasparse.DataNormSparsifier([("good", good), ("layer", layer.weight)])
    sparsifier.step()
    before = observe(sparsifier)
    good.copy_(good.flip(0))
    layer.weight.data = layer.weight.data.to(torch.complex64)
    with pytest.raises(TypeError, match="'layer'"):
        sparsifier.step()
    assert observe(sparsifier) == before


def test_embedding_moved_to_another_device_is_refused_at_the_next_step(observe):
    """GPU or meta data | TypeError, also when a known module was moved there"""
    embedding = nn.Embedding(4, 8)
    sparsifier = datasparse.DataNormSparsifier([("good", ramp()), ("table", embedding)])
    sparsifier.step()
    before = observe(sparsifier)
    embedding.to("meta")
    with pytest.raises(TypeError, match=r"'table'.*meta"):
        sparsifier.step()
    assert observe(sparsifier) == before


# --- row 5: scheduler before sparsifier -----------------------------------------------------------


def test_scheduler_step_before_the_first_sparsifier_step():
    """`scheduler.step()` before the first `sparsifier.step()` | a UserWarning, once, pointing at
    the caller's line"""
    sparsifier = datasparse.DataNormSparsifier([("emb", ramp())])
    scheduler = Scheduled(sparsifier, lambda self: {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            scheduler.step()
    assert [warning.category for warning in caught] == [UserWarning]
    assert caught[0].filename == __file__


# --- row 6: states --------------------------------------------------------------------------------


def leaves(node, path=()):
    """Every (path, value) of a nest of dicts, lists and tuples."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    else:
        yield path, node


def with_leaf(node, path, value):
    """A copy of the nest with another value at the path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(node, dict):
        return {**node, key: with_leaf(node[key], rest, value)}
    return type(node)(
        with_leaf(item, rest, value) if index == key else copy.deepcopy(item)
        for index, item in enumerate(node)
    )


@pytest.fixture
def loadable():
    """A stepped sparsifier and a state of it that differs from what it is now."""
    sparsifier = stepped("emb", "head", sparsity_level=0.5)
    state = sparsifier.state_dict()
    sparsifier.data_groups["emb"]["sparsity_level"] = 0.25
    sparsifier.data_groups["head"]["norm"] = "L2"
    sparsifier.step()
    return sparsifier, state


def test_good_state_is_loaded(loadable):
    """The fixture's state is good: what the tests below refuse is refused for its fault alone."""
    sparsifier, state = loadable
    sparsifier.load_state_dict(state)
    assert sparsifier.data_groups["emb"]["sparsity_level"] == 0.5
    assert sparsifier.data_groups["head"]["norm"] == "L1"
    assert np.count_nonzero(~sparsifier.get_mask("emb")) == 16


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""],
                         ids=["one byte short", "one byte long", "empty"])  # fmt: skip
def test_state_with_truncated_masks(loadable, observe, damage):
    """a state dict or file that is truncated | ValueError naming the entry; the sparsifier as
    before"""
    sparsifier, state = loadable
    before = observe(sparsifier)
    masks = [(path, value) for path, value in leaves(state) if isinstance(value, bytes)]
    assert len(masks) >= 2
    for path, value in masks:
        with pytest.raises(ValueError, match="emb" if "emb" in path else "head"):
            sparsifier.load_state_dict(with_leaf(state, path, damage(value)))
        assert observe(sparsifier) == before


def test_state_of_another_version(loadable, observe):
    """a state dict or file ... of another version | ValueError naming the entry; the sparsifier as
    before"""
    sparsifier, state = loadable
    before = observe(sparsifier)
    versions = [
        (path, value)
        for path, value in leaves(state)
        if "version" in str(path[-1]) and type(value) is int
    ]
    assert len(versions) == 1
    path, value = versions[0]
    for other in (value + 1, 10**6, value - 1, -1):
        with pytest.raises(ValueError, match="version"):
            sparsifier.load_state_dict(with_leaf(state, path, other))
        assert observe(sparsifier) == before


def test_state_of_another_shape(loadable, observe):
    """a state dict or file ... of other shapes | ValueError naming the entry; the sparsifier as
    before"""
    sparsifier, _ = loadable
    before = observe(sparsifier)
    other = datasparse.DataNormSparsifier([("emb", ramp()), ("head", torch.ones(8, 4))])
    other.step()
    with pytest.raises(ValueError, match="head"):
        sparsifier.load_state_dict(other.state_dict())
    assert observe(sparsifier) == before


def test_state_without_one_of_its_entries(loadable, observe):
    """a state dict or file that is truncated | ValueError naming the entry; the sparsifier as
    before"""
    sparsifier, state = loadable
    before = observe(sparsifier)
    assert len(state) > 1
    for key in state:
        with pytest.raises(ValueError, match=key):
            sparsifier.load_state_dict({k: v for k, v in state.items() if k != key})
        assert observe(sparsifier) == before


def test_empty_state(loadable, observe):
    """a state dict or file that is truncated | ValueError"""
    sparsifier, _ = loadable
    before = observe(sparsifier)
    with pytest.raises(ValueError):  # noqa: PT011  (any entry may be named)
        sparsifier.load_state_dict({})
    assert observe(sparsifier) == before


@pytest.mark.parametrize("state", [None, [1, 2], "state", 3, b"state"], ids=repr)
def test_state_that_is_no_dict(loadable, observe, state):
    """a state dict or file that is [no state at all] | an error; the sparsifier as before"""
    sparsifier, _ = loadable
    before = observe(sparsifier)
    with pytest.raises((TypeError, ValueError), match="state_dict"):
        sparsifier.load_state_dict(state)
    assert observe(sparsifier) == before


def test_state_with_any_entry_of_a_wrong_kind(loadable, observe):
    """a state dict or file that is [damaged] | an error; the sparsifier as before"""
    sparsifier, state = loadable
    before = observe(sparsifier)
    places = [(path, value) for path, value in leaves(state) if value is not None]
    assert len(places) > 5
    for path, value in places:
        damaged = with_leaf(state, path, object())
        try:
            sparsifier.load_state_dict(damaged)
        except (ValueError, TypeError):
            assert observe(sparsifier) == before, (path, value)
        else:
            pytest.fail(f"{path} was accepted as an object()")


def test_state_with_a_config_out_of_range(loadable, observe):
    """a state dict ... | ValueError naming the entry; the sparsifier as before"""
    sparsifier, state = loadable
    before = observe(sparsifier)
    places = [path for path, _ in leaves(state) if path[-1] == "sparsity_level" and "head" in path]
    assert places
    for path in places:
        with pytest.raises(ValueError, match="sparsity_level"):
            sparsifier.load_state_dict(with_leaf(state, path, 1.5))
        assert observe(sparsifier) == before


def test_truncated_state_of_a_scheduler(two_groups, observe):
    """a state dict ... that is truncated | ValueError naming the entry; all as before"""
    scheduler = Scheduled(two_groups, lambda self: {"emb": 0.25})
    state = scheduler.state_dict()
    scheduler.step()
    before = observe(two_groups, scheduler)
    with pytest.raises(ValueError, match="last_epoch"):
        scheduler.load_state_dict({k: v for k, v in state.items() if k != "last_epoch"})
    assert observe(two_groups, scheduler) == before


# --- row 7: update_mask ---------------------------------------------------------------------------


class FailsAtHead(datasparse.BaseDataSparsifier):
    """Clears the first mask, then raises at the second group (and clears that one first)."""

    error = ZeroDivisionError("mine")
    replaces = False

    def update_mask(self, name, data, **config):
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


def test_step_succeeds_after_one_that_raised():
    """all masks change or none: and the sparsifier is usable afterwards"""
    sparsifier = FailsAtHead([("emb", ramp()), ("head", ramp())])
    with pytest.raises(ZeroDivisionError):
        sparsifier.step()
    sparsifier.remove_data("head")
    sparsifier.step()
    assert sparsifier.step_count == 1
    assert not sparsifier.get_mask("emb").any()


def test_built_in_rule_called_with_a_wrong_config_inside_update_mask(observe):
    """exception in one group's `update_mask` | that exception; all masks change or none"""

    class Wrong(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            level = 1.5 if name == "b" else config["sparsity_level"]
            super().update_mask(name, data, **{**config, "sparsity_level": level})

    sparsifier = Wrong([("a", ramp()), ("b", ramp())])
    before = observe(sparsifier)
    with pytest.raises(ValueError, match="sparsity_level"):
        sparsifier.step()
    assert observe(sparsifier) == before


def test_mask_replaced_by_a_wrong_one_inside_update_mask(observe):
    """exception in one group's `update_mask` | all masks change or none"""

    class Wrong(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            size = 3 if name == "b" else data.numel()
            self.get_mask(name).data = torch.zeros(size)

    sparsifier = Wrong([("a", torch.ones(SHAPE)), ("b", torch.ones(SHAPE))])
    before = observe(sparsifier)
    with pytest.raises(ValueError, match="'b'"):
        sparsifier.step()
    assert observe(sparsifier) == before


@pytest.mark.parametrize("count", [1, 3, 40])
def test_first_middle_or_last_group_raises(observe, count):
    """exception in one group's `update_mask` | all masks change or none"""

    class FailsAt(datasparse.BaseDataSparsifier):
        failing = None

        def update_mask(self, name, data, **config):
            self.get_mask(name)[...] = False
            if name == self.failing:
                raise ZeroDivisionError

    names = [f"group {index}" for index in range(count)]
    sparsifier = FailsAt([(name, ramp()) for name in names])
    before = observe(sparsifier)
    for name in names:
        sparsifier.failing = name
        with pytest.raises(ZeroDivisionError):
            sparsifier.step()
        assert observe(sparsifier) == before


def test_update_mask_that_takes_no_config_fails_like_a_python_call(observe):
    """exception in one group's `update_mask` | that exception"""

    class Narrow(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data):
            pass

    sparsifier = Narrow([("emb", ramp())], threshold=0.5)
    before = observe(sparsifier)
    with pytest.raises(TypeError, match="threshold"):
        sparsifier.step()
    assert observe(sparsifier) == before
