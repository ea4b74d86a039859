"""The life of a group: add, step, read, apply, squash, remove; and overrides of update_mask."""

import inspect

import datasparse
import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.ao.pruning._experimental import data_sparsifier as incumbent

HALF = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}
SHAPE = (12, 8)


def half(data_list=None):
    return datasparse.DataNormSparsifier(data_list, **HALF)


def values(rng, shape=SHAPE, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def numpy_mask(mask):
    return mask.numpy() if isinstance(mask, torch.Tensor) else mask


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


def packed_records(array):
    records = np.zeros(array.shape, dtype=[("tag", np.uint8), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


NUMPY_LAYOUTS = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "misaligned field": packed_records,
}
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
    """One parameter for each kind of data: a function from a generator to (data, is it torch)."""
    for layout, arrange in NUMPY_LAYOUTS.items():
        for dtype in (np.float16, np.float32, np.float64):
            yield pytest.param(
                lambda rng, arrange=arrange, dtype=dtype: arrange(values(rng, dtype=dtype)),
                id=f"numpy {np.dtype(dtype).name} {layout}",
            )
    for kind, wrap in TORCH_KINDS.items():
        for dtype in TORCH_DTYPES:
            yield pytest.param(
                lambda rng, wrap=wrap, dtype=dtype: wrap(torch.from_numpy(values(rng)).to(dtype)),
                id=f"{str(dtype).replace('.', ' ')} {kind}",
            )
    yield pytest.param(lambda rng: DLPackOnly(values(rng)), id="DLPack numpy")
    yield pytest.param(lambda rng: DLPackOnly(torch.from_numpy(values(rng))), id="DLPack torch")


def read(data):
    """The values that the user sees in their own memory, copied."""
    if isinstance(data, DLPackOnly):
        data = data._array
    return reference.float_values(data)


every_kind = pytest.mark.parametrize("make", list(kinds_of_data()))


@every_kind
def test_step_computes_the_reference_mask(rng, make):
    data = make(rng)
    sparsifier = half([("data", data)])
    sparsifier.step()
    expected = reference.mask(read(data), **HALF)
    assert np.array_equal(numpy_mask(sparsifier.get_mask("data")), expected)


@every_kind
def test_step_leaves_the_data_alone(rng, make):
    data = make(rng)
    before = read(data)
    half([("data", data)]).step()
    assert np.array_equal(read(data), before)


@every_kind
def test_apply_mask_zeroes_exactly_the_masked_entries_of_the_users_memory(rng, make):
    data = make(rng)
    before = read(data)
    sparsifier = half([("data", data)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert np.array_equal(read(data), np.where(reference.mask(before, **HALF), before, 0))


@every_kind
def test_squash_mask_zeroes_exactly_the_masked_entries_of_the_users_memory(rng, make):
    data = make(rng)
    before = read(data)
    sparsifier = half([("data", data)])
    sparsifier.step()
    sparsifier.squash_mask()
    assert np.array_equal(read(data), np.where(reference.mask(before, **HALF), before, 0))


@every_kind
def test_masked_copy_is_fresh_and_zeroed(rng, make):
    data = make(rng)
    before = read(data)
    sparsifier = half([("data", data)])
    sparsifier.step()
    copy = sparsifier.get_data("data", return_original=False)
    assert np.array_equal(read(copy), np.where(reference.mask(before, **HALF), before, 0))
    assert np.array_equal(read(data), before)


@every_kind
def test_mask_is_a_bool_array_of_the_datas_own_library(rng, make):
    data = make(rng)
    mask = half([("data", data)]).get_mask("data")
    if isinstance(data, torch.Tensor | nn.Module):
        assert type(mask) is torch.Tensor
        assert mask.dtype == torch.bool
    else:
        assert type(mask) is np.ndarray
        assert mask.dtype == np.bool_
    assert tuple(mask.shape) == SHAPE


def test_mask_keeps_everything_until_the_first_step(rng):
    assert half([("data", values(rng))]).get_mask("data").all()


def test_read_only_array_can_be_stepped(rng):
    data = values(rng)
    data.flags.writeable = False
    sparsifier = half([("data", data)])
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("data"), reference.mask(data, **HALF))


@pytest.mark.parametrize("shape", [(), (1,), (9,), (9, 1), (1, 3, 4), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_everything_works_for_data_of_any_shape(rng, shape, library):
    data = np.asarray(rng.normal(size=shape), np.float32)
    before = data.copy()
    sparsifier = half([("data", torch.from_numpy(data) if library == "torch" else data)])
    sparsifier.step()
    expected = reference.mask(before, **HALF)
    assert tuple(sparsifier.get_mask("data").shape) == shape
    assert np.array_equal(numpy_mask(sparsifier.get_mask("data")), expected)
    masked = sparsifier.get_data("data", return_original=False)
    assert np.array_equal(np.asarray(masked), np.where(expected, before, 0))
    sparsifier.apply_mask()
    assert np.array_equal(data, np.where(expected, before, 0))
    sparsifier.squash_mask()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_everything_works_for_empty_data(shape, library):
    sparsifier = half([("data", (np if library == "numpy" else torch).ones(shape))])
    sparsifier.step()
    assert tuple(sparsifier.get_mask("data").shape) == shape
    assert tuple(sparsifier.get_data("data", return_original=False).shape) == shape
    sparsifier.apply_mask()
    sparsifier.squash_mask()


# --- constructor ----------------------------------------------------------------------------------


def test_positional_order_of_the_constructor(rng):
    data = values(rng)
    sparsifier = datasparse.DataNormSparsifier([("data", data)], 0.75, (2, 2), 3, "L2")
    assert sparsifier.data_groups["data"] == {
        "sparsity_level": 0.75,
        "sparse_block_shape": (2, 2),
        "zeros_per_block": 3,
        "norm": "L2",
    }


def test_constructors_defaults_are_pytorchs():
    arguments = inspect.signature(incumbent.DataNormSparsifier).parameters
    sparsifier = datasparse.DataNormSparsifier([("data", np.ones((4, 4)))])
    config = sparsifier.data_groups["data"]
    assert config["sparsity_level"] == arguments["sparsity_level"].default
    assert config["sparse_block_shape"] == arguments["sparse_block_shape"].default
    assert config["norm"] == arguments["norm"].default
    assert config["zeros_per_block"] == 4


@pytest.mark.parametrize("collect", [list, tuple, iter, dict], ids=lambda c: c.__name__)
def test_data_list_is_any_iterable_of_pairs(rng, collect):
    pairs = [("a", values(rng)), ("b", values(rng))]
    data_list = collect(pairs)
    sparsifier = half(data_list.items() if collect is dict else data_list)
    assert list(sparsifier.data_groups) == ["a", "b"]
    assert sparsifier.get_data("b") is pairs[1][1]


def test_named_parameters_go_in_unchanged():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    sparsifier = half(model.named_parameters())
    sparsifier.step()
    assert list(sparsifier.data_groups) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert torch.count_nonzero(sparsifier.get_mask("2.weight")) == 6


def test_defaults_hold_the_constructors_values():
    defaults = datasparse.DataNormSparsifier(sparsity_level=0.7, norm="L2").defaults
    assert defaults["sparsity_level"] == 0.7
    assert defaults["norm"] == "L2"
    assert defaults["sparse_block_shape"] == (1, 4)


def test_new_sparsifier_is_enabled_and_has_not_stepped():
    sparsifier = datasparse.DataNormSparsifier()
    assert sparsifier.enable_mask_update is True
    assert sparsifier.step_count == 0
    assert len(sparsifier.data_groups) == 0


@pytest.mark.parametrize(
    "name",
    ["a.b.weight", "weight", "state", "step", "data_groups", " ", "ünïcode ✓", "0", "a/b", "a\0b"],
)
def test_any_non_empty_string_is_a_name(rng, name):
    sparsifier = half([(name, values(rng))])
    sparsifier.step()
    sparsifier.apply_mask(names=[name])
    assert list(sparsifier.data_groups) == [name]
    assert np.count_nonzero(sparsifier.get_data(name)) == 48


# --- zero copy ------------------------------------------------------------------------------------


def test_get_data_is_the_users_own_array(rng):
    data = values(rng)
    assert half([("data", data)]).get_data("data") is data


def test_get_data_is_the_users_own_parameter():
    data = nn.Parameter(torch.randn(4, 4))
    assert half([("data", data)]).get_data("data") is data


def test_get_data_of_an_embedding_is_its_weight():
    embedding = nn.Embedding(5, 4)
    assert half([("data", embedding)]).get_data("data") is embedding.weight


def test_add_data_returns_the_data_itself(rng):
    data = values(rng)
    assert half().add_data("data", data) is data


def test_add_data_returns_the_parameter_itself():
    data = nn.Parameter(torch.randn(4, 4))
    assert half().add_data("data", data) is data


def test_step_sees_values_written_after_add_data(rng):
    data = values(rng)
    sparsifier = half([("data", data)])
    data[...] = values(rng)
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("data"), reference.mask(data, **HALF))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_get_mask_is_the_same_object_every_time(rng, library):
    data = values(rng)
    sparsifier = half([("data", torch.from_numpy(data) if library == "torch" else data)])
    mask = sparsifier.get_mask("data")
    assert sparsifier.get_mask("data") is mask
    sparsifier.step()
    assert sparsifier.get_mask("data") is mask


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_mask_read_before_a_step_shows_the_step(rng, library):
    data = values(rng)
    sparsifier = half([("data", torch.from_numpy(data) if library == "torch" else data)])
    mask = sparsifier.get_mask("data")
    sparsifier.step()
    assert np.array_equal(numpy_mask(mask), reference.mask(data, **HALF))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_mask_edited_in_place_is_applied(rng, library):
    data = values(rng)
    before = data.copy()
    sparsifier = half([("data", torch.from_numpy(data) if library == "torch" else data)])
    sparsifier.get_mask("data")[3] = False
    sparsifier.apply_mask()
    assert not data[3].any()
    assert np.array_equal(np.delete(data, 3, axis=0), np.delete(before, 3, axis=0))


def test_mask_edited_through_torch_functions_is_applied():
    data = torch.ones(4, 4)
    sparsifier = half([("data", data)])
    sparsifier.get_mask("data").fill_(False).diagonal().fill_(True)
    sparsifier.apply_mask()
    assert torch.equal(data, torch.eye(4))


def test_torch_mask_replaced_through_data_is_applied():
    data = torch.ones(4, 4)
    sparsifier = half([("data", data)])
    sparsifier.get_mask("data").data = torch.eye(4, dtype=torch.bool)
    sparsifier.apply_mask()
    assert torch.equal(data, torch.eye(4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int64, torch.float32])
def test_torch_mask_replaced_through_data_points_back_to_our_memory(dtype):
    sparsifier = half([("data", torch.ones(4, 4))])
    mask = sparsifier.get_mask("data")
    address = mask.data_ptr()
    mask.data = torch.eye(4).to(dtype)
    assert sparsifier.get_mask("data") is mask
    assert mask.data_ptr() == address
    assert mask.dtype == torch.bool
    assert mask.shape == (4, 4)
    assert torch.equal(mask, torch.eye(4, dtype=torch.bool))


def test_torch_mask_replaced_through_data_is_in_the_masked_copy():
    sparsifier = half([("data", torch.ones(4, 4))])
    sparsifier.get_mask("data").data = torch.eye(4) * -0.25  # nonzero = keep
    copy = sparsifier.get_data("data", return_original=False)
    assert torch.equal(copy, torch.eye(4))


def test_torch_mask_replaced_by_a_view_of_itself_is_applied():
    data = torch.ones(3, 3)
    sparsifier = half([("table", data)])
    mask = sparsifier.get_mask("table")
    mask[0] = False
    mask.data = mask.t()  # the same memory, other strides
    sparsifier.apply_mask()
    assert data.tolist() == [[0, 1, 1]] * 3
    assert sparsifier.get_mask("table").is_contiguous()


def test_torch_mask_replaced_by_a_part_of_itself_is_refused():
    sparsifier = half([("table", torch.ones(4, 4))])
    mask = sparsifier.get_mask("table")
    mask.data = mask[:2]  # the same memory, fewer elements
    with pytest.raises(ValueError, match="'table'"):
        sparsifier.apply_mask()
    assert sparsifier.get_mask("table").shape == (4, 4)


def test_torch_mask_replaced_by_its_own_bytes_is_a_bool_mask_again():
    sparsifier = half([("table", torch.ones(4, 4))])
    mask = sparsifier.get_mask("table")
    mask[0] = False
    mask.data = mask.view(torch.uint8)  # the same memory, another dtype
    assert sparsifier.get_mask("table").dtype == torch.bool
    assert torch.count_nonzero(sparsifier.get_mask("table")) == 12


def test_torch_mask_replaced_by_another_number_of_elements_is_refused():
    data = torch.ones(4, 4)
    sparsifier = half([("table", data)])
    sparsifier.get_mask("table").data = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="'table'"):
        sparsifier.apply_mask()
    assert torch.equal(data, torch.ones(4, 4))


def test_numpy_alias_of_a_tensor_sees_the_zeros(rng):
    array = values(rng)
    sparsifier = half([("data", nn.Parameter(torch.from_numpy(array)))])
    sparsifier.step()
    sparsifier.squash_mask()
    assert np.count_nonzero(array == 0) == 48


def test_flat_buffer_of_several_parameters_sees_the_zeros():
    flat = torch.randn(40, generator=torch.Generator().manual_seed(0))
    sparsifier = half([("a", flat[:16].view(4, 4)), ("b", flat[16:].view(4, 6))])
    sparsifier.step()
    sparsifier.squash_mask()
    assert torch.count_nonzero(flat) == 20


class OldDLPack:
    """A library of before DLPack 1.0, whose capsules cannot say whether they are read-only."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_unversioned_capsule_can_be_stepped(rng):
    data = values(rng)
    sparsifier = half([("data", OldDLPack(data))])
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("data"), reference.mask(data, **HALF))


@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
def test_unversioned_capsule_of_an_unknown_library_counts_as_read_only(rng, write):
    data = values(rng)
    before = data.copy()
    sparsifier = half([("data", OldDLPack(data))])
    sparsifier.step()
    with pytest.raises(ValueError, match="read-only"):
        getattr(sparsifier, write)()
    assert np.array_equal(data, before)


# --- data that move -------------------------------------------------------------------------------


def test_replaced_storage_of_a_parameter_is_followed():
    parameter = nn.Parameter(torch.arange(16.0).reshape(4, 4))
    sparsifier = half([("data", parameter)])
    sparsifier.step()
    assert sparsifier.get_mask("data").flatten().tolist() == [False] * 8 + [True] * 8
    parameter.data = torch.arange(16.0, 0.0, -1.0).reshape(4, 4)
    sparsifier.step()
    assert sparsifier.get_mask("data").flatten().tolist() == [True] * 8 + [False] * 8


def test_apply_mask_writes_to_the_replaced_storage_only():
    old, new = torch.arange(1.0, 17.0).reshape(4, 4), torch.arange(17.0, 33.0).reshape(4, 4)
    parameter = nn.Parameter(old)
    sparsifier = half([("data", parameter)])
    sparsifier.step()
    parameter.data = new
    sparsifier.apply_mask()
    assert torch.count_nonzero(old) == 16
    assert torch.count_nonzero(new) == 8


def test_freed_storage_is_never_read():
    parameter = nn.Parameter(torch.ones(256, 256))
    sparsifier = half([("data", parameter)])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        parameter.data = torch.randn(256, 256, generator=generator)
        sparsifier.step()
        expected = reference.whole_block_mask_by_stable_sort(parameter.detach().numpy(), 0.5)
        assert np.array_equal(sparsifier.get_mask("data").numpy(), expected)


@pytest.mark.parametrize("convert", ["double", "half", "bfloat16"])
def test_model_converted_to_another_dtype_is_followed(convert):
    torch.manual_seed(4)
    model = nn.Linear(8, 6)
    sparsifier = half([("weight", model.weight)])
    sparsifier.step()
    getattr(model, convert)()
    with torch.no_grad():
        model.weight.copy_(torch.randn(6, 8))
    sparsifier.step()
    expected = reference.mask(reference.float_values(model.weight), **HALF)
    assert np.array_equal(sparsifier.get_mask("weight").numpy(), expected)


def test_reloaded_model_is_followed():
    model, other = nn.Linear(8, 6), nn.Linear(8, 6)
    sparsifier = half([("weight", model.weight)])
    model.load_state_dict(other.state_dict())
    sparsifier.step()
    expected = reference.mask(other.weight.detach().numpy(), **HALF)
    assert np.array_equal(sparsifier.get_mask("weight").numpy(), expected)


def test_replaced_weight_of_an_embedding_is_followed():
    embedding = nn.Embedding(6, 4)
    sparsifier = half([("table", embedding)])
    embedding.weight = nn.Parameter(torch.arange(24.0).reshape(6, 4))
    sparsifier.step()
    assert sparsifier.get_mask("table").flatten().tolist() == [False] * 12 + [True] * 12


def test_storage_of_another_shape_is_refused_and_changes_nothing(observe):
    first, second = torch.ones(4, 4), nn.Parameter(torch.ones(4, 4))
    sparsifier = half([("first", first), ("second", second)])
    before = observe(sparsifier)
    second.data = torch.ones(5, 4)
    with pytest.raises((ValueError, RuntimeError), match="second"):
        sparsifier.step()
    assert observe(sparsifier) == before


@pytest.mark.parametrize("requires_grad", [False, True])
def test_storage_replaced_by_another_thread_during_steps(run_python, requires_grad):
    """Each step uses one storage from beginning to end, and keeps it alive as long."""
    script = """
import threading
import numpy as np
import reference
import torch
import datasparse

generator = torch.Generator().manual_seed(9)
versions = [torch.randn(120, 130, generator=generator) for _ in range(2)]
masks = [reference.whole_block_mask_by_stable_sort(v.numpy(), 0.5) for v in versions]
parameter = torch.nn.Parameter(versions[0].clone(), requires_grad=%r)
sparsifier = datasparse.DataNormSparsifier(
    [("data", parameter)], sparsity_level=0.5, sparse_block_shape=(1, 1)
)
done = threading.Event()

def replace():
    turn = 0
    while not done.is_set():
        turn = 1 - turn
        parameter.data = versions[turn].clone()

thread = threading.Thread(target=replace, daemon=True)
thread.start()
wrong = 0
for _ in range(200):
    sparsifier.step()
    mask = sparsifier.get_mask("data").numpy()
    wrong += not any(np.array_equal(mask, expected) for expected in masks)
done.set()
thread.join(30)
print(wrong, "wrong masks")
"""
    assert run_python(script % requires_grad) == "0 wrong masks\n"


@pytest.mark.parametrize("requires_grad", [False, True])
def test_storage_replaced_by_an_override_after_the_built_in_rule_was_asked(
    run_python, requires_grad
):
    """The first group's mask may be computed at the end of the step: from what it held then."""
    script = """
import numpy as np
import reference
import torch
import datasparse

old = torch.randn(120, 130, generator=torch.Generator().manual_seed(9))
expected = reference.whole_block_mask_by_stable_sort(old.numpy().copy(), 0.5)
first = torch.nn.Parameter(old, requires_grad=%r)
del old
filler = []

class Replaces(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        del data
        if name == "first":
            super().update_mask(name, first.detach(), **config)
        else:
            first.data = torch.ones(120, 130)
            filler.extend(torch.full((120, 130), torch.nan) for _ in range(8))

sparsifier = Replaces(
    [("first", first), ("second", torch.ones(4, 4))],
    sparsity_level=0.5, sparse_block_shape=(1, 1),
)
sparsifier.step()
print(np.array_equal(sparsifier.get_mask("first").numpy(), expected))
"""
    assert run_python(script % requires_grad) == "True\n"


@pytest.mark.parametrize("requires_grad", [False, True])
def test_storage_replaced_by_an_override_before_the_built_in_rule_is_asked(
    run_python, requires_grad
):
    """The second group's mask is that of its old storage or of its new one, of nothing else."""
    script = """
import numpy as np
import reference
import torch
import datasparse

versions = [torch.randn(120, 130, generator=torch.Generator().manual_seed(9)), torch.ones(120, 130)]
masks = [reference.whole_block_mask_by_stable_sort(v.numpy(), 0.5) for v in versions]
second = torch.nn.Parameter(versions[0].clone(), requires_grad=%r)
filler = []

class Replaces(datasparse.DataNormSparsifier):
    def update_mask(self, name, data, **config):
        super().update_mask(name, data, **config)
        if name == "first":
            second.data = versions[1].clone()
            filler.extend(torch.full((120, 130), torch.nan) for _ in range(8))

sparsifier = Replaces(
    [("first", torch.ones(4, 4)), ("second", second)],
    sparsity_level=0.5, sparse_block_shape=(1, 1),
)
sparsifier.step()
mask = sparsifier.get_mask("second").numpy()
print(any(np.array_equal(mask, expected) for expected in masks))
"""
    assert run_python(script % requires_grad) == "True\n"


# --- autograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["apply_mask", "squash_mask"])
@pytest.mark.parametrize("make", [torch.ones, lambda *shape: nn.Parameter(torch.ones(*shape))])
def test_writing_bumps_the_version_counter(write, make):
    data = make(4, 4)
    sparsifier = half([("data", data)])
    sparsifier.step()
    version = data._version
    getattr(sparsifier, write)()
    assert data._version > version


def test_step_does_not_bump_the_version_counter():
    data = nn.Parameter(torch.ones(4, 4))
    sparsifier = half([("data", data)])
    version = data._version
    sparsifier.step()
    assert data._version == version


def test_backward_notices_weights_masked_after_forward():
    weight = nn.Parameter(torch.randn(4, 4))
    sparsifier = half([("weight", weight)])
    sparsifier.step()
    loss = (weight * weight).sum()
    sparsifier.apply_mask()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_training_goes_on_after_apply_mask():
    weight = nn.Parameter(torch.randn(4, 4))
    sparsifier = half([("weight", weight)])
    sparsifier.step()
    sparsifier.apply_mask()
    (weight * weight).sum().backward()
    assert torch.equal(weight.grad, 2 * weight)


def test_gradient_is_left_alone():
    weight = nn.Parameter(torch.randn(4, 4))
    (weight * 3).sum().backward()
    sparsifier = half([("weight", weight)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert torch.equal(weight.grad, torch.full((4, 4), 3.0))


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_masked_nan_and_infinity_become_zero_in_the_copy(value, library):
    data = np.full((2, 4), value, np.float32)
    sparsifier = half([("data", torch.from_numpy(data) if library == "torch" else data)])
    sparsifier.step()
    copy = np.asarray(sparsifier.get_data("data", return_original=False))
    assert np.count_nonzero(copy == 0) == 4
    assert np.array_equal(copy[1], data[1], equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_masked_nan_and_infinity_become_zero_in_the_users_memory(value):
    data = np.full((2, 4), value, np.float32)
    sparsifier = half([("data", data)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert not data[0].any()
    assert np.array_equal(data[1], np.full(4, value, np.float32), equal_nan=True)


def test_masked_bfloat16_nan_becomes_zero():
    data = torch.full((2, 4), torch.nan, dtype=torch.bfloat16)
    sparsifier = half([("data", data)])
    sparsifier.step()
    copy = sparsifier.get_data("data", return_original=False)
    assert copy.dtype == torch.bfloat16
    assert torch.count_nonzero(copy == 0) == 4


def test_masked_copy_has_the_datas_dtype_and_library(rng):
    for dtype in (np.float16, np.float32, np.float64):
        copy = half([("data", values(rng, dtype=dtype))]).get_data("data", return_original=False)
        assert type(copy) is np.ndarray
        assert copy.dtype == dtype


def test_masked_copy_of_a_tensor_is_a_tensor():
    copy = half([("data", torch.ones(2, 4))]).get_data("data", return_original=False)
    assert isinstance(copy, torch.Tensor)
    assert copy.dtype == torch.float32


def test_writing_to_the_masked_copy_leaves_the_data_alone(rng):
    data = values(rng)
    before = data.copy()
    half([("data", data)]).get_data("data", return_original=False)[...] = 0
    assert np.array_equal(data, before)


def test_return_original_may_be_positional(rng):
    data = values(rng)
    sparsifier = half([("data", data)])
    assert sparsifier.get_data("data", True) is data
    assert sparsifier.get_data("data", False) is not data


def test_original_is_not_masked(rng):
    data = values(rng)
    before = data.copy()
    sparsifier = half([("data", data)])
    sparsifier.step()
    assert np.array_equal(sparsifier.get_data("data"), before)


# --- apply_mask -----------------------------------------------------------------------------------


def test_apply_mask_of_some_names_leaves_the_others(rng):
    a, b = values(rng), values(rng)
    sparsifier = half([("a", a), ("b", b)])
    sparsifier.step()
    sparsifier.apply_mask(names=["b"])
    assert np.count_nonzero(a) == 96
    assert np.count_nonzero(b) == 48


def test_apply_mask_keeps_the_mask(rng):
    sparsifier = half([("data", values(rng))])
    sparsifier.step()
    before = sparsifier.get_mask("data").copy()
    sparsifier.apply_mask()
    assert np.array_equal(sparsifier.get_mask("data"), before)


def test_apply_mask_to_an_unknown_name_touches_nothing(rng):
    data = values(rng)
    sparsifier = half([("data", data)])
    sparsifier.step()
    with pytest.raises(datasparse.UnknownNameError, match="nope"):
        sparsifier.apply_mask(names=["data", "nope"])
    assert np.count_nonzero(data) == 96


def test_two_groups_over_the_same_memory():
    tied = nn.Parameter(torch.randn(6, 8))
    sparsifier = half([("encoder", tied), ("decoder", tied)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert torch.count_nonzero(tied) == 24


# --- squash_mask ----------------------------------------------------------------------------------


@pytest.fixture
def squashed(rng):
    """A sparsifier whose group 'a' is squashed and whose group 'b' is not."""
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.step()
    sparsifier.squash_mask(names=["a"])
    return sparsifier


def test_data_of_a_squashed_group_are_released(squashed):
    with pytest.raises(ValueError, match="squashed"):
        squashed.get_data("a")


def test_mask_of_a_squashed_group_can_still_be_read(squashed):
    assert np.count_nonzero(~squashed.get_mask("a")) == 48


def test_squashed_group_stays_in_the_mapping(squashed):
    assert list(squashed.data_groups) == ["a", "b"]


def test_step_skips_a_squashed_group(squashed):
    before = squashed.get_mask("a").copy()
    squashed.data_groups["a"]["sparsity_level"] = 0.9
    squashed.step()
    assert np.array_equal(squashed.get_mask("a"), before)
    assert np.count_nonzero(~squashed.get_mask("b")) == 48


def test_update_mask_is_not_called_for_a_squashed_group(rng):
    class Record(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            names.append(name)

    names = []
    sparsifier = Record([("a", values(rng)), ("b", values(rng))])
    sparsifier.squash_mask(names=["a"])
    sparsifier.step()
    assert names == ["b"]


def test_squashing_all_skips_what_is_squashed_already(squashed):
    squashed.squash_mask()
    with pytest.raises(ValueError, match="squashed"):
        squashed.get_data("b")


def test_apply_mask_to_all_skips_squashed_data(rng):
    data = values(rng)
    sparsifier = half([("a", data)])
    sparsifier.step()
    sparsifier.squash_mask()
    data[...] = 1
    sparsifier.apply_mask()
    assert np.all(data == 1)


def test_re_adding_a_squashed_name_starts_afresh(squashed, rng):
    data = values(rng)
    assert squashed.add_data("a", data) is data
    assert squashed.get_mask("a").all()
    squashed.step()
    assert np.array_equal(squashed.get_mask("a"), reference.mask(data, **HALF))


def test_re_adding_a_squashed_name_may_change_the_shape(squashed):
    squashed.add_data("a", np.ones((3, 3)))
    assert squashed.get_mask("a").shape == (3, 3)


def test_squashed_group_can_be_removed(squashed):
    squashed.remove_data("a")
    assert list(squashed.data_groups) == ["b"]


# --- remove_data and re-adding --------------------------------------------------------------------


def test_removed_name_is_unknown(rng):
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.remove_data("a")
    for ask in (sparsifier.get_mask, sparsifier.get_data, sparsifier.remove_data):
        with pytest.raises(datasparse.UnknownNameError, match="'a'"):
            ask("a")


def test_removing_leaves_the_data_alone(rng):
    data = values(rng)
    before = data.copy()
    sparsifier = half([("a", data)])
    sparsifier.step()
    sparsifier.remove_data("a")
    assert np.array_equal(data, before)


def test_removed_group_is_not_stepped(rng):
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.remove_data("a")
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("b")) == 48


def test_removed_name_can_be_added_again_from_nothing(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.data_groups["a"]["sparsity_level"] = 0.9
    sparsifier.step()
    sparsifier.remove_data("a")
    sparsifier.add_data("a", np.ones((3, 5)))
    assert sparsifier.get_mask("a").all()
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.5


def test_re_adding_reuses_the_mask_by_default(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    before = sparsifier.get_mask("a").copy()
    sparsifier.add_data("a", values(rng))
    assert np.array_equal(sparsifier.get_mask("a"), before)


def test_re_adding_with_a_reused_mask_returns_a_masked_copy(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    data = values(rng)
    before = data.copy()
    copy = sparsifier.add_data("a", data)
    assert np.array_equal(copy, np.where(sparsifier.get_mask("a"), before, 0))
    assert np.array_equal(data, before)


def test_re_adding_replaces_the_data(rng):
    sparsifier = half([("a", values(rng))])
    data = values(rng)
    sparsifier.add_data("a", data)
    assert sparsifier.get_data("a") is data


def test_re_adding_without_reuse_starts_with_a_full_mask(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    data = np.ones((2, 3))
    assert sparsifier.add_data("a", data, reuse_mask=False) is data
    assert sparsifier.get_mask("a").shape == (2, 3)
    assert sparsifier.get_mask("a").all()


def test_reuse_mask_may_be_positional(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    sparsifier.add_data("a", values(rng), False)
    assert sparsifier.get_mask("a").all()


def test_reusing_a_mask_of_another_shape_is_refused(rng, observe):
    data = values(rng)
    sparsifier = half([("a", data)])
    sparsifier.step()
    before = observe(sparsifier)
    with pytest.raises(ValueError, match="'a'"):
        sparsifier.add_data("a", np.ones((8, 12)))
    assert observe(sparsifier) == before
    assert sparsifier.get_data("a") is data


def test_re_adding_keeps_the_config_where_the_call_says_nothing(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.data_groups["a"].update(sparsity_level=0.9, norm="L2")
    sparsifier.add_data("a", values(rng), sparsity_level=0.1)
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.1
    assert sparsifier.data_groups["a"]["norm"] == "L2"
    assert sparsifier.data_groups["a"]["sparse_block_shape"] == (1, 1)


def test_re_adding_may_change_the_library(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    before = sparsifier.get_mask("a").copy()
    sparsifier.add_data("a", torch.from_numpy(values(rng)))
    assert isinstance(sparsifier.get_mask("a"), torch.Tensor)
    assert np.array_equal(sparsifier.get_mask("a").numpy(), before)


def test_refused_re_adding_leaves_the_old_group(rng, observe):
    data = values(rng)
    sparsifier = half([("a", data)])
    sparsifier.step()
    before = observe(sparsifier)
    with pytest.raises(ValueError, match="sparsity_level"):
        sparsifier.add_data("a", values(rng), sparsity_level=2.0)
    with pytest.raises(TypeError):
        sparsifier.add_data("a", np.ones(SHAPE, np.int32))
    assert observe(sparsifier) == before
    assert sparsifier.get_data("a") is data


# --- a mask given to add_data ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_given_mask_is_taken(rng, dtype):
    given = rng.integers(0, 2, size=SHAPE).astype(dtype)
    sparsifier = half()
    sparsifier.add_data("a", values(rng), mask=given)
    assert np.array_equal(sparsifier.get_mask("a"), given != 0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float32, torch.bfloat16])
def test_given_torch_mask_is_taken(dtype):
    given = torch.eye(4).to(dtype)
    sparsifier = half()
    sparsifier.add_data("a", torch.ones(4, 4), mask=given)
    assert torch.equal(sparsifier.get_mask("a"), torch.eye(4, dtype=torch.bool))


def test_given_mask_makes_add_data_return_a_masked_copy(rng):
    data = values(rng)
    before = data.copy()
    given = rng.integers(0, 2, size=SHAPE) != 0
    copy = half().add_data("a", data, mask=given)
    assert np.array_equal(copy, np.where(given, before, 0))
    assert np.array_equal(data, before)


def test_given_mask_is_copied(rng):
    given = np.ones(SHAPE, np.bool_)
    sparsifier = half()
    sparsifier.add_data("a", values(rng), mask=given)
    given[:] = False
    assert sparsifier.get_mask("a").all()
    sparsifier.get_mask("a")[0] = False
    assert not given.any()


def test_given_mask_of_any_strides_is_taken(rng):
    given = rng.integers(0, 2, size=SHAPE) != 0
    sparsifier = half()
    sparsifier.add_data("a", values(rng), mask=np.asfortranarray(given))
    assert np.array_equal(sparsifier.get_mask("a"), given)


def test_given_mask_beats_reuse_mask(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.step()
    given = rng.integers(0, 2, size=SHAPE) != 0
    sparsifier.add_data("a", values(rng), reuse_mask=True, mask=given)
    assert np.array_equal(sparsifier.get_mask("a"), given)


@pytest.mark.parametrize("bad", [0.5, 2, -1, np.nan])
def test_given_mask_that_holds_other_numbers_is_refused(rng, bad):
    given = np.ones(SHAPE, np.float32)
    given[3, 4] = bad
    sparsifier = half()
    with pytest.raises(ValueError, match="mask"):
        sparsifier.add_data("a", values(rng), mask=given)
    assert len(sparsifier.data_groups) == 0


@pytest.mark.parametrize("shape", [(8, 12), (96,), (12, 1), ()], ids=str)
def test_given_mask_of_another_shape_is_refused(rng, shape):
    sparsifier = half()
    with pytest.raises(ValueError, match="mask"):
        sparsifier.add_data("a", values(rng), mask=np.ones(shape, np.bool_))
    assert len(sparsifier.data_groups) == 0


# --- enable_mask_update, step_count, state --------------------------------------------------------


def test_disabled_sparsifier_counts_steps_but_changes_no_mask(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.enable_mask_update = False
    sparsifier.step()
    assert sparsifier.get_mask("a").all()
    assert sparsifier.step_count == 1


def test_disabled_sparsifier_calls_no_override(rng):
    class Record(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            calls.append(name)

    calls = []
    sparsifier = Record([("a", values(rng))])
    sparsifier.enable_mask_update = False
    sparsifier.step()
    assert calls == []


def test_enabling_again_resumes(rng):
    sparsifier = half([("a", values(rng))])
    sparsifier.enable_mask_update = False
    sparsifier.step()
    sparsifier.enable_mask_update = True
    sparsifier.step()
    assert np.count_nonzero(~sparsifier.get_mask("a")) == 48


def test_steps_are_counted(rng):
    sparsifier = half([("a", values(rng))])
    for count in (1, 2, 3):
        sparsifier.step()
        assert sparsifier.step_count == count


def test_step_count_is_read_only():
    sparsifier = half()
    with pytest.raises(AttributeError):
        sparsifier.step_count = 3
    assert sparsifier.step_count == 0


def test_step_without_groups_counts():
    sparsifier = half()
    sparsifier.step()
    assert sparsifier.step_count == 1


def test_step_returns_none(rng):
    assert half([("a", values(rng))]).step() is None


def test_state_of_a_group_keeps_a_subclasss_own_values(rng):
    sparsifier = half([("a", values(rng)), ("b", values(rng))])
    sparsifier.state["a"]["seen"] = 3
    sparsifier.step()
    assert sparsifier.state["a"]["seen"] == 3
    assert "seen" not in sparsifier.state["b"]


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


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_custom_sparsifier_edits_its_mask_in_place(rng, library):
    data = values(rng)
    sparsifier = Threshold([("a", torch.from_numpy(data) if library == "torch" else data)])
    sparsifier.step()
    assert np.array_equal(numpy_mask(sparsifier.get_mask("a")), np.abs(data) > 0.5)
    sparsifier.apply_mask()
    assert np.count_nonzero((data != 0) & (np.abs(data) <= 0.5)) == 0


def test_custom_sparsifier_replaces_its_torch_mask(rng):
    data = values(rng)
    sparsifier = ThresholdByReplacing([("a", torch.from_numpy(data))])
    mask = sparsifier.get_mask("a")
    address = mask.data_ptr()
    sparsifier.step()
    assert np.array_equal(mask.numpy(), np.abs(data) > 0.5)
    assert mask.dtype == torch.bool
    assert mask.data_ptr() == address


def test_threshold_of_one_group_may_differ(rng):
    a, b = values(rng), values(rng)
    sparsifier = Threshold([("a", a)])
    sparsifier.add_data("b", b, threshold=1.0)
    sparsifier.step()
    assert np.array_equal(sparsifier.get_mask("a"), np.abs(a) > 0.5)
    assert np.array_equal(sparsifier.get_mask("b"), np.abs(b) > 1.0)


class Recorder(datasparse.BaseDataSparsifier):
    def __init__(self, data_list=None, **defaults):
        self.calls = []
        super().__init__(data_list, **defaults)

    def update_mask(self, name, data, **config):
        self.calls.append((name, data, config))


def test_override_gets_exactly_the_groups_config(rng):
    sparsifier = Recorder([("a", values(rng))], threshold=0.5, shape=(1, 2), flag=True)
    sparsifier.add_data("b", values(rng), extra="text")
    sparsifier.step()
    defaults = {"threshold": 0.5, "shape": (1, 2), "flag": True}
    assert [config for _, _, config in sparsifier.calls] == [
        defaults,
        {**defaults, "extra": "text"},
    ]


def test_override_of_the_norm_sparsifier_gets_the_effective_zeros_per_block(rng):
    class Record(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            configs.append(config)

    configs = []
    Record([("a", values(rng))], sparse_block_shape=(2, -1)).step()
    assert configs == [
        {
            "sparsity_level": 0.5,
            "sparse_block_shape": (2, -1),
            "zeros_per_block": 16,
            "norm": "L1",
        }
    ]


def test_overrides_run_in_the_order_of_the_groups(rng):
    sparsifier = Recorder([(name, values(rng)) for name in "zam"])
    sparsifier.step()
    assert [name for name, _, _ in sparsifier.calls] == ["z", "a", "m"]


def test_override_gets_the_users_own_array_without_a_copy(rng):
    data = values(rng)
    sparsifier = Recorder([("a", data)])
    sparsifier.step()
    seen = sparsifier.calls[0][1]
    assert isinstance(seen, np.ndarray)
    assert np.shares_memory(seen, data)
    assert seen.shape == SHAPE


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_override_gets_the_users_own_tensor_detached(dtype):
    parameter = nn.Parameter(torch.randn(4, 4).to(dtype))
    sparsifier = Recorder([("a", parameter)])
    sparsifier.step()
    seen = sparsifier.calls[0][1]
    assert isinstance(seen, torch.Tensor)
    assert seen.data_ptr() == parameter.data_ptr()
    assert seen.dtype == dtype
    assert not seen.requires_grad


def test_override_gets_an_embeddings_weight():
    embedding = nn.Embedding(5, 4)
    sparsifier = Recorder([("a", embedding)])
    sparsifier.step()
    assert sparsifier.calls[0][1].data_ptr() == embedding.weight.data_ptr()


def test_override_runs_without_gradients_which_come_back_afterwards():
    class Record(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            modes.append(torch.is_grad_enabled())

    modes = []
    Record([("a", nn.Parameter(torch.ones(2, 2)))]).step()
    assert modes == [False]
    assert torch.is_grad_enabled()


def test_gradients_come_back_after_an_override_that_raises():
    class Fail(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Fail([("a", nn.Parameter(torch.ones(2, 2)))]).step()
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
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_override_may_edit_what_the_built_in_rule_computed(rng, library, sparsifier_class):
    data = values(rng)
    sparsifier = sparsifier_class(
        [("a", torch.from_numpy(data) if library == "torch" else data)], **HALF
    )
    expected = reference.mask(data, **HALF)
    expected[0] = True
    for _ in range(2):
        sparsifier.step()
        assert np.array_equal(numpy_mask(sparsifier.get_mask("a")), expected)


def test_override_may_read_the_mask_of_the_built_in_rule(rng):
    class Record(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **config)
            masks.append(self.get_mask(name).copy())

    masks = []
    data = values(rng)
    Record([("a", data)], **HALF).step()
    assert np.array_equal(masks[0], reference.mask(data, **HALF))


def test_override_may_pass_another_config_on(rng):
    class Quarter(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            super().update_mask(name, data, **{**config, "sparsity_level": 0.25})

    data = values(rng)
    sparsifier = Quarter([("a", data)], **HALF)
    sparsifier.step()
    expected = reference.mask(data, 0.25, (1, 1))
    assert np.array_equal(sparsifier.get_mask("a"), expected)
    assert sparsifier.data_groups["a"]["sparsity_level"] == 0.5


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_override_may_pass_other_scores_on(rng, library):
    scores = values(rng)
    data = values(rng)

    class Scored(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            mine = torch.from_numpy(scores.copy()) if library == "torch" else scores.copy()
            super().update_mask(name, mine, **config)

    sparsifier = Scored([("a", torch.from_numpy(data) if library == "torch" else data)], **HALF)
    sparsifier.step()
    expected = reference.mask(scores, **HALF)
    assert np.array_equal(numpy_mask(sparsifier.get_mask("a")), expected)


def test_override_that_serves_some_groups_leaves_the_rest_to_the_built_in_rule(rng):
    class SkipBiases(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            if not name.endswith("bias"):
                super().update_mask(name, data, **config)

    groups = [(f"{i}.{kind}", values(rng)) for i in range(5) for kind in ("weight", "bias")]
    sparsifier = SkipBiases(groups, **HALF)
    sparsifier.step()
    for name, data in groups:
        expected = np.ones(SHAPE, bool) if "bias" in name else reference.mask(data, **HALF)
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


def test_override_set_on_a_class_later_is_found(rng):
    class Late(datasparse.DataNormSparsifier):
        pass

    sparsifier = Late([("a", values(rng))], **HALF)
    sparsifier.step()
    Late.update_mask = lambda self, name, data, **config: self.get_mask(name).fill(True)
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
            return np.abs(data) > 0.5

    sparsifier = Returns([("a", values(rng))])
    before = observe(sparsifier)
    with pytest.raises(TypeError, match=r"Returns\.update_mask\(\) returned ndarray"):
        sparsifier.step()
    assert observe(sparsifier) == before


REFUSED_INSIDE_UPDATE_MASK = {
    "step": lambda s: s.step(),
    "add_data": lambda s: s.add_data("new", np.ones((2, 2))),
    "re-adding": lambda s: s.add_data("a", np.ones(SHAPE, np.float32)),
    "remove_data": lambda s: s.remove_data("b"),
    "removing itself": lambda s: s.remove_data("a"),
    "squash_mask": lambda s: s.squash_mask(),
    "config write": lambda s: s.data_groups["a"].__setitem__("threshold", 0.9),
    "config update": lambda s: s.data_groups["b"].update(threshold=0.9),
}


@pytest.mark.parametrize(
    "change", REFUSED_INSIDE_UPDATE_MASK.values(), ids=REFUSED_INSIDE_UPDATE_MASK.keys()
)
def test_changing_the_sparsifier_inside_update_mask_is_refused(rng, observe, change):
    class Meddler(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            with pytest.raises(RuntimeError, match="update_mask"):
                change(self)
            self.get_mask(name)[0] = False

    sparsifier = Meddler([("a", values(rng)), ("b", values(rng))], threshold=0.5)
    before = observe(sparsifier)
    sparsifier.step()
    assert observe(sparsifier)["config"] == before["config"]
    assert [np.count_nonzero(~sparsifier.get_mask(name)) for name in "ab"] == [8, 8]
    assert sparsifier.step_count == 1


@pytest.mark.parametrize(
    "change", REFUSED_INSIDE_UPDATE_MASK.values(), ids=REFUSED_INSIDE_UPDATE_MASK.keys()
)
def test_refusal_that_escapes_update_mask_undoes_the_step(rng, observe, change):
    class Meddler(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            self.get_mask(name)[0] = False
            change(self)

    sparsifier = Meddler([("a", values(rng)), ("b", values(rng))], threshold=0.5)
    before = observe(sparsifier)
    with pytest.raises(RuntimeError, match="update_mask"):
        sparsifier.step()
    assert observe(sparsifier) == before


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
            seen.append(
                (
                    list(self.data_groups),
                    self.data_groups[name]["sparsity_level"],
                    self.get_mask("a").shape,
                    self.get_data("b").shape,
                    self.step_count,
                    self.enable_mask_update,
                )
            )

    seen = []
    Reader([("a", values(rng)), ("b", values(rng))], **HALF).step()
    assert seen == [(["a", "b"], 0.5, SHAPE, SHAPE, 0, True)] * 2


def test_another_sparsifier_may_step_inside_update_mask(rng):
    other = half([("x", values(rng))])

    class Outer(datasparse.BaseDataSparsifier):
        def update_mask(self, name, data, **config):
            other.step()

    Outer([("a", values(rng))]).step()
    assert np.count_nonzero(~other.get_mask("x")) == 48


# --- many groups ----------------------------------------------------------------------------------


def test_many_groups_of_numpy_and_torch(rng):
    arrays = [values(rng, (int(rng.integers(1, 9)), int(rng.integers(1, 30)))) for _ in range(500)]
    sparsifier = datasparse.DataNormSparsifier()
    arguments = []
    for index, array in enumerate(arrays):
        arguments.append(
            {
                "sparsity_level": float(rng.uniform()),
                "sparse_block_shape": (int(rng.integers(1, 4)), int(rng.integers(1, 5))),
                "norm": str(rng.choice(["L1", "L2"])),
            }
        )
        data = torch.from_numpy(array) if index % 2 else array
        sparsifier.add_data(f"group {index}", data, **arguments[index])
    sparsifier.step()
    for index, array in enumerate(arrays):
        mask = sparsifier.get_mask(f"group {index}")
        assert isinstance(mask, torch.Tensor if index % 2 else np.ndarray)
        assert np.array_equal(numpy_mask(mask), reference.mask(array, **arguments[index]))


def test_small_and_large_groups_together(rng):
    shapes = [(3, 4), (700, 300), (1, 1), (0, 4), (150_000,), (2, 2)]
    data = {str(shape): values(rng, shape) for shape in shapes}
    sparsifier = half(data.items())
    sparsifier.step()
    for name, array in data.items():
        expected = reference.whole_block_mask_by_stable_sort(array, 0.5)
        assert np.array_equal(sparsifier.get_mask(name), expected)


def test_one_call_of_apply_mask_serves_numpy_and_torch(rng):
    array, tensor = values(rng), torch.from_numpy(values(rng))
    sparsifier = half([("numpy", array), ("torch", tensor)])
    sparsifier.step()
    sparsifier.apply_mask()
    assert np.count_nonzero(array) == np.count_nonzero(tensor.numpy()) == 48
