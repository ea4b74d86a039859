"""Times step() beside its yardstick and its peers, in one process, with every answer checked.

    python bench/step.py                         16 Mi elements, all threads
    python bench/step.py --elements 1048576 --threads 1 --json result.json

Needs torch (pip install 'datasparse[test]') and a C++ compiler for the streaming bound. Times are
medians; the order of the candidates is shuffled in every round, and the level moves a little from
round to round, so that no branch predictor learns an answer.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import datasparse
import numpy as np
import torch
from bound import Bound
from torch.ao.pruning._experimental.data_sparsifier import data_norm_sparsifier

ROWS = 1024  # of the matrix; the columns follow from the number of elements
JITTER = (0.0, -0.004, 0.003, -0.002, 0.001)  # added to the level, round by round


@dataclass(frozen=True)
class Case:
    block: tuple[int, int]
    level: float
    zeros_per_block: int | None = None

    @property
    def name(self) -> str:
        if self.zeros_per_block is not None:
            return f"{self.zeros_per_block}:{self.block[1]}"
        return f"({self.block[0]},{self.block[1]}) at {self.level}"

    @property
    def config(self) -> dict[str, object]:
        return {"sparse_block_shape": self.block, "zeros_per_block": self.zeros_per_block}

    def level_of(self, round_: int) -> float:
        return self.level if self.level == 1.0 else self.level + JITTER[round_ % len(JITTER)]


CASES = [Case(block, level) for block in [(1, 1), (1, 4), (4, 4)] for level in (0.5, 0.9)]
CASES.append(Case((1, 4), 1.0, zeros_per_block=2))


@dataclass
class Row:
    case: str
    what: str
    milliseconds: float
    spread: float  # (slowest - fastest) / median
    times_bound: float
    right: bool | None  # None: this candidate gives no mask


def time_all(candidates: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each candidate, called with the number of the round."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds):
        for name in random.sample(sorted(candidates), len(candidates)):
            begin = time.perf_counter()
            candidates[name](round_)
            times[name].append(1e3 * (time.perf_counter() - begin))
    return times


def run_case(case: Case, data: np.ndarray, threads: int, rounds: int, slow: bool) -> list[Row]:
    bound = Bound(data, threads)
    tensor = torch.from_numpy(data)
    sparsifier = datasparse.DataNormSparsifier([("w", data)], **case.config)
    # |x| of the element at which an element-wise selection cuts; any value does for the bound.
    cut = round(case.level_of(0) * data.size) - 1
    threshold = float(np.partition(np.abs(data), cut, axis=None)[cut])

    def step(round_: int) -> None:
        sparsifier.data_groups["w"]["sparsity_level"] = case.level_of(round_)
        sparsifier.step()

    candidates: dict[str, Callable[[int], object]] = {
        "bound, ordinary stores": lambda _: bound.ordinary(threshold),
        "bound, streaming stores": lambda _: bound.streaming(threshold),
        "copy": lambda _: bound.copy(),
        "datasparse step()": step,
    }
    if case.block == (1, 1):

        def numpy_partition(round_: int) -> np.ndarray:
            scores = np.abs(data).reshape(-1)
            k = round(case.level_of(round_) * data.size) - 1
            return np.abs(data) > np.partition(scores, k)[k]

        def torch_kthvalue(round_: int) -> torch.Tensor:
            scores = tensor.abs()
            k = round(case.level_of(round_) * data.size)
            return scores > scores.flatten().kthvalue(k).values

        candidates |= {"numpy.partition": numpy_partition, "torch.kthvalue": torch_kthvalue}
    if slow:
        incumbent = data_norm_sparsifier.DataNormSparsifier(
            [("w", tensor)], case.level, case.block, case.zeros_per_block
        )

        def incumbent_step(round_: int) -> None:
            incumbent.data_groups["w"]["sparsity_level"] = case.level_of(round_)
            incumbent.step()

        candidates["PyTorch's DataNormSparsifier"] = incumbent_step

    for candidate in candidates.values():  # once to warm up, and for the answers
        candidate(0)
    mask = sparsifier.get_mask("w").copy()
    right: dict[str, bool] = {}
    if slow:
        right["datasparse step()"] = bool((incumbent.get_mask("w").bool().numpy() == mask).all())
    if case.block == (1, 1):
        for peer in ("numpy.partition", "torch.kthvalue"):
            right[peer] = bool((np.asarray(candidates[peer](0)) == mask).all())
        right["bound, ordinary stores"] = bool((bound.mask == mask).all())
        right.setdefault("datasparse step()", right["numpy.partition"])

    times = time_all(candidates, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(medians["bound, ordinary stores"], medians["bound, streaming stores"])
    return [
        Row(
            case.name,
            name,
            medians[name],
            (max(values) - min(values)) / medians[name],
            medians[name] / best,
            right.get(name),
        )
        for name, values in times.items()
    ]


def gigabytes_per_second(row: Row, elements: int) -> str:
    """What a bound or a copy moves; it shows whether the yardstick itself is slow."""
    if row.what == "copy":
        return f"{8 * elements / row.milliseconds / 1e6:.1f}"
    if row.what.startswith("bound"):
        return f"{5 * elements / row.milliseconds / 1e6:.1f}"
    return ""


def print_table(rows: list[Row], elements: int) -> None:
    print("| case | what | ms | spread | x bound | GB/s | answer |")
    print("|---|---|---:|---:|---:|---:|---|")
    for row in rows:
        answer = {None: "", True: "right", False: "WRONG"}[row.right]
        print(
            f"| {row.case} | {row.what} | {row.milliseconds:.2f} | {row.spread:.0%} "
            f"| {row.times_bound:.2f} | {gigabytes_per_second(row, elements)} | {answer} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=1 << 24, help="a multiple of 65536")
    parser.add_argument("--threads", type=int, default=datasparse.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fast", action="store_true", help="leave PyTorch's sparsifier out")
    parser.add_argument("--json", help="write the rows to this file too")
    arguments = parser.parse_args()
    if arguments.elements < 65536 or arguments.elements % 65536:
        parser.error("--elements must be a multiple of 65536")

    torch.set_num_threads(arguments.threads)
    datasparse.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((ROWS, arguments.elements // ROWS), dtype=np.float32)
    info = datasparse.runtime_info() | {"processor": platform.processor() or platform.machine()}
    print(f"{arguments.elements} float32 elements; {info}\n")
    rows = []
    for case in CASES:
        rows += run_case(case, data, arguments.threads, arguments.rounds, not arguments.fast)
    print_table(rows, arguments.elements)
    if arguments.json:
        summary = {"elements": arguments.elements, "info": info}
        Path(arguments.json).write_text(
            json.dumps(summary | {"rows": [asdict(row) for row in rows]}, indent=1)
        )
    return 1 if any(row.right is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
