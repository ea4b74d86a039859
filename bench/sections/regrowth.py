"""A step of masks that move, beside what it must read and write, and the same in torch."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import datasparse
import numpy as np
import torch
from datasparse.regrowth import SET, RigL

from bench.cases import TWO_OF_FOUR, Case
from bench.child import run_child
from bench.inputs import Input, natural
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults
from bench.sections.memory import CLEAR, allowance, extra_of
from bench.step import best_of, bound_of
from bench.yardstick import Bound, Copy, Loop

TITLE = "Masks that move: 30% of the active blocks go, and others grow"
ELEMENTS = 1 << 26
FRACTION = 0.3
GOAL = 3.5
CASES = [Case((1, 1), 0.9), Case((1, 1), 0.5), Case((1, 4), 0.9), Case((4, 4), 0.9), TWO_OF_FOUR]
KINDS: dict[str, Any] = {"RigL": RigL, "SET": SET}


class Step:
    """The next step of a sparsifier, on the same weights and gradients."""

    def __init__(
        self, kind: str, weights: np.ndarray, gradients: np.ndarray, case: Case, **config: Any
    ) -> None:
        self.kind, self.case = kind, case
        self.weights, self.gradients = weights, gradients
        self.original = weights.copy()
        self.sparsifier = KINDS[kind](
            [("w", weights)], case.level, FRACTION, **case.config, **config
        )
        self.sparsifier.step()  # draws

    def prepare(self, call: int) -> None:
        self.weights[...] = self.original
        self.before = self.sparsifier.get_mask("w").copy()
        if self.kind == "RigL":
            self.sparsifier.set_gradients({"w": self.gradients})

    def run(self, call: int) -> None:
        self.sparsifier.step()

    def check(self, call: int) -> str | None:
        mask = self.sparsifier.get_mask("w")
        if not np.array_equal(mask.sum(), self.before.sum()):
            return "another number of weights is active"
        expected = np.where(mask & ~self.before, 0, self.original)
        if not np.array_equal(self.weights, expected):
            return "other weights than those that grew have changed"
        if self.case.block == (1, 1) and self.kind == "RigL":
            expected_mask = rigl(abs(self.original), abs(self.gradients), self.before)
            if not np.array_equal(mask, expected_mask):
                return "the mask is not that of the rule"
        return None


def rigl(weights: np.ndarray, gradients: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The next mask, of single weights, by magnitudes."""
    active = int(mask.sum())
    survivors = mask & ~lowest(weights, mask, int(FRACTION * active))
    return ~lowest(gradients, ~survivors, mask.size - active)


def lowest(values: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Which are the lowest of some values: of equal ones, the first."""
    threshold = np.partition(values[among], count - 1)[count - 1]
    found: np.ndarray = among & (values < threshold)
    ties = np.flatnonzero(among & (values == threshold))
    found.reshape(-1)[ties[: count - int(found.sum())]] = True
    return found


def torch_step(weights: torch.Tensor, gradients: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """RigL for single weights, by topk: of equal values, it takes any."""
    k = int(FRACTION * int(mask.sum()))
    scores = weights.abs().masked_fill_(~mask, torch.inf).reshape(-1)
    survivors = mask.clone()
    survivors.view(-1)[scores.topk(k, largest=False, sorted=False).indices] = False
    scores = gradients.abs().masked_fill_(survivors, -1).reshape(-1)
    survivors.view(-1)[scores.topk(k, sorted=False).indices] = True
    return survivors


def bound_candidates(bound: Bound, gradients: Copy | None) -> list[Candidate]:
    """The mask of the weights by a threshold that is known, and the gradients read once."""

    def make(loop: Loop) -> Candidate:
        def run(call: int) -> None:
            bound.run(loop)
            if gradients is not None:
                gradients.read()

        return Candidate(f"bound, {loop.name}", run)

    return [make(loop) for loop in bound.loops]


def in_torch(step: Step) -> Candidate:
    tensors = [torch.from_numpy(array) for array in (step.original, step.gradients)]
    out = torch.from_numpy(step.weights)

    def run(call: int) -> None:
        before = torch.from_numpy(step.before)
        new = torch_step(out, tensors[1], before) & ~before
        out[new] = 0

    return Candidate("the same in torch", run, step.prepare, at_most=2)


def run(options: Options) -> Iterator[Row]:
    elements = min(ELEMENTS, options.largest)
    torch.set_num_threads(options.threads)
    gradients = natural(elements, seed=1)
    jobs = [("RigL", case, {}) for case in CASES]
    jobs += [("SET", CASES[0], {}), ("RigL", CASES[0], {"pool": "all"})]
    for kind, case, config in jobs[:: 4 if options.quick else 1]:
        input_ = natural(elements)
        name = f"{kind}{' in a pool' if config else ''} of {input_.name_and_shape}, {case.name}"
        progress(f"[regrowth] {name}")
        yield from measure(kind, case, config, input_, gradients, name, options)
    if not CLEAR.exists():
        return
    for kind, case, config in jobs[:: 4 if options.quick else 1]:
        arguments = [kind, elements, case.block, case.level, case.zeros_per_block, config]
        extra = run_child("bench.sections.regrowth", [json.dumps([*arguments, options.threads])])
        yield Row(
            "regrowth",
            f"{kind}{' in a pool' if config else ''}, {elements} elements, {case.name}",
            "extra memory of a step",
            value=extra / (1 << 20), unit=f"MiB, {extra / (elements * 4):.1%} of the data",
            goal=Goal(round(allowance(True, elements * 4), 2)) if elements == ELEMENTS else None,
            elements=elements, threads=options.threads, isa=options.isa,
        )  # fmt: skip


def measure(
    kind: str,
    case: Case,
    config: dict[str, Any],
    input_: Input,
    gradients: Input,
    name: str,
    options: Options,
) -> Iterator[Row]:
    elements = input_.array.size
    bound = bound_of(input_, case, options.threads)
    reads = Copy(gradients.array, options.threads) if kind == "RigL" else None
    step = Step(kind, input_.array, gradients.array, case, **config)
    mine = Candidate("a step", step.run, step.prepare, step.check)
    step.prepare(0)
    candidates = [*bound_candidates(bound, reads), mine]
    if case.block == (1, 1) and kind == "RigL" and not config:
        candidates.append(in_torch(step))
    times = time_all(candidates, options.rounds)
    best, fastest = best_of(times, "bound")
    moved = bound.bytes_moved + (gradients.array.nbytes if reads is not None else 0)
    for what, timed in times.items():
        if what.startswith("bound") and what != best:
            continue
        tell_faults(f"{name}, {what}", timed.faults)
        is_mine = what == mine.name
        yield Row(
            "regrowth", name, what, timed.median, timed.spread, 1e9 * timed.median / elements,
            moved / timed.median / 1e9 if what == best else None,
            None if what == best else timed.median / fastest.median,
            goal=Goal(GOAL) if is_mine and elements == ELEMENTS and kind == "RigL" else None,
            right=timed.right, elements=elements, threads=options.threads, isa=options.isa,
        )  # fmt: skip


def extra_bytes(kind: str, elements: int, case: Case, config: dict[str, Any], threads: int) -> int:
    """Of the first step that moves a mask, in the first one's place: no scratch is there yet."""
    datasparse.set_num_threads(threads)
    weights, gradients = natural(elements).array, natural(elements, seed=1).array
    sparsifier = KINDS[kind](sparsity_level=case.level, **case.config, **config)
    mask = np.random.default_rng(2).random(weights.shape, dtype=np.float32) >= case.level
    if case.is_n_of_m:
        mask = np.broadcast_to(np.arange(case.block[1]) % 2 == 0, (elements // 4, 4))
        mask = mask.reshape(weights.shape)
    sparsifier.add_data("w", weights, mask=mask)
    if kind == "RigL":
        sparsifier.set_gradients({"w": gradients})
    sparsifier.apply_mask()  # starts the threads
    return extra_of(sparsifier.step)


if __name__ == "__main__":
    kind, elements, block, level, zeros, config, threads = json.loads(sys.argv[1])
    case = Case(tuple(block), level, zeros)
    print(extra_bytes(kind, elements, case, config, threads))
