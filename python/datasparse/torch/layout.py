"""How a weight is seen as a matrix: outputs x (places of the kernel x inputs), inputs innermost.

Hardware and papers want a block, 2:4 say, along the inputs of one output. That is how `nn.Linear`
lies in memory. A convolution keeps the places of its kernel innermost, others keep their inputs
first.
"""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Layout = tuple[int, ...]


def layout_of(module: nn.Module, ndim: int) -> Layout | None:
    """The order of a weight's axes: outputs first, inputs last. None where it is memory's.

    Of a grouped transposed convolution, a row is one output of every group: blocks along its inputs
    stay within a group where their width divides the inputs of a group.
    """
    if ndim < 2:
        return None
    kernel = range(2, ndim)
    if isinstance(module, _ConvTransposeNd):
        return (1, *kernel, 0)
    if isinstance(module, _ConvNd):
        return (0, *kernel, 1) if ndim > 2 else None
    # Of GPT-2 and its kin: a linear layer that keeps inputs x outputs.
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    if isinstance(module, getattr(pytorch_utils, "Conv1D", ())):
        return (1, 0)
    return None
