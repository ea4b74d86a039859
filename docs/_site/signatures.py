"""Signatures of what is compiled, from its stub: pybind11 knows arguments only as objects."""

import ast
import inspect
from pathlib import Path

import datasparse
from datasparse import _core

STUB = Path(datasparse.__file__).with_name("_core.pyi")


def signature_of(function: ast.FunctionDef, is_method: bool) -> tuple[str, str | None]:
    arguments = function.args
    if is_method:
        named = arguments.posonlyargs or arguments.args
        del named[0]
    returns = None if function.returns is None else ast.unparse(function.returns)
    return f"({ast.unparse(arguments)})", returns


def signatures() -> dict[str, tuple[str, str | None]]:
    """By names such as "load" and "DataScheduler.step"; a class has that of its __init__."""
    found = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = signature_of(node, is_method=False)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    name = node.name if member.name == "__init__" else f"{node.name}.{member.name}"
                    signature, returns = signature_of(member, is_method=True)
                    found[name] = (signature, None if member.name == "__init__" else returns)
    return found


SIGNATURES = signatures()


def take_from_stub(app, what, name, it, options, signature, returns):
    """For autodoc-process-signature: the stub's, where it has one of that object.

    A dataclass with a field that a factory makes has a signature that is no Python. Functions make
    such objects, so they are shown without one.
    """
    if what == "class" and "<factory>" in (signature or ""):
        return "", None
    # A function of Python has its own, also where one that is compiled has the same name.
    if what not in ("class", "function", "method") or inspect.isfunction(it):
        return None
    for length in (1, 2):
        key = ".".join(name.split(".")[-length:])
        if key in SIGNATURES and ((length == 2) == (what == "method")):
            return SIGNATURES[key]
    return None


def setup(app):
    # autodoc asks for a better signature only where an object has one at all.
    for it in vars(_core).values():
        if isinstance(it, type):
            it.__signature__ = inspect.Signature()
    app.connect("autodoc-process-signature", take_from_stub)
    return {"parallel_read_safe": True}
