"""What is asked of a pruning: one record, whoever makes it, and the config of each tensor by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import DataNormSparsifier, distributions
from .choose import Choice, choose, matches_any, require_a_match
from .header import Tensor

DISTRIBUTIONS = {"erk": distributions.erk, "uniform": distributions.uniform}
LAYOUTS = ("memory", "inputs")


@dataclass(frozen=True)
class Options:
    """How a checkpoint is pruned. ValueError or TypeError, naming the option, for what cannot be.

    sparsity_level, sparse_block_shape, zeros_per_block: those of `DataNormSparsifier`.
    per_row: prune floor(sparsity_level * columns) elements of each row, ranked by themselves.
    distribution: "erk", "uniform" or None: how the level, then that of all taken tensors together,
        is shared among them.
    pool, min_level, max_level: those of `DataNormSparsifier`, for all taken tensors.
    layout: "memory": a tensor is rows (its first axis) x columns (all others), as it lies in the
        file. "inputs": as `datasparse.torch.attach()` sees weights: one of three axes and more is
        that of a convolution, outputs x (places of the kernel x inputs).
    transposed: globs of names of tensors that are stored as inputs x outputs (x places of the
        kernel), as layers of GPT-2 and transposed convolutions are: rows are outputs whatever
        the layout, and inputs lie innermost.
    scores: a checkpoint of tensors of the same names and shapes: what is ranked, sign included.
    input_norms: a checkpoint of a vector for each tensor, the norms of what reaches its inputs:
        what is ranked is the magnitude times the norm (Wanda: Sun et al. 2023).
    include, exclude, strict: see `choose()`.
    recipe: a file of `datasparse.recipes`, which says all but scores, input_norms and strict.
    """

    sparsity_level: float = 0.5
    sparse_block_shape: tuple[int, int] = (1, 1)
    zeros_per_block: int | None = None
    per_row: bool = False
    distribution: str | None = None
    pool: str | None = None
    min_level: float | None = None
    max_level: float | None = None
    layout: str = "memory"
    transposed: tuple[str, ...] = ()
    scores: str | None = None
    input_norms: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    strict: bool = False
    recipe: str | None = None

    def __post_init__(self) -> None:
        if self.recipe is not None:
            from .recipe import require_alone

            require_alone(self)
        require_one_of("layout", self.layout, LAYOUTS)
        require_one_of("distribution", self.distribution, (None, *DISTRIBUTIONS))
        if self.pool is None and (self.min_level, self.max_level) != (None, None):
            raise ValueError(
                "min_level and max_level bound the tensors of a pool, and there is none: give "
                "pool, or leave them out"
            )
        if self.pool is not None and self.distribution is not None:
            raise ValueError(
                f"distribution={self.distribution!r} gives each tensor a level, and a pool shares "
                "one threshold: choose one of them"
            )
        if self.scores is not None and self.input_norms is not None:
            raise ValueError("scores and input_norms both say what is ranked: choose one of them")
        if self.per_row:
            if self.sparse_block_shape != (1, 1) or self.zeros_per_block is not None:
                raise ValueError("per_row ranks the elements of each row: it goes with no blocks")
            if self.pool is not None:
                raise ValueError("per_row ranks each row by itself: it goes with no pool")
        DataNormSparsifier(**self.config())  # the core checks all values

    def config(self) -> dict[str, Any]:
        """The config of a tensor but for what depends on the tensor."""
        config: dict[str, Any] = {
            "sparsity_level": self.sparsity_level,
            "sparse_block_shape": self.sparse_block_shape,
            "zeros_per_block": self.zeros_per_block,
            "norm": "L1" if self.scores is None else None,
        }
        bounds = {"pool": self.pool, "min_level": self.min_level, "max_level": self.max_level}
        return config | {key: value for key, value in bounds.items() if value is not None}


@dataclass(frozen=True)
class Rules:
    """Which tensors are pruned, and by what rule each.

    configs, layouts: of those that are taken: config keys, and the order of axes, outputs first and
        inputs last, or None where it is the file's.
    defaults: the config keys of a sparsifier of all of them.
    recipe: what they are by, if by a recipe, as its text.
    """

    choice: Choice
    configs: Mapping[str, dict[str, Any]]
    layouts: Mapping[str, tuple[int, ...] | None]
    defaults: Mapping[str, Any]
    recipe: str | None = None


def rules_of(options: Options, tensors: Mapping[str, Tensor]) -> Rules:
    """The rule of each tensor that the options take. ValueError where they fit none, or not one."""
    if options.recipe is not None:
        from .recipe import rules_of_recipe

        return rules_of_recipe(options, tensors)
    choice = choose(tensors, options.include, options.exclude, options.strict)
    taken = {name: tensors[name] for name in choice.taken}
    require_transposed(options, taken)
    layouts = {name: layout_of(options, tensor) for name, tensor in taken.items()}
    return Rules(choice, configs_of(options, taken), layouts, options.config())


def layout_of(options: Options, tensor: Tensor) -> tuple[int, ...] | None:
    """The order of a tensor's axes, outputs first and inputs last. None where it is the file's."""
    axes = len(tensor.shape)
    if axes < 2:
        return None
    kernel = range(2, axes)
    if matches_any(tensor.name, options.transposed):
        return (1, *kernel, 0)
    if options.layout == "inputs" and axes > 2:
        return (0, *kernel, 1)
    return None


def configs_of(options: Options, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The config of each taken tensor. ValueError where the core refuses one."""
    levels: Mapping[str, float] = {}
    if options.distribution is not None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        levels = DISTRIBUTIONS[options.distribution](shapes, options.sparsity_level)
    configs = {}
    for name, tensor in tensors.items():
        config = options.config()
        config["sparsity_level"] = levels.get(name, options.sparsity_level)
        if options.per_row:
            config = of_each_row(config, tensor, layout_of(options, tensor))
        configs[name] = config
    return configs


def of_each_row(
    config: Mapping[str, Any], tensor: Tensor, layout: tuple[int, ...] | None
) -> dict[str, Any]:
    """The config by which each row of a tensor loses the same number of elements."""
    rows = 1 if len(tensor.shape) < 2 else tensor.shape[layout[0] if layout else 0]
    zeros = math.floor(config["sparsity_level"] * (tensor.elements // rows))
    rule = {"sparsity_level": 1.0, "sparse_block_shape": (1, -1), "zeros_per_block": zeros}
    return {**config, **rule}


def require_transposed(options: Options, tensors: Mapping[str, Tensor]) -> None:
    """ValueError for a glob of `transposed` that no taken tensor of two and more axes answers."""
    matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) > 1}
    for pattern in options.transposed:
        require_a_match(pattern, matrices)


def require_one_of(argument: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}")
