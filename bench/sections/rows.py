"""step() on float32: all blocks and levels, from 64 Mi elements down to 32 Ki."""

from collections.abc import Iterator

from bench.cases import HEADLINE
from bench.inputs import natural
from bench.options import Options
from bench.report import Row
from bench.step import ColdStep, LevelStep, WarmStep, measure_step

TITLE = "A step, cold and warm, on float32"
SIZES = (1 << 26, 1 << 24, 1 << 20, 1 << 15)
GOALS = ((1 << 26, 1.3, 1.15), (1 << 24, 1.7, 1.7), (1 << 20, 3.0, 3.0), (1 << 15, 7.0, 7.0))


def goals_of(elements: int) -> tuple[float | None, float | None]:
    """Times the bound: cold, and warm."""
    for size, cold, warm in GOALS:
        if elements >= size:
            return cold, warm
    return None, None


def run(options: Options) -> Iterator[Row]:
    for size in options.sizes(*SIZES):
        input_ = natural(size)
        cold, warm = goals_of(size)
        for case in HEADLINE:
            goals: dict[type[ColdStep], float | None] = {ColdStep: cold, WarmStep: warm}
            if not case.is_n_of_m:
                goals[LevelStep] = warm
            copy = case is HEADLINE[0]  # once for an input
            yield from measure_step("rows", input_, case, options, goals, with_copy=copy)
