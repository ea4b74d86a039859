"""What a weight is: the tensor that a module computes with, and the parameters it is made of.

Mostly it is one parameter. Under weight_norm it is a direction times a gain, under a
parametrization whatever that computes. A mask belongs to the weight, not to its ingredients: zeros
in a gain kill whole rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from .parametrize import Masked, masked_of

PRUNED = "torch.nn.utils.prune"


@dataclass(eq=False, slots=True)
class Weight:
    """A weight of a module, as it is now.

    `parameters` are those it is made of. `written` is the one in which zeros are zeros of the
    weight: the parameter itself, the direction under weight_norm, the original under spectral_norm,
    which is only scaled. It is None where there is no such parameter. `made_by` names what computes
    the weight; it is None for a plain parameter.
    """

    module: nn.Module
    attribute: str
    parameters: tuple[nn.Parameter, ...]
    written: nn.Parameter | None
    made_by: str | None = None

    def scores(self) -> Tensor:
        """What is ranked: the weight as if no mask of ours were there. Detached if computed."""
        if self.written is not None and self.made_by is None:
            return self.written
        with torch.no_grad():
            if parametrize.is_parametrized(self.module, self.attribute):
                return without_masks(self.module, self.attribute)
            hook: Any = hook_of(self.module, self.attribute)
            computed: Tensor
            if self.made_by == PRUNED:
                computed = hook.apply_mask(self.module)
            elif self.made_by == "spectral_norm":
                computed = over_its_norm(self.parameters[0], hook)
            else:
                computed = hook.compute_weight(self.module)
            return computed.detach()

    def tensor(self) -> Tensor:
        """What is pruned: `written`, or the weight where there is none."""
        return self.scores() if self.written is None else self.written

    @property
    def ndim(self) -> int:
        if len(self.parameters) == 1:
            return self.parameters[0].ndim
        return max(parameter.ndim for parameter in self.parameters)

    def require_written(self, name: str) -> None:
        """ValueError, with what to do, where zeros in no parameter would be zeros of the weight."""
        if self.written is not None:
            return
        if self.made_by == PRUNED:
            raise ValueError(
                f"{name!r} is pruned by torch.nn.utils.prune: make that permanent by "
                "torch.nn.utils.prune.remove(module, name), then attach(..., keep_zeros=True)"
            )
        raise ValueError(
            f"{name!r} is made by {self.made_by}, and zeros in its parameters would be none of the "
            'weight: use mode="parametrize", where the mask comes last, or leave it out by exclude'
        )

    def require_lengths(self, name: str, mask: Tensor) -> None:
        """ValueError where weight_norm would divide by 0: the length of a row without weights."""
        if self.made_by == "weight_norm" and self.has_dead_directions(mask):
            raise ValueError(
                f"the mask of {name!r} prunes whole rows, and weight_norm divides each by its "
                'length: use mode="parametrize", a lower sparsity_level, or as many zeros in each '
                "row by sparse_block_shape=(1, -1) and zeros_per_block"
            )

    def has_dead_directions(self, mask: Tensor) -> bool:
        """Whether the mask leaves nothing of a direction, of which there is one for each gain."""
        gain = self.parameters[0]
        others = [axis for axis in range(mask.ndim) if gain.ndim == 0 or gain.shape[axis] == 1]
        alive = mask.any() if len(others) == mask.ndim else mask.sum(others)
        return not bool((alive != 0).all())

    def masked(self) -> Tensor:
        """What has the zeros of what the module computes with: masks of ours are applied."""
        masked = masked_of(self.module, self.attribute)
        if masked is None:
            return self.tensor()
        entries: Any = self.module.parametrizations[self.attribute]  # type: ignore[index]
        if masked is not entries[-1]:  # what comes after it may fill zeros in
            with torch.no_grad(), at_rest(list(entries)):
                computed: Tensor = getattr(self.module, self.attribute)
                return computed.detach()
        tensor = self.tensor().detach()
        return tensor.masked_fill(masked.mask_beside(tensor).logical_not(), 0)


def weight_of(module: nn.Module, attribute: str) -> Weight | None:
    """The weight of a module under this name, or None."""
    held = module._parameters
    if attribute in held and (parameter := held[attribute]) is not None:
        return Weight(module, attribute, (parameter,), parameter)
    if parametrize.is_parametrized(module, attribute):
        return parametrized_weight(module, attribute)
    return weight_by_hook(module, attribute)


def parametrized_weight(module: nn.Module, attribute: str) -> Weight:
    entries: Any = module.parametrizations[attribute]  # type: ignore[index]
    originals = tuple(entries.parameters(recurse=False))
    if isinstance(entries[0], Masked):  # what comes after the mask computes with it
        return Weight(module, attribute, originals, originals[0])
    others = [entry for entry in entries if not isinstance(entry, Masked)]
    if len(others) == 1 and isinstance(others[0], parametrizations._WeightNorm):
        return Weight(module, attribute, originals, entries.original1, "weight_norm")
    if len(others) == 1 and isinstance(others[0], parametrizations._SpectralNorm):
        return Weight(module, attribute, originals, entries.original, "spectral_norm")
    names = (type(entry).__name__.lstrip("_") for entry in others)
    return Weight(module, attribute, originals, None, ", ".join(names))


def weight_by_hook(module: nn.Module, attribute: str) -> Weight | None:
    """A weight that a hook computes before each forward pass, as torch did before 2.0."""
    hook = hook_of(module, attribute)
    kind = type(hook).__name__
    parts = parts_by_hook(module, attribute)
    if kind == "WeightNorm" and len(parts) == 2:
        return Weight(module, attribute, tuple(parts), parts[1], "weight_norm")
    if kind == "SpectralNorm" and len(parts) == 1:
        return Weight(module, attribute, tuple(parts), parts[0], "spectral_norm")
    if isinstance(hook, prune.BasePruningMethod) and len(parts) == 1:
        return Weight(module, attribute, tuple(parts), None, PRUNED)
    return None


def parts_by_hook(module: nn.Module, attribute: str) -> list[nn.Parameter]:
    """The parameters that such hooks leave in the place of one: gain and direction, or original."""
    held = module._parameters
    names = (f"{attribute}_{part}" for part in ("g", "v", "orig"))
    return [part for name in names if name in held and (part := held[name]) is not None]


def over_its_norm(original: Tensor, hook: Any) -> Tensor:
    """What the hook of spectral_norm makes of a weight, also before a first call has brought the
    vectors of the hook near to those that they stand for."""
    matrix = hook.reshape_weight_to_matrix(original)
    start = torch.ones_like(matrix[:, 0])
    left = nn.functional.normalize(start + matrix.sum(1), dim=0, eps=hook.eps)
    for _ in range(15):  # as the parametrization begins
        right = nn.functional.normalize(torch.mv(matrix.t(), left), dim=0, eps=hook.eps)
        left = nn.functional.normalize(torch.mv(matrix, right), dim=0, eps=hook.eps)
    norm = torch.dot(left, torch.mv(matrix, right))
    return original / norm.clamp(min=torch.finfo(norm.dtype).tiny)


def hook_of(module: nn.Module, attribute: str) -> object | None:
    for hook in module._forward_pre_hooks.values():
        if attribute in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None)):
            return hook
    return None


def hooked_attributes(module: nn.Module) -> Iterator[str]:
    """The attributes that hooks compute from parameters."""
    for hook in module._forward_pre_hooks.values():
        for name in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None)):
            if isinstance(name, str) and weight_by_hook(module, name) is not None:
                yield name


def without_masks(module: nn.Module, attribute: str) -> Tensor:
    """A parametrized tensor as the parametrizations of others make it."""
    entries: Any = module.parametrizations[attribute]  # type: ignore[index]
    count = 1 if entries.is_tensor else entries.ntensors
    originals = [getattr(entries, "original" if entries.is_tensor else f"original{i}")
                 for i in range(count)]  # fmt: skip
    first, *rest = (entry for entry in entries if not isinstance(entry, Masked))
    with at_rest([first, *rest]):
        value: Tensor = first(*originals)
        for entry in rest:
            value = entry(value)
    return value.detach()


@contextmanager
def at_rest(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Without what modules do in training only: to look at a weight must not move it on."""
    before = [module.training for module in modules]
    set_training(modules, [False] * len(modules))
    try:
        yield
    finally:
        set_training(modules, before)


def set_training(modules: Iterable[nn.Module], training: Iterable[bool]) -> None:
    for module, value in zip(modules, training, strict=True):
        module.training = value
