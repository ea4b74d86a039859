"""What a step takes besides data and masks, as the operating system counts it.

The peak of a process's resident memory is reset before the step and read after it; each input has a
process of its own, whose threads have been started before.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasparse
import ml_dtypes

from bench.adversary import PLANTED
from bench.cases import HEADLINE, Case
from bench.child import run_child
from bench.inputs import HARD, STRIDED, make, natural
from bench.options import Options
from bench.report import Goal, Row, progress

TITLE = "Extra memory during a step"
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
DTYPES = ("float64", "float16", "bfloat16")


def resident(key: str) -> int:
    """Bytes: "VmRSS" now, "VmHWM" at the peak."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise LookupError(key)


def extra_of(work: Callable[[], object]) -> int:
    """The most bytes that some work takes at a time, besides those that are there before."""
    ctypes.CDLL(None).malloc_trim(0)  # or the work might live in what making the data has freed
    CLEAR.write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return max(0, resident("VmHWM") - before)


def extra_bytes(name: str, dtype: str, elements: int, case: Case, threads: int) -> int:
    """Of the first step of a sparsifier, whose mask is there already."""
    datasparse.set_num_threads(threads)
    input_ = natural(elements, dtype) if dtype != "float32" else make(name, elements)
    # Not torch's bfloat16: what torch allocates to be asked for its memory would count too.
    data = input_.array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else input_.data
    sparsifier = datasparse.DataNormSparsifier([("w", data)], case.level, **case.config)
    sparsifier.apply_mask()  # starts the threads, allocates nothing, and masks nothing yet
    return extra_of(sparsifier.step)


def allowance(natural_input: bool, data_bytes: int) -> float:
    """MiB: 2% of the data and 1 MiB; 10% for inputs that are not natural."""
    return data_bytes / (1 << 20) * (0.02 if natural_input else 0.1) + (1 if natural_input else 0)


def run(options: Options) -> Iterator[Row]:
    if not CLEAR.exists():
        progress("[memory] only where /proc/self/clear_refs exists")
        return
    elements = min(1 << 26, options.largest)
    jobs = [("Gaussian", "float32", case) for case in HEADLINE]
    jobs += [("Gaussian", dtype, Case((1, 1), 0.5)) for dtype in DTYPES]
    jobs += [(name, "float32", Case((1, 1), 0.5)) for name in [*HARD, *STRIDED, *PLANTED]]
    for name, dtype, case in jobs[:: 6 if options.quick else 1]:
        progress(f"[memory] {name} {dtype} {case.name}")
        arguments = [name, dtype, elements, case.block, case.level, case.zeros_per_block]
        extra = run_child("bench.sections.memory", [json.dumps([*arguments, options.threads])])
        width = {"float64": 8, "float32": 4}.get(dtype, 2)
        goal = allowance(name not in PLANTED, elements * width)
        yield Row(
            "memory", f"{name} {dtype}, {elements} elements, {case.name}", "step(), cold",
            value=extra / (1 << 20), unit=f"MiB, {extra / (elements * width):.1%} of the data",
            goal=Goal(round(goal, 2)) if elements == 1 << 26 else None,
            elements=elements, threads=options.threads, isa=options.isa,
        )  # fmt: skip


if __name__ == "__main__":
    name, dtype, elements, block, level, zeros, threads = json.loads(sys.argv[1])
    print(extra_bytes(name, dtype, elements, Case(tuple(block), level, zeros), threads))
