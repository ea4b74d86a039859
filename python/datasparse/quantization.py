"""Embedding tables pruned and quantized to 8 bits, in either order, with exact zeros left.

The equivalent of `post_training_sparse_quantize()` of `torch.ao.pruning._experimental`. There a
zero becomes whatever a row's float zero point rounds it to; here the range of every row includes
zero, and zero is one of its 256 levels. PyTorch is about to remove its quantized tensors, so the
tables are modules of plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from warnings import warn

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._core import BaseDataSparsifier
from ._table import few

__all__ = ["QuantizedEmbedding", "QuantizedEmbeddingBag", "post_training_sparse_quantize"]

Table = nn.Embedding | nn.EmbeddingBag


def post_training_sparse_quantize(
    model: nn.Module,
    data_sparsifier_class: Callable[..., BaseDataSparsifier],
    sparsify_first: bool = True,
    select_embeddings: Iterable[Table] | None = None,
    **sparse_config: object,
) -> BaseDataSparsifier:
    """Prune embedding tables of a model and replace them by quantized ones, in place.

    Args:
        model: holds the tables: `nn.Embedding` and `nn.EmbeddingBag`.
        data_sparsifier_class, sparse_config: what makes the sparsifier.
        sparsify_first: prune, then quantize; else what is pruned are the values that quantization
            left, on the scale that it chose.
        select_embeddings: which tables; by default all.

    Returns the sparsifier: its groups have the tables' names, and are squashed.

    A UserWarning names what was tied to a table, such as a language model's head: it keeps the
    values that it had.

    Raises ValueError if there are no tables, if one of the selected is not part of the model, has
    infinite values or NaN, which no level stands for, a max_norm, which would change quantized
    rows, or a forward() or hooks of its own. Then nothing has changed.

    >>> model = torch.nn.Sequential(torch.nn.Embedding(1000, 32), torch.nn.Linear(32, 1))
    >>> sparsifier = post_training_sparse_quantize(model, DataNormSparsifier, sparsity_level=0.9)
    >>> model[0].levels.dtype, round(float((model[0].dequantize() == 0).float().mean()), 1)
    (torch.uint8, 0.9)
    """
    tables = tables_of(model, select_embeddings)
    sparsifier = data_sparsifier_class(**sparse_config)
    grids: dict[str, Grid] = {}
    weights: dict[str, Tensor] = {}
    for name, table in tables.items():
        weights[name] = table.weight.detach().clone()  # the model stays whole until all is done
        if not sparsify_first:
            grids[name] = Grid.of(weights[name])
            weights[name] = grids[name].dequantize(grids[name].quantize(weights[name]))
        sparsifier.add_data(name, weights[name])
    sparsifier.step()
    sparsifier.squash_mask()
    if tied := tied_to(model, tables.values()):  # a warning may be an error: the model is whole yet
        warn(
            f"{few(map(repr, tied))} shared its values with a table, and keeps them as they were: "
            "neither pruned nor quantized",
            UserWarning,
            stacklevel=2,
        )
    quantized = {
        id(table): quantized_like(table, weights[name], grids.get(name) or Grid.of(weights[name]))
        for name, table in tables.items()
    }
    # A table may be there by several names.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in quantized:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, quantized[id(module)])
    return sparsifier


def tied_to(model: nn.Module, tables: Iterable[nn.Module]) -> list[str]:
    """The names of the parameters that are those of some tables, in modules that are none."""
    replaced = {id(table) for table in tables}
    weights = {id(table.weight) for table in tables}
    return [
        f"{name}.{attribute}" if name else attribute
        for name, module in model.named_modules()
        if id(module) not in replaced
        for attribute, parameter in module.named_parameters(recurse=False)
        if id(parameter) in weights
    ]


@dataclass(frozen=True)
class Grid:
    """The levels of each row: value = scale * (level - zero), where zero is a level too.

    `scale` and `zero` have the shape (rows, 1).
    """

    scale: Tensor
    zero: Tensor

    @staticmethod
    def of(weight: Tensor) -> Grid:
        """From the least to the greatest value of each row, and zero, in 256 levels."""
        rows = weight.float()
        if rows.shape[1] == 0:  # which has no least value
            rows = rows.new_zeros(len(rows), 1)
        least = rows.amin(1, keepdim=True).clamp(max=0)
        greatest = rows.amax(1, keepdim=True).clamp(min=0)
        scale = (greatest - least) / 255
        scale = torch.where(scale.isfinite(), scale, greatest / 255 - least / 255)
        scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
        return Grid(scale, (-least / scale).round().to(torch.uint8))

    def quantize(self, weight: Tensor) -> Tensor:
        levels = (weight.float() / self.scale).round() + self.zero
        return levels.clamp(0, 255).to(torch.uint8)

    def dequantize(self, levels: Tensor) -> Tensor:
        return self.scale * (levels.float() - self.zero.float())


class QuantizedEmbedding(nn.Module):
    """An `nn.Embedding` with a byte per element; for inference.

    Buffers: `levels`, uint8 of shape (rows, width); `scale`, float32, and `zero`, uint8, of shape
    (rows, 1).
    """

    levels: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("levels", grid.quantize(weight))
        self.register_buffer("scale", grid.scale)
        self.register_buffer("zero", grid.zero)

    def dequantize(self, rows: Tensor | None = None) -> Tensor:
        """Some rows, or all, as float32."""
        if rows is None:
            return Grid(self.scale, self.zero).dequantize(self.levels)
        return Grid(self.scale[rows], self.zero[rows]).dequantize(self.levels[rows])

    def forward(self, indices: Tensor) -> Tensor:
        return self.dequantize(indices)

    def extra_repr(self) -> str:
        return f"{self.levels.shape[0]}, {self.levels.shape[1]}"


class QuantizedEmbeddingBag(QuantizedEmbedding):
    """An `nn.EmbeddingBag` with a byte per element; for inference. It takes the same arguments."""

    def __init__(self, weight: Tensor, grid: Grid, like: nn.EmbeddingBag) -> None:
        super().__init__(weight, grid)
        self.mode = like.mode
        self.include_last_offset = like.include_last_offset
        self.padding_idx = like.padding_idx

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        # Only the rows in the bags are widened; they are a table for the float kernel then.
        rows = self.dequantize(indices.reshape(-1))
        places = torch.arange(len(rows), device=indices.device).view(indices.shape)
        padding = None
        if self.padding_idx is not None:
            padding = len(rows)
            rows = functional.pad(rows, (0, 0, 0, 1))
            places = places.masked_fill(indices == self.padding_idx, padding)
        return functional.embedding_bag(
            places,
            rows,
            offsets,
            mode=self.mode,
            per_sample_weights=None if per_sample_weights is None else per_sample_weights.float(),
            include_last_offset=self.include_last_offset,
            padding_idx=padding,
        )


def tables_of(model: nn.Module, selected: Iterable[Table] | None) -> dict[str, Table]:
    """The tables by name; ValueError as post_training_sparse_quantize() says."""
    found: dict[str, Table] = {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    if selected is not None:
        wanted = {id(table) for table in selected}
        if not wanted <= {id(table) for table in found.values()}:
            raise ValueError(
                "select_embeddings must be nn.Embedding and nn.EmbeddingBag within the model"
            )
        found = {name: table for name, table in found.items() if id(table) in wanted}
    if not found:
        raise ValueError("the model holds no nn.Embedding or nn.EmbeddingBag to quantize")
    for name, table in found.items():
        if table.max_norm is not None:
            raise ValueError(f"{name!r} has a max_norm, which would change quantized rows")
        if not table.weight.float().isfinite().all():
            raise ValueError(
                f"{name!r} must be finite in float32 to be quantized, got infinite values or NaN"
            )
        if has_its_own_way(table):
            raise ValueError(
                f"{name!r} is a {type(table).__name__} that does more than to look up rows, in its "
                "forward() or by hooks, which a quantized table would not: name the others by "
                "select_embeddings"
            )
    return found


def has_its_own_way(table: Table) -> bool:
    """Whether calling it is more than the lookup of its class in torch."""
    forwards = (nn.Embedding.forward, nn.EmbeddingBag.forward)
    hooks = (table._forward_hooks, table._forward_pre_hooks)
    return type(table).forward not in forwards or "forward" in vars(table) or any(hooks)


def quantized_like(table: Table, weight: Tensor, grid: Grid) -> QuantizedEmbedding:
    if isinstance(table, nn.EmbeddingBag):
        return QuantizedEmbeddingBag(weight, grid, table)
    return QuantizedEmbedding(weight, grid)
