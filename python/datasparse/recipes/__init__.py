"""Recipes: one TOML file for the shell, for `attach()`, and for the callbacks of trainers.

    version = 1

    [defaults]
    sparsity_level = 0.9
    sparse_block_shape = [1, 4]

    [[groups]]
    include = "encoder.*"
    sparsity_level = 0.5

    [[groups]]
    exclude = "*.head.*"

    [schedule]
    sparsity_level = "Polynomial(end=1000, every=100)"

A weight belongs to the first of [[groups]] that takes it. docs/recipes.md has all keys.

    recipe = datasparse.recipes.load("recipe.toml")
    print(recipe.plan(model))
    sparsifier, schedulers, attachment = recipe.attach(model)
"""

from __future__ import annotations

import os
from pathlib import Path

from .choosing import Entry
from .errors import RecipeError
from .reading import MAX_LENGTH, Reader
from .recipe import Recipe
from .writing import from_sparsifier

__all__ = ["Entry", "Recipe", "RecipeError", "from_sparsifier", "load", "loads"]


def load(path: str | os.PathLike[str]) -> Recipe:
    """Return the recipe in a TOML file.

    RecipeError, a ValueError that names file, key and line, for what is unknown, of the wrong kind,
    or out of range. Schedules are parsed, never evaluated. OSError where the file cannot be read.
    """
    file = Path(path)
    with file.open("rb") as opened:
        content = opened.read(4 * MAX_LENGTH + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8: {error}", file=str(file)) from None
    return Reader(text, str(file)).read()


def loads(text: str) -> Recipe:
    """Return the recipe in a TOML text; errors as `load()` has them.

    >>> recipe = loads('''
    ... version = 1
    ... [defaults]
    ... sparsity_level = 0.75
    ... sparse_block_shape = [1, 1]
    ... ''')
    >>> print(recipe.plan({"a": (8, 8), "bias": (8,)}))
    weight  shape  config                                       zeros
    a       8x8    sparsity_level=0.75, sparse_block_shape=1x1  48 of 64
    left, a bias or another vector: bias
    48 of 64 elements are zero: 75.0%
    """
    return Reader(text, None).read()
