"""What others take for the same mask of 16 Mi elements, on one thread and on all."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.utils import prune as torch_prune

from bench import check
from bench.cases import HEADLINE, Case
from bench.inputs import Input, natural
from bench.measure import Candidate, time_all
from bench.options import Options, use_threads
from bench.report import Goal, Row, progress, tell_faults
from bench.step import ColdStep, candidate

TITLE = "Peers: how many times as long as step(), cold"
SLOW_ROUNDS = 3


def up_to_ties(mask: np.ndarray, input_: Input, case: Case, level: float) -> str | None:
    """What is wrong with a mask of the elements above a threshold: equal ones go together."""
    keys = check.all_keys(input_, case)
    k = case.pruned(keys.size, level)
    threshold = np.partition(keys, k - 1)[k - 1]
    same = np.array_equal(mask.reshape(-1), keys > threshold)
    return None if same else "the mask is not that of the k-th score"


class Peer:
    """A function of the level that returns a mask."""

    def __init__(
        self, name: str, function: Callable[[float], object], input_: Input, case: Case, slow: bool
    ) -> None:
        self.name, self.function, self.input, self.case = name, function, input_, case
        self.slow = slow

    def run(self, call: int) -> None:
        self.level = self.case.level_of(call)
        self.mask = self.function(self.level)

    def check(self, call: int) -> str | None:
        return up_to_ties(np.asarray(self.mask, bool), self.input, self.case, self.level)

    def candidate(self) -> Candidate:
        return Candidate(
            self.name, self.run, check=self.check, at_most=SLOW_ROUNDS if self.slow else None
        )


def element_peers(input_: Input, case: Case) -> list[Candidate]:
    """Ways to an element-wise mask; each also takes |x| and compares, as a step does."""
    data = input_.array
    tensor = torch.from_numpy(data)
    size = data.size
    scores_beforehand = np.abs(data).reshape(-1)

    def partition(level: float) -> np.ndarray:
        k = case.pruned(size, level) - 1
        scores = np.abs(data)
        return scores > np.partition(scores.reshape(-1), k)[k]

    def kthvalue(level: float) -> torch.Tensor:
        scores = tensor.abs()
        return scores > scores.flatten().kthvalue(case.pruned(size, level)).values

    def topk(level: float) -> torch.Tensor:
        scores = tensor.abs().flatten()
        mask = torch.zeros(size, dtype=torch.bool)
        mask[scores.topk(size - case.pruned(size, level), sorted=False).indices] = True
        return mask

    def prune(level: float) -> torch.Tensor:
        method = torch_prune.L1Unstructured(case.pruned(size, level))
        return method.compute_mask(tensor, torch.ones_like(tensor))

    def partition_alone(call: int) -> None:
        k = case.pruned(size, case.level_of(call)) - 1
        np.partition(scores_beforehand, k)

    return [
        Candidate("numpy.partition alone, scores given", partition_alone),
        Peer("numpy.partition", partition, input_, case, slow=False).candidate(),
        Peer("torch.kthvalue", kthvalue, input_, case, slow=True).candidate(),
        Peer("torch.topk", topk, input_, case, slow=True).candidate(),
        Peer("torch.nn.utils.prune", prune, input_, case, slow=True).candidate(),
    ]


class Incumbent:
    """step() of PyTorch's experimental DataNormSparsifier."""

    name = "PyTorch's DataNormSparsifier"

    def __init__(self, input_: Input, case: Case) -> None:
        from torch.ao.pruning._experimental.data_sparsifier import data_norm_sparsifier

        self.input, self.case = input_, case
        self.sparsifier = data_norm_sparsifier.DataNormSparsifier(
            [("w", torch.from_numpy(input_.array))],
            sparsity_level=case.level,
            sparse_block_shape=case.block,
            zeros_per_block=case.zeros_per_block,
        )

    def run(self, call: int) -> None:
        self.level = self.case.level_of(call)
        self.sparsifier.data_groups["w"]["sparsity_level"] = self.level
        self.sparsifier.step()

    def check(self, call: int) -> str | None:
        # Which of several equal scores it prunes depends on the CPU: another sparsifier's mask may
        # differ there, and does so in both directions alike.
        mask = self.sparsifier.get_mask("w").bool().numpy()
        ours = ColdStep(self.input, self.case)
        ours.prepare(call)
        ours.run(call)
        mine = np.asarray(ours.sparsifier.get_mask("w"))
        differing = mask != mine
        if np.count_nonzero(mask) != np.count_nonzero(mine):
            return "another number is pruned"
        scores = np.abs(self.input.array[differing])
        if not self.case.is_n_of_m and self.case.block == (1, 1) and np.unique(scores).size > 1:
            return "the masks differ in more than ties"
        return None if differing.mean() < 1e-5 else "the masks differ in more than ties"

    def candidate(self) -> Candidate:
        return Candidate(self.name, self.run, check=self.check, at_most=1)


def run(options: Options) -> Iterator[Row]:
    elements = min(1 << 24, options.largest)
    input_ = natural(elements)
    full_size = elements == 1 << 24
    for threads in dict.fromkeys((options.threads, 1)):
        use_threads(threads)
        for case in HEADLINE[:1] if options.quick else HEADLINE:
            ours = ColdStep(input_, case)
            candidates = [candidate(ours)]
            if case.block == (1, 1):
                candidates += element_peers(input_, case)
            if options.incumbent and threads == options.threads:
                candidates.append(Incumbent(input_, case).candidate())
            if len(candidates) == 1:
                continue
            name = f"{input_.name_and_shape}, {case.name}, threads: {threads}"
            progress(f"[peers] {name}")
            times = time_all(candidates, options.rounds)
            for what, timed in times.items():
                tell_faults(f"{name}, {what}", timed.faults)
                goal = None
                if full_size and what.startswith("numpy.partition"):
                    goal = Goal(8.0 if threads == 1 else 10.0, at_least=True)
                if full_size and what == Incumbent.name:
                    goal = Goal(1000.0 if case.block == (1, 1) else 500.0, at_least=True)
                yield Row(
                    "peers", name, what, timed.median, timed.spread,
                    1e9 * timed.median / elements,
                    value=None if what == ours.name else timed.median / times[ours.name].median,
                    unit="x step()", goal=goal, right=timed.right, elements=elements,
                    threads=threads, isa=options.isa,
                )  # fmt: skip
    use_threads(options.threads)
