"""Many small layers on a device, and wide blocks: how much is launched, and what a step takes."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import datasparse
import torch

from bench.cases import Case
from bench.options import Options
from bench.place import Place, writes
from bench.report import Goal, Row, progress
from bench.routes import compute_by, jobs_of, routes_of

TITLE = "Many tensors on a device, and wide blocks"
GROUPS = 300
SMALL = ((64, 64), (64, 128), (128, 128), (128, 192))
LARGE = ((256, 256), (256, 768), (256, 1024), (512, 768))
COLUMNS = 4096
MOST = {"operations": 120, "triton": 12}  # launches of a step of all groups


def layers(place: Place, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """Tensors of these shapes in turn."""
    maker = torch.Generator().manual_seed(0)
    return [
        torch.randn(shapes[i % len(shapes)], generator=maker).to(place.name) for i in range(GROUPS)
    ]


def count_rows(
    place: Place, case: str, tensors: list[torch.Tensor], rule: Case, goals: dict[str, int]
) -> Iterator[Row]:
    """What each route launches for these tensors, the answer checked."""
    expected = [
        datasparse.block_mask(data.cpu(), sparsity_level=rule.level, **rule.config)
        for data in tensors
    ]
    jobs = jobs_of(tensors, rule)
    for route in routes_of(place):
        call = partial(compute_by(route), jobs, ())
        right = all(torch.equal(m.cpu(), e) for m, e in zip(call(), expected, strict=True))
        dispatched, kernels = writes(call), place.kernels(call)
        found = {"operations that write": dispatched, "kernels": kernels}
        # Kernels by Triton are not dispatched: there the profiler's number counts.
        judged = "kernels" if route == "triton" else "operations that write"
        for unit, number in found.items():
            if number is None:
                continue
            goal = Goal(goals[route]) if unit == judged and route in goals else None
            yield Row(
                "device_groups", case, f"{route}, {unit}", value=number, unit=unit, goal=goal,
                right=right,
            )  # fmt: skip


def step_rows(place: Place, case: str, tensors: list[torch.Tensor], rounds: int) -> Iterator[Row]:
    """A step of all groups on the CPU's clock, beside one topk after the other."""
    sparsifier: Any = datasparse.DataNormSparsifier(
        [(str(i), data) for i, data in enumerate(tensors)], 0.5, sparse_block_shape=(1, 1)
    )

    def topk() -> None:
        for data in tensors:
            scores = data.abs().flatten()
            scores.topk(max(1, scores.numel() // 2), largest=False, sorted=False)

    elements = sum(data.numel() for data in tensors)
    for what, call in (("step()", sparsifier.step), ("torch.topk, one by one", topk)):
        times = place.wall(call, rounds)
        per_element = 1e9 * times.median / elements
        yield Row("device_groups", case, what, times.median, times.spread, per_element)


def run(options: Options) -> Iterator[Row]:
    place = Place(options.device or "cpu")
    progress(f"[device_groups] {GROUPS} tensors on {place.name}")
    for shapes, goals in ((SMALL, MOST), (LARGE, {"triton": MOST["triton"]})):
        if max(rows * columns for rows, columns in shapes) > options.largest:
            continue
        tensors = layers(place, shapes)
        elements = sum(data.numel() for data in tensors) >> 20
        case = f"{GROUPS} tensors of {len(shapes)} sizes, {elements} Mi in all, (1,1) at 0.5"
        yield from count_rows(place, case, tensors, Case((1, 1), 0.5), goals)
        yield from step_rows(place, case, tensors, options.rounds)
    columns = min(COLUMNS, options.largest // 16)
    rows = min(COLUMNS, options.largest // columns)
    wide = [torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(place.name)]
    for level, goals in ((0.5, {"triton": 12}), (1.0, {"operations": 200, "triton": 12})):
        rule = Case((1, columns), level, zeros_per_block=None if level < 1 else columns // 2)
        name = f"{rows}x{columns}, a row a block, {level}"
        yield from count_rows(place, name, wide, rule, goals)
