"""step() of masks that only grow while the level rises, and that come back from it."""

from collections.abc import Iterator

from bench.cases import TWO_OF_FOUR, Case
from bench.inputs import Input, natural
from bench.options import Options
from bench.report import Row
from bench.step import ColdStep, LevelStep, measure_step

TITLE = "Monotone masks"
GOAL = 4.0
INPUTS = {"float32": (1 << 26, 1 << 24), "bfloat16": (1 << 24,)}
CASES = [Case((1, 1), 0.5), Case((1, 1), 0.9), Case((1, 4), 0.9), Case((4, 4), 0.9), TWO_OF_FOUR]


class RisingStep(LevelStep):
    """The level rises. Data stay as they are, so the mask is that of any step."""

    name = "step(), level risen"
    low, high = 0.0, 0.01

    def __init__(self, input_: Input, case: Case) -> None:
        super().__init__(input_, case)
        self.sparsifier.data_groups["w"]["monotone"] = True

    def move_to(self, level: float) -> None:
        self.level = self.case.level + (0.0 if self.case.is_n_of_m else level)
        self.sparsifier.data_groups["w"]["sparsity_level"] = self.level

    def prepare(self, call: int) -> None:
        self.move_to(self.low)
        self.sparsifier.step()
        self.move_to(self.high)


class FallingStep(RisingStep):
    """It falls: some come back."""

    name = "step(), level fallen"
    low, high = 0.01, 0.0


def run(options: Options) -> Iterator[Row]:
    for dtype, sizes in INPUTS.items():
        for size in options.sizes(*sizes):
            input_ = natural(size, dtype)
            judged = GOAL if size == 1 << 24 and dtype == "float32" else None
            for case in CASES[:1] if options.quick else CASES:
                goals: dict[type[ColdStep], float | None] = {RisingStep: judged}
                if not case.is_n_of_m:
                    goals[FallingStep] = judged
                yield from measure_step("monotone", input_, case, options, goals, with_copy=False)
