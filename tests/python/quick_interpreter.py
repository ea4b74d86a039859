"""Triton's interpreter without what it does again and again: half of its time.

It patches all of Triton's functions for each call of one, which a kernel's first patch has done; it
computes whether integers overflow, and asserts it in debug mode alone; and it builds a table of
NumPy's dtypes for each one that it asks for.
"""

import functools
import inspect
from dataclasses import replace
from types import SimpleNamespace

import triton.language as tl
from triton.runtime import interpreter


def hasten(monkeypatch):
    """Until the monkeypatch ends."""
    builder = interpreter.interpreter_builder
    unchecked = replace(builder.options, sanitize_overflow=False)
    monkeypatch.setattr(builder, "options", unchecked)
    monkeypatch.setattr(interpreter, "_patch_builtin", patch_builtins)
    monkeypatch.setattr(interpreter, "_patch_lang", once(interpreter._patch_lang))
    monkeypatch.setattr(interpreter, "_get_np_dtype", by_name(interpreter._get_np_dtype))


@functools.cache
def builtins_of(package):
    return [name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member)]


def patch_builtins(package, builder, scope):
    for name in builtins_of(package):
        member = getattr(package, name)
        if tl.core.is_builtin(member):  # and not a patch of before
            interpreter._patch_attr(package, name, member, builder, scope)


def once(patch):
    """All that any function sees is patched for a kernel, and nothing for what the kernel calls."""
    all_of_it = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    current = Scope()

    def patch_once(_):
        if current.is_patched:
            return interpreter._LangPatchScope()
        current.is_patched = True
        current.patches = patch(all_of_it)
        return current

    return patch_once


class Scope:
    """Of one kernel after the other."""

    is_patched = False

    def restore(self):
        self.patches.restore()
        self.is_patched = False


def by_name(dtype_of):
    """Types of blocks cannot be hashed, their names can."""
    known = {}

    def find(kind):
        if kind.name not in known:
            known[kind.name] = dtype_of(kind)
        return known[kind.name]

    return find
