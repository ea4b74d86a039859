"""One tensor on a device: each route and step(), beside the bound and PyTorch's own ways."""

from collections.abc import Callable, Iterator
from typing import Any

import datasparse
import torch

from bench import device_peers
from bench.cases import TWO_OF_FOUR, Case
from bench.inputs import natural
from bench.options import Options
from bench.place import Place
from bench.report import Goal, Row, progress
from bench.routes import compute_by, jobs_of, routes_of

TITLE = "One tensor on a device"
SIZE = 1 << 26
CASES = [
    (Case((1, 1), 0.5), "L1"),
    (Case((1, 1), 0.9), "L1"),
    (Case((1, 4), 0.5), "L1"),
    (Case((4, 4), 0.5), "L1"),
    (TWO_OF_FOUR, "L1"),
    (Case((1, 1), 0.5), "L2"),
    (Case((1, 4), 0.5), "L2"),
]
# Times the bound, and of extra memory the bytes an element, at 64 Mi float32 elements on a GPU.
MOST_TIME = {"operations": 15.0, "triton": 4.0}
MOST_MEMORY = {"operations": 16.0, "triton": 0.05 * 4}
LEAST_PEERS = {"torch.kthvalue": 5.0, device_peers.INCUMBENT: 20.0}


class Table:
    """The rows of one tensor, one rule and one norm."""

    def __init__(self, data: torch.Tensor, case: Case, norm: str, place: Place, options: Options):
        self.data, self.case, self.norm = data, case, norm
        self.place, self.options = place, options
        self.expected = datasparse.block_mask(
            data.cpu(), sparsity_level=case.level, norm=norm, **case.config
        ).to(data.device)
        self.has_goals = place.is_cuda and data.numel() == SIZE and data.dtype == torch.float32
        dtype = str(data.dtype).removeprefix("torch.")
        self.name = f"{tuple(data.shape)} {dtype}, {case.name}, {norm}"
        progress(f"[device] {self.name} on {place.name}")

    def fault(self, mask: torch.Tensor) -> str | None:
        return None if torch.equal(mask, self.expected) else "the mask is not that of the CPU"

    def row(self, what: str, call: Callable[[], object], fault: str | None, **more: Any) -> Row:
        if fault is not None:
            progress(f"WRONG: {self.name}, {what}: {fault}")
        times = self.place.time(call, self.options.rounds)
        elements = self.data.numel()
        return Row(
            "device", self.name, what, times.median, times.spread, 1e9 * times.median / elements,
            right=fault is None, elements=elements, **more,
        )  # fmt: skip

    def bound(self) -> Row:
        """All is read, and a byte written for each element, the threshold known."""
        mask = torch.empty_like(self.expected)
        row = self.row("bound", lambda: torch.gt(self.data, 0.5, out=mask), None)
        assert row.seconds is not None
        moved = self.data.numel() * (self.data.element_size() + 1)
        row.gigabytes_a_second, row.right = moved / row.seconds / 1e9, None
        return row

    def clone(self) -> Row:
        row = self.row("clone()", self.data.clone, None)
        assert row.seconds is not None
        row.gigabytes_a_second = 2 * self.data.nbytes / row.seconds / 1e9
        row.right = None
        return row

    def route(self, route: str, bound: Row) -> Iterator[Row]:
        jobs, compute = jobs_of([self.data], self.case, self.norm), compute_by(route)

        def call() -> list[torch.Tensor]:
            return compute(jobs, ())

        row = self.row(route, call, self.fault(call()[0]))
        extra = self.place.extra_memory(call)
        row.goal = Goal(MOST_TIME[route]) if self.has_goals else None
        yield against(row, bound)
        if extra is not None:
            value = extra / self.data.numel() - 1  # but for the mask
            goal = Goal(MOST_MEMORY[route]) if self.has_goals else None
            what = f"{route}, extra memory"
            yield Row("device", self.name, what, value=value, unit="bytes an element", goal=goal)

    def step(self, bound: Row) -> Row:
        sparsifier: Any = datasparse.DataNormSparsifier(
            [("w", self.data)], self.case.level, norm=self.norm, **self.case.config
        )
        sparsifier.step()
        row = self.row("step()", sparsifier.step, self.fault(sparsifier.get_mask("w")))
        return against(row, bound)

    def peers(self, step: Row) -> Iterator[Row]:
        some = [(device_peers.INCUMBENT, device_peers.incumbent(self.data, self.case, self.norm))]
        of_elements = self.case.block == (1, 1)
        if of_elements and self.norm == "L1":
            some += device_peers.element_peers(self.data, self.case)
        for what, peer in some:
            try:
                mask = peer()
                wrong = (
                    device_peers.ties_alone(mask, self.expected, self.data)
                    if of_elements
                    else device_peers.nearly(mask, self.expected)
                )
                row = self.row(what, peer, wrong)
            except RuntimeError as error:  # a peer's limits are its own
                progress(f"[device] {what} gave up: {error}")
                continue
            goal = Goal(LEAST_PEERS[what], at_least=True) if what in LEAST_PEERS else None
            row.goal = goal if self.has_goals else None
            yield against(row, step, "x step()")

    def rows(self, with_peers: bool) -> Iterator[Row]:
        bound = self.bound()
        yield from (bound, self.clone())
        for route in routes_of(self.place):
            yield from self.route(route, bound)
        step = self.step(bound)
        yield step
        if with_peers:
            yield from self.peers(step)


def against(row: Row, other: Row, unit: str = "x bound") -> Row:
    """The same row, with its time over another's."""
    assert row.seconds is not None
    assert other.seconds is not None
    row.value, row.unit = row.seconds / other.seconds, unit
    return row


def run(options: Options) -> Iterator[Row]:
    place = Place(options.device or "cpu")
    for dtype in ("float32", "bfloat16"):
        input_ = natural(min(SIZE, options.largest), dtype)
        data = torch.as_tensor(input_.data).to(place.name)
        for case, norm in CASES:
            yield from Table(data, case, norm, place, options).rows(dtype == "float32")
