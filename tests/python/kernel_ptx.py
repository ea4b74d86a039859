"""Compiles Triton kernels to PTX without a GPU. For processes without the interpreter.

`report()` prints a line of JSON for each.
"""

import json
import re

import triton
import triton.language as tl
from datasparse.torch.device.kernels import large, selection, writing
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

COUNT = [selection.count]
ALL = [selection.count, writing.write, writing.keep_late_ties, large.score, large.select_within]
POINTERS = {"members": "*i64", "geometry": "*i64", "selections": "*i64"}


def ptx_of(kernel, target, **constants):
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    kinds = {"first": "i32", "shift": "i32", **POINTERS}
    signature = {
        name: "constexpr" if name in constants else kinds.get(name, "*i32") for name in names
    }
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    options = {"enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options).asm["ptx"]


def kind(dtype, norm, single, place):
    return {
        "DTYPE": dtype, "NORM": norm, "BITS": 64 if "64" in dtype else 32, "SINGLE": single,
        "FLAT": place == 0, "MERGED": place < 2, "INDEX": tl.int64 if place == 2 else tl.int32,
        "PAST": place == 2, "CUTS": True, "WITHIN": True, "OF_PAST": False, "BINS": 512,
        "TILE": 1024, "STEPS": 16, "COUNT": tl.int32,
    }  # fmt: skip


def report(kernels, kinds, targets):
    """[kernel, target, kind, its arithmetic on floats, whether anything flushes denormals]."""
    arithmetic = r"\b(?:add|sub|mul|div|fma|mad|rcp|sqrt)(?:\.[a-z]+)*\.f(?:16|32|64)\b"
    for kernel in kernels:
        for target in targets:
            for one in kinds:
                ptx = ptx_of(kernel, target, **kind(*one))
                found = sorted(set(re.findall(arithmetic, ptx)))
                print(json.dumps([kernel.__name__, target, one, found, ".ftz" in ptx]))


def barriers_before_the_first_store(bins):
    constants = {"BINS": bins, "OF_PAST": bins == 2, "LAST": bins > 2, "AGAIN": False, "LOWEST": 0,
                 "COUNT": tl.int32}  # fmt: skip
    ptx = ptx_of(selection.decide, 80, **constants)
    return ptx[: ptx.index("st.global")].count("bar.sync")
