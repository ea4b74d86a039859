"""Which weights of a model are attached, and why the others are not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .._core import _matches
from .._table import by_reason
from .places import Path, entry_of, is_replaced_by_peft, path_of, plain_model
from .weights import Weight, hooked_attributes, parts_by_hook, weight_of

Types = type[nn.Module] | Iterable[type[nn.Module]]
Patterns = str | Iterable[str]
Modules = list[tuple[str, nn.Module]]  # a model's named_modules()

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
# What other libraries call theirs; a LayerNormMLP is more than that, and has matrices.
NORM_NAME = re.compile(r"(layer|batch|group|instance|rms)_?norm\d*d?$", re.IGNORECASE)

ADAPTER = "part of an adapter"


@dataclass(eq=False, slots=True)
class Owned:
    """A weight, the name it has first, and its owners: their paths, with the attribute, and they.

    `by_name_only` says why a pattern does not take it, only its very name; None where one does.
    """

    name: str
    owners: list[Path]
    modules: list[nn.Module]
    by_name_only: str | None
    _weight: Weight | None = None

    @property
    def weight(self) -> Weight:
        if self._weight is None:  # made when asked for: most of a model's parameters are left
            self._weight = weight_of(self.modules[0], self.owners[0][-1])
            assert self._weight is not None  # weights_in() has found it
        return self._weight


@dataclass(frozen=True)
class Choice:
    """The weights that are taken, and the names of the others with the reason."""

    taken: list[Owned]
    left: dict[str, str]


def modules_in(model: nn.Module) -> Modules:
    """`named_modules()` as a list, in half its time."""
    found: Modules = []
    seen: set[int] = set()

    def add(path: str, module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        found.append((path, module))
        prefix = f"{path}." if path else ""
        for name, inner in module._modules.items():
            if inner is not None:
                add(prefix + name, inner)

    add("", model)
    return found


def opened(model: nn.Module) -> tuple[nn.Module, Modules]:
    """The plain model, and its modules with their shards shown. TypeError for flattened ones."""
    model = plain_model(model)
    modules = modules_in(model)
    refuse_flat(modules)
    show_shards(modules)
    return model, modules


def weights_in(modules: Modules) -> list[Owned]:
    """Every weight of a model once, in the order of `named_parameters()`, then its ingredients."""
    found: dict[int, Owned] = {}  # by the id of the first parameter
    ingredients: dict[int, Owned] = {}
    adapters, replaced = adapter_paths(modules), replaced_paths(modules)
    for path, module in modules:
        parametrized = entry_of(module._modules, "parametrizations")
        if not (parametrized or module._parameters or module._forward_pre_hooks):
            continue
        at = path_of(path)
        note = why_all_by_name_only(module, at, adapters)
        if replaced and any(at[: len(prefix)] == prefix for prefix in replaced):
            note = "replaced by a copy that is trained"
        hooked = list(hooked_attributes(module)) if module._forward_pre_hooks else []
        lists = parametrized._modules if isinstance(parametrized, nn.ModuleDict) else ()
        parts = {id(part) for attribute in hooked for part in parts_by_hook(module, attribute)}
        all_are_parts = isinstance(module, parametrize.ParametrizationList)

        present = [
            (attribute, parameter, parameter.ndim, all_are_parts or id(parameter) in parts)
            for attribute, parameter in module._parameters.items()
            if parameter is not None
        ]
        for attribute in (*lists, *hooked):
            if (weight := weight_of(module, attribute)) is not None:
                present.append((attribute, weight.parameters[0], weight.ndim, False))
        for attribute, first, ndim, is_part in present:
            known = ingredients if is_part else found
            owned = known.get(id(first))
            if owned is None:
                why = "an ingredient of a weight" if is_part else note
                why = why or why_by_name_only(attribute, first, ndim)
                name = f"{path}.{attribute}" if path else attribute
                owned = known[id(first)] = Owned(name, [], [], why)
            owned.owners.append((*at, attribute))
            owned.modules.append(module)
    return [*found.values(), *ingredients.values()]


def adapter_paths(modules: Modules) -> set[Path]:
    """Where PEFT's layers keep what they add to a weight: LoRA's factors and the like."""
    if "peft" not in sys.modules:
        return set()
    return {
        (*path_of(path), part)
        for path, module in modules
        if hasattr(type(module), "adapter_layer_names") and not is_replaced_by_peft(module)
        for part in module.adapter_layer_names  # type: ignore[union-attr]
    }


def replaced_paths(modules: Modules) -> set[Path]:
    """The modules in whose place PEFT trains copies."""
    if "peft" not in sys.modules:
        return set()
    return {
        (*path_of(path), "original_module")
        for path, module in modules
        if is_replaced_by_peft(module)
    }


def why_all_by_name_only(module: nn.Module, path: Path, adapters: set[Path]) -> str | None:
    """Why a pattern takes nothing of a module."""
    if adapters and any(path[:depth] in adapters for depth in range(1, len(path) + 1)):
        return ADAPTER
    for part in path:
        if part.startswith("lora_"):
            return ADAPTER
    return "of a norm layer" if is_norm(type(module)) else None  # type: ignore[arg-type]


@lru_cache(256)
def is_norm(kind: type[nn.Module]) -> bool:
    return issubclass(kind, NORMS) or NORM_NAME.search(kind.__name__) is not None


def why_by_name_only(attribute: str, first: nn.Parameter, ndim: int) -> str | None:
    """Why a pattern does not take one weight of a module."""
    if attribute.startswith("lora_"):
        return ADAPTER
    if ndim < 2 and not is_lazy(first):
        return "a bias or another vector"
    return None


def choose(
    modules: Modules, include: Patterns | None, exclude: Patterns, types: Types | None
) -> Choice:
    """The weights that `attach()` is asked for; ValueError where a pattern or all match none."""
    everything = weights_in(modules)
    wanted = None if include is None else patterns_of("include", include)
    unwanted = patterns_of("exclude", exclude)
    if types is not None:
        types = classes_of(types)
    for pattern in [*(wanted or ()), *unwanted]:
        require_a_match(pattern, everything)

    def why_left(owned: Owned) -> str | None:
        if matches_any(owned.name, unwanted):
            return "excluded"
        if types is not None and not any(isinstance(module, types) for module in owned.modules):
            return "of another type of module"
        if wanted is not None and not matches_any(owned.name, wanted):
            return "not included"
        by_its_name = wanted is not None and owned.name in wanted
        return None if by_its_name else owned.by_name_only

    reasons = {owned.name: why_left(owned) for owned in everything}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    taken = [owned for owned in everything if owned.name not in left]
    for pattern in wanted or ():
        require_use(pattern, everything, left)
    if not taken:
        raise ValueError(
            "no parameter of the model is left by include, exclude and types; "
            + "; ".join(by_reason(left))
        )
    return Choice(taken, left)


def require_a_match(pattern: str, everything: list[Owned]) -> None:
    if any(_matches(pattern, owned.name) for owned in everything):
        return
    names = ", ".join(owned.name for owned in everything[:8])
    more = ", ..." if len(everything) > 8 else ""
    raise ValueError(f"{pattern!r} matches no parameter of the model; it has {names}{more}")


def require_use(pattern: str, everything: list[Owned], left: dict[str, str]) -> None:
    """ValueError for a pattern all of whose matches are taken by their very names only."""
    matched = [owned for owned in everything if _matches(pattern, owned.name)]
    if all(owned.by_name_only and left.get(owned.name) == owned.by_name_only for owned in matched):
        first = matched[0]
        raise ValueError(
            f"{pattern!r} matches nothing that a pattern may take: {first.name!r} is "
            f"{first.by_name_only}, which is included by its very name only"
        )


def patterns_of(argument: str, patterns: Patterns) -> list[str]:
    several = (
        [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else patterns
    )
    found = list(several)
    for pattern in found:
        if not isinstance(pattern, str):
            hint = "; types chooses by the class of a layer" if isinstance(pattern, type) else ""
            raise TypeError(f"{argument} must be globs of names, got {pattern!r}{hint}")
    return found


def classes_of(types: Types) -> tuple[type[nn.Module], ...]:
    found = tuple(types) if isinstance(types, Iterable) else (types,)
    for one in found:
        if not isinstance(one, type):
            raise TypeError(f"types must be classes of modules, got {one!r}")
    return found


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def refuse_flat(modules: Modules) -> None:
    """TypeError for what FullyShardedDataParallel has made of parameters: flat pieces of them."""
    # What has not been imported cannot be in a model.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    sharding = getattr(fsdp, "FullyShardedDataParallel", ())
    if sharding and any(isinstance(module, sharding) for _, module in modules):
        raise TypeError(
            "the model's parameters are flattened by FullyShardedDataParallel (FSDP1), and no rank "
            "knows where its pieces belong; use fully_shard() of torch.distributed.fsdp (FSDP2), "
            "or DistributedDataParallel"
        )


def show_shards(modules: Modules) -> None:
    """Has modules of fully_shard() show their shards, where a forward pass has left them whole."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", ())
    for _, module in modules:
        if kind and isinstance(module, kind):
            module.reshard()
