"""A scheduler's step for ten thousand groups: an override in Python, and a built-in schedule."""

from collections.abc import Iterator
from typing import Any

import datasparse
import numpy as np

from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults

TITLE = "A scheduler's step for 10,000 groups"
GROUPS = 10_000
LEVEL = 0.5


class Halving(datasparse.BaseDataScheduler):
    """Halves the level at every step, as in the first description of the interface."""

    def __init__(self, data_sparsifier: datasparse.BaseDataSparsifier) -> None:
        super().__init__(data_sparsifier=data_sparsifier, schedule_param="sparsity_level")

    def get_schedule_param(self) -> dict[str, float]:
        if self.last_epoch > 0:
            return {
                name: config["sparsity_level"] * 0.5
                for name, config in self.data_sparsifier.data_groups.items()
            }
        return self.base_param


class Stepping:
    """A scheduler with all its groups, made anew for every call, after some untimed steps."""

    def __init__(self, groups: int, steps_before: int) -> None:
        self.steps_before = steps_before
        self.groups = [(f"group{i}", np.zeros(4, np.float32)) for i in range(groups)]

    def prepare(self, call: int) -> None:
        self.scheduler: Any = None
        self.sparsifier = datasparse.DataNormSparsifier(self.groups, LEVEL, (1, 1))
        self.scheduler = self.make()
        self.sparsifier.step()  # it warns of a step before this one
        for _ in range(self.steps_before):
            self.scheduler.step()

    def make(self) -> Any:
        return Halving(self.sparsifier)

    def run(self, call: int) -> None:
        self.scheduler.step()

    def expected(self) -> float:
        return LEVEL * 0.5 ** (self.steps_before + 1)

    def check(self, call: int) -> str | None:
        values = set(self.scheduler.get_last_param().values())
        right = values == {self.expected()}
        return None if right else f"the levels are {sorted(values)[:3]}, not {self.expected()}"


class BuiltIn(Stepping):
    """A schedule of the library's own."""

    def make(self) -> Any:
        self.schedule = datasparse.schedules.Polynomial(final=0.9, end=100)
        return datasparse.DataScheduler(self.sparsifier, "sparsity_level", self.schedule)

    def expected(self) -> float:
        return float(self.schedule(self.steps_before + 1, LEVEL))


def run(options: Options) -> Iterator[Row]:
    groups = min(GROUPS, options.largest)
    ways: dict[str, tuple[Stepping, float]] = {}
    for when, steps_before in (("the first step", 0), ("a later one", 2)):
        override = Stepping(groups, steps_before)
        ways[f"the first description's override in Python, {when}"] = (override, 1.0)
        ways[f"a built-in schedule, {when}"] = (BuiltIn(groups, steps_before), 0.2)
    progress("[schedulers]")
    candidates = [
        Candidate(what, way.run, way.prepare, way.check) for what, (way, _) in ways.items()
    ]
    for what, timed in time_all(candidates, options.rounds).items():
        tell_faults(what, timed.faults)
        yield Row(
            "schedulers", f"{groups} groups", what, timed.median, timed.spread,
            value=1e6 * timed.median / groups, unit="µs a group",
            goal=Goal(ways[what][1]) if groups == GROUPS else None,
            right=timed.right, threads=options.threads, isa=options.isa,
        )  # fmt: skip
