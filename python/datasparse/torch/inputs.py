"""What reaches each input of a layer: running sums of squares, for `Wanda()`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .layout import layout_of
from .replicas import Group, refuse_shards, summed, warn_of_own_batches
from .scored import scored
from .weights import Weight

if TYPE_CHECKING:
    from .attachment import Attachment

# Numbers that are squared at a time, in float64.
PIECE = 1 << 20

# The squares of a module's input, summed up in the shape that broadcasts to its weight.
Squares = Callable[[Tensor, Tensor], Tensor]

# The modules that own a weight, and how the inputs of each are summed up.
Inputs = list[tuple[nn.Module, Squares]]


class Sums(Protocol):
    """What keeps the sums of each weight: a sparsifier, or what `calibrate()` has in its place."""

    def get_array(self, name: str, key: str) -> Any | None: ...

    def set_array(self, name: str, key: str, array: Any) -> None: ...


class KeptSums:
    """Sums of squares by name, as a sparsifier keeps them."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def get_array(self, name: str, key: str) -> Any | None:
        return self.arrays.get(name)

    def set_array(self, name: str, key: str, array: Any) -> None:
        self.arrays[name] = array


class RecordedInputs:
    """What `record_inputs()` returned: the hooks, until `remove()` or the end of a `with`.

    With a group, the sums of this rank wait for those of the others until then.
    """

    def __init__(self, sums: Sums, inputs: Mapping[str, Inputs], group: Group) -> None:
        self._goal, self._group = sums, group
        self._waiting = None if group is None else KeptSums()
        self._sums: Sums = self._waiting or sums
        self._uncompiled = Uncompiled()
        self._hooks = []
        for name, owners in inputs.items():
            for module, squares in owners:
                hook = self._hook(name, squares)
                self._hooks.append(module.register_forward_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off; what was recorded stays."""
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._uncompiled.close()  # a finalizer, which does it once
        if self._waiting is None or isinstance(error, KeyboardInterrupt):
            return
        waiting, self._waiting = self._waiting.arrays, None

        def of_rank() -> tuple[dict[str, Any], int]:
            if error is not None:
                raise error
            return waiting, 0

        sums, _ = summed(self._group, "record_inputs()", of_rank)
        for name, more in sums.items():
            add(self._goal, name, more)

    def __enter__(self) -> RecordedInputs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(error)

    def _hook(self, name: str, squares: Squares) -> Any:
        def record(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs.get("input")
            if not isinstance(given, Tensor):
                raise ValueError(f"the layer of {name!r} must get a tensor first, got {given!r}")
            given, output = padded(given), padded(output)
            if given.numel() == 0 or torch._C._current_graph_task_id() != -1:
                return  # nothing, or what a checkpoint computes once more for a backward pass
            with torch.no_grad():
                more = squares(given.detach(), output)
            if not bool(torch.isfinite(more).all()):
                raise ValueError(f"inputs of {name!r} must be finite, got infinite values or NaN")
            add(self._sums, name, more.numpy() if more.is_cpu else more)

        return record


class Uncompiled:
    """While there is one, until it is closed or forgotten, compiled models run as they are written.

    What was compiled before a hook came does not call it, and what is compiled then cannot. Before
    version 2.6 of torch nobody can say so. Nor is it said where nothing has been compiled yet.
    """

    _lock = threading.RLock()
    _count: ClassVar[int] = 0
    _stance: ClassVar[Any] = None

    def __init__(self) -> None:
        with Uncompiled._lock:
            if Uncompiled._stance is None and can_be_uncompiled():
                Uncompiled._stance = torch.compiler.set_stance("force_eager")
            Uncompiled._count += 1
        self.close = finalize(self, Uncompiled._one_less)

    @staticmethod
    def _one_less() -> None:
        with Uncompiled._lock:
            Uncompiled._count -= 1
            if Uncompiled._count == 0 and Uncompiled._stance is not None:
                Uncompiled._stance.__exit__(None, None, None)
                Uncompiled._stance = None


def can_be_uncompiled() -> bool:
    return "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")


def padded(tensor: Any) -> Any:
    """With zeros, which add nothing, where a tensor is nested."""
    is_nested = isinstance(tensor, Tensor) and tensor.is_nested
    return tensor.to_padded_tensor(0.0) if is_nested else tensor


def add(sums: Sums, name: str, more: Any) -> None:
    before = sums.get_array(name, "inputs")
    if before is not None and before.shape != more.shape:
        raise ValueError(
            f"inputs of {name!r} were recorded in the shape {tuple(before.shape)}, and are of "
            f"{tuple(more.shape)} now: call reset_score() first"
        )
    sums.set_array(name, "inputs", more if before is None else before + more)


def record_inputs(model: nn.Module | Attachment, *, group: Group = None) -> RecordedInputs:
    """Sum up the squares of what reaches the attached layers, from now on: `Wanda()` ranks by them.

        with record_inputs(attachment):
            for batch in batches:
                model(batch)
        sparsifier.step()

    Forward hooks on the modules that own the weights, whatever model they are in, until `remove()`
    or the end of the `with`. The sums go on where they stood. They are arrays of the groups,
    "inputs", float64, and saved with the sparsifier; `reset_score()` drops them.

    An input is, of a linear layer (nn.Linear, transformers' Conv1D, and any module with a weight of
    outputs x inputs that gets and returns tensors of these last axes), a feature, over all else; of
    a convolution, transposed or not, a channel, over all places; of nn.Embedding, a row, whose sum
    is how often it was looked up. ValueError, naming the weight, for any other module, and for a
    score that keeps no inputs. A weight whose layer's own forward() is never called, such as the
    output of nn.MultiheadAttention, or gets nothing but empty tensors, has no inputs, and step()
    says so. Models that were compiled before run uncompiled meanwhile, from torch 2.6 on. What
    checkpointed layers compute once more in a backward pass does not count.

    group: a process group of torch.distributed, whose ranks have replicas of the model, and end
    this at the same time: the sums of all are added up then, and the same on each. Without a group
    a UserWarning says so where there are other ranks. Weights that are sharded are a ValueError.
    """
    of = scored(model)
    score = of.sparsifier.score
    if score is None or "inputs" not in score.arrays:
        raise ValueError(
            f"the sparsifier's score must be Wanda(), which ranks by inputs, got {score}: make it "
            "with score=Wanda()"
        )
    refuse_shards(of.weights, "record_inputs()")
    warn_of_own_batches(group)
    inputs = {name: inputs_of(name, owners) for name, owners in of.owners.items()}
    return RecordedInputs(of.sparsifier, inputs, group)


def inputs_of(name: str, owners: Iterable[Weight]) -> Inputs:
    """How the inputs of all that own a weight are summed up. ValueError as `squares_of()` does, for
    a weight that is looked up here and multiplied by there, and for one of several of a module."""
    owners = list(owners)
    if len({isinstance(weight.module, nn.Embedding) for weight in owners}) > 1:
        kinds = " and a ".join(type(weight.module).__name__ for weight in owners)
        raise ValueError(
            f"{name!r} is tied between a {kinds}, whose inputs are not alike: leave it out by "
            "exclude, or freeze its mask"
        )
    inputs = [(each.module, squares_of(name, each.module, each.tensor())) for each in owners]
    for weight in owners:
        if is_one_of_several(weight):
            raise ValueError(
                f"{name!r} is one of several matrices of a {type(weight.module).__name__}, whose "
                "inputs are not known: leave it out by exclude, or freeze its mask"
            )
    return inputs


def is_one_of_several(weight: Weight) -> bool:
    """Whether the input of a module need not be that of its weight: it has other matrices, too.

    What a layer of torch has beside its weight is an adapter's.
    """
    module = weight.module
    if weight.attribute == "weight" and isinstance(module, nn.Linear | nn.Embedding | _ConvNd):
        return False
    others = [
        each
        for each in module._parameters.values()
        if each is not None and not any(each is part for part in weight.parameters)
    ]
    return any(sum(length > 1 for length in each.shape) > 1 for each in others)


def squares_of(name: str, module: nn.Module, weight: Tensor) -> Squares:
    """How the inputs of a module are summed up. ValueError where nobody knows what they are."""
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        rows = weight.shape[0]
        return lambda given, _: counts(given, rows).reshape(-1, 1)
    if isinstance(module, _ConvNd):
        axis = -1 - len(module.kernel_size)
        places = [1] * len(module.kernel_size)
        if isinstance(module, _ConvTransposeNd):
            return lambda given, _: column_squares(given.movedim(axis, -1)).reshape(-1, 1, *places)
        groups, outputs = module.groups, module.out_channels

        def of_groups(given: Tensor, _: Tensor) -> Tensor:
            squares = column_squares(given.movedim(axis, -1)).reshape(groups, -1)
            if groups > 1:
                squares = squares.repeat_interleave(outputs // groups, 0)
            return squares.reshape(*squares.shape, *places)

        return of_groups
    if weight.ndim == 2 and not isinstance(module, nn.EmbeddingBag | nn.RNNBase | nn.RNNCellBase):
        transposed = layout_of(module, 2) == (1, 0)
        shape = tuple(weight.shape[::-1] if transposed else weight.shape)

        def of_linear(given: Tensor, output: Tensor) -> Tensor:
            last = tuple(
                tensor.shape[-1] if isinstance(tensor, Tensor) and tensor.ndim else None
                for tensor in (output, given)
            )
            if last != shape or not given.is_floating_point():
                raise ValueError(
                    f"{name!r} belongs to a {kind}, whose inputs are not known: it must map floats "
                    f"of {shape[1]} features to {shape[0]}, got {last[1]} to {last[0]}; exclude it"
                )
            squares = column_squares(given)
            return squares.reshape(-1, 1) if transposed else squares.reshape(1, -1)

        return of_linear
    raise ValueError(
        f"{name!r} belongs to a {kind}, whose inputs are not known: leave it out by exclude, or "
        "freeze its mask"
    )


def column_squares(given: Tensor) -> Tensor:
    """The sums of squares over all axes but the last, in float64, which no bfloat16 overflows."""
    rows = given.reshape(-1, given.shape[-1])
    sums = torch.zeros(rows.shape[-1], dtype=torch.float64, device=given.device)
    step = max(1, PIECE // max(1, rows.shape[-1]))
    for first in range(0, len(rows), step):
        sums += rows[first : first + step].double().square().sum(0)
    return sums


def counts(indices: Tensor, rows: int) -> Tensor:
    return torch.bincount(indices.reshape(-1), minlength=rows).double()
