"""What is pruned in a benchmark: the blocks, and how many of them."""

from dataclasses import dataclass
from typing import Any

# Added to the level round by round, so that no branch predictor learns an answer.
JITTER = (0.0, -0.004, 0.003, -0.002, 0.001, -0.003, 0.002)


@dataclass(frozen=True)
class Case:
    block: tuple[int, int]
    level: float
    zeros_per_block: int | None = None

    @property
    def rule(self) -> str:
        """The blocks alone: "(1,4)", "2:4"."""
        if self.zeros_per_block is not None:
            return f"{self.zeros_per_block}:{self.block[0] * self.block[1]}"
        return f"({self.block[0]},{self.block[1]})"

    @property
    def name(self) -> str:
        return self.rule if self.is_n_of_m else f"{self.rule} at {self.level}"

    @property
    def is_n_of_m(self) -> bool:
        """Whether the blocks, rather than the tensor, fix how much is pruned."""
        return self.zeros_per_block is not None

    @property
    def config(self) -> dict[str, Any]:
        return {"sparse_block_shape": self.block, "zeros_per_block": self.zeros_per_block}

    def level_of(self, call: int) -> float:
        return self.level if self.is_n_of_m else self.level + JITTER[call % len(JITTER)]

    def pruned(self, blocks: int, level: float) -> int:
        """How many blocks go; Python's round() is the library's, half to even."""
        return round(level * blocks)


TWO_OF_FOUR = Case((1, 4), 1.0, zeros_per_block=2)
HEADLINE = [Case(block, level) for block in [(1, 1), (1, 4), (4, 4)] for level in (0.5, 0.9)]
HEADLINE.append(TWO_OF_FOUR)
ELEMENTS = [Case((1, 1), 0.5), Case((1, 1), 0.9)]
