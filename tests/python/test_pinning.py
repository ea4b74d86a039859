"""Where are the data now? A step looks at the memory that a tensor has at that moment.

Every test keeps the memory of before alive, with values that give another mask: a pointer that was
kept would not crash, but compute the wrong mask or write to the wrong place.
"""

import gc
import threading

import datasparse
import numpy as np
import pytest
import reference
import torch
from support import ON_DEVICES, collect
from support import values as any_values
from torch import nn

pytestmark = ON_DEVICES

SHAPE = (6, 8)
CONFIG = {"sparsity_level": 0.5, "sparse_block_shape": (1, 2)}

# NumPy is about to deprecate writing to these attributes; while it can be done, it is followed.
REINTERPRETS = pytest.mark.filterwarnings("ignore:.*(shape|dtype):DeprecationWarning")


def values(seed, shape=SHAPE, dtype=np.float32):
    return any_values(seed, shape, dtype)


def expected_mask(data):
    return reference.mask(reference.float_values(data), **CONFIG)


def make(*data):
    """A sparsifier that has stepped once: anything that could be remembered is."""
    sparsifier = datasparse.DataNormSparsifier(
        [(f"group {index}", item) for index, item in enumerate(data)], **CONFIG
    )
    sparsifier.step()
    for name, item in zip(sparsifier.data_groups, data, strict=True):
        assert_masks(sparsifier, name, item)
    return sparsifier


def assert_masks(sparsifier, name, data):
    np.testing.assert_array_equal(np.asarray(sparsifier.get_mask(name)), expected_mask(data))


def assert_follows(sparsifier, *data):
    """A step, a masked copy and apply_mask() see the data as they are now, and write to them."""
    names = list(sparsifier.data_groups)
    before = [np.asarray(sparsifier.get_mask(name)).copy() for name in names]
    sparsifier.step()
    for name, item, old in zip(names, data, before, strict=True):
        assert_masks(sparsifier, name, item)
        assert not np.array_equal(old, expected_mask(item)), "the test could not fail"
        masked = sparsifier.get_data(name, return_original=False)
        expected = reference.float_values(item) * expected_mask(item)
        np.testing.assert_array_equal(reference.float_values(masked), expected)
        assert masked.dtype == sparsifier.get_data(name).dtype
    zeroed = [reference.float_values(item) * expected_mask(item) for item in data]
    sparsifier.apply_mask()
    for item, expected in zip(data, zeroed, strict=True):
        np.testing.assert_array_equal(reference.float_values(item), expected)


def parameter(seed=0, shape=SHAPE):
    return nn.Parameter(torch.from_numpy(values(seed, shape)))


# --- a tensor that moves --------------------------------------------------------------------------


def test_param_data_replaced():
    weight = parameter(0)
    sparsifier = make(weight)
    for seed in (1, 2, 3):
        old, kept = weight.data, weight.detach().clone()
        weight.data = torch.from_numpy(values(seed))
        assert_follows(sparsifier, weight)
        assert torch.equal(old, kept)
        assert sparsifier.get_data("group 0") is weight


def test_param_data_replaced_by_memory_of_other_strides():
    weight = parameter(0)
    sparsifier = make(weight)
    weight.data = torch.from_numpy(values(1, SHAPE[::-1])).t()
    assert not weight.is_contiguous()
    assert_follows(sparsifier, weight)
    weight.data = torch.from_numpy(values(2, (12, 16)))[::2, ::2]
    assert_follows(sparsifier, weight)


def test_param_data_replaced_before_the_first_step():
    weight = parameter(0)
    sparsifier = datasparse.DataNormSparsifier([("w", weight)], **CONFIG)
    weight.data = torch.from_numpy(values(1))
    sparsifier.step()
    assert_masks(sparsifier, "w", weight)


def test_param_data_replaced_between_step_and_apply_mask():
    """The mask of the one value is applied to the other, and the first is left alone."""
    weight = parameter(0)
    sparsifier = make(weight)
    mask = sparsifier.get_mask("group 0").clone()
    old, kept = weight.data, weight.detach().clone()
    weight.data = torch.from_numpy(values(1))
    sparsifier.apply_mask()
    np.testing.assert_array_equal(weight.detach().numpy(), values(1) * mask.numpy())
    assert torch.equal(old, kept)


def test_swapped_data_of_two_parameters():
    first, second = parameter(0), parameter(1)
    sparsifier = make(first, second)
    first.data, second.data = second.data, first.data
    assert_follows(sparsifier, first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_model_moved_to_another_dtype(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Embedding(5, 8), nn.Conv2d(2, 3, 2))
    weights = [module.weight for module in model]
    kept = [weight.data for weight in weights]
    sparsifier = make(*weights)
    model.to(dtype)
    assert [module.weight for module in model] == weights  # in place, as torch does it on the CPU
    with torch.no_grad():
        for old, weight in zip(kept, weights, strict=True):
            weight.copy_(torch.randn(weight.shape))
            old.fill_(torch.nan)
    assert_follows(sparsifier, *weights)
    assert all(old.isnan().all() for old in kept)


@pytest.mark.parametrize("assign", [False, True])
def test_model_that_loads_a_state_dict(assign):
    """Without `assign` the values are copied in; with it the model has new parameters, and the
    sparsifier keeps those that it was given."""
    torch.manual_seed(0)
    model = nn.Linear(8, 6)
    weight = model.weight
    sparsifier = make(weight)
    torch.manual_seed(1)
    model.load_state_dict(nn.Linear(8, 6).state_dict(), assign=assign)
    if assign:
        assert model.weight is not weight
        sparsifier.step()
        assert_masks(sparsifier, "group 0", weight)
        sparsifier.add_data("group 0", model.weight)
        assert sparsifier.get_data("group 0") is model.weight
    assert_follows(sparsifier, model.weight)


def test_to_empty_and_back_to_values():
    model = nn.Linear(8, 6)
    sparsifier = make(model.weight)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(values(1)))
    assert sparsifier.get_data("group 0") is model.weight
    assert_follows(sparsifier, model.weight)


def test_tensor_that_set_gives_other_memory():
    tensor = torch.from_numpy(values(0))
    sparsifier = make(tensor)
    other = torch.from_numpy(values(1))
    tensor.set_(other)
    assert_follows(sparsifier, tensor)
    assert torch.equal(tensor, other)


def test_tensor_resized_away_and_back():
    """resize_() may reallocate; a shape that is not the mask's is refused in between."""
    tensor = torch.from_numpy(values(0)).clone()  # never seen by NumPy, which pins its size
    sparsifier = datasparse.DataNormSparsifier([("group 0", tensor)], **CONFIG)
    sparsifier.step()
    before = sparsifier.state_dict()
    tensor.resize_(300, 400).fill_(1.0)
    for call in (sparsifier.step, sparsifier.apply_mask, sparsifier.squash_mask):
        with pytest.raises(ValueError, match=r"'group 0'.*\(6, 8\).*\(300, 400\)"):
            call()
    assert sparsifier.state_dict() == before
    assert bool((tensor == 1).all())
    tensor.resize_(SHAPE).copy_(torch.from_numpy(values(1)))
    assert_follows(sparsifier, tensor)


@pytest.mark.device("cpu")
def test_share_memory():
    weight = parameter(0)
    sparsifier = make(weight)
    pointer = weight.data_ptr()
    weight.share_memory_()
    assert weight.is_shared()
    assert weight.data_ptr() != pointer
    with torch.no_grad():
        weight.copy_(torch.from_numpy(values(1)))
    assert_follows(sparsifier, weight)
    assert weight.is_shared()


@pytest.mark.device("cpu")
def test_shared_memory_is_common_with_another_process(run_python):
    """What a child process writes is seen by the parent's step, and the zeros by the child."""
    script = """
import os
import torch
from test_pinning import make, parameter, values, assert_masks

weight = parameter(0)
sparsifier = make(weight)
weight.share_memory_()
child = os.fork()
if child == 0:
    weight.data.copy_(torch.from_numpy(values(1)))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(weight.data, torch.from_numpy(values(1)))
sparsifier.step()
assert_masks(sparsifier, "group 0", weight)
sparsifier.apply_mask()
child = os.fork()
if child == 0:
    os._exit(0 if int((weight.data == 0).sum()) == weight.numel() // 2 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(script) == "0\n"


def flat_parameters(buffer, shapes):
    """One parameter per shape, each a view of its part of the flat buffer."""
    views, start = [], 0
    for shape in shapes:
        end = start + int(np.prod(shape))
        views.append(nn.Parameter(buffer[start:end].view(shape)))
        start = end
    return views


def test_whole_flat_buffer_replaced():
    shapes = [(4, 6), (10,), (3, 2, 4)]
    size = sum(int(np.prod(shape)) for shape in shapes)
    old = torch.from_numpy(values(0, size))
    weights = flat_parameters(old, shapes)
    sparsifier = make(*weights)
    kept, new = old.clone(), torch.from_numpy(values(1, size))
    for weight, view in zip(weights, flat_parameters(new, shapes), strict=True):
        weight.data = view.data
    assert_follows(sparsifier, *weights)
    assert torch.equal(old, kept)
    zeros = sum(int((~sparsifier.get_mask(name)).sum()) for name in sparsifier.data_groups)
    assert int((new == 0).sum()) == zeros > 0


def test_flat_buffer_itself_gets_other_memory():
    """The buffer and its views share a storage, which is swapped under all of them."""
    old = torch.from_numpy(values(0, 48)).clone()
    weights = flat_parameters(old, [(4, 6), (4, 6)])
    sparsifier = make(*weights)
    new = torch.from_numpy(values(1, 48)).clone()
    kept = old.clone()
    for index, weight in enumerate(weights):
        weight.data.set_(new.untyped_storage(), 24 * index, (4, 6), (6, 1))
        weight.data = torch.as_strided(new, (4, 6), (6, 1), 24 * index)
    assert_follows(sparsifier, *weights)
    assert torch.equal(old, kept)
    assert int((new == 0).sum()) > 0


def test_tied_weights_under_two_names():
    """One tensor, two groups of different configs: both masks follow, both zeros meet."""
    model = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6, bias=False))
    model[1].weight = model[0].weight
    sparsifier = make(model[0], model[1].weight)
    sparsifier.data_groups["group 1"]["norm"] = "L2"
    model[0].weight.data = torch.from_numpy(values(1))
    sparsifier.step()
    assert sparsifier.get_data("group 0") is sparsifier.get_data("group 1")
    masks = [expected_mask(values(1)), reference.mask(values(1), norm="L2", **CONFIG)]
    for name, mask in zip(("group 0", "group 1"), masks, strict=True):
        np.testing.assert_array_equal(sparsifier.get_mask(name).numpy(), mask)
    assert not np.shares_memory(
        sparsifier.get_mask("group 0").numpy(), sparsifier.get_mask("group 1").numpy()
    )
    sparsifier.apply_mask()
    expected = values(1) * masks[0] * masks[1]
    np.testing.assert_array_equal(model[1].weight.detach().numpy(), expected)


@pytest.mark.parametrize("module_class", [nn.Embedding, nn.EmbeddingBag])
def test_embedding_whose_weight_is_replaced(module_class):
    module = module_class(*SHAPE)
    sparsifier = make(module)
    old = module.weight
    kept = old.detach().clone()
    module.weight = parameter(1)
    assert sparsifier.get_data("group 0") is module.weight
    assert_follows(sparsifier, module.weight)
    assert torch.equal(old, kept)
    module.weight.data = torch.from_numpy(values(2))
    assert_follows(sparsifier, module.weight)


def test_embedding_whose_weight_is_replaced_by_another_size():
    module = nn.Embedding(*SHAPE)
    sparsifier = make(module)
    before = sparsifier.state_dict()
    module.weight = parameter(1, (7, 8))
    for call in (sparsifier.step, sparsifier.apply_mask):
        with pytest.raises(ValueError, match=r"'group 0'.*\(6, 8\).*\(7, 8\)"):
            call()
    assert sparsifier.state_dict() == before
    assert bool((module.weight != 0).all())
    sparsifier.add_data("group 0", module, reuse_mask=False)
    sparsifier.step()
    assert_masks(sparsifier, "group 0", module.weight)


def test_embedding_without_a_weight_any_more():
    module = nn.Embedding(*SHAPE)
    good = parameter(3)
    sparsifier = make(good, module)
    before = sparsifier.state_dict()
    good.data = torch.from_numpy(values(4))
    del module.weight
    with pytest.raises(AttributeError, match="weight"):
        sparsifier.step()
    assert sparsifier.state_dict() == before
    module.weight = parameter(1)
    assert_follows(sparsifier, good, module.weight)


# --- who else holds the memory --------------------------------------------------------------------


def test_data_that_everyone_else_has_dropped():
    data = [values(0), torch.from_numpy(values(1)), parameter(2), nn.Embedding(*SHAPE)]
    data.append(values(3, (12, 16))[::2, ::2])  # a view, whose base is dropped with it
    sparsifier = make(*data)
    masks = [expected_mask(item) for item in data]
    data.clear()
    gc.collect()
    filler = [np.full(SHAPE, np.nan, np.float32) for _ in range(200)]
    for index, mask in enumerate(masks):
        sparsifier.get_mask(f"group {index}")[...] = True
        sparsifier.step()
        np.testing.assert_array_equal(np.asarray(sparsifier.get_mask(f"group {index}")), mask)
    sparsifier.apply_mask()
    for name, mask in zip(sparsifier.data_groups, masks, strict=True):
        kept = reference.float_values(sparsifier.get_data(name))
        assert (kept[~mask] == 0).all()
        assert (kept[mask] != 0).all()
    assert len(filler) == 200


def test_masks_their_views_and_masked_copies_outlive_the_sparsifier():
    data = [values(0), torch.from_numpy(values(1)), parameter(2)]
    sparsifier = make(*data)
    masks = [sparsifier.get_mask(name) for name in sparsifier.data_groups]
    views = [sparsifier.get_mask(name)[1:, ::2] for name in sparsifier.data_groups]
    copies = [sparsifier.get_data(n, return_original=False) for n in sparsifier.data_groups]
    expected = [expected_mask(item) for item in data]
    del sparsifier
    gc.collect()
    filler = [np.full(SHAPE, 7, np.uint8) for _ in range(200)]
    for mask, right, item, masked in zip(masks, expected, data, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(mask), right)
        np.testing.assert_array_equal(
            reference.float_values(masked), reference.float_values(item) * right
        )
    masks.clear()  # a view keeps the memory alive by itself
    collect()
    filler += [np.full(SHAPE, 7, np.uint8) for _ in range(200)]
    for view, right in zip(views, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(view), right[1:, ::2])
        view[...] = False
        assert not np.asarray(view).any()
    assert len(filler) == 400


@pytest.mark.device("cpu")
def test_memory_of_before_is_released():
    """Following param.data keeps nothing of what it was."""
    weight = parameter(0)
    sparsifier = make(weight)
    released = []

    class Noticed(np.ndarray):
        def __del__(self):
            released.append(True)

    weight.data = torch.from_numpy(values(1).view(Noticed))
    sparsifier.step()
    sparsifier.apply_mask()
    assert released == []
    weight.data = torch.from_numpy(values(2))
    gc.collect()
    assert released  # at once, without another step
    sparsifier.step()
    assert_masks(sparsifier, "group 0", weight)


# --- NumPy memory ---------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    values(0).tofile(tmp_path / "weights.bin")
    return tmp_path / "weights.bin"


@pytest.mark.device("cpu")
def test_memmap_is_written_back_to_its_file(file):
    mapped = np.memmap(file, np.float32, "r+", shape=SHAPE)
    sparsifier = make(mapped)
    assert sparsifier.get_data("group 0") is mapped
    mapped[...] = values(1)
    assert_follows(sparsifier, mapped)
    mapped.flush()
    on_disk = np.fromfile(file, np.float32).reshape(SHAPE)
    np.testing.assert_array_equal(on_disk, values(1) * expected_mask(values(1)))


@pytest.mark.device("cpu")
def test_memmap_sees_what_another_mapping_writes(file):
    sparsifier = make(np.memmap(file, np.float32, "r", shape=SHAPE))
    np.memmap(file, np.float32, "r+", shape=SHAPE)[...] = values(1)
    sparsifier.step()
    assert_masks(sparsifier, "group 0", values(1))


@pytest.mark.device("cpu")
def test_read_only_memmap_is_refused_by_apply_mask(file):
    writable = values(1)
    sparsifier = make(writable, np.memmap(file, np.float32, "r", shape=SHAPE))
    for call in (sparsifier.apply_mask, sparsifier.squash_mask):
        with pytest.raises(ValueError, match=r"'group 1'.*read-only"):
            call()
        np.testing.assert_array_equal(writable, values(1))  # nothing was touched
        np.testing.assert_array_equal(np.fromfile(file, np.float32).reshape(SHAPE), values(0))
    masked = sparsifier.get_data("group 1", return_original=False)
    np.testing.assert_array_equal(masked, values(0) * expected_mask(values(0)))
    masked[...] = 0  # the copy is writable


@pytest.mark.device("cpu")
def test_copy_on_write_memmap_leaves_its_file_alone(file):
    mapped = np.memmap(file, np.float32, "c", shape=SHAPE)
    make(mapped).apply_mask()
    np.testing.assert_array_equal(mapped, values(0) * expected_mask(values(0)))
    np.testing.assert_array_equal(np.fromfile(file, np.float32).reshape(SHAPE), values(0))


@pytest.mark.device("cpu")
def test_array_that_becomes_read_only_and_writable_again():
    data = values(0)
    sparsifier = make(data)
    data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sparsifier.apply_mask()
    np.testing.assert_array_equal(data, values(0))
    data.flags.writeable = True
    data[...] = values(1)
    assert_follows(sparsifier, data)


@pytest.mark.device("cpu")
def test_array_resized_in_place():
    data = values(0).copy()
    sparsifier = make(data)
    before = sparsifier.state_dict()
    data.resize((600, 800), refcheck=False)
    data[...] = 1
    for call in (sparsifier.step, sparsifier.apply_mask, sparsifier.squash_mask):
        with pytest.raises(ValueError, match=r"'group 0'.*\(6, 8\).*\(600, 800\)"):
            call()
    assert sparsifier.state_dict() == before
    assert (data == 1).all()
    data.resize(SHAPE, refcheck=False)
    data[...] = values(1)
    assert_follows(sparsifier, data)


@pytest.mark.parametrize("shape", [(7, 8), (3, 8), (48,), (8, 6)])
def test_masked_copy_of_data_of_another_shape_is_refused(shape):
    """There is no mask for them: more elements would be read beyond the mask's end."""
    data, weight, module = values(0).copy(), parameter(1), nn.Embedding(*SHAPE)
    sparsifier = make(data, weight, module)
    data.resize(shape, refcheck=False)
    weight.data = torch.ones(shape)
    module.weight = nn.Parameter(torch.ones(shape))
    for name in sparsifier.data_groups:
        assert tuple(sparsifier.get_data(name).shape) == shape
        with pytest.raises(ValueError, match=f"'{name}'"):
            sparsifier.get_data(name, return_original=False)


@REINTERPRETS
@pytest.mark.parametrize("shape", [(48,), (8, 6), (2, 3, 8), (6, 8, 1)])
def test_array_of_another_shape_and_the_same_memory(shape):
    data, weight = values(0), parameter(0)
    sparsifier = make(data, weight)
    before = sparsifier.state_dict()
    data.shape = shape
    with pytest.raises(ValueError, match=r"'group 0'.*\(6, 8\)"):
        sparsifier.step()
    data.shape = SHAPE
    weight.data = weight.data.reshape(shape)
    with pytest.raises(ValueError, match=r"'group 1'.*\(6, 8\)"):
        sparsifier.step()
    assert sparsifier.state_dict() == before


@pytest.mark.device("cpu")
@REINTERPRETS
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, ">f4", "S4"])
def test_array_whose_dtype_becomes_unsupported(dtype):
    data, other = values(0), values(1)
    sparsifier = make(other, data)
    before, memory = sparsifier.state_dict(), data.tobytes()
    other[...] = values(2)
    data.dtype = dtype
    for call in (sparsifier.step, sparsifier.apply_mask, sparsifier.squash_mask):
        with pytest.raises(TypeError, match="'group 1'"):
            call()
        assert sparsifier.state_dict() == before
        assert data.tobytes() == memory
    data.dtype = np.float32
    data[...] = values(3)
    assert_follows(sparsifier, other, data)


@pytest.mark.device("cpu")
@REINTERPRETS
def test_array_whose_dtype_becomes_another_float():
    """The same bytes as numbers of double the width are another shape: refused."""
    data = values(0, SHAPE, np.float16)
    sparsifier = make(data)
    data.dtype = np.float32
    with pytest.raises(ValueError, match=r"'group 0'.*\(6, 8\).*\(6, 4\)"):
        sparsifier.step()
    data.dtype = np.float16
    data[...] = values(1)
    assert_follows(sparsifier, data)


# --- memory that changes while a step runs --------------------------------------------------------


@pytest.mark.parametrize("make_data", [torch.clone, nn.Parameter, nn.Embedding.from_pretrained])
def test_memory_replaced_by_another_thread_during_steps(make_data, device):
    """Each mask is that of one of the values, never of a mixture, and nothing crashes."""
    shape = (400, 500)  # large enough for a step to meet a replacement
    config = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}
    candidates = [torch.from_numpy(values(seed, shape)) for seed in range(3)]
    masks = [reference.whole_block_mask_by_stable_sort(c.numpy(), 0.5) for c in candidates]
    data = make_data(candidates[0].clone())
    sparsifier = datasparse.DataNormSparsifier([("w", data)], **config)
    steps = 200 if device.name == "cpu" else 20  # there each takes ten times as long
    done = threading.Event()
    replaced = 0

    def replace():
        nonlocal replaced
        while not done.is_set():
            # fresh memory each time: that of before is freed at once
            fresh = candidates[replaced % 3].clone()
            if replaced % 2 and isinstance(data, nn.Embedding):
                data.weight = nn.Parameter(fresh)
            else:
                (data.weight if isinstance(data, nn.Embedding) else data).data = fresh
            replaced += 1

    thread = threading.Thread(target=replace, daemon=True)
    thread.start()
    try:
        for _ in range(steps):
            sparsifier.step()
            mask = sparsifier.get_mask("w").numpy()
            matching = [index for index in range(3) if np.array_equal(mask, masks[index])]
            assert len(matching) == 1
    finally:
        done.set()
        thread.join(60)
    assert not thread.is_alive()
    assert replaced > 0
    assert sparsifier.step_count == steps


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("target", ["a", "b", "c"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_an_override_that_replaces_memory(target, when, requires_grad):
    """In the middle of a step, before or after the built-in rule was asked for a mask: that of 'c',
    the group to come, is of either memory, all others are of the memory of before."""
    weights = {
        name: nn.Parameter(torch.from_numpy(values(seed)), requires_grad)
        for seed, name in enumerate("abc")
    }
    filler = []

    class Moves(datasparse.DataNormSparsifier):
        def update_mask(self, name, data, **config):
            if when == "after":
                super().update_mask(name, data, **config)
            if name == "b" and not filler:
                weights[target].data = torch.from_numpy(values(9))
                gc.collect()
                filler.extend(torch.full(SHAPE, torch.nan) for _ in range(50))
            if when == "before":
                super().update_mask(name, data, **config)

    sparsifier = Moves(weights, **CONFIG)
    sparsifier.step()
    for seed, name in enumerate("abc"):
        allowed = [expected_mask(values(seed))]
        if name == target == "c":
            allowed.append(expected_mask(values(9)))
        mask = sparsifier.get_mask(name).numpy()
        assert any(np.array_equal(mask, right) for right in allowed)
    sparsifier.step()
    assert_masks(sparsifier, target, values(9))
