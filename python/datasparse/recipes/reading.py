"""From the tables of a TOML file to a recipe, each value checked where it stands."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from .. import scores
from .._core import DataNormSparsifier, RigL
from ..schedules import Schedule, parse
from .choosing import Entry
from .errors import Path, RecipeError, shown, unknown
from .lines import line_of, lines_of
from .recipe import DISTRIBUTIONS, REGROWTH, Config, Recipe
from .resolving import INTEGERS, OWN

MAX_LENGTH = 1_000_000  # characters
TOP = ("version", "defaults", "groups", "distribution", "score", "regrowth", "schedule")
KEYS = DataNormSparsifier.config_keys  # what they may be, it says itself
REGROWTH_KEYS = tuple(key for key in RigL.config_keys if key not in KEYS)
PATTERN = "pattern"


@cache
def may_be_none(key: str) -> bool:
    """Whether it is a config key that takes None, for which a recipe has false."""
    if key not in KEYS:
        return False
    none: dict[str, Any] = {key: None}
    try:
        DataNormSparsifier(**none)
    except (TypeError, ValueError):
        return False
    return True


def parsed(text: str) -> dict[str, Any]:
    """The tables of a TOML text. ValueError for what is none."""
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        tables: dict[str, Any] = toml.loads(text)
    except RecursionError:
        raise ValueError("nests too deep") from None
    return tables


class Reader:
    """Reads one recipe; every error it raises is a RecipeError."""

    def __init__(self, text: str, file: str | None) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        if len(text) > MAX_LENGTH:
            raise self.error((), f"must have at most {MAX_LENGTH:,} characters, got {len(text):,}")
        try:
            self.tables = parsed(text)
        except ValueError as error:
            raise self.error((), f"is not TOML: {error}") from None
        self.lines = lines_of(text)

    def read(self) -> Recipe:
        self.require_known((), self.tables, TOP)
        version = self.tables.get("version")
        if version is None:
            raise self.error((), 'must begin with "version = 1"')
        if version != 1 or isinstance(version, bool | float):
            raise self.error(("version",), f"must be 1, got {version!r}")
        regrowth = self.regrowth()
        score = self.score()
        if regrowth is not None and score is not None:
            raise self.error(
                ("score",), f"goes with no regrowth: {regrowth} ranks by its own rules"
            )
        keys = KEYS + (REGROWTH_KEYS if regrowth is not None else ())
        kind: Any = DataNormSparsifier if regrowth is None else REGROWTH[regrowth]
        given = {} if regrowth is not None else {"score": score}

        def check(path: Path, config: Config) -> None:
            self.check_config(path, config, lambda **values: kind(**given, **values))

        defaults = self.options(("defaults",), self.table(("defaults",)), keys, check, {})
        groups = self.groups(keys, check, defaults)
        recipe = Recipe(
            defaults, groups, self.distribution(), score, regrowth, {}, self.file, self.lines
        )
        return dataclasses.replace(recipe, schedules=self.schedules(recipe))

    # --- tables -----------------------------------------------------------------------------------

    def groups(self, keys: tuple[str, ...], check: Any, defaults: Config) -> tuple[Entry, ...]:
        listed = self.tables.get("groups", [])
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise self.error(("groups",), f"must be written [[groups]], got {said(listed)}")
        entries = []
        for index, table in enumerate(listed):
            path: Path = ("groups", index)
            own = {key: value for key, value in table.items() if key not in ("include", "exclude")}
            self.require_known(path, table, ("include", "exclude", PATTERN, *keys, *OWN))
            include = self.globs((*path, "include"), table.get("include"))
            exclude = self.globs((*path, "exclude"), table.get("exclude"))
            options = self.options(path, own, keys, check, defaults)
            entries.append(Entry(include, exclude or (), options))
        return tuple(entries)

    def options(
        self, path: Path, table: Config, keys: tuple[str, ...], check: Any, defaults: Config
    ) -> Config:
        """The config keys and our own of a table, checked together with the defaults."""
        self.require_known(path, table, (PATTERN, *keys, *OWN))
        options: Config = {}
        for key, value in table.items():
            at = (*path, key)
            if key == PATTERN:
                options |= self.pattern(at, value, table)
            elif key == "layout":
                options[key] = self.layout(at, value)
            elif key == "per":
                if value is not False and value != "row":
                    raise self.error(at, f'must be "row", or false, got {said(value)}')
                options[key] = value or None
            elif key in OWN:
                if not isinstance(value, bool):
                    raise self.error(at, f"must be true or false, got {said(value)}")
                options[key] = value
            elif value is False and may_be_none(key):
                options[key] = None
            else:
                options[key] = tuple(value) if isinstance(value, list) else value
        whole = defaults | options
        if whole.get("per") is not None:
            self.require_rows(path, whole)
        check(path, {key: value for key, value in whole.items() if key not in OWN})
        return options

    def check_config(self, path: Path, config: Config, make: Any) -> None:
        """Let the sparsifier itself say what is wrong, and find the key that it means."""
        try:
            make(**config)
            return
        except (TypeError, ValueError, OverflowError) as error:
            reason = str(error)
        own = self.at(path)
        for key, value in config.items():
            try:
                make(**{key: value})
            except (TypeError, ValueError, OverflowError) as error:
                if isinstance(own, dict) and key in own:
                    raise self.error((*path, key), str(error)) from None
        raise self.error(path, reason)

    def require_rows(self, path: Path, config: Config) -> None:
        for key in ("sparse_block_shape", "zeros_per_block", "pool"):
            if config.get(key) is not None:
                raise self.error(
                    (*path, "per"), f'= "row" prunes rows one by one, and goes with no {key}'
                )

    def pattern(self, path: Path, value: object, table: Config) -> Config:
        zeros, _, width = value.partition(":") if isinstance(value, str) else ("", "", "")
        if not (zeros.isdecimal() and width.isdecimal() and 0 < int(zeros[:9]) < int(width[:9])):
            raise self.error(path, f'must be zeros:width, such as "2:4", got {said(value)}')
        for key in ("sparsity_level", "sparse_block_shape", "zeros_per_block", "per"):
            if key in table:
                raise self.error(path, f"says all that {key} would say: leave one of them out")
        return {
            "sparsity_level": 1.0,
            "sparse_block_shape": (1, int(width[:9])),
            "zeros_per_block": int(zeros[:9]),
        }

    def layout(self, path: Path, value: object) -> Any:
        if value in ("inputs", "memory"):
            return value
        axes = value if isinstance(value, list) else []
        if (
            not axes
            or any(type(axis) is not int for axis in axes)
            or sorted(axes) != [*range(len(axes))]
        ):
            raise self.error(
                path, f'must be "inputs", "memory" or the order of all axes, got {said(value)}'
            )
        return tuple(axes)

    def globs(self, path: Path, value: object) -> tuple[str, ...] | None:
        if value is None:
            return None
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise self.error(path, f"must be a glob or a list of globs, got {said(value)}")
        if not listed and path[-1] == "include":
            raise self.error(path, "must hold a glob, got none: leave the entry out")
        return tuple(listed)

    def distribution(self) -> Config | None:
        if "distribution" not in self.tables:
            return None
        name, arguments = self.named("distribution", DISTRIBUTIONS)
        known = {"erk": ("power", "dense"), "uniform": ()}[name]
        self.require_known(("distribution",), arguments, ("name", *known))
        made: Config = {"name": name} | arguments
        if "dense" in made:
            made["dense"] = self.globs(("distribution", "dense"), made["dense"])
        power = made.get("power", 1)
        if (
            isinstance(power, bool)
            or not isinstance(power, int | float)
            or not 0 <= power < float("inf")
        ):
            raise self.error(
                ("distribution", "power"),
                f"must be a finite number of at least 0, got {said(power)}",
            )
        return made

    def score(self) -> scores.Score | None:
        if "score" not in self.tables:
            return None
        name, arguments = self.named("score", SCORES)
        kind = SCORES[name]
        known = [one.name for one in dataclasses.fields(kind)]
        self.require_known(("score",), arguments, ("name", *known))
        for key, value in arguments.items():
            try:
                kind(**{key: value})
            except (TypeError, ValueError) as error:
                raise self.error(("score", key), str(error)) from None
        return kind(**arguments)

    def regrowth(self) -> str | None:
        if "regrowth" not in self.tables:
            return None
        name, arguments = self.named("regrowth", REGROWTH)
        self.require_known(("regrowth",), arguments, ("name",))
        return name

    def schedules(self, recipe: Recipe) -> dict[str, Schedule | dict[str, Schedule]]:
        found: dict[str, Schedule | dict[str, Schedule]] = {}
        for param, value in self.table(("schedule",)).items():
            path: Path = ("schedule", param)
            self.require_scheduled(path, param, recipe)
            if isinstance(value, dict):
                if not value:
                    raise self.error(path, "must hold a glob with its schedule, got none")
                found[param] = {
                    glob: self.schedule((*path, glob), text, param, recipe)
                    for glob, text in value.items()
                }
            else:
                found[param] = self.schedule(path, value, param, recipe)
        return found

    def schedule(self, path: Path, text: object, param: str, recipe: Recipe) -> Schedule:
        """One that is read, and whose first and last values its key may have."""
        if not isinstance(text, str):
            raise self.error(path, f"must be a schedule in quotation marks, got {said(text)}")
        try:
            schedule = parse(text)
            for base in dict.fromkeys(bases(recipe, param)):
                for step in (0, schedule.end or 0):
                    value = schedule(step, base)
                    probe(recipe, param, round(value) if param in INTEGERS else value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self.error(path, str(error)) from None
        return schedule

    def require_scheduled(self, path: Path, param: str, recipe: Recipe) -> None:
        """Refuse what is no config key, or has no number that every group could begin at."""
        scheduled = tuple(key for key in KEYS if key in NUMBERS)
        if recipe.regrowth is not None:
            scheduled += ("drop_fraction",)
        self.require_known(("schedule",), {param: None}, scheduled)
        if param not in recipe.sparsifier().defaults and not (
            recipe.groups and all(param in one.options for one in recipe.groups)
        ):
            raise self.error(
                path, f"needs a value of {param} in [defaults], or in all groups, to begin with"
            )

    # --- parts ------------------------------------------------------------------------------------

    def named(self, key: str, known: Iterable[str]) -> tuple[str, Config]:
        """A name, or a table of a name and arguments."""
        value = self.tables[key]
        table = {"name": value} if isinstance(value, str) else value
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise self.error((key,), f"must be a name, or a table with one, got {said(value)}")
        name = table["name"]
        wrong = unknown(name, known)
        if wrong is not None:
            at: Path = (key,) if isinstance(value, str) else (key, "name")
            raise self.error(at, wrong.replace("unknown key", "unknown name", 1))
        return name, {one: argument for one, argument in table.items() if one != "name"}

    def table(self, path: Path) -> Config:
        value = self.tables.get(str(path[0]), {})
        if not isinstance(value, dict):
            raise self.error(path, f"must be a table, written [{path[0]}], got {said(value)}")
        return value

    def require_known(self, path: Path, table: Config, known: Iterable[str]) -> None:
        for key in table:
            wrong = unknown(key, known)
            if wrong is not None:
                raise self.error((*path, key), wrong)

    def at(self, path: Path) -> Any:
        value: Any = self.tables
        for part in path:
            value = value[part] if isinstance(part, int) else value.get(part, {})
        return value

    def error(self, path: Path, reason: str) -> RecipeError:
        return RecipeError(reason, shown(path), line_of(path, self.lines), self.file)


BASES = (scores.Score, scores.GradientScore, scores.AccumulatedScore)
SCORES: dict[str, type[scores.Score]] = {
    name: kind for name in scores.__all__ if (kind := getattr(scores, name)) not in BASES
}
NUMBERS = (*INTEGERS, "sparsity_level", "min_level", "max_level")


def bases(recipe: Recipe, param: str) -> list[float]:
    """The values of a key that the recipe names, from which a schedule may begin."""
    defaults = recipe.sparsifier().defaults
    named = [defaults.get(param), *(entry.options.get(param) for entry in recipe.groups)]
    return [value for value in named if value is not None]


def probe(recipe: Recipe, param: str, value: float) -> None:
    """ValueError for a value that a key may not have in any config."""
    dataclasses.replace(recipe, defaults={param: value}, groups=()).sparsifier()


def said(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
