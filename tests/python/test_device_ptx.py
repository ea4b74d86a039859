"""Triton kernels compiled to PTX, which needs no GPU: how they round, and where warps wait."""

import importlib.util
import json

import pytest

# Not imported here: the interpreter may be asked for in this process.
if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)


def check_ptx(lines):
    """What a kernel does with floats rounds to nearest, each step by itself; denormals stay."""
    for line in lines.splitlines():
        kernel, target, (dtype, norm, single, _), found, flushes = json.loads(line)
        kind = "f64" if dtype == "float64" else "f32"
        expected = {f"mul.rn.{kind}"} if norm == "L2" else set()
        if kernel == "score" or (kernel != "select_within" and not single):
            expected |= {f"add.rn.{kind}", f"div.rn.{kind}"}
        assert (set(found), flushes) == (expected, False), (kernel, target, dtype, norm)


def test_ptx_rounds_each_operation_and_flushes_nothing(run_python):
    script = """
from kernel_ptx import *
report(COUNT, [("float32", "L2", False, 1)], [80, 90])
print(*map(barriers_before_the_first_store, (2, 512)))
"""
    *lines, barriers = run_python(script, TRITON_INTERPRET="0").splitlines()
    check_ptx("\n".join(lines))
    # decide() clears counts and moves cuts that other warps read: of few bins each has all.
    assert [int(number) >= 2 for number in barriers.split()] == [True, True]


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_ptx_of_all_kernels(run_python, dtype):
    kinds = [
        ("L1", False, 0),
        ("L2", False, 1),
        ("none", False, 2),
        ("L1", True, 0),
        ("L2", True, 2),
    ]
    kinds = [(dtype, *kind) for kind in kinds]
    script = f"from kernel_ptx import *; report(ALL, {kinds}, [80, 90])"
    check_ptx(run_python(script, TRITON_INTERPRET="0", timeout=500))


@pytest.mark.full
def test_kernels_compile_for_keys_and_for_counts_of_64_bits(run_python):
    script = """
from kernel_ptx import *
for dtype in ("key32", "key64"):
    for kernel in ALL[:3] + [selection.clear, selection.decide]:
        constants = kind(dtype, "none", True, 2) | dict(LAST=True, AGAIN=True, LOWEST=-(1 << 63))
        assert ".f32" not in ptx_of(kernel, 90, **constants | {"COUNT": tl.int64})
"""
    run_python(script, TRITON_INTERPRET="0")
