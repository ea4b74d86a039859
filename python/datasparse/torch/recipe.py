"""A recipe on a model: which weights it takes, and what it says of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..recipes.choosing import Chosen, chosen
from .attachment import Attachment, attach_chosen, require_modes
from .choose import Choice, Owned, modules_in, opened, weights_in
from .layout import Layout, layout_of
from .places import plain_model
from .refuse import refuse_lazy

if TYPE_CHECKING:
    from .._core import BaseDataSparsifier
    from ..recipes import Recipe

Resolved = tuple[Chosen, dict[str, dict[str, Any] | None], dict[str, tuple[int, ...]]]


def attach_recipe(
    model: nn.Module, recipe: Recipe, sparsifier: BaseDataSparsifier, mode: str, gradients: str
) -> Attachment:
    """attach() with a config for each weight, as a recipe has it; in one go, since pools are."""
    require_modes(sparsifier, mode, gradients)
    model, modules = opened(model)
    everything = weights_in(modules)
    of, configs, _ = resolved_in(everything, recipe)
    choice = Choice([owned for owned in everything if owned.name in of.entry], of.left)

    def options_of(new: list[Owned]) -> dict[str, dict[str, Any]]:
        return {owned.name: as_options(configs[owned.name] or {}) for owned in new}

    return attach_chosen(model, sparsifier, choice, mode, gradients, options_of)


def resolved_for(model: nn.Module, recipe: Recipe) -> Resolved:
    """What a recipe takes of a model, the config of each weight, and their shapes."""
    return resolved_in(weights_in(modules_in(plain_model(model))), recipe)


def resolved_in(everything: list[Owned], recipe: Recipe) -> Resolved:
    of = chosen(recipe, {owned.name: owned.by_name_only for owned in everything})
    taken = [owned for owned in everything if owned.name in of.entry]
    for owned in taken:
        refuse_lazy(owned)
    shapes = {owned.name: tuple(owned.weight.tensor().shape) for owned in taken}
    axes: dict[str, Layout | None] = {
        owned.name: layout_of(owned.modules[0], owned.weight.ndim) for owned in taken
    }
    return of, recipe.resolved(of, shapes, axes), shapes


def as_options(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of add_data(): axes are a layout there, and memory's order is none."""
    options = dict(config)
    if not isinstance(options.get("layout"), tuple):
        options.pop("layout", None)
    return options
