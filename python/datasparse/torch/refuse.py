"""What attach() refuses, and with which words."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .._core import BaseDataSparsifier
from .choose import Owned
from .dtensors import is_sharded
from .parametrize import masked_of


def require_model(model: object) -> None:
    if isinstance(model, nn.Module):
        return
    hint = "; a state dict has no modules: `datasparse prune` prunes what is in a file"
    raise TypeError(
        f"model must be a torch.nn.Module, got {kind_of(model)}{hint * isinstance(model, dict)}"
    )


def require_sparsifier(sparsifier: object) -> None:
    if isinstance(sparsifier, BaseDataSparsifier):
        return
    hint = ""
    if isinstance(sparsifier, type) and issubclass(sparsifier, BaseDataSparsifier):
        hint = f": make one, {sparsifier.__name__}(...)"
    elif isinstance(sparsifier, (int, float)):
        hint = f"; as a level it is sparsity_level={sparsifier}"
    raise TypeError(
        f"sparsifier must be a sparsifier of datasparse, got {kind_of(sparsifier)}{hint}"
    )


def kind_of(thing: object) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"{type(thing).__name__}"


def require_one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = " or ".join(f'"{choice}"' for choice in allowed)
        raise ValueError(f"{what} must be {choices}, got {value!r}")


def refuse_other_data(owned: Owned, sparsifier: BaseDataSparsifier) -> None:
    if not is_one_of(sparsifier.get_data(owned.name), owned.weight.parameters):
        raise ValueError(
            f"the sparsifier has other data under the name {owned.name!r}; remove_data() it"
        )


def refuse_unfit(owned: Owned, model: nn.Module, mode: str) -> None:
    """ValueError for what cannot be pruned in this mode; add_data() finds the rest."""
    refuse_lazy(owned)
    if any(map(is_sharded, owned.weight.parameters)):
        refuse_unfit_shards(owned, mode)
    if mode == "in_place":
        owned.weight.require_written(owned.name)
    else:
        refuse_to_parametrize(owned, model)


def refuse_lazy(owned: Owned) -> None:
    """ValueError for a weight that has no shape yet."""
    if any(map(is_lazy, owned.weight.parameters)):
        raise ValueError(
            f"{owned.name!r} is not initialized yet: run the model once, then attach()"
        )


def refuse_unfit_shards(owned: Owned, mode: str) -> None:
    if mode != "in_place":
        raise ValueError(
            f"{owned.name!r} is sharded over ranks, and a parametrization would need its whole "
            'mask on each of them; use mode="in_place"'
        )
    if owned.weight.made_by is not None:
        raise ValueError(
            f"{owned.name!r} is made by {owned.weight.made_by} of parameters that are sharded, and "
            "no rank has the whole weight to rank; leave it out by exclude"
        )


def is_one_of(data: object, parameters: Iterable[nn.Parameter]) -> bool:
    return any(data is parameter for parameter in parameters)


def refuse_to_parametrize(owned: Owned, model: nn.Module) -> None:
    name = owned.name
    for module in owned.modules:
        kind = type(module).__name__
        if isinstance(module, nn.RNNBase):
            raise ValueError(
                f"{name!r} belongs to an nn.{kind}, which keeps its weights in a list that no "
                'parametrization reaches; use mode="in_place"'
            )
        if getattr(module, "sparse", False) is True:
            raise ValueError(
                f"{name!r} belongs to an nn.{kind} with sparse=True, whose gradients do not pass "
                'through a parametrization; use mode="in_place"'
            )
        if getattr(module, "max_norm", None) is not None:
            raise ValueError(
                f"{name!r} belongs to an nn.{kind} with max_norm, which would scale the rows of a "
                'masked copy in vain; use mode="in_place"'
            )
        if isinstance(module, parametrize.ParametrizationList):
            raise ValueError(
                f"{name!r} is an ingredient of a parametrization; attach the weight that is made "
                'of it, or use mode="in_place"'
            )
    for (*_, attribute), module in zip(owned.owners, owned.modules, strict=True):
        if masked_of(module, attribute) is not None:
            raise ValueError(
                f"{name!r} belongs to a parametrization already, one of ours: detach() the model "
                "first"
            )
        if attribute not in module._parameters and not parametrize.is_parametrized(
            module, attribute
        ):
            raise ValueError(
                f"{name!r} is made by a hook ({owned.weight.made_by}), which no parametrization "
                'goes with; use mode="in_place", or torch.nn.utils.parametrizations'
            )
    if len(owned.owners) > 1 and hasattr(model, "save_pretrained"):
        tied = " and ".join(".".join(owner) for owner in owned.owners)
        raise ValueError(
            f"{tied} are tied, and save_pretrained() refuses tied weights that are parametrized; "
            'use mode="in_place", or leave them out by exclude'
        )
