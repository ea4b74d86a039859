"""Where a weight is: a path of modules and an attribute, looked up each time.

A model changes under its owner's hands: a parameter is assigned anew, a layer is exchanged, a
state dict is loaded with `assign=True`, a wrapper is put around a module or taken away. Whoever
holds on to the tensor of the first day prunes what no model has any more. A `Place` holds on to
the name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .weights import Weight, weight_of

Path = tuple[str, ...]

# Attributes under which a wrapper keeps the module that it wraps: torch.compile; DataParallel and
# its kin; activation checkpointing; PEFT.
WRAPPERS = ("_orig_mod", "module", "_checkpoint_wrapped_module", "base_layer")


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


def child(module: nn.Module, part: str) -> nn.Module | None:
    """A submodule, also where a wrapper has come between, or where this one has gone."""
    if (inner := module._modules.get(part)) is not None:
        return inner
    for wrapper in WRAPPERS:
        if (wrapped := module._modules.get(wrapper)) is not None:
            return child(wrapped, part)
    return module if part in WRAPPERS else None


def module_at(root: nn.Module, path: Path) -> nn.Module | None:
    """The module at a path, or None."""
    module: nn.Module | None = root
    for part in path:
        if module is not None:
            module = child(module, part)
    if module is None and path[:2] == ("base_model", "model"):
        return module_at(root, path[2:])  # PEFT's model around the whole was taken away
    return module


def weight_at(root: nn.Module, path: Path, attribute: str) -> Weight | None:
    """The weight at a path, or None."""
    module = module_at(root, path)
    while module is not None:
        if (weight := weight_of(module, attribute)) is not None:
            return weight
        inner = (module._modules.get(wrapper) for wrapper in WRAPPERS)
        module = next((wrapped for wrapped in inner if wrapped is not None), None)
    return None


@dataclass(eq=False)
class Seen:
    """What the places of one attachment have seen: how many parameters came for others, and the
    names of the weights that are computed."""

    changes: int = 0
    computed: set[str] = field(default_factory=set)


class Place:
    """One weight of a model, by name: the data that a sparsifier holds for an attached group.

    The model is referred to weakly, its parameter strongly: once the model is gone, the parameter
    stands for it. `owners` are the path and the attribute of each module that holds the weight; of
    tied weights there are several. `weight` is what is there now, and `in_place` whether zeros are
    written into it.
    """

    def __init__(
        self,
        name: str,
        root: nn.Module,
        owners: Sequence[tuple[Path, str]],
        weight: Weight,
        in_place: bool,
        seen: Seen,
    ) -> None:
        self.name = name
        self.owners = tuple(owners)
        self.in_place = in_place
        self.seen = seen
        # `trail` and `known` are what the bindings ask the model by, without a call: place.hpp.
        self._root = ref(root)
        self.trail = (self._root, *((*path, attribute) for path, attribute in owners))
        self.known = principal(weight)
        if weight.made_by is not None:
            seen.computed.add(name)

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

    def weight(self) -> Weight:
        """The weight that is here now.

        ValueError where it is gone, where weights are no longer tied that were, or where something
        computes it by now in which no zeros can be written.
        """
        first, *others = self.weights()
        if self.in_place:
            first.require_written(self.name)
        for (path, attribute), other in zip(self.owners[1:], others, strict=True):
            if not same_memory(first, other):
                raise ValueError(
                    f"{self.name!r} and {'.'.join([*path, attribute])!r} were tied when they were "
                    "attached, and are two parameters now: tie them again, or detach() the model "
                    "and attach() anew"
                )
        if first.made_by is not None:
            self.seen.computed.add(self.name)
        if principal(first) is not self.known:
            self.known = principal(first)
            self.seen.changes += 1
        return first

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """What the weight is made of now."""
        parameter = self._unchanged()
        return self.weight().parameters if parameter is None else (parameter,)

    def weights(self) -> list[Weight]:
        """The weight as each of its owners has it."""
        root = self.model()
        if root is None:
            raise ValueError(f"{self.name!r} is gone: so is the model that it was attached to")
        found = []
        for path, attribute in self.owners:
            weight = weight_at(root, path, attribute)
            if weight is None:
                raise ValueError(
                    f"{'.'.join([*path, attribute])!r} is gone: the model has no such weight any "
                    "more; put it back, or remove_data() it"
                )
            found.append(weight)
        return found

    def _unchanged(self) -> nn.Parameter | None:
        """The parameter of the last time, if it is all that there is to the weight still: quick."""
        root: Any = self.model()
        if root is None:
            return self.known
        try:
            for path, attribute in self.owners:
                module = root
                for part in path:
                    module = module._modules[part]
                if module._parameters[attribute] is not self.known:
                    return None
        except (KeyError, AttributeError):  # a wrapper has come or gone, or the weight is computed
            return None
        return self.known

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
        a is b or (a.shape == b.shape and a.device == b.device and a.data_ptr() == b.data_ptr())
        for a, b in zip(one.parameters, other.parameters, strict=True)
    )
