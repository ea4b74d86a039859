"""step() by a score of one's own, beside the scores themselves and the built-in step."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import datasparse
import numpy as np

from bench.cases import Case
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults

TITLE = "A score of one's own: |weight * gradient| of 100 groups of 64 Ki elements"
GROUPS, ELEMENTS = 100, 1 << 16
CASES = [Case((1, 1), 0.5), Case((1, 4), 0.5)]

Arrays = dict[str, np.ndarray]


class Saliency(datasparse.DataNormSparsifier):
    def __init__(self, weights: Arrays, gradients: Arrays, **config: Any) -> None:
        self._gradients = gradients
        super().__init__(weights, **config)

    def get_scores(self, name: str, data: np.ndarray, **config: Any) -> np.ndarray:
        return np.abs(data * self._gradients[name])


class InTurn(Saliency):
    """The same by update_mask(), for each group by itself."""

    def update_mask(self, name: str, data: np.ndarray, **config: Any) -> None:
        super().update_mask(name, self.get_scores(name, data), **config)


def run(options: Options) -> Iterator[Row]:
    elements = min(ELEMENTS, max(64, options.largest // GROUPS))
    random = np.random.default_rng(0)
    names = [f"group{i}" for i in range(GROUPS)]
    weights, gradients = (
        {name: random.standard_normal(elements, dtype=np.float32) for name in names}
        for _ in range(2)
    )
    averages = {name: 1e-3 * gradient for name, gradient in gradients.items()}
    for case in CASES:
        name = f"{GROUPS} groups of {elements}, {case.name}"
        progress(f"[scores] {name}")
        config = {"sparsity_level": case.level, **case.config}
        built_in = datasparse.DataNormSparsifier(weights, **config)
        own, in_turn = (kind(weights, gradients, **config) for kind in (Saliency, InTurn))
        configs = {group: dict(own.data_groups[group]) for group in names}

        def scores(own: Saliency = own, configs: dict[str, Any] = configs) -> list[np.ndarray]:
            return [own.get_scores(group, weights[group], **configs[group]) for group in names]

        def moved(call: int) -> None:
            """As an optimizer leaves them: it has read its averages and written all weights."""
            update = np.subtract if call % 2 else np.add
            for group in names:
                update(weights[group], averages[group], out=weights[group])

        def check(
            sparsifier: Any, ranked: Callable[[], Iterable[np.ndarray]], case: Case = case
        ) -> str | None:
            for group, array in zip(names, ranked(), strict=True):
                expected = datasparse.block_mask(array, sparsity_level=case.level, **case.config)
                if not np.array_equal(sparsifier.get_mask(group), expected):
                    return f"the mask of {group} is not that of its scores"
            return None

        def candidate(
            what: str, step: Callable[[], object], right: Callable[[], str | None] | None = None
        ) -> Candidate:
            return Candidate(
                what, lambda _: step(), moved, None if right is None else lambda _: right()
            )

        computing, plain = "all scores, computed and held", "the built-in step"
        mine, turn = "the step by these scores", "the same by update_mask(), in turn"
        times = time_all(
            [
                candidate(computing, scores),
                candidate(plain, built_in.step, partial(check, built_in, weights.values)),
                candidate(mine, own.step, partial(check, own, scores)),
                candidate(turn, in_turn.step, partial(check, in_turn, scores)),
            ],
            options.rounds,
            calls=5,
        )
        for what, timed in times.items():
            tell_faults(f"{name}, {what}", timed.faults)
            beyond = (timed.median - times[computing].median) / times[plain].median
            is_full = elements == ELEMENTS and what == mine
            yield Row(
                "scores", name, what, timed.median, timed.spread,
                value=beyond if what in (mine, turn) else None,
                unit="x built-in, beyond the scores", goal=Goal(1.2) if is_full else None,
                right=timed.right, threads=options.threads, isa=options.isa,
            )  # fmt: skip
