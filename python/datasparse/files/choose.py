"""Which tensors of a checkpoint are pruned, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .._core import _matches
from .._table import by_reason
from .header import FLOATS, Tensor

VECTOR = "a scalar or a vector"
SCALE = "a scale of quantized weights"


@dataclass(frozen=True)
class Choice:
    """The names of tensors that are taken, sorted, and those of the others with the reason."""

    taken: tuple[str, ...]
    left: Mapping[str, str]


def choose(
    tensors: Mapping[str, Tensor],
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    strict: bool = False,
) -> Choice:
    """Choose by globs (`*`, `?`, `[seq]`), as `datasparse.torch.attach()` does.

    Taken is what any of `include` matches (by default all does) and none of `exclude`, if it is of
    a floating dtype of two bytes and more. Scalars, vectors and the scales of quantized weights are
    taken by their very names only.

    ValueError for a glob that matches nothing, or nothing that it may take, and where nothing at
    all is left; with `strict`, for a tensor that only its dtype leaves out.
    """
    wanted, unwanted = tuple(include), tuple(exclude)
    for pattern in (*wanted, *unwanted):
        require_a_match(pattern, tensors)

    def why_left(tensor: Tensor) -> str | None:
        if matches_any(tensor.name, unwanted):
            return "excluded"
        if wanted and not matches_any(tensor.name, wanted):
            return "not included"
        if is_scale(tensor.name, quantized) and tensor.name not in wanted:
            return SCALE
        return why_unfit(tensor, tensor.name in wanted)

    quantized = modules_of_quantized(tensors)
    reasons = {name: why_left(tensor) for name, tensor in sorted(tensors.items())}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    taken = tuple(name for name in reasons if name not in left)
    for pattern in wanted:
        require_use(pattern, tensors, set(taken))
    if strict:
        refuse_left_by_dtype(left)
    if not taken:
        raise ValueError("no tensor is left to be pruned; " + "; ".join(by_reason(left)))
    return Choice(taken, left)


def refuse_left_by_dtype(left: Mapping[str, str]) -> None:
    """ValueError for a tensor that only its dtype leaves out."""
    for name, reason in left.items():
        if reason.startswith("of dtype"):
            raise ValueError(
                f"{name!r} is {reason}, which is not pruned: exclude it, or do without strict"
            )


def modules_of_quantized(tensors: Mapping[str, Tensor]) -> set[str]:
    """What holds matrices of dtypes that are not pruned."""
    return {
        name.rpartition(".")[0]
        for name, tensor in tensors.items()
        if len(tensor.shape) > 1 and tensor.dtype not in FLOATS
    }


def is_scale(name: str, quantized: set[str]) -> bool:
    """Whether a tensor scales such a matrix beside it, by its name: `weight_scale_inv`, `scales`. A
    zero there would prune a whole block of it."""
    module, _, own = name.rpartition(".")
    return "scale" in own and module in quantized


def why_unfit(tensor: Tensor, by_its_name: bool) -> str | None:
    """Why a tensor is not pruned though its name is chosen."""
    if not tensor.name:
        return "without a name"
    if len(tensor.shape) < 2 and not by_its_name:
        return VECTOR
    if tensor.dtype not in FLOATS:
        return f"of dtype {tensor.dtype}"
    return None if tensor.elements else "without elements"


def require_a_match(pattern: str, tensors: Mapping[str, Tensor]) -> None:
    if any(_matches(pattern, name) for name in tensors):
        return
    names = ", ".join(sorted(tensors)[:8]) or "none"
    more = ", ..." if len(tensors) > 8 else ""
    raise ValueError(f"{pattern!r} matches no tensor; there are {names}{more}")


def require_use(pattern: str, tensors: Mapping[str, Tensor], taken: set[str]) -> None:
    """ValueError for a glob that was to include, and matches only what it cannot take."""
    matched = [tensor for name, tensor in sorted(tensors.items()) if _matches(pattern, name)]
    reasons = [why_unfit(tensor, tensor.name == pattern) for tensor in matched]
    if taken.isdisjoint(tensor.name for tensor in matched) and all(reasons):
        only = "; a vector is included by its very name only" if reasons[0] == VECTOR else ""
        raise ValueError(
            f"{pattern!r} matches nothing that it may take: {matched[0].name!r} is "
            f"{reasons[0]}{only}"
        )


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)
