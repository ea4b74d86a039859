"""What a recipe will do to a model, before it does anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import DataScheduler
from .._table import aligned, between, by_reason
from ..schedules import Constant, Schedule
from .choosing import chosen, of_shape
from .recipe import sizes_of
from .resolving import LEVEL, OWN, in_layout

if TYPE_CHECKING:
    from torch import nn

    from .recipe import Config, Recipe
    from .resolving import Shape


@dataclass(frozen=True)
class RecipePlan:
    """What a recipe says of each weight; str() is a table.

    configs: the whole config of each weight that is taken, as `Recipe.configs()` gives it, with
        scheduled values where they end, if they do.
    shapes: their shapes. left: why each other weight is left.
    zeros: the least and the greatest number of zeros of each weight. Those of a weight in a pool
        depend on the data: both are its level times its elements.
    schedules: each scheduled key with its schedule, as text.
    method: by what score weights are ranked, or by what masks move, as text; None for magnitudes.
    """

    configs: dict[str, Config]
    shapes: dict[str, Shape]
    left: dict[str, str]
    zeros: dict[str, tuple[int, int]]
    schedules: dict[str, str]
    method: str | None

    def share(self) -> float:
        """The share of zeros in all weights that are taken: the mean of least and greatest."""
        elements = sum(math.prod(self.shapes[name]) for name in self.configs)
        return sum(sum(counts) for counts in self.zeros.values()) / 2 / max(elements, 1)

    def __str__(self) -> str:
        rows = [["weight", "shape", "config", "zeros"]]
        for name, config in self.configs.items():
            shape = self.shapes[name]
            rows.append([name, "x".join(map(str, shape)), said(config), self._zeros(name)])
        lines = [*aligned(rows, left_aligned=(0, 1, 2, 3))]
        lines += [f"left, {line}" for line in by_reason(self.left)]
        if self.method is not None:
            lines.append(self.method)
        lines += [f"schedule of {param}: {text}" for param, text in self.schedules.items()]
        if self.schedules:
            lines.append("values and zeros are those of the schedules' ends, where they have any")
        least = sum(counts[0] for counts in self.zeros.values())
        most = sum(counts[1] for counts in self.zeros.values())
        elements = sum(math.prod(self.shapes[name]) for name in self.configs)
        about = "about " if any(config.get("pool") for config in self.configs.values()) else ""
        lines.append(
            f"{about}{between(least, most)} of {elements:,} elements are zero: {self.share():.1%}"
        )
        return "\n".join(lines)

    def _zeros(self, name: str) -> str:
        elements = math.prod(self.shapes[name])
        if self.configs[name].get("pool") is not None:
            return f"by the pool, of {elements:,}"
        return f"{between(*self.zeros[name])} of {elements:,}"


def planned(recipe: Recipe, model: nn.Module | Mapping[str, Iterable[int]]) -> RecipePlan:
    """The plan of a recipe for a model or for shapes."""
    if isinstance(model, Mapping):
        shapes = sizes_of(model)
        of = chosen(recipe, {name: of_shape(shape) for name, shape in shapes.items()})
        resolved = recipe.resolved(of, shapes)
    else:
        from ..torch.recipe import resolved_for

        of, resolved, shapes = resolved_for(model, recipe)
    configs = {name: config for name, config in resolved.items() if config is not None}
    recipe.move_to_ends(configs, shapes, strict=False)
    counted: dict[str, tuple[int, int]] = {}
    known: dict[str, tuple[int, int]] = {}
    for name, config in configs.items():
        key = repr((shapes[name], config))
        if key not in known:
            known[key] = zeros_of(recipe, name, config, shapes[name])
        counted[name] = known[key]
    method = None if recipe.score is None else f"ranked by {recipe.score!r}"
    if recipe.regrowth is not None:
        method = f"masks move by {recipe.regrowth}"
    return RecipePlan(
        configs,
        {name: shapes[name] for name in configs},
        of.left,
        counted,
        {param: shown(schedule) for param, schedule in recipe.schedules.items()},
        method,
    )


def zeros_of(recipe: Recipe, name: str, config: Config, shape: Shape) -> tuple[int, int]:
    """The least and the greatest number of zeros. A mask is allocated, and no data."""
    if config.get("pool") is not None:
        about = round(config[LEVEL] * math.prod(shape))
        return about, about
    sparsifier: Any = recipe.sparsifier()
    options = in_layout(config, shape)
    options.pop("keep_zeros", None)
    options.pop("update", None)
    sparsifier.add_data(name, np.broadcast_to(np.float32(0), shape), **options)
    plan = DataScheduler(sparsifier, LEVEL, Constant()).plan(1)
    return int(plan.zeros_least[name][0]), int(plan.zeros_most[name][0])


def said(config: Config) -> str:
    """A config as text, but for what it would be anyway."""
    parts = []
    for key, value in config.items():
        if value is None or (key, value) in (("norm", "L1"), ("layout", "memory")):
            continue
        if key in ("sparse_block_shape", "layout") and isinstance(value, tuple):
            value = "x".join("all" if length == -1 else str(length) for length in value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        parts.append(f"{key}={value}" if key not in OWN or value is not True else key)
    return ", ".join(parts)


def shown(schedule: Schedule | dict[str, Schedule]) -> str:
    if isinstance(schedule, dict):
        return "; ".join(f"{glob}: {one!r}" for glob, one in schedule.items())
    return repr(schedule)
