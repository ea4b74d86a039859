"""A training step of a thousand groups by the C functions, beside the C++ classes."""

import ctypes
from collections.abc import Iterator

import numpy as np

from bench import build
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress, tell_faults

TITLE = "A step of 1,000 groups of 1,024 elements from C, beside C++"
GROUPS, ELEMENTS = 1_000, 1_024
GOAL = 1.05  # times the C++ classes


def run(options: Options) -> Iterator[Row]:
    library = build.core()
    if library is None:
        progress("No CMake: the section embedding is left out.")
        return
    library.bench_set_threads(options.threads)
    groups = min(GROUPS, max(10, options.largest // ELEMENTS))
    for overridden in (False, True):
        masks = "masks of its own" if overridden else "masks by norm"
        name = f"step(), apply_mask(), a schedule of its own; {masks}"
        progress(f"[embedding] {name}")
        trainings = {}
        for way in ("classes", "functions"):
            data = np.random.default_rng(0).standard_normal((groups, ELEMENTS), dtype=np.float32)
            make = getattr(library, f"bench_{way}")
            make.restype = ctypes.c_void_p
            pointer = ctypes.c_void_p(data.ctypes.data)
            made = make(pointer, ctypes.c_int64(groups), ctypes.c_int64(ELEMENTS), overridden)
            trainings[way] = ctypes.c_void_p(made), data

        def step(way: str, trainings: dict = trainings) -> None:
            getattr(library, f"bench_{way}_step")(trainings[way][0])

        # Of a level of 0.5, and of 0.49 in every second step.
        right = {groups * ELEMENTS // 2} | (set() if overridden else {groups * 502})

        def check(way: str, trainings: dict = trainings, right: set = right) -> str | None:
            zeros = getattr(library, f"bench_{way}_zeros")
            zeros.restype = ctypes.c_int64
            found, data = zeros(trainings[way][0]), trainings[way][1]
            pruned = int(np.count_nonzero(data == 0))
            if found in right and pruned >= found:
                return None
            return f"{found} zeros in the masks, {pruned} in the data, expected {right}"

        candidates = [
            Candidate(way, lambda _, way=way: step(way), check=lambda _, way=way: check(way))
            for way in trainings
        ]
        times = time_all(candidates, options.rounds, calls=40)
        for way, timed in times.items():
            tell_faults(f"{name}, {way}", timed.faults)
            yield Row(
                "embedding", name, {"classes": "C++", "functions": "C"}[way], timed.median,
                timed.spread, 1e9 * timed.median / (groups * ELEMENTS),
                value=timed.median / times["classes"].median, unit="x C++",
                goal=Goal(GOAL) if way == "functions" and groups == GROUPS else None,
                right=timed.right, elements=groups * ELEMENTS, threads=options.threads,
                isa=options.isa,
            )  # fmt: skip
