"""Norms of what reaches the inputs of a model's layers: what Wanda ranks by, for any tool."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .._norms_file import write_norms
from .attachment import Attachment
from .choose import Owned, Patterns, Types, choose, opened
from .inputs import KeptSums, RecordedInputs, inputs_of, is_one_of_several, record_inputs
from .layout import layout_of
from .replicas import Group, by_one, refuse_shards, warn_of_own_batches
from .scored import as_it_was
from .weights import Weight, set_training, weight_of

Norms = dict[str, NDArray[np.float32]]
Call = Callable[[nn.Module, Any], object]


def calibrate(
    model: nn.Module | Attachment,
    batches: Iterable[Any],
    *,
    include: Patterns | None = None,
    exclude: Patterns = (),
    types: Types | None = None,
    call: Call | None = None,
    path: str | os.PathLike[str] | None = None,
    group: Group = None,
) -> Norms:
    """The norms ‖X_j‖₂ of what reaches each input of each layer while the model sees these batches.

    Args:
        model: any model; or an attachment whose score is `Wanda()`. Then the sums go to its
            sparsifier besides, on top of those that it has, and it makes new masks of them, as
            `step()` does: `apply()` writes their zeros.
        batches: anything that can be iterated over once. A mapping is passed by keywords, a tuple
            or list as positional arguments, anything else as the only one. Labels are no
            arguments: of a loader of pairs, pass `(inputs for inputs, _ in loader)`, or `call`.
        include, exclude, types: which weights of a model, as for `attach()`; of an attachment they
            are those attached. By default all that have norms.
        call: `call(model, batch)` in the place of that.
        path: a safetensors file to write the norms to, as `datasparse prune --input-norms` reads
            it. One that is there is replaced, when all norms are known.
        group: a process group of torch.distributed, as for `record_inputs()`: the norms are those
            of the batches of all its ranks, and the first of these writes them.

    Returns one-dimensional float32 arrays by the names of the weights, one number for each column:
    of length in_features for a linear layer (nn.Linear, transformers' Conv1D, and any module with a
    weight of outputs x inputs that maps one to the other), of length in_channels for a convolution
    without groups. They are the roots of sums in float64, rounded once. Other layers have none: nor
    has a weight that is tied to an embedding's, or one whose layer is never called. They are left
    out, and refused where `include` is given. The model is called in evaluation mode, without
    gradients, and left as it was. Nothing of its activations is kept.

    Raises ValueError for no batch, for inputs that are not finite, where nothing matches or is
    reached, and where an included weight has no norms. Then no file is written, and no sum or mask
    of an attachment has changed.

    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> norms = calibrate(model, [torch.tensor([[3.0, 0.0, 1.0]]), torch.tensor([[4.0, 0.0, 1.0]])])
    >>> [round(float(norm), 2) for norm in norms["0.weight"]]
    [5.0, 0.0, 1.41]
    """
    if isinstance(model, Attachment):
        if include is not None or exclude or types is not None:
            raise TypeError(
                "include, exclude and types are those of the attachment: leave them out"
            )
        return calibrated(model, batches, call, path, group)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a model or what attach() returned, got {model!r}")
    _, modules = opened(model)
    taken = choose(modules, include, exclude, types).taken
    owners = {owned.name: weights_of(owned) for owned in taken}
    if include is not None:
        for name, weights in owners.items():
            require_columns(name, weights)
    inputs = {
        name: inputs_of(name, weights) for name, weights in owners.items() if has_columns(weights)
    }
    if not inputs:
        raise ValueError("no weight of the model belongs to a layer whose inputs are known")
    refuse_shards({name: weights[0] for name, weights in owners.items()}, "calibrate()")
    warn_of_own_batches(group)
    sums = KeptSums()
    with RecordedInputs(sums, inputs, group):
        run(model, batches, call)
    unseen = [name for name in inputs if name not in sums.arrays]
    if unseen and include is not None:
        raise ValueError(f"{unseen[0]!r} got no input from any batch: leave it out by exclude")
    if len(unseen) == len(inputs):
        raise ValueError("no layer got an input from any batch: do the batches reach the model?")
    norms = {name: norms_of(name, sums.arrays[name]) for name in inputs if name in sums.arrays}
    return written(path, norms, owners, group)


def calibrated(
    attachment: Attachment,
    batches: Iterable[Any],
    call: Call | None,
    path: str | os.PathLike[str] | None,
    group: Group,
) -> Norms:
    """The same by an attachment's sparsifier, which makes masks of its sums."""
    sparsifier, model = attachment.sparsifier, attachment.model()
    if model is None:
        raise ValueError("the model of this attachment is gone")
    names = [name for name in sparsifier.active(attachment.names) if not sparsifier.frozen(name)]
    before = {name: sparsifier.get_array(name, "inputs") for name in names}
    count = sparsifier.step_count
    try:
        with record_inputs(attachment, group=group):
            run(model, batches, call)
        sums = {name: sparsifier.get_array(name, "inputs") for name in names}
        if any(total is None for total in sums.values()):
            sparsifier.step()  # refuses weights that have seen no inputs, before there is a file
        owners = {name: attachment.places[name].weights() for name in names}
        norms = {name: norms_of(name, total) for name, total in sums.items()
                 if total is not None and has_columns(owners[name])}  # fmt: skip
        written(path, norms, owners, group)
        sparsifier.step()
    except BaseException:
        if sparsifier.step_count == count:  # a warning that is an error comes after new masks
            for name, array in before.items():
                sparsifier.set_array(name, "inputs", array)
        raise
    return norms


def run(model: nn.Module, batches: Iterable[Any], call: Call | None) -> None:
    """Show the model all batches, in evaluation mode, and leave it as it was."""
    call = call or call_with
    count = 0
    with as_it_was(model), torch.no_grad():
        modules = list(model.modules())
        set_training(modules, [False] * len(modules))
        for batch in batches:
            call(model, batch)
            count += 1
    if count == 0:
        raise ValueError("batches must hold at least one, got none")


def call_with(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)


def weights_of(owned: Owned) -> list[Weight]:
    found = [weight_of(module, path[-1])
             for module, path in zip(owned.modules, owned.owners, strict=True)]  # fmt: skip
    return [weight for weight in found if weight is not None]


def has_columns(owners: Iterable[Weight]) -> bool:
    """Whether each owner of a weight is a layer with one input for each column of it."""
    return all(why_none(weight) is None for weight in owners)


def require_columns(name: str, owners: Iterable[Weight]) -> None:
    for weight in owners:
        why = why_none(weight)
        if why is not None:
            raise ValueError(
                f"{name!r} belongs to a {type(weight.module).__name__}, {why}, and norms are of "
                "columns: leave it out by exclude"
            )


def why_none(weight: Weight) -> str | None:
    """Why the inputs of a module are not the columns of its weight; None where they are."""
    module = weight.module
    if isinstance(module, _ConvTransposeNd):
        return "whose inputs are its rows"
    if isinstance(module, _ConvNd) and module.groups > 1:
        return "whose groups have inputs of their own"
    if isinstance(module, nn.Embedding):
        return "whose inputs are its rows"
    if is_one_of_several(weight):
        return "which has several matrices"
    unknown = nn.EmbeddingBag | nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention
    if isinstance(module, unknown) or (weight.ndim > 2 and not isinstance(module, _ConvNd)):
        return "whose inputs are not known"
    return None


def norms_of(name: str, squares: Any) -> NDArray[np.float32]:
    """The roots of the sums, on one axis."""
    array = squares.cpu().numpy() if isinstance(squares, Tensor) else np.asarray(squares)
    with np.errstate(over="ignore"):
        norms: NDArray[np.float32] = np.sqrt(array).reshape(-1).astype(np.float32)
    if not np.isfinite(norms).all():
        raise ValueError(f"norms of the inputs of {name!r} are beyond float32")
    return norms


def written(
    path: str | os.PathLike[str] | None,
    norms: Norms,
    owners: Mapping[str, Iterable[Weight]],
    group: Group,
) -> Norms:
    """The norms, and the file of them where one is wanted."""
    if path is not None:
        transposed = [
            name
            for name in norms
            if any(layout_of(weight.module, 2) == (1, 0) for weight in owners[name])
        ]
        by_one(group, "calibrate()", lambda: write_norms(path, norms, transposed))
    return norms
