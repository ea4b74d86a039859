"""What else makes a mask on a device: PyTorch's own, beside which ours is timed."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.utils.prune as torch_prune

from bench.cases import Case

Peer = Callable[[], torch.Tensor]  # returns its mask


def ties_alone(mask: torch.Tensor, ours: torch.Tensor, data: torch.Tensor) -> str | None:
    """What is wrong with a peer's mask of single elements: nothing where it differs from ours in
    elements at the cut alone, of which it may take others, or all."""
    cut = data.abs()[~ours].max()
    differing = data.abs()[mask.bool() != ours]
    return None if bool((differing == cut).all()) else "the masks differ in more than ties"


def nearly(mask: torch.Tensor, ours: torch.Tensor) -> str | None:
    """The same for blocks, whose sums PyTorch's sparsifier adds up in another order."""
    share = float((mask.bool() != ours).float().mean())
    return None if share < 1e-4 else f"{share:.2%} of the masks differ"


def element_peers(data: torch.Tensor, case: Case) -> Iterator[tuple[str, Peer]]:
    """Ways to a mask of single elements."""
    pruned = case.pruned(data.numel(), case.level)

    def kthvalue() -> torch.Tensor:
        scores = data.abs()
        return scores > scores.flatten().kthvalue(pruned).values

    def topk() -> torch.Tensor:
        kept = data.abs().flatten().topk(data.numel() - pruned, sorted=False).indices
        mask = torch.zeros(data.numel(), dtype=torch.bool, device=data.device)
        mask[kept] = True
        return mask.view_as(data)

    def prune() -> torch.Tensor:
        method = torch_prune.L1Unstructured(pruned)
        mask: torch.Tensor = method.compute_mask(data, torch.ones_like(data))
        return mask

    yield "torch.kthvalue", kthvalue
    yield "torch.topk", topk
    yield "torch.nn.utils.prune", prune


INCUMBENT = "PyTorch's DataNormSparsifier"


def incumbent(data: torch.Tensor, case: Case, norm: str) -> Peer:
    """step() of PyTorch's experimental sparsifier."""
    from torch.ao.pruning._experimental.data_sparsifier import data_norm_sparsifier

    sparsifier = data_norm_sparsifier.DataNormSparsifier(
        [("w", data)],
        sparsity_level=case.level,
        sparse_block_shape=case.block,
        zeros_per_block=case.zeros_per_block,
        norm=norm,
    )

    def step() -> torch.Tensor:
        sparsifier.step()
        mask: torch.Tensor = sparsifier.get_mask("w")
        return mask

    return step
