"""Scores: by what groups are ranked, in the place of their magnitudes.

A score is a recipe that never changes: it compares, hashes, pickles, and prints as it is written.
`DataNormSparsifier(..., score=Taylor())` ranks by one. What it sums up belongs to the sparsifier,
and is saved with it. The lowest are pruned; docs/scores.md has the table of all.

A new score is a frozen dataclass with one method:

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True)
... class SquareRoot(GradientScore):
...     def sample(self, weight, gradient):
...         return abs(weight * gradient) ** 0.5
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ._core import _score_terms

if TYPE_CHECKING:
    from ._core import Array, BaseDataSparsifier

__all__ = [
    "SNIP",
    "AccumulatedScore",
    "Fisher",
    "GraSP",
    "Gradient",
    "GradientScore",
    "Magnitude",
    "Movement",
    "Random",
    "Score",
    "SynFlow",
    "Taylor",
    "Wanda",
]


def _kept_beside(data: Array, sparsifier: BaseDataSparsifier, name: str, key: str) -> Any:
    """The array of a group where its data are. One without axes comes as NumPy's from anywhere."""
    array: Any = sparsifier.get_array(name, key)
    if getattr(data, "is_cpu", True) or not isinstance(array, np.ndarray):
        return array
    import torch

    return torch.tensor(array, device=data.device)


@dataclass(frozen=True)
class Score:
    """The base of all scores: override `get_scores()`, or derive from one of the two below.

    Fields must be plain data: None, bool, int, float, str, or tuples of these. A state names the
    class and them, and is refused where the sparsifier has another score.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Score.__repr__  # type: ignore[method-assign]  # not dataclass's own

    signed: ClassVar[bool] = False
    """Whether values rank with their sign: then the sparsifier's norm has to be None."""
    reads_gradients: ClassVar[bool] = False
    """Whether it asks for gradients, and so has to come before the optimizer's update."""
    accumulates: ClassVar[bool] = False
    """Whether `sparsifier.accumulate()` adds samples."""
    arrays: ClassVar[tuple[str, ...]] = ()
    """The keys of what it keeps for each group, by `sparsifier.set_array()`.

    `score_bytes` counts what lies under them, and `reset_score()` forgets it; not what lies under
    others.
    """

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        """The scores of a group: an array of data's shape, of any kind that add_data() takes.

        Called within `step()`, as `DataNormSparsifier.get_scores()` is; `data` is the user's array
        (torch: detached, under no_grad). The sparsifier may be read: `get_gradient(name)`,
        `get_array(name, key)`, `get_mask(name)`. If it raises, nothing has changed.
        """
        raise NotImplementedError(f"{type(self).__name__} must override get_scores()")

    def __repr__(self) -> str:
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        listed = ", ".join(
            f"{field.name}={value!r}"
            for field, value in values.items()
            if not (field.metadata.get("named_if_set") and value == field.default)
        )
        return f"{type(self).__name__}({listed})"

    def _answer(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        """What step() asks for: scores that `score_once()` has made come first."""
        made = _kept_beside(data, sparsifier, name, "scores")
        return self.get_scores(sparsifier, name, data) if made is None else made

    def _fused(self) -> tuple[str, float] | None:
        """The sum that the core adds samples to by itself, in one pass, and its factor."""
        return None


@dataclass(frozen=True)
class GradientScore(Score):
    """One made of weight and gradient: override `sample()`."""

    reads_gradients = True

    def sample(self, weight: Array, gradient: Array) -> Array:
        """The scores, of weight's shape. The gradient is of the kind that it was handed in as."""
        raise NotImplementedError(f"{type(self).__name__} must override sample()")

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        return self.sample(data, sparsifier.get_gradient(name))


@dataclass(frozen=True)
class AccumulatedScore(GradientScore):
    """One whose samples are summed up by `sparsifier.accumulate()`: override `sample()`.

    The sums have the weight's shape, in float32 (float64 for float64). A step ranks by them, or,
    where nothing was accumulated, by one sample. They go on growing until `reset_score()`.

    decay: in [0, 1], what the sums are multiplied by before a sample is added: 1 forgets nothing,
        0 all but the last. By keyword. A state does not name it where it is 1.
    """

    decay: float = dataclasses.field(default=1.0, kw_only=True, metadata={"named_if_set": True})

    accumulates = True
    arrays = ("sums", "samples")

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", to_share("decay", self.decay))

    def from_sums(self, weight: Array, sums: Array, samples: int) -> Array:
        """The scores: the sums, unless overridden."""
        return sums

    def weight_of(self, samples: int) -> float:
        """What a sum of ones would be: how many were added, or, with a decay, 1 + decay + …."""
        if self.decay == 1:
            return samples
        return (1 - self.decay**samples) / (1 - self.decay)

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        # A subclass may list others in `arrays`.
        sums = _kept_beside(data, sparsifier, name, "sums")
        samples = sparsifier.get_array(name, "samples")
        if sums is None or samples is None:
            return self.from_sums(data, super().get_scores(sparsifier, name, data), 1)
        return self.from_sums(data, sums, int(samples))


class _InOnePass:
    """What the core computes without temporaries: `scale` times `term` of weight and gradient."""

    _term: ClassVar[str]
    _scale: ClassVar[float] = 1.0

    def sample(self, weight: Array, gradient: Array) -> Array:
        return _score_terms(self._term, weight, gradient, self._scale)

    def _fused(self) -> tuple[str, float] | None:
        own = type(self).sample is not _InOnePass.sample  # of a subclass
        return None if own else (self._term, self._scale)


# --- those that need nothing ----------------------------------------------------------------------


@dataclass(frozen=True)
class Magnitude(Score):
    """|w|, or w² by norm="L2": what a sparsifier without a score ranks by."""

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        return data


@dataclass(frozen=True)
class Random(Score):
    """Uniform in [0, 1): the same for the same seed, group name and shape, on every machine.

    It does not change from step to step, so that masks of rising levels are nested.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        require_int("seed", self.seed)

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        shape = tuple(getattr(data, "shape", None) or sparsifier.get_mask(name).shape)
        text = f"{self.seed}\0{name}".encode("utf-8", "surrogatepass")
        key = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
        # NumPy promises the bits of its bit generators, and of nothing that is made of them.
        bits: Any = np.random.Philox(key=key).random_raw(math.prod(shape))
        scores = ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)
        if getattr(data, "is_cpu", True):
            return scores
        return data.new_empty(0).double().new_tensor(scores)  # a tensor's, where it is


# --- those that need gradients --------------------------------------------------------------------


@dataclass(frozen=True)
class Gradient(_InOnePass, GradientScore):
    """|g|."""

    _term = "abs_gradient"


@dataclass(frozen=True)
class SNIP(_InOnePass, GradientScore):
    """|g·w| (Lee et al. 2019), of the gradient that is there, be it of one batch or of several."""

    _term = "abs_product"


@dataclass(frozen=True)
class Taylor(_InOnePass, AccumulatedScore):
    """Σ (g·w)²: what the loss changes by, to first order, squared (Molchanov et al. 2019)."""

    _term = "square_product"


@dataclass(frozen=True)
class Movement(_InOnePass, AccumulatedScore):
    """-Σ w·g (Sanh et al. 2020): weights that move towards 0 have low ones, and go first.

    Signed: norm is None by default, and has to be.
    """

    signed = True
    _term = "product"
    _scale = -1.0


@dataclass(frozen=True)
class Fisher(_InOnePass, AccumulatedScore):
    """w²·E[g²]/2: optimal brain damage by the empirical Fisher information (LeCun et al. 1990).

    With a decay the mean is a weighted one, by decay^(how many samples came later).
    """

    _term = "square_gradient"

    def from_sums(self, weight: Array, sums: Array, samples: int) -> Array:
        return _score_terms("weighted_square", weight, sums, 0.5 / self.weight_of(samples))


# --- those that need batches ----------------------------------------------------------------------


@dataclass(frozen=True)
class GraSP(Score):
    """w·(Hg), the lowest go (Wang et al. 2020). `datasparse.torch.score_once()` computes it.

    A weight that becomes 0 changes by -w, and so, to first order, the square of the gradient's norm
    by -2·w·(Hg). Where that is greatest the gradient flows best without the weight, so the lowest
    w·(Hg) go. The authors' code prunes the largest -w·(Hg). Signed: norm has to be None.
    """

    signed = True

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        raise needs_batches(self, name)


@dataclass(frozen=True)
class SynFlow(Score):
    """|θ·∂R/∂θ| (Tanaka et al. 2020). `datasparse.torch.score_once()` computes it.

    R is the sum of the output for an input of ones, with every parameter and buffer replaced by its
    magnitude. In `rounds` rounds the density falls as d^(k/rounds) to the density d that is
    asked for, by scores that are computed anew each time; so no layer dies where one can live.

    dtype: "float32", "float64", or None: float64 where float32 would overflow or vanish.
    biases: whether biases add to R, as in the authors' code. Where they are large, R comes from
        the last of them, and the layers before may die. False takes R for ones less R for zeros,
        which is the paper's formula: what comes from the input.
    """

    rounds: int = 100
    dtype: str | None = None
    biases: bool = True

    def __post_init__(self) -> None:
        require_int("rounds", self.rounds)
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if self.dtype not in (None, "float32", "float64"):
            raise ValueError(f'dtype must be "float32", "float64" or None, got {self.dtype!r}')
        if not isinstance(self.biases, bool):
            raise TypeError(f"biases must be a bool, got {self.biases!r}")

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        raise needs_batches(self, name)


@dataclass(frozen=True)
class Wanda(Score):
    """|W_ij|·‖X_j‖₂ (Sun et al. 2023): X_j is what input j was in all batches that were recorded.

    `datasparse.torch.record_inputs()` sums up squares. Without torch, set_array(name, "inputs", s):
    the sums of squares, float64, of a shape that broadcasts to the weight's.
    """

    arrays = ("inputs",)

    def get_scores(self, sparsifier: BaseDataSparsifier, name: str, data: Array) -> Array:
        squares = _kept_beside(data, sparsifier, name, "inputs")
        if squares is None:
            raise ValueError(
                f"Wanda() has seen no inputs of {name!r}: run batches within "
                "datasparse.torch.record_inputs(attachment) before step()"
            )
        shape = tuple(data.shape)
        try:
            if isinstance(squares, np.ndarray):
                norms = np.broadcast_to(np.sqrt(squares), shape)
            else:  # of torch, on a device
                norms = squares.sqrt().broadcast_to(shape)
        except (ValueError, RuntimeError):
            raise ValueError(
                f"inputs of {name!r} must broadcast to the shape of its data, {shape}, got "
                f"{tuple(squares.shape)}: call reset_score(), and record them anew"
            ) from None
        return _score_terms("abs_product", data, norms)


# --- what is checked ------------------------------------------------------------------------------


def needs_batches(score: Score, name: str) -> ValueError:
    return ValueError(
        f"{score} needs batches, and has scored none for {name!r}: call "
        "datasparse.torch.score_once(model, score, batches, loss) before step()"
    )


def require_int(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, got {value!r}")


def to_share(argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{argument} must be a float, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{argument} must be in [0, 1], got {value!r}")
    return float(value)


def is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _as_text(score: object) -> str:
    """What a state calls the score. TypeError for what is none, or holds what is not plain."""
    if isinstance(score, type) and issubclass(score, Score):
        raise TypeError(f"score must be an object, got the class: {score.__name__}()")
    if not isinstance(score, Score):
        raise TypeError(
            f"score must be one of datasparse.scores, such as Taylor(), or None, got {score!r}"
        )
    name = type(score).__name__
    for field in dataclasses.fields(score):
        value = getattr(score, field.name)
        if not is_plain(value):
            raise TypeError(
                f"{field.name} of {name} must be plain data (None, bool, int, float, str, tuples "
                f"of these), got {value!r}"
            )
    if score.accumulates and not callable(getattr(score, "sample", None)):
        raise TypeError(
            f"{name} accumulates, and so must have sample(weight, gradient), which says what of: "
            "derive it from AccumulatedScore, and override that"
        )
    return Score.__repr__(score)
