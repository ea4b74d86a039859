"""Which tensors of a checkpoint are pruned, and why the others are not."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from .._core import _matches
from .._table import by_reason
from .header import FLOATS, Tensor

VECTOR = "a scalar or a vector"
SCALE = "a scale or a zero point of quantized weights"


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
    a floating dtype of two bytes and more. Scalars, vectors, and the scales and zero points of
    quantized weights are taken by their very names only.

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
        return why_unfit(tensor, tensor.name in wanted, scales)

    scales = scales_in(tensors)
    reasons = {name: why_left(tensor) for name, tensor in sorted(tensors.items())}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    taken = tuple(name for name in reasons if name not in left)
    for pattern in wanted:
        require_use(pattern, tensors, set(taken), scales)
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


def scales_in(tensors: Mapping[str, Tensor]) -> set[str]:
    """What scales or shifts a matrix beside it that is not pruned for its dtype, by its name:
    `weight_scale_inv`, `scales`, `zero`. A zero there would change a whole block of it."""
    parts = {name: name.rpartition(".") for name in tensors}
    quantized = {
        parts[name][0]
        for name, tensor in tensors.items()
        if len(tensor.shape) > 1 and tensor.dtype not in FLOATS
    }
    return {
        name
        for name, (module, _, own) in parts.items()
        if module in quantized and ("scale" in own or "zero" in own)
    }


def why_unfit(
    tensor: Tensor, by_its_name: bool, scales: Container[str] = frozenset()
) -> str | None:
    """Why a tensor is not pruned though its name is chosen."""
    if not tensor.name:
        return "without a name"
    if tensor.name in scales and tensor.dtype in FLOATS and not by_its_name:
        return SCALE
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


def require_use(
    pattern: str, tensors: Mapping[str, Tensor], taken: set[str], scales: set[str]
) -> None:
    """ValueError for a glob that was to include, and matches only what it cannot take."""
    matched = [tensor for name, tensor in sorted(tensors.items()) if _matches(pattern, name)]
    reasons = [why_unfit(tensor, tensor.name == pattern, scales) for tensor in matched]
    if taken.isdisjoint(tensor.name for tensor in matched) and all(reasons):
        kind = {VECTOR: "a vector", SCALE: "a scale"}.get(str(reasons[0]))
        only = f"; {kind} is included by its very name only" if kind else ""
        raise ValueError(
            f"{pattern!r} matches nothing that it may take: {matched[0].name!r} is "
            f"{reasons[0]}{only}"
        )


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)
