"""Arrays without memory of their own: refused by what they are, with what to do in their place."""

import warnings

import numpy as np
import pytest
import torch
from datasparse import DataNormSparsifier, block_mask
from torch import nn

SPEC = {"sparsity_level": 0.5, "sparse_block_shape": (1, 1)}


def refusal(data):
    """The message of the TypeError with which every way in refuses the data."""
    sparsifier = DataNormSparsifier()
    with pytest.raises(TypeError) as caught:
        sparsifier.add_data("w", data)
    message = str(caught.value)
    assert message.startswith("data of 'w' must be an array with memory of its own, got ")
    assert len(sparsifier.data_groups) == 0
    with pytest.raises(TypeError) as caught:
        block_mask(data, **SPEC)
    assert str(caught.value) == message.replace("data of 'w'", "data")
    return message


def nested(layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(4)


def masked():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.masked.masked_tensor(torch.ones(4), torch.ones(4, dtype=torch.bool))


def freed():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


class Wrapper(torch.Tensor):
    """As libraries make tensors that hold others."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return self
        raise NotImplementedError(func)


MEMORYLESS = {
    "FakeTensor": (fake, "FakeTensor, which has no memory; call this outside of FakeTensorMode"),
    "masked": (masked, r"MaskedTensor, which is two tensors; pass its .get_data()"),
    "uninitialized": (
        nn.parameter.UninitializedParameter,
        "UninitializedParameter, which has no shape yet; call the lazy module once",
    ),
    "lazy": (lambda: nn.LazyLinear(3).weight, "UninitializedParameter, which has no shape yet"),
    "nested": (lambda: nested(torch.strided), "Tensor, nested, of several tensors; add those of"),
    "jagged": (lambda: nested(torch.jagged), "NestedTensor, nested, of several tensors; add"),
    "freed": (freed, "Tensor without any: it stands for other tensors, or its storage was freed"),
    "parameter, freed": (lambda: nn.Parameter(freed()), "Parameter without any: it stands"),
    "wrapper": (lambda: Wrapper(torch.ones(3)), "Wrapper without any: it stands for other tensors"),
}


@pytest.mark.parametrize(("make", "says"), MEMORYLESS.values(), ids=MEMORYLESS)
def test_tensors_without_memory(make, says):
    assert says in refusal(make())


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "functionalize", "grad of vmap"])
def test_tensors_that_torch_func_wraps(transform):
    messages = []

    def function(x):
        messages.append(refusal(x))
        return x.sum()

    x = torch.ones(3, 4)
    func = torch.func
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        {
            "vmap": lambda: func.vmap(function)(x),
            "grad": lambda: func.grad(function)(x),
            "jvp": lambda: func.jvp(function, (x,), (x,)),
            "functionalize": lambda: func.functionalize(function)(x),
            "grad of vmap": lambda: func.grad(lambda x: func.vmap(function)(x).sum())(x),
        }[transform]()
    (message,) = messages
    assert "Tensor within a function that torch.func transforms" in message
    assert "call this outside of it" in message


def test_an_empty_tensor_has_none_and_is_data():
    assert block_mask(torch.ones(0, 3), **SPEC).shape == (0, 3)
    assert block_mask(nn.Parameter(torch.ones(0)), **SPEC).shape == (0,)


def test_memory_that_is_gone_at_a_later_step(observe):
    """As that of a parameter which is sharded after it was added."""
    good, layer = torch.rand(3, 5), nn.Embedding(3, 5)
    sparsifier = DataNormSparsifier([("good", good), ("layer", layer)])
    sparsifier.step()
    good.neg_()
    before = observe(sparsifier)
    layer.weight = nn.Parameter(Wrapper(torch.ones(3, 5)))
    with pytest.raises(TypeError, match=r"data of 'layer' must .* got Wrapper without any"):
        sparsifier.step()
    assert observe(sparsifier) == before


# In processes of their own: the one starts threads, the other would leave a process group behind.
SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from datasparse import DataNormSparsifier, block_mask

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))

def refused(data):
    for call in (
        lambda: DataNormSparsifier([("w", data)]),
        lambda: block_mask(data, sparsity_level=0.5, sparse_block_shape=(1, 1)),
    ):
        try:
            call()
        except TypeError as error:
            assert "must be sharded or replicated along each axis of their mesh" in str(error)
        else:
            raise AssertionError("a part of a sum was taken")

refused(DTensor.from_local(torch.ones(4, 4), mesh, [Partial()]))
layer = torch.nn.Embedding(4, 4)
sparsifier = DataNormSparsifier([("layer", layer)], sparse_block_shape=(1, 1))
sparsifier.step()
for placement in (Shard(0), Replicate()):
    for shape in ((4, 4), (0, 4)):
        tensor = distribute_tensor(torch.rand(shape), mesh, [placement])
        for data in (tensor, torch.nn.Parameter(tensor)):
            spec = dict(sparsity_level=0.5, sparse_block_shape=(1, 1))
            mask = block_mask(data, **spec)
            right = block_mask(tensor.to_local(), **spec)
            assert isinstance(mask, DTensor) and torch.equal(mask.to_local(), right)
layer.weight = torch.nn.Parameter(distribute_tensor(torch.rand(4, 4), mesh, [Shard(0)]))
sparsifier.step()
mask = sparsifier.get_mask("layer")
assert isinstance(mask, DTensor) and int(mask.to_local().sum()) == 8
dist.destroy_process_group()
print("served")
"""
TRACED = """
import numpy as np
import jax, jax.numpy as jnp
from datasparse import DataNormSparsifier, block_mask

spec = dict(sparsity_level=0.5, sparse_block_shape=(1, 1))

def refusal(data):
    for call in (lambda: DataNormSparsifier([("w", data)]), lambda: block_mask(data, **spec)):
        try:
            call()
        except TypeError as error:
            message = str(error)
        else:
            raise AssertionError("taken")
    return message

def function(x):
    message = refusal(x)
    assert "Tracer, a traced array, which has no memory; call this outside of" in message, message
    assert "jax.pure_callback()" in message
    return x.sum()

x = jnp.arange(12.0).reshape(3, 4)
for transform in (jax.jit, jax.grad, jax.vmap, jax.checkpoint, jax.linearize, jax.eval_shape):
    if transform in (jax.linearize, jax.eval_shape):
        transform(function, x)
    else:
        transform(function)(x)
jax.lax.scan(lambda carry, row: (carry, function(row)), 0, x)

def masked(x):
    shape = jax.ShapeDtypeStruct(x.shape, bool)
    return jax.pure_callback(lambda x: block_mask(np.asarray(x), **spec), shape, x)

assert int(jax.jit(masked)(x).sum()) == 6, "as the message says"

gone = jnp.ones(4)
sparsifier = DataNormSparsifier([("w", gone)])
gone.delete()
try:
    sparsifier.step()
except TypeError as error:
    message = str(error)
assert "that was deleted, or donated to a function; add the array that came back" in message
assert "got int32; convert it first" in refusal(jnp.ones(4, int))
assert "`exclude`" in refusal(jnp.ones(4, complex))
print("served")
"""


@pytest.mark.parametrize(
    ("program", "needs"), [(SHARDED, "torch.distributed.tensor"), (TRACED, "jax")]
)
def test_arrays_of_others(program, needs, run_python):
    pytest.importorskip(needs, reason=f"needs {needs}")
    assert run_python(program, JAX_PLATFORMS="cpu") == "served\n"


def test_a_class_of_the_same_name_is_none_of_theirs():
    class Tracer(np.ndarray):
        pass

    class DTensor(torch.Tensor):
        pass

    assert block_mask(np.ones(4).view(Tracer), **SPEC).sum() == 2
    assert block_mask(torch.ones(4).as_subclass(DTensor), **SPEC).sum() == 2
