"""step() on float64, float16 and bfloat16, each beside its own bound."""

from collections.abc import Iterator

from bench.cases import TWO_OF_FOUR, Case
from bench.inputs import natural
from bench.options import Options
from bench.report import Row
from bench.step import ColdStep, WarmStep, measure_step

TITLE = "Other types"
GOALS = {"float64": 1.4, "float16": 2.5, "bfloat16": 2.5}
CASES = [Case((1, 1), 0.5), Case((1, 1), 0.9), Case((1, 4), 0.5), Case((4, 4), 0.5), TWO_OF_FOUR]


def run(options: Options) -> Iterator[Row]:
    for dtype, goal in GOALS.items():
        elements = min(1 << 26, options.largest)
        input_ = natural(elements, dtype)
        for case in CASES[:1] if options.quick else CASES:
            judged = goal if elements == 1 << 26 else None
            goals: dict[type[ColdStep], float | None] = {ColdStep: judged, WarmStep: judged}
            copy = case is CASES[0]  # once for an input
            yield from measure_step("dtypes", input_, case, options, goals, with_copy=copy)
