"""step() on weights whose blocks lie along the inputs, beside the same blocks in memory's order."""

from collections.abc import Iterator
from typing import Any

import datasparse
import numpy as np

from bench.cases import ELEMENTS, TWO_OF_FOUR, Case
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults
from bench.step import mask_of

TITLE = "Blocks along inputs"
GOAL = 3.0
# A layer, the shape of its weight, and the order of its axes: outputs first, inputs last.
LAYERS = {
    "Conv2d 3x3": ((1024, 256, 3, 3), (0, 2, 3, 1)),
    "ConvTranspose2d 3x3": ((256, 1024, 3, 3), (1, 2, 3, 0)),
    "Conv1D": ((768, 3072), (1, 0)),
}
CASES = [ELEMENTS[0], Case((1, 4), 0.5), TWO_OF_FOUR]
DOWN = Case((4, 1), 1.0, zeros_per_block=2)  # the same blocks by their shape, and not by a layout


class Step:
    """A step of a weight, of a new sparsifier, or of one that has made one before."""

    def __init__(self, weight: np.ndarray, case: Case, layout: Any, later: bool) -> None:
        self.weight, self.case, self.layout, self.later = weight, case, layout, later
        self.make(case.level)

    def make(self, level: float) -> None:
        self.sparsifier: Any = None  # before the next one, which takes the same memory
        self.sparsifier = datasparse.DataNormSparsifier([], level, **self.case.config)
        self.sparsifier.add_data("w", self.weight, layout=self.layout)
        if self.later:
            self.sparsifier.step()

    def prepare(self, call: int) -> None:
        if not self.later:
            self.make(self.case.level_of(call))

    def run(self, call: int) -> None:
        self.sparsifier.step()

    def check(self, call: int) -> str | None:
        if self.case is DOWN:
            rows = np.ascontiguousarray(self.weight.T)
            right = datasparse.block_mask(rows, sparsity_level=1.0, **TWO_OF_FOUR.config).T
            same = np.array_equal(mask_of(self.sparsifier), right)
            return None if same else "the mask is not that of rows, turned"
        order = self.layout or range(self.weight.ndim)
        single = self.case.block == (1, 1)  # the order of columns is no matter then
        rows = self.weight if single else np.ascontiguousarray(self.weight.transpose(order))
        level = self.sparsifier.data_groups["w"]["sparsity_level"]
        right = datasparse.block_mask(rows, sparsity_level=level, **self.case.config)
        expected = right if single else right.transpose(np.argsort(order))
        same = np.array_equal(mask_of(self.sparsifier), expected)
        return None if same else "the mask is not that of a copy in the layout's order"


def run(options: Options) -> Iterator[Row]:
    for layer, (shape, layout) in LAYERS.items():
        rows = max(4, min(shape[0], options.largest * shape[0] // int(np.prod(shape))))
        shape = (rows, *shape[1:])
        weight = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        for case in CASES[1:2] if options.quick else CASES:
            name = f"{layer} {'x'.join(map(str, shape))}, {case.name}"
            progress(f"[layouts] {name}")
            steps = {
                (when, what): Step(weight, case, order, when == "later")
                for when in ("first", "later")
                for what, order in (("memory", None), ("inputs", layout))
            }
            if case is TWO_OF_FOUR and len(shape) == 2:
                for when in ("first", "later"):
                    steps[when, "(4,1)"] = Step(weight, DOWN, None, when == "later")
            candidates = [
                Candidate(f"{what}, {when}", step.run, step.prepare, step.check)
                for (when, what), step in steps.items()
            ]
            times = time_all(candidates, options.rounds, 8)
            for when, what in steps:
                timed = times[f"{what}, {when}"]
                tell_faults(f"{name}, {what}, {when}", timed.faults)
                ratio = timed.median / times[f"memory, {when}"].median
                yield Row(
                    "layouts", name, f"{what}, {when} step", timed.median, timed.spread,
                    1e9 * timed.median / weight.size,
                    value=None if what == "memory" else ratio, unit="x memory",
                    goal=None if what == "memory" or options.quick else Goal(GOAL),
                    right=timed.right, elements=weight.size, threads=options.threads,
                    isa=options.isa,
                )  # fmt: skip
