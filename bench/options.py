"""What the command line chose, for every section to follow."""

from dataclasses import dataclass

import datasparse


@dataclass(frozen=True)
class Options:
    rounds: int
    threads: int
    largest: int  # elements that a tensor may have
    incumbent: bool  # whether PyTorch's sparsifier is timed too, which takes minutes
    quick: bool
    device: str | None = None  # of torch, whose sections run; None: the others

    def sizes(self, *wanted: int) -> list[int]:
        """The sizes, those above the largest cut down to it, each once."""
        return list(dict.fromkeys(min(size, self.largest) for size in wanted))

    @property
    def isa(self) -> str:
        return str(datasparse.runtime_info()["instruction set"])


def use_threads(threads: int) -> None:
    """Sets the threads of the library and of its peers."""
    import torch

    torch.set_num_threads(threads)  # the process's OpenMP maximum, which caps ours
    datasparse.set_num_threads(threads)
