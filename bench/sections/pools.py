"""One threshold over many tensors, beside the same tensors each by itself."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import datasparse
import numpy as np
import torch
from torch.nn.utils import prune

from bench.child import run_child
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults
from bench.sections.memory import CLEAR, allowance, extra_of

TITLE = "Pools: one threshold over many tensors"
LEVEL, STEP = 0.5, 0.01
LAYERS, HIDDEN = 50, 336  # twelve times its square each: 300 tensors, 64 Mi elements
ALONE: dict[str, Any] = {}
POOL: dict[str, Any] = {"pool": "all"}
BOUNDED: dict[str, Any] = {"pool": "all", "min_level": 0.3, "max_level": 0.6}
NORMALIZED: dict[str, Any] = {"pool": "all", "normalize": "l2"}
GROUPS, ELEMENTS = 10_000, 1_024


def transformer(largest: int) -> list[np.ndarray]:
    """Weights whose scales differ as those of layers do."""
    hidden = min(HIDDEN, math.isqrt(largest // (12 * LAYERS)) // 16 * 16)
    block = [(hidden, hidden)] * 4 + [(4 * hidden, hidden), (hidden, 4 * hidden)]
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape, dtype=np.float32) * np.float32(0.7 + 0.6 * rng.random())
        for _ in range(LAYERS)
        for shape in block
    ]


class Step:
    """A step of all tensors, cold: of a sparsifier that has seen nothing yet."""

    def __init__(self, name: str, data: list[np.ndarray], block: tuple[int, int], config: Any):
        self.name, self.data, self.block, self.config = name, data, block, config

    def prepare(self, call: int) -> None:
        self.level = LEVEL + STEP * (call % 2)
        self.sparsifier: Any = None
        self.sparsifier = datasparse.DataNormSparsifier(
            [(f"{i}", x) for i, x in enumerate(self.data)],
            self.level,
            self.block,
            **self.config,
        )

    def run(self, call: int) -> None:
        self.sparsifier.step()

    def masks(self) -> list[np.ndarray]:
        return [np.asarray(self.sparsifier.get_mask(name)) for name in self.sparsifier.data_groups]

    def check(self, call: int) -> str | None:
        return fault(self.data, self.masks(), self.block, self.level, self.config)


class LevelStep(Step):
    """The next one, at another level."""

    def __init__(self, name: str, data: list[np.ndarray], block: tuple[int, int], config: Any):
        super().__init__(name, data, block, config)
        super().prepare(0)
        self.sparsifier.step()

    def prepare(self, call: int) -> None:
        self.level = LEVEL + STEP * (call % 2)
        for group in self.sparsifier.data_groups.values():
            group["sparsity_level"] = self.level


def scores_of(x: np.ndarray, block: tuple[int, int], config: Any) -> np.ndarray:
    scores = np.zeros((x.shape[0], x.shape[1] // block[1]), np.float32)
    for column in range(block[1]):
        scores += np.abs(x[:, column :: block[1]])
    scores /= np.float32(block[1])
    if "normalize" not in config:
        return scores.astype(np.float64)
    # The sum of squares may differ in the last bit: then equal scores might, too.
    return scores / math.sqrt(math.fsum(np.square(scores.reshape(-1), dtype=np.float64)))


def fault(
    data: list[np.ndarray],
    masks: list[np.ndarray],
    block: tuple[int, int],
    level: float,
    config: Any,
) -> str | None:
    """What is wrong with the masks: the budget, the bounds, or an order of two blocks."""
    total = pruned = 0
    highest_pruned, lowest_kept = 0.0, np.inf
    for x, mask in zip(data, masks, strict=True):
        keep = mask.reshape(x.shape)[:, :: block[1]]
        n, k = keep.size, keep.size - int(np.count_nonzero(keep))
        total, pruned = total + n, pruned + k
        scores = scores_of(x, block, config)
        last = float(scores[~keep].max(initial=0.0))
        first = float(scores[keep].min(initial=np.inf))
        if last > first:
            return "a pruned block lies above a kept one of the same tensor"
        if not config:
            if k != round(level * n):
                return f"{k} of {n} are pruned"
            continue
        least = math.floor(min(config.get("min_level", 0), level) * n)
        most = math.ceil(config.get("max_level", 1) * n)
        if not least - 1 <= k <= most:
            return f"{k} of {n} are pruned"
        if k < most:
            lowest_kept = min(lowest_kept, first)
        if k > least:
            highest_pruned = max(highest_pruned, last)
    if config and pruned != round(level * total):
        return f"{pruned} of {total} are pruned"
    slack = 1 + 2e-16 if "normalize" in config else 1
    if config and highest_pruned > lowest_kept * slack:
        return "a pruned block lies above a kept one of another tensor"
    return None


class GlobalUnstructured:
    """What PyTorch has: it gathers all weights in one tensor."""

    name = "torch.nn.utils.prune.global_unstructured"

    def __init__(self, data: list[np.ndarray]):
        self.data = data

    def prepare(self, call: int) -> None:
        self.modules = []
        for x in self.data:
            module = torch.nn.Module()
            module.weight = torch.nn.Parameter(torch.from_numpy(x))
            self.modules.append(module)

    def run(self, call: int) -> None:
        prune.global_unstructured(
            [(module, "weight") for module in self.modules],
            pruning_method=prune.L1Unstructured,
            amount=LEVEL,
        )

    def check(self, call: int) -> str | None:
        masks = [module.weight_mask.bool().numpy() for module in self.modules]
        return fault(self.data, masks, (1, 1), LEVEL, POOL)


def candidate(step: Any, at_most: int | None = None) -> Candidate:
    return Candidate(step.name, step.run, step.prepare, step.check, at_most=at_most)


def extra_bytes(what: str, largest: int, threads: int) -> int:
    """Of a first step, or of what PyTorch does; masks are there already."""
    datasparse.set_num_threads(threads)
    torch.set_num_threads(threads)
    data = transformer(largest)
    step: Any = Step("", data, (1, 1), POOL) if what == "pool" else GlobalUnstructured(data)
    step.prepare(0)
    if what == "pool":
        step.sparsifier.apply_mask()
    return extra_of(lambda: step.run(0))


def run(options: Options) -> Iterator[Row]:
    data = transformer(options.largest)
    elements = sum(x.size for x in data)
    full = options.largest >= 1 << 26
    for block in [(1, 1)] if options.quick else [(1, 1), (1, 4)]:
        case = f"{len(data)} tensors, {elements} elements, block {block}"
        progress(f"[pools] {case}")
        candidates, goals, base = [], {}, {}
        for kind, when in ((Step, "cold"), (LevelStep, "level moved by 0.01")):
            for name, config, goal in (
                ("each by itself", ALONE, None),
                ("pool", POOL, 1.0 if kind is Step else 1.1),
                ("pool with bounds", BOUNDED, 1.5),
                ("pool, normalized", NORMALIZED, None),
            ):
                what = f"{name}, {when}"
                candidates.append(candidate(kind(what, data, block, config)))
                goals[what] = Goal(goal) if goal is not None and full else None
                base[what] = f"each by itself, {when}"
        if block == (1, 1):
            candidates.append(candidate(GlobalUnstructured(data), at_most=1))
            goals[GlobalUnstructured.name] = Goal(100.0, at_least=True) if full else None
            base[GlobalUnstructured.name] = "pool, cold"
        times = time_all(candidates, options.rounds)
        for what, timed in times.items():
            tell_faults(f"{case}, {what}", timed.faults)
            beside = base[what]
            yield Row(
                "pools", case, what, timed.median, timed.spread, 1e9 * timed.median / elements,
                value=None if what == beside else timed.median / times[beside].median,
                unit=f"x {beside.split(',')[0]}", goal=goals[what], right=timed.right,
                elements=elements, threads=options.threads, isa=options.isa,
            )  # fmt: skip
    del data, candidates
    yield from many_small(options)
    yield from memory(options, elements)


def many_small(options: Options) -> Iterator[Row]:
    groups = min(GROUPS, max(10, options.largest // ELEMENTS))
    rows = np.random.default_rng(0).standard_normal((groups, 1, ELEMENTS), dtype=np.float32)
    case = f"{groups} tensors of {ELEMENTS} elements in one pool"
    progress(f"[pools] {case}")
    steps = [kind(what, list(rows), (1, 1), POOL) for kind, what in
             ((Step, "cold"), (LevelStep, "level moved by 0.01"))]  # fmt: skip
    for what, timed in time_all([candidate(step) for step in steps], options.rounds).items():
        tell_faults(f"{case}, {what}", timed.faults)
        yield Row(
            "pools", case, what, timed.median, timed.spread, 1e9 * timed.median / rows.size,
            value=1e6 * timed.median / groups, unit="µs a group",
            goal=Goal(3.0) if groups == GROUPS else None, right=timed.right, elements=rows.size,
            threads=options.threads, isa=options.isa,
        )  # fmt: skip


def memory(options: Options, elements: int) -> Iterator[Row]:
    if not CLEAR.exists():
        progress("[pools] extra memory only where /proc/self/clear_refs exists")
        return
    for what in ("pool", GlobalUnstructured.name):
        progress(f"[pools] extra memory of {what}")
        arguments = json.dumps([what, options.largest, options.threads])
        extra = run_child("bench.sections.pools", [arguments])
        goal = Goal(round(allowance(True, 4 * elements), 2)) if what == "pool" else None
        yield Row(
            "pools", f"extra memory, {elements} elements", what, value=extra / (1 << 20),
            unit=f"MiB, {extra / (4 * elements):.1%} of the data",
            goal=goal if options.largest >= 1 << 26 else None,
            elements=elements, threads=options.threads, isa=options.isa,
        )  # fmt: skip


if __name__ == "__main__":
    print(extra_bytes(*json.loads(sys.argv[1])))
