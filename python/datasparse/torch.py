"""Sparse parameters in PyTorch: attach a sparsifier to a model, and its zeros last.

    attachment = attach(model, sparsifier, include="*.weight")
    attachment.follow(optimizer)

After that, every `optimizer.step()` is followed by new masks and by zeros where they prune,
whatever momentum and weight decay had in mind. Importing this module imports torch.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ._core import BaseDataScheduler, BaseDataSparsifier

if TYPE_CHECKING:
    from ._core import ParamValue

__all__ = ["Attachment", "Following", "Masked", "attach", "detach", "mask_optimizer_state"]

MODES = ("in_place", "parametrize")
GRADIENTS = ("masked", "straight_through")


@dataclass(frozen=True, eq=False)
class Attachment:
    """What `attach()` did: which parameters of a model a sparsifier masks, and how.

    `names` are those of `model.named_parameters()`, and of the groups of the sparsifier.
    """

    sparsifier: BaseDataSparsifier
    names: tuple[str, ...]
    mode: str

    def apply(self) -> None:
        """Write the zeros into the parameters; with mode="parametrize" there is nothing to do."""
        if self.mode == "in_place":
            self.sparsifier.apply_mask(self._present())

    def follow(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int | None = 1,
        scheduler: BaseDataScheduler | None = None,
        mask_state: bool = False,
    ) -> Following:
        """After each `optimizer.step()`, renew the masks and write the zeros.

        The first step and then each `every`-th one calls `sparsifier.step()`, and
        `scheduler.step()` after it, where there is one; with `every=None` both are left to you.
        Zeros are written after every step. With `mask_state` the optimizer forgets pruned elements
        too: `mask_optimizer_state()`. A step that a GradScaler skips is none.
        """
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, or None, got {every}")
        return Following(self, optimizer, every, scheduler, mask_state)

    def owns_any_of(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer holds one of these parameters."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return any(id(self.sparsifier.get_data(name)) in held for name in self._present())

    def _present(self) -> list[str]:
        """The names that are neither removed nor squashed since."""
        return [name for name in self.names if is_masked(self.sparsifier, name)]


class Following:
    """What `Attachment.follow()` does after each step of an optimizer, until `remove()`.

    `steps` counts those steps. Where a training is resumed and masks are not renewed at each step,
    set it to what it was.
    """

    def __init__(
        self,
        attachment: Attachment,
        optimizer: torch.optim.Optimizer,
        every: int | None,
        scheduler: BaseDataScheduler | None,
        mask_state: bool,
    ) -> None:
        self.steps = 0
        self._attachment = attachment
        self._every = every
        self._scheduler = scheduler
        self._mask_state = mask_state
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def remove(self) -> None:
        """Leave the optimizer alone again."""
        self._hook.remove()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        sparsifier = self._attachment.sparsifier
        if self._every is not None and self.steps % self._every == 0:
            sparsifier.step()
            if self._scheduler is not None:
                self._scheduler.step()
        self.steps += 1
        self._attachment.apply()
        if self._mask_state:
            mask_optimizer_state(optimizer, sparsifier, self._attachment.names)


def attach(
    model: nn.Module,
    sparsifier: BaseDataSparsifier,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    types: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
    mode: str = "in_place",
    gradients: str = "masked",
    **config: ParamValue,
) -> Attachment:
    """Let a sparsifier mask parameters of a model, each a group under its own name.

    Args:
        model: its `named_parameters()` are chosen from; of a compiled model, or one within
            DistributedDataParallel, those of the plain one, under the plain names.
        sparsifier: gets a group per parameter. Nothing is copied; a tied parameter is one group.
        include: globs of names (`*`, `?`, `[seq]`), any of which has to match. By default all
            parameters of two and more dimensions: matrices, kernels and tables, but no biases.
        exclude: globs of names, none of which may match.
        types: the module that holds the parameter must be one of these.
        mode: "in_place": the parameters are pruned themselves, by `Attachment.follow()` or
            `apply_mask()`; the model is left as it is. "parametrize": the model computes with a
            masked copy and keeps its dense parameters, which may come back.
        gradients: for mode="parametrize". "masked": none for pruned elements. "straight_through":
            those of the masked copy, so that pruned elements learn too (Bengio et al. 2013).
        config: of each group; the sparsifier's defaults otherwise.

    A parameter that the sparsifier has under its name already keeps its mask and config; so a
    sparsifier that was loaded or copied is attached in the same way.

    Raises ValueError where nothing matches, or a name belongs to other data, and TypeError for
    parameters that are sharded (FSDP), on another device, or of no supported dtype. Then the model
    is as it was, and so is the sparsifier, but for loaded or squashed masks of these names.

    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> sparsifier = DataNormSparsifier(sparsity_level=0.75, sparse_block_shape=(1, 1))
    >>> attach(model, sparsifier, exclude="2.*").names
    ('0.weight',)
    >>> sparsifier.step()
    >>> sparsifier.apply_mask()
    >>> int((model[0].weight == 0).sum())
    24
    >>> detach(model)
    """
    require_one_of("mode", mode, MODES)
    require_one_of("gradients", gradients, GRADIENTS)
    if mode == "in_place" and gradients != "masked":
        raise ValueError(
            f'gradients="{gradients}" needs mode="parametrize": in place there is no masked copy '
            "whose gradients could go straight through"
        )
    model = plain_model(model)
    refuse_sharded(model)
    chosen = choose(model, include, exclude, types)
    for owned in chosen:
        refuse_unfit(owned, sparsifier, mode)
    add_all(sparsifier, chosen, config)
    attachment = Attachment(sparsifier, tuple(owned.name for owned in chosen), mode)
    if mode == "parametrize":
        parametrize_all(sparsifier, chosen, gradients)
    else:
        _attachments.setdefault(model, []).append(attachment)
    return attachment


def detach(model: nn.Module, *, keep_zeros: bool = True) -> None:
    """Undo `attach()`: the model is a plain one, with the keys in `state_dict()` that it had.

    With `keep_zeros` the zeros are written into the parameters for good, in their own memory, and
    the groups are squashed: their masks can still be read. Without, the parameters stay as they are
    (with mode="parametrize": dense), and the groups are removed. What follows an optimizer finds
    nothing to do then; `Following.remove()` ends it.

    Raises ValueError if nothing is attached, or if a parameter's memory may not be written to.
    """
    model = plain_model(model)
    places = parametrized_places(model)
    names: dict[BaseDataSparsifier, list[str]] = {}
    for place in places:
        names.setdefault(place.masked.sparsifier, []).append(place.masked.name)
    for attachment in _attachments.get(model, []):
        names.setdefault(attachment.sparsifier, []).extend(attachment.names)
    if not names:
        raise ValueError(
            "nothing is attached to this model; a copy of a model that was pruned in place is plain"
        )
    for sparsifier, all_names in names.items():
        present = [name for name in dict.fromkeys(all_names) if is_masked(sparsifier, name)]
        if keep_zeros:
            sparsifier.squash_mask(present)
        else:
            for name in present:
                sparsifier.remove_data(name)
    for place in places:
        place.unparametrize()
    _attachments.pop(model, None)


def mask_optimizer_state(
    optimizer: torch.optim.Optimizer,
    sparsifier: BaseDataSparsifier,
    names: Iterable[str] | None = None,
) -> None:
    """Zero an optimizer's state where the masks prune: momenta, averages of squares.

    That is, of every tensor in its state that has the shape of a parameter that the sparsifier
    masks. A pruned element that comes back then starts from rest.
    """
    for name in list(sparsifier.data_groups) if names is None else names:
        if not is_masked(sparsifier, name):
            continue
        parameter = sparsifier.get_data(name)
        if not isinstance(parameter, Tensor):
            continue
        tensors = [
            value
            for value in tensors_in(optimizer.state.get(parameter, {}))
            if value.shape == parameter.shape
        ]
        if tensors:
            pruned = sparsifier.get_mask(name).logical_not()
            with torch.no_grad():
                for tensor in tensors:
                    tensor.masked_fill_(pruned.to(tensor.device), 0)


class Masked(nn.Module):
    """The parametrization of mode="parametrize": the parameter where its mask keeps, else 0.

    The mask is the sparsifier's own memory. A copy of the model gets a copy of the sparsifier, tied
    to its own parameters.
    """

    def __init__(
        self, sparsifier: BaseDataSparsifier, name: str, gradients: str, order: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.sparsifier = sparsifier
        self.name = name
        self.gradients = gradients
        self.order = order  # of the module's parameters, for detach()
        # No buffer: it belongs to the sparsifier's state, and DDP need not send it around.
        self.mask = sparsifier.get_mask(name)

    def forward(self, parameter: Tensor) -> Tensor:
        if self.gradients == "masked":
            return torch.where(self.mask, parameter, 0)
        masked: Tensor = _StraightThrough.apply(parameter, self.mask)  # type: ignore[no-untyped-call]
        return masked

    def __deepcopy__(self, memo: dict[int, Any]) -> Masked:
        sparsifier = copy.deepcopy(self.sparsifier, memo)
        return Masked(sparsifier, self.name, self.gradients, self.order)

    def extra_repr(self) -> str:
        return f"{self.name!r}, gradients={self.gradients!r}"


class _StraightThrough(torch.autograd.Function):
    """Masked forwards, the identity backwards."""

    @staticmethod
    def forward(_context: Any, parameter: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, parameter, 0)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


# --- which parameters -----------------------------------------------------------------------------

_attachments: WeakKeyDictionary[nn.Module, list[Attachment]] = WeakKeyDictionary()  # in place


@dataclass(frozen=True, eq=False)
class Owned:
    """A parameter, the name it has first, and all modules that hold it, under which attributes."""

    name: str
    parameter: nn.Parameter
    owners: list[tuple[nn.Module, str]]


def plain_model(model: nn.Module) -> nn.Module:
    """What torch.compile, DataParallel and DistributedDataParallel wrap."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model


def parameters_of(model: nn.Module) -> list[Owned]:
    """Every parameter of a model once, in the order of `named_parameters()`."""
    found: dict[nn.Parameter, Owned] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{attribute}" if path else attribute
            owned = found.setdefault(parameter, Owned(name, parameter, []))
            owned.owners.append((module, attribute))
    return list(found.values())


def choose(
    model: nn.Module,
    include: str | Iterable[str] | None,
    exclude: str | Iterable[str],
    types: type[nn.Module] | tuple[type[nn.Module], ...] | None,
) -> list[Owned]:
    """The parameters that `attach()` is asked for; ValueError where a pattern or all match none."""
    everything = parameters_of(model)
    wanted = None if include is None else patterns_of(include)
    unwanted = patterns_of(exclude)
    for pattern in [*(wanted or ()), *unwanted]:
        if not any(fnmatchcase(owned.name, pattern) for owned in everything):
            names = ", ".join(owned.name for owned in everything[:8])
            more = ", ..." if len(everything) > 8 else ""
            raise ValueError(f"{pattern!r} matches no parameter of the model; it has {names}{more}")

    def is_chosen(owned: Owned) -> bool:
        if wanted is None:
            included = is_lazy(owned.parameter) or owned.parameter.ndim >= 2
        else:
            included = matches_any(owned.name, wanted)
        of_type = types is None or any(isinstance(module, types) for module, _ in owned.owners)
        return included and of_type and not matches_any(owned.name, unwanted)

    chosen = [owned for owned in everything if is_chosen(owned)]
    if not chosen:
        raise ValueError("no parameter of the model is left by include, exclude and types")
    return chosen


def patterns_of(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def require_one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = " or ".join(f'"{choice}"' for choice in allowed)
        raise ValueError(f"{what} must be {choices}, got {value!r}")


def is_masked(sparsifier: BaseDataSparsifier, name: str) -> bool:
    """Whether there is such a group, and it has not been squashed."""
    if name not in sparsifier.data_groups:
        return False
    try:
        sparsifier.get_data(name)
    except ValueError:  # squashed
        return False
    return True


def refuse_sharded(model: nn.Module) -> None:
    """TypeError for what FSDP has taken apart."""
    # What has not been imported cannot be in a model.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharding = getattr(fsdp, "FullyShardedDataParallel", ())
    tensor = sys.modules.get("torch.distributed.tensor")
    distributed = getattr(tensor, "DTensor", ())
    if any(isinstance(module, sharding) for module in model.modules()) or any(
        isinstance(parameter, distributed) for parameter in model.parameters()
    ):
        raise TypeError(
            "the model's parameters are sharded (FSDP, DTensor), and no process sees a whole one "
            "to rank its elements; use DistributedDataParallel. One threshold over all shards is "
            "planned: the counts that a selection is made of add up"
        )


def refuse_unfit(owned: Owned, sparsifier: BaseDataSparsifier, mode: str) -> None:
    """ValueError for what cannot be pruned in this mode; add_data() finds the rest."""
    name = owned.name
    if is_lazy(owned.parameter):
        raise ValueError(f"{name!r} is not initialized yet: run the model once, then attach()")
    if is_masked(sparsifier, name) and sparsifier.get_data(name) is not owned.parameter:
        raise ValueError(f"the sparsifier has other data under the name {name!r}; remove_data() it")
    if mode == "in_place":
        return
    for module, _ in owned.owners:
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
        if isinstance(module, parametrize.ParametrizationList):
            raise ValueError(
                f"{name!r} belongs to a parametrization already: detach() the model first, or, "
                'where it is not one of ours, use mode="in_place"'
            )


def add_all(sparsifier: BaseDataSparsifier, chosen: list[Owned], config: dict[str, Any]) -> None:
    """A group for each, or for none."""
    added: list[str] = []
    try:
        for owned in chosen:
            if is_masked(sparsifier, owned.name):
                continue
            sparsifier.add_data(owned.name, owned.parameter, **config)
            added.append(owned.name)
    except BaseException:
        for name in added:
            sparsifier.remove_data(name)
        raise


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in what an optimizer keeps for a parameter, however nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)


# --- parametrizations -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Parametrized:
    """A tensor of a module, and the `Masked` among its parametrizations."""

    module: nn.Module
    attribute: str
    masked: Masked

    def unparametrize(self) -> None:
        """Take the mask away, and leave parametrizations of others."""
        parametrizations: Any = self.module.parametrizations[self.attribute]  # type: ignore[index]
        if len(parametrizations) > 1:
            del parametrizations[list(parametrizations).index(self.masked)]
            return
        self._take_class_over()
        # leave_parametrized=True would give the parameter other memory.
        parametrize.remove_parametrizations(self.module, self.attribute, leave_parametrized=False)
        # A parameter that is registered again comes last, and state_dict() would tell.
        parameters = self.module._parameters
        for name in dict.fromkeys([*self.masked.order, *parameters]):
            if name in parameters:
                parameters[name] = parameters.pop(name)

    def _take_class_over(self) -> None:
        """A class of its own: a copied module shares the one that torch made, and changes."""
        shared = type(self.module)
        own = {
            name: value
            for name, value in vars(shared).items()
            if name not in ("__dict__", "__weakref__")
        }
        self.module.__class__ = type(shared.__name__, shared.__bases__, own)


def masked_of(module: nn.Module, attribute: str) -> Masked | None:
    if not parametrize.is_parametrized(module, attribute):
        return None
    entries = module.parametrizations[attribute]  # type: ignore[index]
    return next((entry for entry in entries if isinstance(entry, Masked)), None)


def parametrized_places(model: nn.Module) -> list[Parametrized]:
    """Where a model's tensors are masked by parametrizations."""
    found = []
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for attribute in module.parametrizations:  # type: ignore[union-attr]
                masked = masked_of(module, attribute)
                if masked is not None:
                    found.append(Parametrized(module, attribute, masked))
    return found


def parametrize_all(sparsifier: BaseDataSparsifier, chosen: list[Owned], gradients: str) -> None:
    places = [
        (module, attribute, Masked(sparsifier, owned.name, gradients, tuple(module._parameters)))
        for owned in chosen
        for module, attribute in owned.owners
    ]
    for module, attribute, masked in places:
        parametrize.register_parametrization(module, attribute, masked)
