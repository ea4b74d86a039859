"""step() on inputs that are hard to sample, on strided views, and on inputs built against it."""

from collections.abc import Iterator

from bench.adversary import PLANTED
from bench.cases import ELEMENTS, Case
from bench.inputs import HARD, STRIDED, make
from bench.options import Options
from bench.report import Row
from bench.step import ColdStep, LevelStep, measure_step

TITLE = "Hard inputs"


def run(options: Options) -> Iterator[Row]:
    elements = min(1 << 24, options.largest)
    for name in [*HARD, *STRIDED, *PLANTED]:
        input_ = make(name, elements)
        goal = None if elements < 1 << 24 else 10.0 if name in PLANTED else 2.5
        cases = list(ELEMENTS)
        if name in HARD:
            cases.append(Case((1, 4), 0.5))
        for case in cases[:1] if options.quick else cases:
            goals = {ColdStep: goal, LevelStep: goal}
            yield from measure_step("hard", input_, case, options, goals, with_copy=False)
