"""A recipe as TOML, and what sparsifiers and schedulers are as a recipe."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._core import BaseDataScheduler, BaseDataSparsifier, DataNormSparsifier, DataScheduler
from ..schedules import Schedule, parse
from .choosing import Entry, escaped
from .errors import RecipeError
from .reading import SCORES, may_be_none
from .recipe import REGROWTH, Config, Recipe

BARE = re.compile(r"[A-Za-z0-9_-]+")
WIDTH = 100  # of a line, from which a list takes several


def from_sparsifier(
    sparsifier: BaseDataSparsifier, schedulers: Iterable[BaseDataScheduler] = ()
) -> Recipe:
    """The recipe that makes such a sparsifier again, and its schedulers.

    Groups of one config become one entry, by their names. What a scheduler moves is written as it
    was when the scheduler began. Masks, sums of scores, and how far a schedule has come are no part
    of a recipe: `datasparse.save()` keeps them. So a distribution has become a level for each
    group, and zeros that stay are those that the data will have then.

    TypeError for classes of your own, of sparsifiers, schedulers or scores, and for schedules of
    them; ValueError for a scheduler of another sparsifier, for two schedulers of one key, which a
    recipe has no room for, and for a `Lambda`: a recipe holds no code.
    """
    kinds: dict[type[Any], str | None] = {DataNormSparsifier: None} | {
        kind: name for name, kind in REGROWTH.items()
    }
    if type(sparsifier) not in kinds:
        known = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"sparsifier must be one that a recipe can name ({known}), got "
            f"{type(sparsifier).__name__}"
        )
    score = sparsifier.score
    if score is not None and type(score) not in SCORES.values():
        raise TypeError(f"score must be one of datasparse.scores, got {score!r}")
    begun: dict[str, Mapping[str, Any]] = {}
    schedules: dict[str, Schedule | dict[str, Schedule]] = {}
    for scheduler in schedulers:
        param = scheduler.schedule_param
        if param in schedules:
            raise ValueError(f"schedulers must be of one key each, got two of {param}")
        schedules[param] = schedule_of(scheduler, sparsifier)
        begun[param] = scheduler.base_param
    state = sparsifier.state_dict()
    entries: dict[str, tuple[Config, list[str]]] = {}
    defaults = dict(state["defaults"])
    for name, group in state["data_groups"].items():
        config = dict(group["config"])
        config |= {param: values[name] for param, values in begun.items() if name in values}
        options = {key: value for key, value in config.items()
                   if key not in defaults or defaults[key] != value}  # fmt: skip
        if group["kept_zeros"] is not None:
            options["keep_zeros"] = True
        if not group["update"]:
            options["update"] = False
        options["layout"] = (group["layout"] and tuple(group["layout"])) or "memory"
        entries.setdefault(repr(sorted(options.items())), (options, []))[1].append(escaped(name))
    groups = tuple(Entry(tuple(names), (), options) for options, names in entries.values())
    return Recipe(defaults, groups, None, score, kinds[type(sparsifier)], schedules)


def schedule_of(
    scheduler: BaseDataScheduler, sparsifier: BaseDataSparsifier
) -> Schedule | dict[str, Schedule]:
    """The schedule of a scheduler, if a recipe can say it."""
    if type(scheduler) is not DataScheduler:
        raise TypeError(
            f"scheduler must be a DataScheduler, which a recipe can name, got "
            f"{type(scheduler).__name__}"
        )
    if scheduler.data_sparsifier is not sparsifier:
        raise ValueError(
            f"the scheduler of {scheduler.schedule_param} belongs to another sparsifier"
        )
    schedule = scheduler.schedule
    for one in schedule.values() if isinstance(schedule, dict) else (schedule,):
        try:
            same = parse(repr(one)) == one
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(f"schedule must be one that a recipe can say, got {one!r}")
    return schedule


def written(recipe: Recipe) -> str:
    """TOML. ValueError for text that TOML cannot hold."""
    lines = ["version = 1"]
    if recipe.regrowth is not None:
        lines.append(f"regrowth = {text_of(recipe.regrowth)}")
    if recipe.score is not None:
        lines.append(f"score = {text_of(named_score(recipe.score))}")
    if recipe.distribution is not None:
        lines.append(f"distribution = {text_of(recipe.distribution)}")
    if recipe.defaults:
        lines += ["", "[defaults]", *options_of(recipe.defaults)]
    for entry in recipe.groups:
        lines += ["", "[[groups]]"]
        if entry.include is not None:
            lines.append(f"include = {text_of(entry.include)}")
        if entry.exclude:
            lines.append(f"exclude = {text_of(entry.exclude)}")
        lines += options_of(entry.options)
    plain = {param: one for param, one in recipe.schedules.items() if isinstance(one, Schedule)}
    if plain:
        lines += ["", "[schedule]"]
        lines += [f"{param} = {text_of(repr(one))}" for param, one in plain.items()]
    for param, by_glob in recipe.schedules.items():
        if not isinstance(by_glob, Schedule):
            lines += ["", f"[schedule.{param}]"]
            lines += [f"{key_of(glob)} = {text_of(repr(one))}" for glob, one in by_glob.items()]
    return "\n".join(lines) + "\n"


def named_score(score: Any) -> str | Config:
    """Its name, or with the arguments that are not its defaults."""
    default = type(score)()
    arguments = {
        field.name: getattr(score, field.name)
        for field in dataclasses.fields(score)
        if getattr(score, field.name) != getattr(default, field.name)
    }
    name = type(score).__name__
    return {"name": name} | arguments if arguments else name


def options_of(options: Config) -> list[str]:
    return [
        f"{key} = {text_of(value)}"
        for key, value in options.items()
        if value is not None or may_be_none(key) or key == "per"
    ]


def key_of(key: str) -> str:
    return key if BARE.fullmatch(key) else text_of(key)


def text_of(value: Any) -> str:
    """A value in TOML; None is false there."""
    if value is None:
        return "false"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key_of(k)} = {text_of(v)}" for k, v in value.items()) + " }"
    if isinstance(value, tuple | list):
        items = [text_of(one) for one in value]
        line = "[" + ", ".join(items) + "]"
        return line if len(line) < WIDTH else "[\n" + "".join(f"  {one},\n" for one in items) + "]"
    return repr(value)


def quoted(text: str) -> str:
    """A basic string. Escapes are those of JSON, and one more; lone surrogates have none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError(f"a name must be valid Unicode to be written, got {text!r}") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
