"""A recipe: which weights, how much of them, in what shape, by what, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import distributions
from .._core import DataNormSparsifier, DataScheduler, _matches
from ..regrowth import SET, RigL, Static
from ..schedules import Schedule
from .choosing import Chosen, Entry, chosen, of_shape
from .errors import Path, RecipeError, shown
from .lines import line_of
from .resolving import (
    INTEGERS,
    LEVEL,
    OWN,
    Shape,
    base_of,
    in_layout,
    of_whole_axes,
    per_row,
    require_axes,
)

if TYPE_CHECKING:
    from torch import nn

    from .._core import Array, BaseDataScheduler
    from ..scores import Score
    from ..torch import Attachment
    from .plan import RecipePlan

Config = dict[str, Any]

REGROWTH: dict[str, type[RigL] | type[SET] | type[Static]] = {
    kind.__name__: kind for kind in (RigL, SET, Static)
}
DISTRIBUTIONS: dict[str, Any] = {"erk": distributions.erk, "uniform": distributions.uniform}


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, as values; `load()` reads one, `from_sparsifier()` makes one.

    defaults: of every group: config keys, and `layout`, `keep_zeros`, `update`, `per`.
    groups: the entries, in order; a weight belongs to the first that takes it. None at all stands
        for one that takes everything.
    distribution: None, or "name" and its arguments.
    score, regrowth: by what is ranked, and how masks move: at most one of them.
    schedules: for each scheduled key, a schedule for all, or one for each glob of names.

    Two recipes that say the same are equal. `dumps()` writes one as TOML.
    """

    defaults: Config = field(default_factory=dict)
    groups: tuple[Entry, ...] = ()
    distribution: Config | None = None
    score: Score | None = None
    regrowth: str | None = None
    schedules: dict[str, Schedule | dict[str, Schedule]] = field(default_factory=dict)
    file: str | None = field(default=None, compare=False, repr=False)
    lines: dict[Path, int] = field(default_factory=dict, compare=False, repr=False)

    def sparsifier(self, data: Mapping[str, Array] | None = None) -> Any:
        """A new sparsifier: a DataNormSparsifier, or the one of `regrowth`.

        data: arrays by name, which become its groups as the recipe says; those that it leaves are
        none. Nothing is copied. RecipeError where a pattern matches no name, or a config does not
        fit a shape.
        """
        sparsifier = self._empty()
        if data is None:
            return sparsifier
        configs = self.configs({name: shape_of(array) for name, array in data.items()})
        for name, config in configs.items():
            if config is not None:
                options = in_layout(config, shape_of(data[name]))
                sparsifier.add_data(name, data[name], **options)
        if self.regrowth is not None:
            sparsifier.draw()
        return sparsifier

    def schedulers(self, sparsifier: Any) -> list[BaseDataScheduler]:
        """A new DataScheduler for each key of [schedule], in order. Each makes its initial step.

        RecipeError where a glob matches no group. Their groups are those that are there by now.
        """
        made: list[BaseDataScheduler] = []
        for param, schedule in self.schedules.items():
            self._schedule_of(param, schedule, list(sparsifier.data_groups))
            try:
                made.append(DataScheduler(sparsifier, param, schedule))
            except (TypeError, ValueError) as error:
                raise self.error(("schedule", param), str(error)) from None
        return made

    def attach(
        self, model: nn.Module, *, mode: str = "in_place", gradients: str = "masked"
    ) -> tuple[Any, list[BaseDataScheduler], Attachment]:
        """A new sparsifier and its schedulers, attached to a model: see `datasparse.torch.attach`.

        Errors are those of `attach()`, and RecipeError for what the recipe says of this model. The
        model is as it was then.
        """
        from ..torch.attachment import withdraw
        from ..torch.recipe import attach_recipe

        sparsifier = self._empty()
        attachment = attach_recipe(model, self, sparsifier, mode, gradients)
        try:
            return sparsifier, self.schedulers(sparsifier), attachment
        except BaseException:
            withdraw(attachment, list(attachment.names))
            raise

    def plan(self, model: nn.Module | Mapping[str, Iterable[int]]) -> RecipePlan:
        """What the recipe says of a model, or of shapes by name; str() is a table. Reads no data.

        Errors are those of `configs()`, for a schedule too.
        """
        from .plan import planned

        return planned(self, model)

    def configs(self, shapes: Mapping[str, Iterable[int]]) -> dict[str, Config | None]:
        """The whole config of each name, as plain data; None for those that the recipe leaves.

        Beside the config keys: "layout", "keep_zeros" and "update", where the recipe says them.
        Of the values that a schedule moves they are the base. Weights of fewer than two axes are
        taken by their very names only.

        RecipeError where a pattern of the recipe matches none of the names, or where a distribution
        cannot reach its level.
        """
        sizes = sizes_of(shapes)
        return self.resolved(
            chosen(self, {name: of_shape(size) for name, size in sizes.items()}), sizes
        )

    def config_of(self, name: str, shape: Iterable[int]) -> Config | None:
        """The config of one tensor, as `configs()` gives it, whatever other names there are.

        RecipeError for a recipe with a distribution, which has to see all shapes together.
        """
        if self.distribution is not None:
            raise self.error(
                ("distribution",), "a distribution has to see all shapes together: call configs()"
            )
        size = tuple(int(length) for length in shape)
        by_name = chosen(self, {name: of_shape(size)}, all_are_here=False)
        return self.resolved(by_name, {name: size})[name]

    def final_configs(self, shapes: Mapping[str, Iterable[int]]) -> dict[str, Config | None]:
        """The same with every scheduled value as it is in the end: what a file is pruned to.

        RecipeError for a schedule that has no end.
        """
        sizes = sizes_of(shapes)
        configs = self.configs(sizes)
        taken = {name: config for name, config in configs.items() if config is not None}
        self.move_to_ends(taken, sizes)
        return configs

    def move_to_ends(
        self, configs: dict[str, Config], shapes: Mapping[str, Shape], strict: bool = True
    ) -> None:
        """Write what the schedules end at into configs; one without end is refused if strict."""
        for param, schedule in self.schedules.items():
            for name, one in self._schedule_of(param, schedule, list(configs)).items():
                if one.end is not None:
                    value = one(one.end, base_of(configs[name], param, shapes[name]))
                    configs[name][param] = round(value) if param in INTEGERS else value
                elif strict:
                    raise self.error(
                        ("schedule", param), f"{one!r} has no end, at which a file could be pruned"
                    )

    def dumps(self) -> str:
        """The recipe as TOML, which `loads()` reads as an equal one."""
        from .writing import written

        return written(self)

    def error(self, path: Path, reason: str) -> RecipeError:
        """One that says where in the recipe."""
        return RecipeError(reason, shown(path), line_of(path, self.lines), self.file)

    def resolved(
        self,
        of: Chosen,
        shapes: Mapping[str, Shape],
        axes: Mapping[str, Shape | None] | None = None,
    ) -> dict[str, Config | None]:
        """The configs of names whose entries are known.

        axes: the order of axes that modules give to "inputs", where there are modules.
        """
        levels = self._levels(of, shapes)
        configs: dict[str, Config | None] = dict.fromkeys(shapes)
        fit: set[tuple[object, ...]] = set()
        for name, index in of.entry.items():
            config = self._empty().defaults | self.defaults | self.entries[index].options
            if name in levels:
                config[LEVEL] = levels[name]
            if axes is not None and config.get("layout", "inputs") == "inputs":
                config["layout"] = axes[name] or "memory"
            if config.pop("per", None) is not None:
                self._require_still(name)
                config |= per_row(config, shapes[name])
            configs[name] = config
            seen = (shapes[name], *config.items())
            if seen not in fit:
                self._require_fit(name, index, config, shapes[name])
                fit.add(seen)
        return configs

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries of [[groups]], or the one that takes everything."""
        return self.groups or (Entry(),)

    def path_of(self, index: int) -> Path:
        """The path of an entry: that of the defaults where there is none."""
        return ("groups", index) if self.groups else ("defaults",)

    # --- parts ------------------------------------------------------------------------------------

    def _empty(self) -> Any:
        given = {key: value for key, value in self.defaults.items() if key not in OWN}
        if self.regrowth is not None:
            return REGROWTH[self.regrowth](**given)
        return DataNormSparsifier(score=self.score, **given)

    def _levels(self, of: Chosen, shapes: Mapping[str, Shape]) -> dict[str, float]:
        """Those that the distribution gives, to all names whose entry has no level of its own."""
        if self.distribution is None:
            return {}
        arguments = dict(self.distribution)
        share: Any = partial(DISTRIBUTIONS[arguments.pop("name")], **arguments)
        free = {
            name: shapes[name]
            for name, index in of.entry.items()
            if LEVEL not in self.entries[index].options
        }
        if not free:
            return {}
        level = self._empty().defaults[LEVEL]
        try:
            levels: dict[str, float] = share(free, level)
        except ValueError as error:
            raise self.error(("distribution",), str(error)) from None
        return levels

    def _schedule_of(
        self,
        param: str,
        schedule: Schedule | dict[str, Schedule],
        names: list[str],
        strict: bool = True,
    ) -> dict[str, Schedule]:
        """The schedule of each of these names that has one."""
        if isinstance(schedule, Schedule):
            return dict.fromkeys(names, schedule)
        for pattern in schedule if strict else ():
            if not any(pattern == name or _matches(pattern, name) for name in names):
                raise self.error(("schedule", param, pattern), "matches none of the groups")
        found = {}
        for name in names:
            one = schedule.get(name) or next(
                (one for pattern, one in schedule.items() if _matches(pattern, name)), None
            )
            if one is not None:
                found[name] = one
        return found

    def _require_still(self, name: str) -> None:
        """RecipeError where a schedule moves the level of what is pruned row by row."""
        schedule = self.schedules.get(LEVEL)
        if schedule is not None and self._schedule_of(LEVEL, schedule, [name], strict=False):
            raise self.error(
                ("schedule", LEVEL),
                f'moves {name!r}, which has per = "row", and so {LEVEL} 1 and its own number of '
                "zeros in a row: name others",
            )

    def _require_fit(self, name: str, index: int, config: Config, shape: Shape) -> None:
        """RecipeError where a config does not fit a shape. Allocates no mask."""
        try:
            require_axes(config.get("layout"), shape)
            self._empty().defaults.update(of_whole_axes(config, shape))
        except (TypeError, ValueError) as error:
            raise self.error(
                self.path_of(index), f"does not fit {name!r} of shape {shape}: {error}"
            ) from None


def sizes_of(shapes: Mapping[str, Iterable[int]]) -> dict[str, Shape]:
    return {name: tuple(int(length) for length in shape) for name, shape in shapes.items()}


def shape_of(array: Any) -> Shape:
    """The shape of an array; an nn.Embedding's is that of its weight."""
    shaped = array if hasattr(array, "shape") else array.weight
    return tuple(int(length) for length in shaped.shape)
