"""Schedules: what a parameter is at each step, as values that never change.

A schedule is a pure function, `schedule(step, base) -> value`; `DataScheduler` applies one to the
groups of a sparsifier. Schedules nest, compare, hash, pickle, and print as they are written:

>>> warm = Sequential([Constant(0.0), Polynomial(final=0.9, end=1000, every=100)], milestones=[200])
>>> warm(700, 0.5)
0.7875
>>> parse(repr(warm)) == warm
True
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable

from ._core import (
    Clamp,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Lambda,
    Linear,
    MultiStep,
    OneShot,
    Piecewise,
    Polynomial,
    Product,
    Round,
    Schedule,
    Sequential,
    Step,
)

__all__ = [
    "Clamp",
    "Constant",
    "Cosine",
    "Cyclic",
    "Exponential",
    "Lambda",
    "Linear",
    "MultiStep",
    "OneShot",
    "Piecewise",
    "Polynomial",
    "Product",
    "Round",
    "Schedule",
    "Sequential",
    "Step",
    "parse",
]

MAX_LENGTH = 10_000  # characters of an expression
MAX_DEPTH = 100  # brackets in brackets

_TOKEN = re.compile(
    r"\s+|(?P<word>[A-Za-z_]+)|-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?(?![\w.])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|[:,=]",
    re.ASCII,
)

# What an expression may name. No Lambda: it would take code.
_KINDS: dict[str, Callable[..., Schedule]] = {
    kind.__name__: kind
    for kind in (
        Clamp,
        Constant,
        Cosine,
        Cyclic,
        Exponential,
        Linear,
        MultiStep,
        OneShot,
        Piecewise,
        Polynomial,
        Product,
        Round,
        Sequential,
        Step,
    )
}


def parse(expression: str) -> Schedule:
    """Return the schedule that an expression such as "Linear(final=0.9, end=1000)" describes.

    It is read and never evaluated: it may hold calls of the classes of this module (`Lambda`
    aside), numbers, None, lists, tuples and dicts, in at most 10,000 characters, 100 brackets deep.
    ValueError for anything else, naming it. Arguments are refused as by the classes themselves.

    >>> parse("Clamp(Exponential(1.5), 0.0, 0.95)")
    Clamp(schedule=Exponential(gamma=1.5, every=1), low=0.0, high=0.95)
    """
    _check_tokens(expression)
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(f"expression must be a schedule, got {expression!r}: {reason}") from None
    parsed = _value(tree.body)
    if not isinstance(parsed, Schedule):
        raise ValueError(f"expression must be a schedule, got {expression!r}")
    return parsed


def _check_tokens(expression: str) -> None:
    """Let nothing through to ast.parse that could make it, or what follows, recurse without bounds.

    Without operators and keywords, only brackets nest.
    """
    if not isinstance(expression, str):
        raise TypeError(f"expression must be a str, got {expression!r}")
    if len(expression) > MAX_LENGTH:
        raise ValueError(
            f"expression must have at most {MAX_LENGTH} characters, got {len(expression)}"
        )
    position = depth = 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            raise ValueError(f"expression must not hold {expression[position]!r}")
        word = token["word"]
        if word is not None and keyword.iskeyword(word) and word != "None":
            raise ValueError(f"expression must not hold {word!r}")
        depth += (token["open"] is not None) - (token["close"] is not None)
        if depth > MAX_DEPTH:
            raise ValueError(f"expression must nest at most {MAX_DEPTH} brackets, got more")
        position = token.end()


def _value(node: ast.expr | None) -> object:
    match node:
        case ast.Call():
            return _call(node)
        case ast.Constant(value=None | int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(key, ast.Constant | ast.UnaryOp) for key in keys):
                raise ValueError(f"expression must hold numbers as keys, got {ast.unparse(node)!r}")
            known = [_value(key) for key in keys]
            require_once(known)
            return dict(zip(known, map(_value, values), strict=True))
        case ast.expr():
            raise ValueError(f"expression must not hold {ast.unparse(node)!r}")
    raise ValueError("expression must not hold '**'")


def require_once(keys: list[object]) -> None:
    """ValueError for a key that comes twice: the first value would be lost."""
    for place, key in enumerate(keys):
        if key in keys[:place]:
            raise ValueError(f"expression must hold each key once, got {key!r} twice")


def _call(node: ast.Call) -> Schedule:
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    kind = _KINDS.get(name)
    if kind is None:
        known = ", ".join(_KINDS)
        raise ValueError(f"expression must name a schedule, got {name!r}; known: {known}")
    places = [_value(argument) for argument in node.args]
    require_once([argument.arg for argument in node.keywords if argument.arg is not None])
    names = {argument.arg or "**": _value(argument.value) for argument in node.keywords}
    try:
        return kind(*places, **names)
    except TypeError as error:
        # What pybind11 says of wrong arguments: a few lines, the signature among them.
        signature = re.search(r"1\. datasparse\.schedules\.(.*)", str(error))
        if signature is None:
            raise
        wanted = signature[1].replace(": object", "").replace(" = ", "=")
    raise ValueError(f"{ast.unparse(node)} must be written {wanted}")
