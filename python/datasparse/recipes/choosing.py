"""Which entry of a recipe takes a weight, and why none does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._core import _matches
from .._table import by_reason

if TYPE_CHECKING:
    from .recipe import Recipe

VECTOR = "a bias or another vector"


@dataclass(frozen=True)
class Entry:
    """One of [[groups]]: the names that it takes, and what it says of them.

    include: globs, any of which has to match; None takes all but what is taken by its very name
        only: vectors, and, of a model, what norm layers and adapters hold.
    exclude: globs, none of which may match.
    options: config keys, and layout, keep_zeros, update, per.
    """

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def why_left(self, name: str, by_name_only: str | None) -> str | None:
        """Why the entry does not take a name; None where it does."""
        if any(_matches(pattern, name) for pattern in self.exclude):
            return "excluded"
        if self.include is None:
            return by_name_only
        if not any(is_of(pattern, name) for pattern in self.include):
            return "not included"
        its_own = any(is_its_name(pattern, name) for pattern in self.include)
        return None if its_own else by_name_only


@dataclass(frozen=True)
class Chosen:
    """The entry of each name that is taken, by its index, and why each other name is left."""

    entry: dict[str, int]
    left: dict[str, str]


def chosen(recipe: Recipe, names: Mapping[str, str | None], all_are_here: bool = True) -> Chosen:
    """What the recipe takes of these names, in their order.

    names: with the reason why a pattern does not take one, or None.
    all_are_here: whether a pattern by which none of them is taken is a RecipeError.
    """
    if all_are_here:
        require_matches(recipe, list(names))
    entry: dict[str, int] = {}
    left: dict[str, str] = {}
    for name, by_name_only in names.items():
        reasons = []
        for index, one in enumerate(recipe.entries):
            why = one.why_left(name, by_name_only)
            if why is None:
                entry[name] = index
                break
            reasons.append(why)
        else:
            # Of several reasons, the one that says most.
            left[name] = max(reasons, key=lambda why: (why != "not included", why != "excluded"))
    if all_are_here and not entry:
        listed = "; ".join(by_reason(left)) or "there are none"
        raise recipe.error((), f"takes none of the weights: {listed}")
    if all_are_here:
        require_use(recipe, names, entry)
    return Chosen(entry, left)


def require_matches(recipe: Recipe, names: list[str]) -> None:
    """RecipeError for a pattern that matches no name: it is misspelt, or the model is another."""
    for index, one in enumerate(recipe.groups):
        for key, patterns in (("include", one.include or ()), ("exclude", one.exclude)):
            for pattern in patterns:
                if not any(is_of(pattern, name) for name in names):
                    some = ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
                    raise recipe.error(
                        ("groups", index, key), f"{pattern!r} matches no weight; there are {some}"
                    )


def require_use(recipe: Recipe, names: Mapping[str, str | None], entry: dict[str, int]) -> None:
    """RecipeError for a pattern that takes nothing, though it matches: its entry says nothing then.

    Either entries before take all of it, or it stands for vectors and the like. What the same entry
    excludes is meant so.
    """
    for index, one in enumerate(recipe.groups):
        for pattern in one.include or ("*",):
            matched = [name for name in names if is_of(pattern, name)]
            if any(
                entry.get(name) == index or one.why_left(name, names[name]) == "excluded"
                for name in matched
            ):
                continue
            behind = next((name for name in matched if name in entry), None)
            if behind is not None:
                why = f"{behind!r} is taken by groups[{entry[behind]}] before it"
            else:
                why = f"{matched[0]!r} is {names[matched[0]]}, which is taken by its very name only"
            key = () if one.include is None else ("include",)
            raise recipe.error(("groups", index, *key), f"{pattern!r} takes no weight: {why}")


def is_of(pattern: str, name: str) -> bool:
    return pattern == name or _matches(pattern, name)


def is_its_name(pattern: str, name: str) -> bool:
    return pattern in (name, escaped(name))


def escaped(name: str) -> str:
    """The glob that matches a name, and nothing else."""
    return re.sub(r"[*?\[]", r"[\g<0>]", name)


def of_shape(shape: tuple[int, ...]) -> str | None:
    """Why a pattern does not take a weight of this shape."""
    return VECTOR if len(shape) < 2 else None
