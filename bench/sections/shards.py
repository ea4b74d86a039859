"""Masks over ranks: what is sent, by simulated ranks and by two of gloo; what one rank costs."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import datasparse
import numpy as np
import torch

from bench.build import ROOT
from bench.measure import Candidate, time_all
from bench.options import Options
from bench.report import Goal, Row, progress
from bench.sections.memory import CLEAR, allowance, extra_of
from bench.sections.pools import POOL, LevelStep, Step, transformer
from bench.shards import (
    BANDWIDTH,
    HOP,
    LEVEL,
    MODELS,
    SINGLE,
    TENSORS,
    Sent,
    Simulation,
    move,
    weights_of,
    whole_masks,
)

TITLE = (
    "Shards: what ranks send each other. Times of simulated ranks are those of a model: "
    f"{HOP * 1e6:g} µs a hop, {BANDWIDTH / 1e9:g} GB/s a rank"
)
RANKS = (2, 32, 1024)
SIMULATED = 1 << 22  # elements of all tensors
MEASURED, LEAST = 1 << 24, 1 << 18
DTYPES = ("float32", "bfloat16")
KINDS = {True: "pool", False: "each by itself"}


def run(options: Options) -> Iterator[Row]:
    if not torch.distributed.is_available():
        progress("[shards] only where torch has torch.distributed")
        return
    yield from simulated(options)
    yield from on_gloo(options)
    yield from one_rank(options)
    yield from memory(options)


# --- simulated --------------------------------------------------------------------------------


def simulated(options: Options) -> Iterator[Row]:
    for name, model in MODELS.items():
        shapes = model.shapes(max(LEAST, min(SIMULATED, options.largest)))
        case = f"{TENSORS} tensors of {name}, in small, level {LEVEL}, {SINGLE}"
        for dtype in DTYPES[: 1 if options.quick else None]:
            for is_pool, kind in KINDS.items():
                # Ranks send the same however many they are: the most take minutes to simulate.
                most = 8 if options.quick else 32 if dtype != "float32" else None
                for ranks in sorted({min(ranks, most or ranks) for ranks in RANKS}):
                    progress(f"[shards] {case}, {dtype}, {kind}, {ranks} simulated ranks")
                    weights = weights_of(shapes, getattr(torch, dtype))
                    simulation = Simulation(weights, ranks, is_pool)
                    for when in ("cold", "hinted"):
                        sent, right = simulation.step()
                        what = f"{kind}, {dtype}, {when}, {ranks} ranks simulated"
                        yield row_of(case, what, sent, sent.seconds(ranks), right, options)
                        move(weights)


def row_of(case: str, what: str, sent: Sent, seconds: float, right: bool, options: Options) -> Row:
    return Row(
        "shards", case, what, seconds, value=sent.bytes / 1024,
        unit=f"KiB a rank, rounds: {sent.rounds}", right=right, threads=options.threads,
        isa=options.isa,
    )  # fmt: skip


# --- ranks of gloo, each a process ------------------------------------------------------------


def on_gloo(options: Options) -> Iterator[Row]:
    largest = max(LEAST, min(MEASURED, options.largest))
    for kind in KINDS.values():
        progress(f"[shards] two ranks of gloo, {kind}")
        found = run_ranks(2, ["gloo", kind, largest, options.rounds])
        for when, (seconds, rounds, sent, right) in found.items():
            case = f"{TENSORS} tensors of 7B, in small, level {LEVEL}, {SINGLE}"
            what = f"{kind}, float32, {when}, 2 ranks of gloo, measured"
            yield row_of(case, what, Sent(rounds, sent, 0), seconds, right, options)


def run_ranks(size: int, arguments: list[Any]) -> Any:
    """What the first of so many processes of this module prints."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.sections.shards", json.dumps([*arguments, size]),
                 f"{folder}/store", str(rank)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip
        printed = [rank.communicate()[0] for rank in ranks]
    failed = [rank.returncode for rank in ranks if rank.returncode != 0]
    if failed:
        raise subprocess.CalledProcessError(failed[0], ranks[0].args)
    return json.loads(printed[0])


def join(store: str, rank: int, size: int) -> Any:
    """A mesh of all ranks."""
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=size, store=torch.distributed.FileStore(store, size)
    )
    return torch.distributed.init_device_mesh("cpu", (size,))


def sharded(weights: list[torch.Tensor], mesh: Any) -> list[Any]:
    from torch.distributed.tensor import Shard, distribute_tensor

    return [distribute_tensor(weight, mesh, [Shard(0)], src_data_rank=None) for weight in weights]


def steps_on_gloo(
    kind: str, largest: int, rounds: int, size: int, store: str, rank: int
) -> dict[str, Any]:
    """Medians of seconds, and what is sent, of the first step and of those that follow it."""
    from datasparse.torch.sharded import layout_of

    torch.set_num_threads(1)
    mesh = join(store, rank, size)
    weights = weights_of(MODELS["7B"].shapes(largest), torch.float32)
    times: dict[str, list[float]] = {"cold": [], "hinted": []}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        shards = sharded(weights, mesh)
        sparsifier: Any = datasparse.DataNormSparsifier(
            [(str(i), data) for i, data in enumerate(shards)],
            LEVEL,
            SINGLE,
            pool="all" if kind == "pool" else None,
        )
        traffic = layout_of(shards[0]).together.traffic
        for when in times:
            torch.distributed.barrier()
            before = traffic.rounds, traffic.bytes
            begin = time.perf_counter()
            sparsifier.step()
            times[when].append(time.perf_counter() - begin)
            found[when] = (traffic.rounds - before[0], traffic.bytes - before[1])
    masks = whole_masks(weights, kind == "pool")
    right = all(
        torch.equal(sparsifier.get_mask(str(i)).full_tensor(), mask) for i, mask in enumerate(masks)
    )
    return {when: (median(times[when]), *found[when], right) for when in times}


# --- one rank ---------------------------------------------------------------------------------


def one_rank(options: Options) -> Iterator[Row]:
    progress("[shards] one rank beside no shards")
    largest = max(LEAST, min(MEASURED, options.largest))
    goal = Goal(1.1) if largest == MEASURED else None
    elements, found = run_ranks(1, ["one", options.threads, largest, options.rounds])
    for name, seconds, spread, ratio, right in found:
        yield Row(
            "shards", f"{TENSORS} tensors, {elements} elements, one pool", name, seconds, spread,
            1e9 * seconds / elements, value=ratio, unit="x no shards",
            goal=None if ratio is None else goal, right=right, elements=elements,
            threads=options.threads, isa=options.isa,
        )  # fmt: skip


class TensorStep(Step):
    """The same arrays as tensors of torch: plain, or on a mesh of one rank."""

    def on(self, mesh: Any = None) -> "TensorStep":
        plain = [torch.from_numpy(x) for x in self.data]
        self.tensors = plain if mesh is None else sharded(plain, mesh)
        return self

    def prepare(self, call: int) -> None:
        whole, self.data = self.data, self.tensors
        try:
            super().prepare(call)
        finally:
            self.data = whole

    def masks(self) -> list[np.ndarray]:
        found = [self.sparsifier.get_mask(name) for name in self.sparsifier.data_groups]
        return [m.to_local().numpy() if hasattr(m, "to_local") else m.numpy() for m in found]


class TensorLevelStep(TensorStep):
    """The next one, at another level."""

    def on(self, mesh: Any = None) -> "TensorLevelStep":
        super().on(mesh)
        super().prepare(0)
        self.sparsifier.step()
        return self

    prepare = LevelStep.prepare


def beside_no_shards(
    threads: int, largest: int, rounds: int, size: int, store: str, rank: int
) -> tuple[int, list[Any]]:
    """How many elements there are; and of each step its name, times, how many times as long as
    without shards, and whether it is right."""
    datasparse.set_num_threads(threads)
    torch.set_num_threads(threads)
    mesh = join(store, rank, size)
    data = transformer(largest)
    steps = []
    for when, kind in (("cold", TensorStep), ("level moved by 0.01", TensorLevelStep)):
        steps += [kind(f"no shards, {when}", data, SINGLE, POOL).on()]
        steps += [kind(f"one rank, {when}", data, SINGLE, POOL).on(mesh)]
    candidates = [Candidate(step.name, step.run, step.prepare, step.check) for step in steps]
    times = time_all(candidates, rounds)
    found = []
    for name, timed in times.items():
        beside = times[name.replace("one rank", "no shards")]
        ratio = timed.median / beside.median if timed is not beside else None
        found.append((name, timed.median, timed.spread, ratio, timed.right))
    return sum(x.size for x in data), found


def memory(options: Options) -> Iterator[Row]:
    if not CLEAR.exists():
        progress("[shards] extra memory only where /proc/self/clear_refs exists")
        return
    largest = max(LEAST, min(MEASURED, options.largest))
    for when in ("cold", "next"):
        progress(f"[shards] extra memory of one rank, {when}")
        extra, bytes_ = run_ranks(1, ["memory", when, options.threads, largest])
        goal = Goal(round(allowance(True, bytes_), 2)) if largest == MEASURED else None
        yield Row(
            "shards", f"extra memory, {bytes_ // 4} elements", f"one rank, pool, {when} step",
            value=extra / (1 << 20), unit=f"MiB, {extra / bytes_:.1%} of the data", goal=goal,
            elements=bytes_ // 4, threads=options.threads, isa=options.isa,
        )  # fmt: skip


def extra_bytes(
    when: str, threads: int, largest: int, size: int, store: str, rank: int
) -> tuple[int, int]:
    """Of a step, and the bytes of the data."""
    datasparse.set_num_threads(threads)
    torch.set_num_threads(threads)
    mesh = join(store, rank, size)
    data = transformer(largest)
    step = TensorStep("", data, SINGLE, POOL).on(mesh)
    step.prepare(0)
    small = TensorStep("", transformer(1 << 18), SINGLE, POOL).on(mesh)
    small.prepare(0)
    small.run(0)  # starts threads, and loads what is loaded once
    step.sparsifier.apply_mask()
    if when == "next":
        step.run(0)
    return extra_of(lambda: step.run(0)), sum(x.nbytes for x in data)


CHILDREN = {"gloo": steps_on_gloo, "one": beside_no_shards, "memory": extra_bytes}


if __name__ == "__main__":
    what, *arguments = json.loads(sys.argv[1])
    print(json.dumps(CHILDREN[what](*arguments, sys.argv[2], int(sys.argv[3]))), flush=True)
    torch.distributed.destroy_process_group()
