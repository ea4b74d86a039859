"""step() of masks that only grow while the level rises, and that come back from it."""

from collections.abc import Iterator

from bench.cases import TWO_OF_FOUR, Case
from bench.inputs import Input, natural
from bench.options import Options
from bench.report import Row
from bench.step import ColdStep, LevelStep, measure_step

TITLE = "Monotone masks"
GOAL = 4.0
CASES = [Case((1, 1), 0.5), Case((1, 1), 0.9), Case((1, 4), 0.9), Case((4, 4), 0.9), TWO_OF_FOUR]


class MonotoneStep(LevelStep):
    """Data stay as they are, so the mask is that of any step, whether the level rises or falls."""

    name = "step(), monotone"

    def __init__(self, input_: Input, case: Case) -> None:
        super().__init__(input_, case)
        self.sparsifier.data_groups["w"]["monotone"] = True

    def prepare(self, call: int) -> None:
        if not self.case.is_n_of_m:
            super().prepare(call)


def run(options: Options) -> Iterator[Row]:
    for size in options.sizes(1 << 26, 1 << 24):
        input_ = natural(size)
        for case in CASES[:1] if options.quick else CASES:
            judged = GOAL if size == 1 << 24 else None
            goals: dict[type[ColdStep], float | None] = {MonotoneStep: judged}  # nothing drifts
            yield from measure_step("monotone", input_, case, options, goals, with_copy=False)
