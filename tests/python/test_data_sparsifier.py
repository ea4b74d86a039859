"""The life of a group: add, step, read, apply, squash, remove; and overrides of update_mask."""

import inspect

import datasparse
import numpy as np
import pytest
import reference
import torch
from support import HALF, LAYOUTS, ON_DEVICES, as_numpy, placed
from torch import nn
from torch.ao.pruning._experimental import data_sparsifier as incumbent

pytestmark = ON_DEVICES
ON_THE_CPU = [pytest.mark.device("cpu")]

SHAPE = (12, 8)


def half(data_list=None):
    return datasparse.DataNormSparsifier(data_list, **HALF)


def numbers(rng, shape=SHAPE, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def values(*arguments):
    """An array; on a device, a tensor."""
    return placed(numbers(*arguments))


@pytest.fixture
def stepped(rng):
    """A sparsifier with one group, 'a', after a step."""
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    return sparsifier


# --- what can be added ----------------------------------------------------------------------------


class TaggedParameter(nn.Parameter):
    pass


class DLPackOnly:
    """An array of some other library: it offers the exchange protocol and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OldDLPack(DLPackOnly):
    """A library of before DLPack 1.0, whose capsules cannot say whether they are read-only."""

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__()


TORCH_KINDS = {
    "tensor": lambda t: t,
    "transposed tensor": lambda t: t.t().contiguous().t(),
    "strided tensor": lambda t: t.repeat_interleave(2, dim=1)[:, ::2],
    "Parameter": nn.Parameter,
    "Parameter without gradient": lambda t: nn.Parameter(t, requires_grad=False),
    "Parameter subclass": TaggedParameter,
    "Embedding": lambda t: nn.Embedding.from_pretrained(t, freeze=False),
    "EmbeddingBag": lambda t: nn.EmbeddingBag.from_pretrained(t, freeze=False),
}
TORCH_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def kinds_of_data():
    """One parameter for each kind of data: a function from a generator to the data."""
    for layout, arrange in LAYOUTS.items():
        for dtype in (np.float16, np.float32, np.float64):
            yield pytest.param(
                lambda rng, arrange=arrange, dtype=dtype: arrange(numbers(rng, dtype=dtype)),
                id=f"numpy {np.dtype(dtype).name} {layout}",
                marks=ON_THE_CPU,
            )
    for kind, wrap in TORCH_KINDS.items():
        for dtype in TORCH_DTYPES:
            yield pytest.param(
                lambda rng, wrap=wrap, dtype=dtype: wrap(torch.from_numpy(numbers(rng)).to(dtype)),
                id=f"{str(dtype).replace('.', ' ')} {kind}",
                marks=[pytest.mark.full_there] if dtype is not torch.float32 else [],
            )
    yield pytest.param(lambda rng: DLPackOnly(numbers(rng)), id="DLPack numpy", marks=ON_THE_CPU)
    yield pytest.param(
        lambda rng: DLPackOnly(torch.from_numpy(numbers(rng))), id="DLPack torch", marks=ON_THE_CPU
    )


def read(data):
    """The values that the user sees in their own memory, copied."""
    return reference.float_values(data._array if isinstance(data, DLPackOnly) else data)


def masked(before):
    return np.where(reference.mask(before, **HALF), before, 0)


every_kind = pytest.mark.parametrize("make", list(kinds_of_data()))


@every_kind
def test_step_computes_the_reference_mask_and_leaves_the_data_alone(rng, make):
    data = make(rng)
    before = read(data)
    sparsifier = half([("a", data)])
    mask = sparsifier.get_mask("a")
    assert mask.all()
    assert tuple(mask.shape) == SHAPE
    if isinstance(data, torch.Tensor | nn.Module):
        assert (type(mask), mask.dtype) == (torch.Tensor, torch.bool)
    else:
        assert (type(mask), mask.dtype) == (np.ndarray, np.bool_)
    sparsifier.step()
    assert np.array_equal(as_numpy(mask), reference.mask(before, **HALF))
    assert np.array_equal(read(data), before)


@every_kind
@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
def test_masked_entries_are_zeroed_in_the_users_memory(rng, make, write):
    data = make(rng)
    before = read(data)
    sparsifier = half([("a", data)])
    sparsifier.step()
    getattr(sparsifier, write)()
    assert np.array_equal(read(data), masked(before))


@every_kind
def test_masked_copy_is_fresh_zeroed_and_of_the_datas_own_kind(rng, make):
    data = make(rng)
    before = read(data)
    sparsifier = half([("a", data)])
    sparsifier.step()
    copy = sparsifier.get_data("a", return_original=False)
    assert np.array_equal(read(copy), masked(before))
    if isinstance(data, DLPackOnly):
        assert type(copy) is np.ndarray
    else:
        kind = torch.Tensor if isinstance(data, nn.Module) else type(data)
        assert isinstance(copy, np.ndarray if kind is np.ndarray else torch.Tensor)
        assert copy.dtype == sparsifier.get_data("a").dtype
    copy[...] = 7
    assert np.array_equal(read(data), before)


@pytest.mark.parametrize("shape", [(), (1,), (9,), (9, 1), (1, 3, 4), (2, 3, 4, 5),
                                   (0,), (0, 4), (4, 0), (2, 0, 3)], ids=str)  # fmt: skip
def test_everything_works_for_data_of_any_shape(rng, shape, wrap):
    data = np.asarray(rng.normal(size=shape), np.float32)
    before, wrapped = data.copy(), wrap(data)
    sparsifier = half([("a", wrapped)])
    sparsifier.step()
    expected = reference.mask(before, **HALF)
    assert tuple(sparsifier.get_mask("a").shape) == shape
    assert np.array_equal(as_numpy(sparsifier.get_mask("a")), expected)
    copy = sparsifier.get_data("a", return_original=False)
    assert np.array_equal(np.asarray(copy), np.where(expected, before, 0))
    sparsifier.apply_mask()
    assert np.array_equal(wrapped, np.where(expected, before, 0))
    sparsifier.squash_mask()


@pytest.mark.device("cpu")
@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
def test_unversioned_capsule_can_be_stepped_and_counts_as_read_only(rng, write):
    data = numbers(rng)
    before = data.copy()
    sparsifier = half([("a", OldDLPack(data))])
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a"), reference.mask(data, **HALF))
    with pytest.raises(ValueError, match="read-only"):
        getattr(sparsifier, write)()
    assert np.array_equal(data, before)


# --- constructor ----------------------------------------------------------------------------------


def test_positional_order_of_the_constructor(rng):
    sparsifier = datasparse.DataNormSparsifier([("a", values(rng))], 0.75, (2, 2), 3, "L2")
    expected = {
        "sparsity_level": 0.75,
        "sparse_block_shape": (2, 2),
        "zeros_per_block": 3,
        "norm": "L2",
    }
    assert sparsifier.data_groups["a"] == expected
    assert sparsifier.defaults == expected


def test_constructors_defaults_are_pytorchs():
    arguments = inspect.signature(incumbent.DataNormSparsifier).parameters
    config = datasparse.DataNormSparsifier([("a", placed(np.ones((4, 4))))]).data_groups["a"]
    for key in ("sparsity_level", "sparse_block_shape", "norm"):
        assert config[key] == arguments[key].default
    assert config["zeros_per_block"] == 4


@pytest.mark.parametrize("collect", [list, tuple, iter, dict], ids=lambda c: c.__name__)
def test_data_list_is_a_mapping_or_any_iterable_of_pairs(rng, collect):
    pairs = [("a", values(rng)), ("b", values(rng))]
    sparsifier = half(collect(pairs))
    assert list(sparsifier.data_groups) == ["a", "b"]
    assert sparsifier.get_data("b") is pairs[1][1]


def test_new_sparsifier_is_enabled_and_has_not_stepped():
    sparsifier = datasparse.DataNormSparsifier()
    assert sparsifier.enable_mask_update is True
    assert sparsifier.step_count == 0
    assert len(sparsifier.data_groups) == 0


@pytest.mark.parametrize("name", ["state", "step", " ", "ünïcode ✓", "0", "a/b", "a\0b"])
@pytest.mark.parametrize("several", [True, False])
def test_any_non_empty_string_is_a_name(rng, name, several):
    sparsifier = half([(name, values(rng))])
    sparsifier.step()
    sparsifier.apply_mask(names=[name] if several else name)
    assert list(sparsifier.data_groups) == [name]
    assert np.count_nonzero(sparsifier.get_data(name)) == 48


# --- zero copy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [np.array, torch.tensor, lambda v: nn.Parameter(torch.tensor(v)), "module"]
)
def test_the_users_own_object_is_returned(make):
    data = nn.Embedding(2, 2) if make == "module" else make([[1.0, 2.0], [3.0, 4.0]])
    own = data.weight if isinstance(data, nn.Module) else data
    sparsifier = half()
    assert sparsifier.add_data("a", data) is own
    assert sparsifier.get_data("a") is own
    assert sparsifier.get_data("a", True) is own
    assert sparsifier.get_data("a", False) is not own


def test_mask_is_one_live_object(rng, wrap):
    data = wrap(numbers(rng))
    before = read(data)
    sparsifier = half([("a", data)])
    mask = sparsifier.get_mask("a")
    sparsifier.step()
    assert sparsifier.get_mask("a") is mask
    assert np.array_equal(as_numpy(mask), reference.mask(before, **HALF))
    mask[...] = True
    mask[3] = False
    sparsifier.apply_mask()
    assert np.array_equal(data, np.where(np.arange(12)[:, None] == 3, 0, before))


class OfOnes:
    """A sparsifier of a 4 x 4 tensor of ones, and its mask."""

    def __init__(self):
        self.data = torch.ones(4, 4)
        self.sparsifier = half([("a", self.data)])
        self.mask = self.sparsifier.get_mask("a")


@pytest.fixture
def ones():
    return OfOnes()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float32])
def test_torch_mask_replaced_through_data_points_back_to_our_memory(ones, dtype):
    address = ones.mask.data_ptr()
    ones.mask.data = torch.eye(4).to(dtype)
    assert ones.sparsifier.get_mask("a") is ones.mask
    assert ones.mask.data_ptr() == address
    assert torch.equal(ones.mask, torch.eye(4, dtype=torch.bool))


def test_torch_mask_replaced_through_data_is_in_force_at_once(ones):
    """Whichever call comes next; all but zero means keep."""
    state = ones.sparsifier.state_dict()
    ones.mask.data = torch.eye(4) * -0.25
    assert torch.equal(ones.sparsifier.get_data("a", return_original=False), torch.eye(4))
    ones.mask.data = torch.eye(4).flip(0)
    assert ones.sparsifier.state_dict()["data_groups"]["a"]["mask"] == bytes([0x48, 0x12])
    ones.sparsifier.load_state_dict(state)
    ones.mask.data = torch.eye(4)
    ones.sparsifier.apply_mask()
    assert torch.equal(ones.data, torch.eye(4))
    ones.mask.data = torch.zeros(4, 4)
    ones.sparsifier.step()
    assert torch.count_nonzero(ones.mask) == 8


def test_torch_mask_replaced_by_a_view_of_itself(ones):
    ones.mask[0] = False
    ones.mask.data = ones.mask.t()  # the same memory, other strides
    ones.sparsifier.apply_mask()
    assert ones.data.tolist() == [[0, 1, 1, 1]] * 4
    assert ones.sparsifier.get_mask("a").is_contiguous()


def test_torch_mask_replaced_by_its_own_bytes_is_a_bool_mask_again(ones):
    ones.mask[0] = False
    ones.mask.data = ones.mask.view(torch.uint8)  # the same memory, another dtype
    assert ones.sparsifier.get_mask("a").dtype == torch.bool
    assert torch.count_nonzero(ones.sparsifier.get_mask("a")) == 12


def test_torch_mask_of_a_squashed_group_replaced_through_data(ones):
    ones.sparsifier.squash_mask()
    ones.mask.data = torch.eye(4)
    assert ones.sparsifier.state_dict()["data_groups"]["a"]["mask"] == bytes([0x21, 0x84])
    assert ones.sparsifier.get_mask("a") is ones.mask
    assert ones.mask.dtype == torch.bool


@pytest.mark.parametrize("kinds", [(np.array, torch.tensor), (torch.tensor, np.array)])
def test_mask_reused_for_data_of_another_kind_is_of_that_kind(rng, kinds, device):
    before, after = (kind(numbers(rng)) for kind in kinds)
    sparsifier = half([("a", before)])
    sparsifier.step()
    mask = sparsifier.get_mask("a")
    sparsifier.add_data("a", after)
    now = sparsifier.get_mask("a")
    assert isinstance(now, torch.Tensor) == isinstance(after, torch.Tensor)
    assert np.array_equal(as_numpy(now), as_numpy(mask))
    if device.name == "cpu":
        mask[0] = True  # the same memory
        assert as_numpy(now)[0].all()


@pytest.mark.parametrize("wrong", [lambda mask: mask[:2], lambda mask: torch.zeros(3)])
def test_torch_mask_replaced_by_another_number_of_elements_is_refused(ones, wrong):
    ones.mask.data = wrong(ones.mask)
    with pytest.raises(ValueError, match="'a'"):
        ones.sparsifier.apply_mask()
    assert ones.sparsifier.get_mask("a").shape == (4, 4)
    assert torch.equal(ones.data, torch.ones(4, 4))


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
@pytest.mark.parametrize("make", [torch.ones, lambda *shape: nn.Parameter(torch.ones(*shape))])
def test_only_writing_bumps_the_version_counter(write, make):
    data = make(4, 4)
    sparsifier = half([("a", data)])
    version = data._version
    sparsifier.step()
    assert data._version == version
    getattr(sparsifier, write)()
    assert data._version > version


def test_backward_notices_weights_masked_after_forward():
    weight = nn.Parameter(torch.randn(4, 4))
    sparsifier = half([("a", weight)])
    loss = (weight * weight).sum()
    sparsifier.apply_mask()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_training_goes_on_after_apply_mask_which_leaves_the_gradient_alone():
    weight = nn.Parameter(torch.randn(4, 4))
    sparsifier = half([("a", weight)])
    sparsifier.step()
    sparsifier.apply_mask()
    (weight * weight).sum().backward()
    assert torch.equal(weight.grad, 2 * weight)
    gradient = weight.grad.clone()
    sparsifier.apply_mask()
    assert torch.equal(weight.grad, gradient)


# --- apply_mask -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, torch.float32, torch.bfloat16], ids=str)
def test_masked_nan_and_infinity_become_zero_and_the_others_stay(value, dtype):
    full = torch.full if isinstance(dtype, torch.dtype) else np.full
    data = full((2, 4), value, dtype=dtype)
    sparsifier = half([("a", data)])
    sparsifier.step()
    expected = np.array([[0] * 4, [value] * 4], np.float32)
    copy = sparsifier.get_data("a", return_original=False)
    assert np.array_equal(read(copy), expected, equal_nan=True)
    sparsifier.apply_mask()
    assert np.array_equal(read(data), expected, equal_nan=True)


def test_apply_mask_of_some_names_leaves_the_others(rng):
    a, b = values(rng), values(rng)
    sparsifier = half([("a", a), ("b", b)])
    sparsifier.step()
    sparsifier.apply_mask(names=["b"])
    assert (np.count_nonzero(a), np.count_nonzero(b)) == (96, 48)


def test_apply_mask_keeps_the_mask(stepped):
    before = as_numpy(stepped.get_mask("a")).copy()
    stepped.apply_mask()
    assert np.array_equal(stepped.get_mask("a"), before)


def test_one_call_of_apply_mask_serves_numpy_and_torch(rng):
    array, tensor = numbers(rng), torch.from_numpy(numbers(rng))
    sparsifier = half([("numpy", array), ("torch", tensor)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert np.count_nonzero(array) == np.count_nonzero(tensor.numpy()) == 48


# --- squash_mask ----------------------------------------------------------------------------------


@pytest.fixture
def squashed(rng):
    """A sparsifier whose group 'a' is squashed and whose group 'b' is not."""
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.step()
    sparsifier.squash_mask(names=["a"])
    return sparsifier


def test_squashed_group_has_a_name_and_a_mask_but_no_data(squashed):
    assert list(squashed.data_groups) == ["a", "b"]
    assert np.count_nonzero(~squashed.get_mask("a")) == 48
    with pytest.raises(ValueError, match="squashed"):
        squashed.get_data("a")


def test_step_skips_a_squashed_group(squashed):
    before = as_numpy(squashed.get_mask("a")).copy()
    squashed.data_groups["a"]["sparsity_level"] = 0.9
    squashed.data_groups["b"]["sparsity_level"] = 0.25
    squashed.step()
    assert np.array_equal(squashed.get_mask("a"), before)
    assert np.count_nonzero(~squashed.get_mask("b")) == 24


def test_mask_of_a_squashed_group_stays_the_same_object(rng, wrap):
    sparsifier = half([("a", wrap(numbers(rng)))])
    mask = sparsifier.get_mask("a")
    sparsifier.squash_mask()
    assert sparsifier.get_mask("a") is mask


def test_calls_for_all_groups_skip_what_is_squashed_already(rng):
    data = values(rng)
    sparsifier = half([("a", data), ("b", values(rng))])
    sparsifier.step()
    sparsifier.squash_mask("a")
    data[...] = 1
    sparsifier.apply_mask()
    sparsifier.squash_mask()
    assert (data == 1).all()
    with pytest.raises(ValueError, match="squashed"):
        sparsifier.get_data("b")


def test_re_adding_a_squashed_name_starts_afresh(squashed, rng):
    data = values(rng, (3, 3))
    assert squashed.add_data("a", data) is data
    assert squashed.get_mask("a").all()
    squashed.step()
    assert np.array_equal(squashed.get_mask("a"), reference.mask(read(data), **HALF))


def test_squashed_group_can_be_removed(squashed):
    squashed.remove_data("a")
    assert list(squashed.data_groups) == ["b"]


# --- remove_data and re-adding --------------------------------------------------------------------


def test_removed_group_is_forgotten_and_its_data_are_left_alone(rng):
    data = values(rng)
    before = read(data)
    sparsifier = half([("a", data), ("b", values(rng))])
    sparsifier.data_groups["a"]["sparsity_level"] = 0.9
    sparsifier.step()
    sparsifier.remove_data("a")
    for ask in (sparsifier.get_mask, sparsifier.get_data, sparsifier.remove_data):
        with pytest.raises(datasparse.UnknownNameError, match="'a'"):
            ask("a")
    sparsifier.step()
    assert np.array_equal(data, before)
    sparsifier.add_data("a", placed(np.ones((3, 5))))
    assert sparsifier.get_mask("a").all()
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.5


def test_re_adding_replaces_the_data_and_reuses_the_mask(rng, stepped):
    mask = as_numpy(stepped.get_mask("a")).copy()
    data = values(rng)
    before = read(data)
    copy = stepped.add_data("a", data)
    assert stepped.get_data("a") is data
    assert np.array_equal(stepped.get_mask("a"), mask)
    assert np.array_equal(copy, np.where(mask, before, 0))
    assert np.array_equal(data, before)


@pytest.mark.parametrize("arguments", [((), {"reuse_mask": False}), ((False,), {})])
def test_re_adding_without_reuse_starts_with_a_full_mask(stepped, arguments):
    data = placed(np.ones((2, 3)))
    assert stepped.add_data("a", data, *arguments[0], **arguments[1]) is data
    assert stepped.get_mask("a").shape == (2, 3)
    assert stepped.get_mask("a").all()


def test_re_adding_keeps_the_config_where_the_call_says_nothing(rng, stepped):
    stepped.data_groups["a"].update(sparsity_level=0.9, norm="L2")
    stepped.add_data("a", values(rng), sparsity_level=0.1)
    config = {**HALF, "zeros_per_block": 1, "sparsity_level": 0.1, "norm": "L2"}
    assert stepped.data_groups["a"] == config


def test_re_adding_may_change_the_library(rng):
    stepped = half([("a", numbers(rng))])
    stepped.step()
    before = as_numpy(stepped.get_mask("a")).copy()
    stepped.add_data("a", torch.from_numpy(numbers(rng)))
    assert isinstance(stepped.get_mask("a"), torch.Tensor)
    assert np.array_equal(stepped.get_mask("a").numpy(), before)


@pytest.mark.parametrize(
    ("data", "config", "error", "says"),
    [
        (np.ones((8, 12)), {}, ValueError, "'a'"),  # the mask to be reused has another shape
        (np.ones(SHAPE), {"sparsity_level": 2.0}, ValueError, "sparsity_level"),
        (np.ones(SHAPE, np.int32), {}, TypeError, "'a'"),
    ],
)
def test_refused_re_adding_leaves_the_old_group(stepped, observe, data, config, error, says):
    before, old = observe(stepped), stepped.get_data("a")
    with pytest.raises(error, match=says):
        stepped.add_data("a", placed(data), **config)
    assert observe(stepped) == before
    assert stepped.get_data("a") is old


# --- a mask given to add_data ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32, torch.bool, torch.int8,
                                   torch.float32, torch.bfloat16], ids=str)  # fmt: skip
def test_given_mask_is_copied_and_the_masked_data_returned(rng, dtype):
    keep = rng.integers(0, 2, size=SHAPE)
    data = numbers(rng)
    before = data.copy()
    if isinstance(dtype, torch.dtype):
        given, mine = torch.from_numpy(keep).to(dtype), torch.from_numpy(data)
    else:
        given, mine = np.asfortranarray(keep.astype(dtype)), data
    sparsifier = half()
    copy = sparsifier.add_data("a", mine, mask=given)
    given[...] = 1
    assert np.array_equal(as_numpy(sparsifier.get_mask("a")), keep != 0)
    assert np.array_equal(as_numpy(copy), np.where(keep, before, 0))
    assert np.array_equal(data, before)


def test_given_mask_beats_reuse_mask(rng, stepped):
    given = rng.integers(0, 2, size=SHAPE) != 0
    stepped.add_data("a", values(rng), reuse_mask=True, mask=placed(given))
    assert np.array_equal(stepped.get_mask("a"), given)


@pytest.mark.parametrize("bad", [0.5, 2, -1, np.nan])
def test_given_mask_that_holds_other_numbers_is_refused(rng, bad):
    given = np.ones(SHAPE, np.float32)
    given[3, 4] = bad
    sparsifier = half()
    with pytest.raises(ValueError, match="mask"):
        sparsifier.add_data("a", values(rng), mask=placed(given))
    assert len(sparsifier.data_groups) == 0


# A copy to a device makes True of any other byte of a bool.
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(np.bool_, marks=ON_THE_CPU), np.uint8, np.int8, np.uint16, np.float32],
)
def test_given_mask_that_is_refused_is_told_the_number(rng, dtype):
    given = np.ones(SHAPE, np.uint8)
    given[3, 4] = 2
    given = given.view(bool) if dtype is np.bool_ else given.astype(dtype)
    with pytest.raises(ValueError, match=r"mask of 'a' must hold 0 and 1 only, got 2(\.0)?$"):
        half().add_data("a", values(rng), mask=placed(given))


@pytest.mark.parametrize("shape", [(8, 12), (96,), (12, 1), ()], ids=str)
def test_given_mask_of_another_shape_is_refused(rng, shape):
    sparsifier = half()
    with pytest.raises(ValueError, match="mask"):
        sparsifier.add_data("a", values(rng), mask=placed(np.ones(shape, np.bool_)))
    assert len(sparsifier.data_groups) == 0


# --- enable_mask_update, step_count, state --------------------------------------------------------


def test_disabled_sparsifier_counts_steps_but_changes_no_mask(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.enable_mask_update = False
    sparsifier.step()
    assert sparsifier.get_mask("a").all()
    assert sparsifier.step_count == 1
    sparsifier.enable_mask_update = True
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("a")) == 48


def test_step_count_is_read_only_and_counts_empty_steps_too():
    sparsifier = half()
    for count in (1, 2, 3):
        assert sparsifier.step() is None
        assert sparsifier.step_count == count
    with pytest.raises(AttributeError):
        sparsifier.step_count = 7
    assert sparsifier.step_count == 3


def test_state_of_a_group_keeps_a_subclasss_own_values(rng):
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.state["a"]["seen"] = 3
    sparsifier.step()
    assert sparsifier.state == {"a": {"seen": 3}, "b": {}}


# --- overrides of update_mask ---------------------------------------------------------------------


class Threshold(datasparse.BaseDataSparsifier):
    """Keeps what is above a threshold, by editing the mask in place."""

    def __init__(self, data_list=None, threshold=0.5):
        super().__init__(data_list, threshold=threshold)

    def update_mask(self, name, data, threshold, **kw):
        self.get_mask(name)[...] = abs(data) > threshold


class ThresholdByReplacing(Threshold):
    """The same in the way of PyTorch's sparsifiers."""

    def update_mask(self, name, data, threshold, **kw):
        self.get_mask(name).data = (data.abs() > threshold).to(torch.int8)


def test_custom_sparsifier_edits_its_mask_in_place(rng, wrap):
    a, b = wrap(numbers(rng)), wrap(numbers(rng))
    sparsifier = Threshold([("a", a)])
    sparsifier.add_data("b", b, threshold=1.0)
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a"), abs(a) > 0.5)
    assert np.array_equal(sparsifier.get_mask("b"), abs(b) > 1.0)
    sparsifier.apply_mask()
    assert np.count_nonzero((a != 0) & (abs(a) <= 0.5)) == 0


def test_custom_sparsifier_replaces_its_torch_mask(rng):
    data = numbers(rng)
    sparsifier = ThresholdByReplacing([("a", torch.from_numpy(data))])
    mask = sparsifier.get_mask("a")
    address = mask.data_ptr()
    sparsifier.step()
    assert np.array_equal(mask.numpy(), np.abs(data) > 0.5)
    assert (mask.dtype, mask.data_ptr()) == (torch.bool, address)


class Recorder(datasparse.BaseDataSparsifier):
    def __init__(self, data_list=None, **defaults):
        self.calls = []
        super().__init__(data_list, **defaults)

    def update_mask(self, name, data, **config):
        self.calls.append((name, data, config))


def test_override_is_called_in_order_with_exactly_the_groups_config(rng):
    defaults = {"threshold": 0.5, "shape": (1, 2), "flag": True}
    sparsifier = Recorder([(name, values(rng)) for name in "zam"], **defaults)
    sparsifier.add_data("b", values(rng), extra="text")
    sparsifier.squash_mask("a")
    sparsifier.step()
    configs = [(name, config) for name, _, config in sparsifier.calls]
    assert configs == [("z", defaults), ("m", defaults), ("b", {**defaults, "extra": "text"})]


def test_override_is_not_called_while_disabled(rng):
    sparsifier = Recorder([("a", values(rng))])
    sparsifier.enable_mask_update = False
    sparsifier.step()
    assert sparsifier.calls == []


def test_override_of_the_norm_sparsifier_gets_the_effective_zeros_per_block(rng):
    class Record(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            configs.append(config)

    configs = []
    Record([("a", values(rng))], sparse_block_shape=(2, -1)).step()
    expected = {"sparsity_level": 0.5, "sparse_block_shape": (2, -1), "norm": "L1"}
    assert configs == [{**expected, "zeros_per_block": 16}]


@pytest.mark.device("cpu")
def test_override_gets_the_users_own_array_without_a_copy(rng):
    data = numbers(rng)
    sparsifier = Recorder([("a", data)])
    sparsifier.step()
    seen = sparsifier.calls[0][1]
    assert isinstance(seen, np.ndarray)
    assert np.shares_memory(seen, data)
    assert seen.shape == SHAPE


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("kind", [nn.Parameter, nn.Embedding.from_pretrained])
def test_override_gets_the_users_own_tensor_detached(dtype, kind):
    data = kind(torch.randn(4, 4).to(dtype))
    sparsifier = Recorder([("a", data)])
    sparsifier.step()
    seen = sparsifier.calls[0][1]
    assert isinstance(seen, torch.Tensor)
    assert seen.data_ptr() == sparsifier.get_data("a").data_ptr()
    assert seen.dtype == dtype
    assert not seen.requires_grad


@pytest.mark.parametrize("fails", [False, True])
def test_override_runs_without_gradients_which_come_back_afterwards(fails):
    class Record(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            modes.append(torch.is_grad_enabled())
            if fails:
                raise ZeroDivisionError

    modes = []
    sparsifier = Record([("a", nn.Parameter(torch.ones(2, 2)))])
    if fails:
        with pytest.raises(ZeroDivisionError):
            sparsifier.step()
    else:
        sparsifier.step()
    assert modes == [False]
    assert torch.is_grad_enabled()


class KeepFirstRow(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        self.get_mask(name)[0] = True


class KeepFirstRowOfAMaskReadBefore(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        mask = self.get_mask(name)
        super().update_mask(name, data, **config)
        mask[0] = True


@pytest.mark.parametrize("sparsifier_class", [KeepFirstRow, KeepFirstRowOfAMaskReadBefore])
def test_override_may_edit_what_the_built_in_rule_computed(rng, wrap, sparsifier_class):
    data = numbers(rng)
    sparsifier = sparsifier_class([("a", wrap(data))], **HALF)
    expected = reference.mask(data, **HALF)
    expected[0] = True
    for _ in range(2):
        sparsifier.step()
        assert np.array_equal(as_numpy(sparsifier.get_mask("a")), expected)


def test_override_may_pass_other_scores_and_another_config_on(rng, wrap):
    class Scored(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, wrap(scores.copy()), **{**config, "sparsity_level": 0.25})
            seen.append(as_numpy(self.get_mask(name)).copy())

    scores, seen = numbers(rng), []
    sparsifier = Scored([("a", wrap(numbers(rng)))], **HALF)
    sparsifier.step()
    assert np.array_equal(seen[0], reference.mask(scores, 0.25, (1, 1)))
    assert np.array_equal(as_numpy(sparsifier.get_mask("a")), seen[0])
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.5


def test_built_in_rule_refuses_scores_of_another_shape(rng):
    class Scored(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data.reshape(8, 12), **config)

    with pytest.raises(ValueError, match=r"'a'.*\(12, 8\), got \(8, 12\)"):
        Scored([("a", values(rng))]).step()


def test_override_that_serves_some_groups_leaves_the_masks_of_the_rest(rng):
    class SkipBiases(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            if not name.endswith("bias"):
                super().update_mask(name, data, **config)

    groups = [(f"{i}.{kind}", values(rng)) for i in range(5) for kind in ("weight", "bias")]
    sparsifier = SkipBiases(groups, **HALF)
    sparsifier.step()
    for name, data in groups:
        expected = np.ones(SHAPE, bool) if "bias" in name else reference.mask(read(data), **HALF)
        assert np.array_equal(sparsifier.get_mask(name), expected)


def test_override_may_use_attributes_set_before_the_base_constructor(rng):
    class Attribute(datasparse.BaseDataSparsifier):
        def __init__(self, data_list):
            self.row = 3
            super().__init__(data_list)

        def update_mask(self, name, data, **config):
            self.get_mask(name)[self.row] = False

    sparsifier = Attribute([("a", values(rng))])
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("a")) == 8


def keep_all(sparsifier, name):
    sparsifier.get_mask(name)[...] = True


@pytest.mark.parametrize("on", ["class", "instance"])
def test_override_that_is_patched_in_later_is_found(rng, on):
    class Late(datasparse.DataNormSparsifier):
        pass

    sparsifier = Late([("a", values(rng))], **HALF)
    sparsifier.step()
    if on == "class":
        Late.update_mask = lambda self, name, data, **config: keep_all(self, name)
    else:
        sparsifier.update_mask = lambda name, data, **config: keep_all(sparsifier, name)
    sparsifier.step()
    assert sparsifier.get_mask("a").all()


def test_missing_override_is_reported_by_class_and_method(rng):
    class Unfinished(datasparse.BaseDataSparsifier):
        pass

    sparsifier = Unfinished([("a", values(rng))])
    with pytest.raises(NotImplementedError, match=r"Unfinished.*update_mask"):
        sparsifier.step()
    assert sparsifier.step_count == 0


def test_override_that_returns_a_mask_instead_of_changing_it_is_refused(rng, observe):
    class Returns(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            return as_numpy(abs(data) > 0.5)

    sparsifier = Returns([("a", values(rng))])
    before = observe(sparsifier)
    with pytest.raises(TypeError, match=r"Returns\.update_mask\(\) returned ndarray"):
        sparsifier.step()
    assert observe(sparsifier) == before


REFUSED_INSIDE_UPDATE_MASK = {
    "step": lambda s: s.step(),
    "add_data": lambda s: s.add_data("new", placed(np.ones((2, 2)))),
    "re-adding": lambda s: s.add_data("a", np.ones(SHAPE, np.float32)),
    "remove_data": lambda s: s.remove_data("b"),
    "removing itself": lambda s: s.remove_data("a"),
    "squash_mask": lambda s: s.squash_mask(),
    "config write": lambda s: s.data_groups["a"].__setitem__("threshold", 0.9),
    "config update": lambda s: s.data_groups["b"].update(threshold=0.9),
}


@pytest.mark.parametrize("escapes", [False, True])
@pytest.mark.parametrize(
    "change", REFUSED_INSIDE_UPDATE_MASK.values(), ids=REFUSED_INSIDE_UPDATE_MASK.keys()
)
def test_changing_the_sparsifier_inside_update_mask_is_refused(rng, observe, change, escapes):
    """A refusal that escapes update_mask undoes the step."""

    class Meddler(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            self.get_mask(name)[0] = False
            if escapes:
                change(self)
            with pytest.raises(RuntimeError, match="update_mask"):
                change(self)

    sparsifier = Meddler([("a", values(rng)), ("b", values(rng))], threshold=0.5)
    before = observe(sparsifier)
    if escapes:
        with pytest.raises(RuntimeError, match="update_mask"):
            sparsifier.step()
        assert observe(sparsifier) == before
    else:
        sparsifier.step()
        assert observe(sparsifier)["config"] == before["config"]
        assert [np.count_nonzero(~sparsifier.get_mask(name)) for name in "ab"] == [8, 8]
        assert sparsifier.step_count == 1


def test_sparsifier_can_be_changed_again_after_the_step(rng):
    sparsifier = Threshold([("a", values(rng))])
    sparsifier.step()
    sparsifier.add_data("b", values(rng))
    sparsifier.data_groups["a"]["threshold"] = 0.1
    sparsifier.remove_data("a")
    sparsifier.step()
    assert list(sparsifier.data_groups) == ["b"]


def test_reading_inside_update_mask_is_allowed(rng):
    class Reader(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)
            level = self.data_groups[name]["sparsity_level"]
            shapes = self.get_mask("a").shape, self.get_data("b").shape
            seen.append((list(self.data_groups), level, shapes))
            seen.append((self.step_count, self.enable_mask_update))

    seen = []
    Reader([("a", values(rng)), ("b", values(rng))], **HALF).step()
    assert seen == [(["a", "b"], 0.5, (SHAPE, SHAPE)), (0, True)] * 2


def test_another_sparsifier_may_step_inside_update_mask(rng):
    other = half([("x", values(rng))])

    class Outer(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            other.step()

    Outer([("a", values(rng))]).step()
    assert np.count_nonzero(~other.get_mask("x")) == 48


# --- many groups ----------------------------------------------------------------------------------


def test_many_groups_of_numpy_and_torch(rng):
    sparsifier = datasparse.DataNormSparsifier()
    expected = []
    for index in range(500):
        array = numbers(rng, (int(rng.integers(1, 9)), int(rng.integers(1, 30))))
        config = {
            "sparsity_level": float(rng.uniform()),
            "sparse_block_shape": (int(rng.integers(1, 4)), int(rng.integers(1, 5))),
            "norm": ("L1", "L2", None)[rng.integers(3)],
        }
        if not reference.mask(array, **config).any():
            config["sparsity_level"] = 1.0  # as low a level would be warned of
        data = torch.from_numpy(array) if index % 2 else array
        sparsifier.add_data(f"group {index}", data, **config)
        expected.append(reference.mask(array, **config))
    sparsifier.step()
    for index, mask in enumerate(expected):
        found = sparsifier.get_mask(f"group {index}")
        assert isinstance(found, torch.Tensor if index % 2 else np.ndarray)
        assert np.array_equal(as_numpy(found), mask)


def test_small_and_large_groups_together(rng):
    shapes = [(3, 4), (700, 300), (1, 1), (0, 4), (150_000,), (2, 2)]
    data = {str(shape): numbers(rng, shape) for shape in shapes}
    sparsifier = half({name: placed(array) for name, array in data.items()})
    sparsifier.step()
    for name, array in data.items():
        expected = reference.whole_block_mask_by_stable_sort(array, 0.5)
        assert np.array_equal(sparsifier.get_mask(name), expected)
