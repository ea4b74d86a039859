"""step() on ten thousand small tensors: from C++, on NumPy arrays, on torch parameters."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import datasparse
import numpy as np
import torch

from bench import build
from bench.cases import Case
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults

TITLE = "10,000 groups of 1,024 elements"
GROUPS, ELEMENTS = 10_000, 1_024
CASES = [Case((1, 1), 0.5), Case((1, 4), 0.5)]
GOALS = {"from C++": 1.5, "NumPy arrays": 2.0, "torch parameters": 4.0}  # µs a group


def expected(data: np.ndarray, case: Case, level: float) -> np.ndarray:
    """All masks at once: a stable sort of every row."""
    width = case.block[1]
    scores = np.zeros((data.shape[0], data.shape[1] // width), np.float32)
    for column in range(width):
        scores += np.abs(data[:, column::width])
    order = np.argsort(scores / np.float32(width), axis=1, kind="stable")
    keep = np.ones(scores.shape, bool)
    np.put_along_axis(keep, order[:, : case.pruned(scores.shape[1], level)], False, axis=1)
    return np.repeat(keep, width, axis=1)


@dataclass
class Way:
    """One way to hold the groups."""

    set_level: Callable[[float], object]
    step: Callable[[], object]
    masks: Callable[[], np.ndarray]


def from_python(groups: list[object], case: Case) -> Way:
    names = [f"group{i}" for i in range(len(groups))]
    sparsifier = datasparse.DataNormSparsifier(
        list(zip(names, groups, strict=True)), case.level, **case.config
    )

    def set_level(level: float) -> None:
        for name in names:
            sparsifier.data_groups[name]["sparsity_level"] = level

    def masks() -> np.ndarray:
        return np.stack([np.asarray(sparsifier.get_mask(name)).reshape(-1) for name in names])

    return Way(set_level, sparsifier.step, masks)


def from_cpp(data: np.ndarray, case: Case, threads: int) -> Way | None:
    library = build.core()
    if library is None:
        return None
    library.bench_set_threads(threads)
    sparsifier = ctypes.c_void_p(
        library.bench_groups(
            ctypes.c_void_p(data.ctypes.data), ctypes.c_int64(data.shape[0]),
            ctypes.c_int64(data.shape[1]), ctypes.c_double(case.level),
            ctypes.c_int64(case.block[0]), ctypes.c_int64(case.block[1]),
        )
    )  # fmt: skip

    def masks() -> np.ndarray:
        result = np.empty(data.shape, np.bool_)
        library.bench_masks(sparsifier, ctypes.c_void_p(result.ctypes.data))
        return result

    return Way(
        lambda level: library.bench_set_level(sparsifier, ctypes.c_double(level)),
        lambda: library.bench_step(sparsifier),
        masks,
    )


def candidate(name: str, way: Way, data: np.ndarray, case: Case) -> Candidate:
    def check(call: int) -> str | None:
        right = np.array_equal(way.masks(), expected(data, case, case.level_of(call)))
        return None if right else "a mask is not that of a stable sort"

    return Candidate(
        name, lambda call: way.step(), lambda call: way.set_level(case.level_of(call)), check
    )


def run(options: Options) -> Iterator[Row]:
    groups = min(GROUPS, max(10, options.largest // ELEMENTS))
    data = np.random.default_rng(0).standard_normal((groups, ELEMENTS), dtype=np.float32)
    for case in CASES:
        name = f"{groups} groups of {ELEMENTS}, {case.name}"
        progress(f"[groups] {name}")
        ways = {
            "from C++": from_cpp(data, case, options.threads),
            "NumPy arrays": from_python(list(data), case),
            "torch parameters": from_python(
                [torch.nn.Parameter(torch.from_numpy(row)) for row in data], case
            ),
        }
        if ways["from C++"] is None:
            progress("No CMake: the row from C++ is left out.")
        candidates = [candidate(what, way, data, case) for what, way in ways.items() if way]
        for what, timed in time_all(candidates, options.rounds, calls=3).items():
            tell_faults(f"{name}, {what}", timed.faults)
            yield Row(
                "groups", name, what, timed.median, timed.spread,
                1e9 * timed.median / data.size, value=1e6 * timed.median / groups,
                unit="µs a group", goal=Goal(GOALS[what]) if groups == GROUPS else None,
                right=timed.right, elements=data.size, threads=options.threads, isa=options.isa,
            )  # fmt: skip
