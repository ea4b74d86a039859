"""Cost per element from ten thousand elements to a thousand million: it should be flat."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.cases import Case
from bench.inputs import natural
from bench.options import Options
from bench.report import Row, progress
from bench.sections.peers import element_peers
from bench.step import NO_GOALS, measure_step

TITLE = "Cost per element over the size"
CASE = Case((1, 1), 0.9)
SIZES = {
    "float32": [10**exponent for exponent in range(4, 9)] + [3 * 10**8],
    "float16": [10**exponent for exponent in range(6, 10)],
}
PEERS_UP_TO = 10**7
# Data, mask, the bound's mask, the copy's target, and what the check holds at a time, with room.
BYTES_AN_ELEMENT = {"float32": 4 + 1 + 1 + 4 + 8, "float16": 2 + 1 + 1 + 2 + 4}


def memory_available() -> int:
    """Bytes that can be used without swapping, where the system tells."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return 1 << 62
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def run(options: Options) -> Iterator[Row]:
    for dtype, sizes in SIZES.items():
        for size in options.sizes(*sizes):
            if size * BYTES_AN_ELEMENT[dtype] > memory_available():
                progress(f"[curve] {size} {dtype} elements do not fit into memory")
                continue
            input_ = natural(size, dtype)
            peers = []
            if dtype == "float32" and size <= PEERS_UP_TO:
                peers = element_peers(input_, CASE)[1:]  # those that end with a mask
            rounds = min(options.rounds, 3) if size > 10**8 else options.rounds
            yield from measure_step(
                "curve", input_, CASE, replace(options, rounds=rounds), NO_GOALS, peers
            )
