"""Where a weight is: a path of modules and an attribute, looked up each time.

A model changes under its owner's hands: a parameter is assigned anew, a layer is exchanged, a
state dict is loaded with `assign=True`, a wrapper is put around a module or taken away. Whoever
holds on to the tensor of the first day prunes what no model has any more. A `Place` holds on to
the name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .dtensors import is_sharded, local, reshard
from .weights import Weight, weight_of

Path = tuple[str, ...]

# Attributes under which a wrapper keeps the module that it wraps, and nothing else: torch.compile;
# DataParallel and its kin; activation checkpointing.
WRAPPERS = ("_orig_mod", "module", "_checkpoint_wrapped_module")
PEFT = "base_layer"  # beside its adapters
SAVED = "modules_to_save"  # whole copies in its place, by the names of adapters


def plain_model(model: nn.Module) -> nn.Module:
    """What torch.compile, DataParallel, DistributedDataParallel and AveragedModel wrap."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model


def path_of(name: str) -> Path:
    return tuple(filter(None, name.split(".")))


def entry_of(registry: Any, name: str) -> Any:
    """An entry of a module's `_modules` or `_parameters`, or None: scripted ones have no get()."""
    return registry[name] if name in registry else None  # noqa: SIM401


def is_replaced_by_peft(module: nn.Module) -> bool:
    """Whether PEFT trains a copy of a module in its place: its modules_to_save."""
    return "original_module" in module._modules and SAVED in module._modules


def trained_copy_of(module: Any) -> nn.Module | None:
    copies: Any = module._modules[SAVED]
    active = getattr(module, "active_adapter", None)
    name = active[0] if isinstance(active, list) and active else active
    copied: nn.Module | None = entry_of(copies._modules, name) if isinstance(name, str) else None
    return copied


def wrapped_by(module: nn.Module) -> nn.Module | None:
    """The module that this one wraps, if it is a wrapper."""
    if is_replaced_by_peft(module):
        return trained_copy_of(module)
    if hasattr(type(module), "adapter_layer_names"):
        inner: nn.Module | None = entry_of(module._modules, PEFT)
        return inner
    if len(module._modules) == 1:
        for wrapper in WRAPPERS:
            if (inner := entry_of(module._modules, wrapper)) is not None:
                return inner  # type: ignore[no-any-return]
    return None


def child(module: nn.Module, part: str) -> nn.Module | None:
    """A submodule, also where a wrapper has come between, or where this one has gone."""
    if (inner := entry_of(module._modules, part)) is not None:
        return inner  # type: ignore[no-any-return]
    if (wrapped := wrapped_by(module)) is not None:
        return child(wrapped, part)
    return module if part in WRAPPERS or part == PEFT else None


def module_at(root: nn.Module, path: Sequence[str]) -> nn.Module | None:
    """The module at a path, or None."""
    module: nn.Module | None = root
    parts = iter(path)
    for part in parts:
        if module is None:
            break
        if part == SAVED and SAVED not in module._modules and wrapped_by(module) is None:
            next(parts, None)  # PEFT's copy, by the name of an adapter, was merged into its place
        else:
            module = child(module, part)
    if module is None and tuple(path[:2]) == ("base_model", "model"):
        return module_at(root, path[2:])  # PEFT's model around the whole was taken away
    return module


def weight_at(root: nn.Module, owner: Path) -> Weight | None:
    """The weight at a path, whose last part is its attribute, or None."""
    *path, attribute = owner
    module = module_at(root, path)
    while module is not None:
        if (weight := weight_of(module, attribute)) is not None:
            return weight
        module = wrapped_by(module)
    return None


@dataclass(eq=False)
class Seen:
    """How often the places of one attachment have found another parameter than before."""

    changes: int = 0


class Place:
    """One weight of a model, by name: the data that a sparsifier holds for an attached group.

    The model is referred to weakly, its parameter strongly: once the model is gone, the parameter
    stands for it. `owners` are the paths at which the weight is held, each with its attribute; of
    tied weights there are several. `weight` is what is there now, and `in_place` whether zeros are
    written into it.
    """

    def __init__(
        self,
        name: str,
        root: nn.Module,
        owners: Sequence[Path],
        weight: Weight,
        in_place: bool,
        seen: Seen,
    ) -> None:
        self.name = name
        self.in_place = in_place
        self.seen = seen
        # `trail` and `known` are what the bindings ask the model by, without a call: place.hpp.
        self._root = ref(root)
        self.trail: tuple[Any, ...] = (self._root, *owners)
        self.known = principal(weight)

    @property
    def owners(self) -> tuple[Path, ...]:
        return self.trail[1:]

    def model(self) -> nn.Module | None:
        """The model, unless it is gone."""
        return self._root()

    def __datasparse_tensor__(self) -> Tensor:
        """What is pruned, as it is now: `sparsifier.get_data(name)`."""
        parameter = self._unchanged()
        return self.weight().tensor() if parameter is None else parameter

    def __datasparse_scores__(self) -> Tensor:
        """What is ranked, as it is now."""
        parameter = self._unchanged()
        return self.weight().scores() if parameter is None else parameter

    def __datasparse_part__(self) -> nn.Parameter:
        """One of the parameters that the weight is made of, which tells its device."""
        parameter = self._unchanged()
        return self.weight().parameters[0] if parameter is None else parameter

    def __datasparse_gradient__(self) -> Tensor | None:
        """The gradient of what is ranked.

        ValueError where torch keeps that of an ingredient only: of a direction, which is another.
        """
        parameter = self._unchanged()
        if parameter is not None:
            return parameter.grad
        weight = self.weight()
        if weight.written is None or weight.made_by is not None:
            raise ValueError(
                f"{self.name!r} is made by {weight.made_by}, and torch keeps the gradients of its "
                "parameters, not its own: hand that in by set_gradients()"
            )
        return weight.written.grad

    def __datasparse_allow_zeros__(self, mask: Tensor) -> None:
        """ValueError where zeros in these places would break what computes the weight."""
        if self._unchanged() is None:
            self.weight().require_lengths(self.name, mask)

    def weight(self) -> Weight:
        """The weight that is here now.

        ValueError where it is gone, where weights are no longer tied that were, or where something
        computes it by now in which no zeros can be written.
        """
        first, *others = self.weights()
        if self.in_place:
            first.require_written(self.name)
        for owner, other in zip(self.owners[1:], others, strict=True):
            if not same_memory(first, other):
                raise ValueError(
                    f"{self.name!r} and {'.'.join(owner)!r} were tied when they were "
                    "attached, and are two parameters now: tie them again, or detach() the model "
                    "and attach() anew"
                )
        if principal(first) is not self.known:
            self.known = principal(first)
            self.seen.changes += 1
        return first

    def is_among(self, held: set[int]) -> bool:
        """Whether one of the parameters that the weight is made of now is held, by its id."""
        parameter = self._unchanged()
        if parameter is not None:
            return id(parameter) in held
        return any(id(part) in held for part in self.weight().parameters)

    def weights(self) -> list[Weight]:
        """The weight as each of its owners has it."""
        root = self.model()
        if root is None:
            raise ValueError(f"{self.name!r} is gone: so is the model that it was attached to")
        if is_sharded(self.known):
            for owner in self.owners:
                reshard(root, owner[:-1])
        found = []
        for owner in self.owners:
            weight = weight_at(root, owner)
            if weight is None:
                raise ValueError(
                    f"{'.'.join(owner)!r} is gone: the model has no such weight any "
                    "more; put it back, or remove_data() it"
                )
            found.append(weight)
        return found

    def _unchanged(self) -> nn.Parameter | None:
        """The parameter of the last time, if it is all that there is to the weight still: quick."""
        root: Any = self._root()
        known = self.known
        if root is None:
            return known
        try:
            for owner in self.owners:
                module = root
                for part in owner[:-1]:
                    module = module._modules[part]
                if module._parameters[owner[-1]] is not known:
                    return None
        except (KeyError, AttributeError):  # a wrapper has come or gone, or the weight is computed
            return None
        return known

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The same place in the copy of the model, where that is copied too; else the parameter."""
        root = self.model()
        known = copy.deepcopy(self.known, memo)
        copied = None if root is None else memo.get(id(root))
        if not isinstance(copied, nn.Module):
            return known
        place = Place.__new__(Place)
        its_root = ref(copied)
        trail = (its_root, *self.trail[1:])
        its = {"_root": its_root, "trail": trail, "known": known, "seen": Seen()}
        place.__dict__.update(self.__dict__ | its)
        return place

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the parameter: attach() finds its place in the model again."""
        return as_it_is, (self.known,)


def principal(weight: Weight) -> nn.Parameter:
    """The parameter that a weight is known by."""
    return weight.parameters[0] if weight.written is None else weight.written


def as_it_is(parameter: nn.Parameter) -> nn.Parameter:
    return parameter


def same_memory(one: Weight, other: Weight) -> bool:
    """Whether two weights are made of the same parameters, or of some that share their memory."""
    return len(one.parameters) == len(other.parameters) and all(
        a is b
        or (
            a.shape == b.shape
            and a.device == b.device
            and is_sharded(a) == is_sharded(b)
            and local(a).data_ptr() == local(b).data_ptr()
        )
        for a, b in zip(one.parameters, other.parameters, strict=True)
    )
