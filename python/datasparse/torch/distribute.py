"""A level for each weight of a model, from one for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import distributions
from .._core import BaseDataSparsifier, UnknownNameError
from .follow import named

Shapes = dict[str, tuple[int, ...]]
Distribution = str | Callable[[Shapes, float], Mapping[str, float]]

LEVEL = "sparsity_level"
BY_NAME = {"erk": distributions.erk, "uniform": distributions.uniform}


def require_distribution(distribution: object) -> None:
    """ValueError or TypeError for what is none."""
    rule = 'distribution must be "erk", "uniform" or a function of shapes and a level'
    if isinstance(distribution, str) and distribution not in BY_NAME:
        raise ValueError(f"{rule}, got {distribution!r}")
    if not isinstance(distribution, str) and not callable(distribution):
        raise TypeError(f"{rule}, got {distribution!r} ({type(distribution).__name__})")


def distributed(
    distribution: Distribution,
    shapes: Shapes,
    sparsifier: BaseDataSparsifier,
    config: dict[str, Any],
) -> dict[str, float]:
    """The levels of these weights, by name; those that a function leaves out have none here."""
    if not shapes:  # all of them have a level already: the names in a `dense` would be unknown
        return {}
    level = config.get(LEVEL, sparsifier.defaults.get(LEVEL))
    if level is None:
        raise ValueError(
            f"distribution needs a {LEVEL} for all weights together: the sparsifier has no default "
            "of it, and attach() was given none"
        )
    function = BY_NAME[distribution] if isinstance(distribution, str) else distribution
    levels = function(shapes, level)
    if not isinstance(levels, Mapping):
        raise TypeError(
            f"distribution must return a mapping of names to levels, got {levels!r} "
            f"({type(levels).__name__})"
        )
    for name in levels:
        if name not in shapes:
            raise UnknownNameError(
                "distribution must return levels of weights that it was given, got one of "
                f"{name!r}; known: {named(list(shapes))}"
            )
    return dict(levels)
