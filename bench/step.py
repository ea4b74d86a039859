"""Times step() on one input, cold and warm, beside the bound and a copy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasparse
import numpy as np

from bench import check
from bench.cases import Case
from bench.inputs import Input
from bench.measure import Candidate, Times, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults
from bench.yardstick import Bound, Copy, Loop


def mask_of(sparsifier: datasparse.DataNormSparsifier, name: str = "w") -> np.ndarray:
    """The mask as NumPy's bools."""
    return np.asarray(sparsifier.get_mask(name))


@dataclass
class ColdStep:
    """A sparsifier that has seen nothing yet, made anew for every call."""

    input: Input
    case: Case
    name: str = "step(), cold"

    def prepare(self, call: int) -> None:
        self.level = self.case.level_of(call)
        self.sparsifier: Any = None  # before the next one, which takes the same memory
        self.sparsifier = datasparse.DataNormSparsifier(
            [("w", self.input.data)], self.level, **self.case.config
        )

    def run(self, call: int) -> None:
        self.sparsifier.step()

    def check(self, call: int) -> str | None:
        return check.fault(mask_of(self.sparsifier), self.input, self.case, self.level)


class WarmStep(ColdStep):
    """The next step of the same sparsifier, whose data have changed a bit."""

    name = "step(), data moved"

    def __init__(self, input_: Input, case: Case) -> None:
        super().__init__(input_, case, self.name)
        super().prepare(0)
        self.sparsifier.step()

    def prepare(self, call: int) -> None:
        self.input.drift(call)


class LevelStep(WarmStep):
    """The next step of the same sparsifier, whose level has moved by 0.01."""

    name = "step(), level moved"
    up = False

    def prepare(self, call: int) -> None:
        self.up = not self.up
        self.level = self.case.level + (0.01 if self.up else 0.0)
        self.sparsifier.data_groups["w"]["sparsity_level"] = self.level


# Cold and warm, where nothing is promised.
NO_GOALS: Mapping[type[ColdStep], float | None] = {ColdStep: None, WarmStep: None}


def candidate(step: ColdStep) -> Candidate:
    return Candidate(step.name, step.run, step.prepare, step.check)


def bound_of(input_: Input, case: Case, threads: int) -> Bound:
    """A bound with the threshold of the case's level."""
    if case.is_n_of_m:
        return Bound(input_, case, threads, 0, 0.0)
    key = check.cut(input_, case)
    if input_.dtype == "float64":
        score: Any = np.int64(key).view(np.float64)
    else:
        score = np.int32(key).view(np.float32)
    if np.isnan(score):  # the check takes all NaN for one; here nothing must lie above
        key = np.iinfo(f"i{input_.array.itemsize}").max
    return Bound(input_, case, threads, int(key), float(largest_sum(score, case.block)))


def largest_sum(score: np.floating, block: tuple[int, int]) -> np.floating:
    """The largest sum over a block whose mean is not above the score."""
    count = score.dtype.type(block[0] * block[1])
    if not np.isfinite(score):
        return score
    total = score * count
    above = np.nextafter(total, score.dtype.type(np.inf))
    while np.isfinite(above) and above / count <= score:  # where denormals round
        total, above = above, np.nextafter(above, score.dtype.type(np.inf))
    return total


def bound_candidates(bound: Bound, inside: int) -> list[Candidate]:
    def checked(call: int) -> str | None:
        mask = bound.mask.view(np.bool_).reshape(bound.input.array.shape)
        return check.fault_of_threshold(mask, bound.input, bound.case, bound.key)

    def make(loop: Loop) -> Candidate:
        def run(call: int) -> None:
            bound.run(loop, inside)

        return Candidate(f"bound, {loop.name}", run, inside=inside, check=checked, check_once=True)

    return [make(loop) for loop in bound.loops]


def copy_candidates(copy: Copy, inside: int) -> list[Candidate]:
    def make(loop: Loop) -> Candidate:
        return Candidate(f"copy, {loop.name}", lambda call: copy.run(loop, inside), inside=inside)

    read = Candidate("reads alone", lambda call: copy.read(inside), inside=inside)
    return [read, *(make(loop) for loop in copy.loops)]


def best_of(times: dict[str, Times], prefix: str) -> tuple[str, Times]:
    """The fastest of the candidates whose names begin so."""
    return min(
        ((name, time) for name, time in times.items() if name.startswith(prefix)),
        key=lambda item: item[1].median,
    )


def calls_for(elements: int) -> int:
    """More calls a round where one is short."""
    return max(1, min(40, (1 << 21) // elements))


def measure_step(
    section: str,
    input_: Input,
    case: Case,
    options: Options,
    goals: Mapping[type[ColdStep], float | None],
    peers: list[Candidate] | None = None,
    with_copy: bool = True,
) -> Iterator[Row]:
    """Rows for the best bound, the best copy, each kind of step in `goals`, and the peers."""
    elements = input_.array.size
    threads = options.threads
    name = f"{input_.name_and_shape}, {case.name}"
    progress(f"[{section}] {name}, {threads} thread{'s' if threads > 1 else ''}")
    calls = calls_for(elements)
    bound = bound_of(input_, case, threads)
    candidates = bound_candidates(bound, calls)
    steps = {kind.name: kind(input_, case) for kind in goals}
    candidates += [candidate(step) for step in steps.values()] + (peers or [])
    copy = Copy(input_.array, threads) if with_copy else None
    if copy is not None:
        candidates += copy_candidates(copy, calls)
    times = time_all(candidates, options.rounds, calls)
    for what, timed in times.items():
        tell_faults(f"{name}, {what}", timed.faults)
    disturbed = sum(timed.disturbed for timed in times.values())
    if disturbed:
        progress(
            f"  other processes disturbed {disturbed} of {calls * options.rounds * len(times)}"
        )

    def row(what: str, timed: Times, **more: Any) -> Row:
        return Row(
            section, name, what, timed.median, timed.spread, 1e9 * timed.median / elements,
            right=timed.right, elements=elements, threads=threads, isa=options.isa, **more,
        )  # fmt: skip

    best, fastest = best_of(times, "bound")
    yield row(best, fastest, gigabytes_a_second=bound.bytes_moved / fastest.median / 1e9)
    if copy is not None:
        reads = times["reads alone"]
        yield row("reads alone", reads, gigabytes_a_second=copy.source.nbytes / reads.median / 1e9)
        what, timed = best_of(times, "copy")
        yield row(what, timed, gigabytes_a_second=copy.bytes_moved / timed.median / 1e9)
    for kind, goal in goals.items():
        timed = times[kind.name]
        ratio = timed.median / fastest.median
        yield row(kind.name, timed, value=ratio, goal=None if goal is None else Goal(goal))
    for peer in peers or []:
        timed = times[peer.name]
        yield row(peer.name, timed, value=timed.median / fastest.median)


def rows_of(
    section: str,
    name: str,
    candidates: list[Candidate],
    options: Options,
    calls: int,
    elements: int,
    bytes_moved: int,
) -> Iterator[Row]:
    """Rows for candidates that all do the same, one of which is called the bound."""
    times = time_all(candidates, options.rounds, calls)
    for what, timed in times.items():
        tell_faults(f"{name}, {what}", timed.faults)
        ratio = None if what == "bound" else timed.median / times["bound"].median
        yield Row(
            section, name, what, timed.median, timed.spread, 1e9 * timed.median / elements,
            bytes_moved / timed.median / 1e9, ratio, right=timed.right, elements=elements,
            threads=options.threads, isa=options.isa,
        )  # fmt: skip
