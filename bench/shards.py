"""Ranks that are simulated in one process, and what a step over them sends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil, log2, sqrt
from typing import Any

import datasparse
import numpy as np
import torch

from bench.cases import Case
from bench.routes import jobs_of

TENSORS = 300
LEVEL, SINGLE = 0.9, (1, 1)
MOVED = 1e-3  # of the spread of weights, from one step to the next

# A collective of n bytes over p ranks takes 2 log2(p) hops, and each rank sends and receives
# 2 n (p - 1) / p bytes (Thakur, Rabenseifner and Gropp 2005).
HOP = 10e-6  # seconds, from one machine to another
BANDWIDTH = 10e9  # bytes a second, of one rank
AGREEMENTS, AGREEMENT_BYTES = 2, 216


@dataclass(frozen=True)
class Model:
    """The lengths of a transformer's weights, as those of LLaMA 2."""

    hidden: int
    keys: int  # rows of the keys' and the values' weights
    inner: int

    def shapes(self, largest: int) -> list[tuple[int, int]]:
        """TENSORS of them, layer by layer, with no more elements in all. Each length is divided by
        the same number: what is sent hangs on how many tensors there are, and on their values."""
        layer = [
            (self.hidden, self.hidden), (self.keys, self.hidden), (self.keys, self.hidden),
            (self.hidden, self.hidden), (self.inner, self.hidden), (self.inner, self.hidden),
            (self.hidden, self.inner),
        ]  # fmt: skip
        whole = list(islice(cycle(layer), TENSORS))
        elements = sum(rows * columns for rows, columns in whole)
        scale = max(1.0, sqrt(elements / largest))
        return [
            (max(1, int(rows / scale)), max(1, int(columns / scale))) for rows, columns in whole
        ]


MODELS = {"7B": Model(4096, 4096, 11008), "70B": Model(8192, 1024, 28672)}


def weights_of(shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> list[torch.Tensor]:
    """Their spreads differ as those of layers do."""
    generator = torch.Generator().manual_seed(0)
    scales = (0.9 + 0.2 * torch.rand(len(shapes), generator=generator)).tolist()
    return [
        (torch.randn(shape, generator=generator) * scale).to(dtype)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def move(weights: Sequence[torch.Tensor]) -> None:
    """As a step of an optimizer does."""
    generator = torch.Generator().manual_seed(1)
    for weight in weights:
        noise = torch.randn(weight.shape, generator=generator)
        weight += (noise * weight.float().std() * MOVED).to(weight.dtype)


@dataclass(frozen=True)
class Sent:
    """By each rank, in one step."""

    rounds: int
    bytes: int
    most: int  # in one round

    def seconds(self, ranks: int) -> float:
        """By the model above: what ranks agree on counts too."""
        if ranks == 1:
            return 0.0
        collectives = self.rounds + AGREEMENTS
        sent = self.bytes + AGREEMENTS * AGREEMENT_BYTES
        return collectives * 2 * log2(ranks) * HOP + 2 * sent * (ranks - 1) / ranks / BANDWIDTH


class Simulation:
    """Weights whose rows are dealt out to ranks, as fully_shard() does it."""

    def __init__(self, weights: Sequence[torch.Tensor], ranks: int, is_pool: bool) -> None:
        self.weights, self.ranks, self.is_pool = weights, ranks, is_pool
        self._hints: list[Any] | None = None

    def step(self) -> tuple[Sent, bool]:
        """What is sent, and whether all masks are those of one machine."""
        from datasparse.torch.device.job import Pool
        from datasparse.torch.sharded.compute import searches_of
        from datasparse.torch.sharded.core_parts import CoreParts
        from datasparse.torch.sharded.counts import Packing
        from datasparse.torch.sharded.sample import Sample

        jobs = jobs_of(self.weights, Case(SINGLE, LEVEL))
        places = tuple(range(len(jobs)))
        blocks = tuple(weight.numel() for weight in self.weights)
        budget = round(LEVEL * sum(blocks))
        ones, zeros, no = (1,) * len(jobs), (0,) * len(jobs), (False,) * len(jobs)
        pools = [Pool(places, ones, zeros, blocks, budget, no)] if self.is_pool else []
        parts = [self._parts(jobs, rank) for rank in range(self.ranks)]
        searches = searches_of(jobs, pools, parts[0])
        if self._hints is not None:
            pairs = zip(searches, self._hints, strict=True)
            searches = [replace(search, hint=hint) for search, hint in pairs]
        answers = [CoreParts(own, searches) for own in parts]
        assert answers[0].prelude().size == 0
        packing = Packing.of(searches, parts[0])
        selection = answers[0].selection(packing.most)
        samples = [Sample.of(own, searches) for own in parts]
        samples[0].expect(selection, np.max([one.guesses for one in samples], axis=0))
        sent = []
        while not selection.done:
            counts = sum(packing.pack(answer.count(selection)) for answer in answers)
            sent.append(counts.nbytes + 8)  # and whether a rank has failed
            selection.tell(packing.unpack(counts, selection.size))
        self._hints = [selection.hint(i) for i in range(len(searches))]
        found = [answer.contents(selection) for answer in answers]
        expected = whole_masks(self.weights, self.is_pool)
        right = all(
            torch.equal(torch.cat([masks[i] for masks in found]), mask)
            for i, mask in enumerate(expected)
        )
        return Sent(len(sent), sum(sent), max(sent, default=0)), right

    def _parts(self, jobs: Sequence[Any], rank: int) -> list[Any]:
        from datasparse.torch.sharded.compute import cut

        found = []
        for job in jobs:
            rows, columns = job.scores.shape
            share = ceil(rows / self.ranks)
            first = min(rank * share, rows)
            last = min(first + share, rows)
            here = slice(first, last)
            found.append(
                cut(job, (last - first, columns), (first, 0), True, lambda t, here=here: t[here])
            )
        return found


def whole_masks(weights: Sequence[torch.Tensor], is_pool: bool) -> list[torch.Tensor]:
    """Those of one machine."""
    sparsifier: Any = datasparse.DataNormSparsifier(
        [(str(i), weight) for i, weight in enumerate(weights)],
        LEVEL,
        SINGLE,
        pool="all" if is_pool else None,
    )
    sparsifier.step()
    return [sparsifier.get_mask(str(i)) for i in range(len(weights))]
