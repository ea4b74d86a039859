"""What a device is asked for: the masks of many tensors at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """One mask to be computed, by the rule of `datasparse.block_mask()`, to the bit."""

    scores: Tensor  # what is ranked: float16, bfloat16, float32 or float64, any shape and strides
    mask: Tensor  # what is there now: bool, contiguous, of the same shape and device
    order: tuple[int, ...]  # of the axes, which makes the matrix; () for that of memory
    block: tuple[int, int]  # height and width, each at least 1; may exceed the matrix
    zeros: int  # of a pruned block, at most its elements; partial blocks have as many as fit
    pruned: int  # blocks that are pruned; of no account in a pool
    norm: str  # "L1", "L2" or "none"
    monotone: bool  # whether what the mask prunes now ranks below everything else
    kept_zeros: Tensor | None  # bool, of the same shape: True is pruned whatever the rule says


@dataclass(frozen=True, eq=False, slots=True)
class Pool:
    """Jobs that share one threshold: `PoolPlan` of the core, whose words these are."""

    jobs: tuple[int, ...]  # places among the jobs, in the order of the groups
    weights: tuple[int, ...]  # of a block, by member; 0 for one that loses nothing
    least: tuple[int, ...]
    most: tuple[int, ...]
    budget: int
    normalize: tuple[bool, ...]  # whether scores are divided by their L2 norm, by member


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """One mask that moves, by the rule of `RegrowthSparsifier`, to the bit."""

    job: (
        Job  # what is dropped by; `zeros` less than a block is N:M, where `pruned` is of no account
    )
    gradient: Tensor | None  # what is grown by, of any dtype and strides; None: by chance
    weight: Tensor  # the user's, where what grows becomes 0 once all masks are there
    ever_active: Tensor  # bool, as the mask
    is_within: bool  # N:M
    fraction: float  # of what is active, that is dropped
    stream: int  # of what is drawn: int64


@dataclass(frozen=True, eq=False, slots=True)
class MovePool:
    """Moves that are chosen from together: `MovePool` of the core."""

    moves: tuple[int, ...]  # places among the moves, in the order of the groups
    weights: tuple[int, ...]  # of what is dropped and grows, by member
    pruned: int  # the sum of the weights of blocks that are pruned at the end
    normalize: tuple[bool, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Moved:
    """What a move makes: fresh bool tensors of the shape of the mask."""

    mask: Tensor
    ever_active: Tensor
    grown: Tensor  # True where weights become 0
