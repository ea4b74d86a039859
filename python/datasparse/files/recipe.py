"""What a recipe says of the tensors of a checkpoint: `datasparse.recipes`, for files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..scores import Magnitude, Wanda
from .choose import Choice, refuse_left_by_dtype, scales_in, why_unfit
from .header import Tensor
from .options import Options, Rules

if TYPE_CHECKING:
    from ..recipes import Recipe

BESIDE = ("recipe", "scores", "input_norms", "strict")
"""The options that go with a recipe, which says all else."""


def rules_of_recipe(options: Options, tensors: Mapping[str, Tensor]) -> Rules:
    """The rule of each tensor that the recipe takes. Scheduled values are those of the ends.

    A tensor lies as it does in memory where the recipe says no layout, as arrays do.

    ValueError, naming the recipe's file and the key, for what a file cannot be pruned by, and what
    the recipe itself finds: globs that match nothing, shapes that do not fit.
    """
    from ..recipes import load
    from ..recipes.choosing import chosen, is_its_name, of_shape
    from ..recipes.resolving import axes_of

    assert options.recipe is not None
    recipe = load(options.recipe)
    require_of_files(recipe, options)
    left: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    patterns = [pattern for entry in recipe.entries for pattern in entry.include or ()]
    scales = {
        name
        for name in scales_in(tensors)
        if not any(is_its_name(pattern, name) for pattern in patterns)
    }
    for name, tensor in sorted(tensors.items()):
        reason = why_unfit(tensor, name not in scales, scales)  # the recipe itself leaves vectors
        if reason is None:
            shapes[name] = tensor.shape
        else:
            left[name] = reason
    if options.strict:
        refuse_left_by_dtype(left)
    left |= chosen(recipe, {name: of_shape(shape) for name, shape in shapes.items()}).left
    configs: dict[str, dict[str, Any]] = {}
    layouts: dict[str, tuple[int, ...] | None] = {}
    for name, config in recipe.final_configs(shapes).items():
        if config is None:
            continue
        if not config.pop("update", True):
            left[name] = "frozen by the recipe"
            continue
        if config.pop("keep_zeros", False):
            raise recipe.error(
                (),
                f"keep_zeros of {name!r} is of trainings: leave it out, zeros are lowest",
            )
        layouts[name] = axes_of(config.pop("layout", None), shapes[name])
        configs[name] = config if options.scores is None else {**config, "norm": None}
    if not configs:
        raise recipe.error((), "takes no tensor but those whose masks are frozen")
    defaults = dict(recipe.sparsifier().defaults)
    choice = Choice(tuple(sorted(configs)), dict(sorted(left.items())))
    return Rules(choice, configs, layouts, defaults, recipe.dumps())


def require_of_files(recipe: Recipe, options: Options) -> None:
    """ValueError for what takes a training, which a file has not."""
    if recipe.regrowth is not None:
        raise recipe.error(
            ("regrowth",), f"{recipe.regrowth} moves masks in a training: leave it out for a file"
        )
    score = recipe.score
    if score is not None and options.scores is not None:
        raise recipe.error(("score",), "and scores both say what is ranked: choose one of them")
    if isinstance(score, Wanda):
        if options.input_norms is None:
            raise recipe.error(
                ("score",), "Wanda needs what reaches the inputs: give input_norms, as "
                "datasparse.torch.calibrate() writes them"
            )  # fmt: skip
    elif not isinstance(score, Magnitude | None):
        raise recipe.error(
            ("score",), f"{type(score).__name__} is made in a training, of which a file has "
            "nothing: leave it out, and give scores"
        )  # fmt: skip
    elif isinstance(score, Magnitude) and options.input_norms is not None:
        raise recipe.error(
            ("score",), "Magnitude and input_norms both say what is ranked: choose one of them"
        )


def require_alone(options: Options) -> None:
    """ValueError for options that say what the recipe says."""
    for field in dataclasses.fields(options):
        if field.name not in BESIDE and getattr(options, field.name) != field.default:
            raise ValueError(
                f"{field.name} and recipe must not both be given: the recipe says all but "
                f"{', '.join(BESIDE[1:])}"
            )
