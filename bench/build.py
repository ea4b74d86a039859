"""Compiles what the benchmarks need in C++, once, into build/bench/."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = Path(__file__).resolve().parent / "native"
BUILT = ROOT / "build" / "bench"

FLAGS = [
    "-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-mprefer-vector-width=512",
    # GCC 12 takes the undefined vectors in its own intrinsics for ours.
    "-Wno-uninitialized", "-Wno-maybe-uninitialized",
]  # fmt: skip


def _compile(name: str, sources: list[Path], flags: list[str]) -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, *flags, *map(str, sources)]
    # What goes into the library names it: a change of sources, flags or core makes another one.
    digest = hashlib.sha256(" ".join(command).encode())
    for source in [*sources, *sorted(NATIVE.glob("*.hpp"))]:
        digest.update(source.read_bytes())
    library = BUILT / f"{name}-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.rename(library)
    return ctypes.CDLL(str(library))


@functools.cache
def yardstick() -> ctypes.CDLL:
    """The bounds and their plain companions, for the machine that this runs on.

    The variable DATASPARSE_BENCH_MARCH names another architecture to the compiler, such as
    x86-64-v3, to test the loops without AVX-512.
    """
    march = os.environ.get("DATASPARSE_BENCH_MARCH", "native")
    sources = [NATIVE / "yardstick.cpp", NATIVE / "plain.cpp"]
    library = _compile("yardstick", sources, [*FLAGS, f"-march={march}"])
    library.yardstick_mask.restype = ctypes.c_bool
    library.yardstick_isa.restype = ctypes.c_char_p
    library.plain_copy.restype = None
    library.plain_read.restype = ctypes.c_uint64
    library.plain_apply.restype = None
    library.plain_count.restype = ctypes.c_int64
    return library


@functools.cache
def core() -> ctypes.CDLL | None:
    """The functions of native/core.cpp and embedding.cpp with the core; None without CMake."""
    cmake = shutil.which("cmake")
    if cmake is None:
        return None
    folder = BUILT / "core"
    configure = [cmake, "-S", str(ROOT), "-B", str(folder)]
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_POSITION_INDEPENDENT_CODE=ON"]
    build = [cmake, "--build", str(folder), "--target", "datasparse_static", "--parallel"]
    for command in ([*configure, *options], build):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    includes = [f"-I{ROOT / 'cpp/include'}", f"-I{folder / 'cpp/include'}"]
    sources = [NATIVE / "core.cpp", NATIVE / "embedding.cpp", folder / "cpp" / "libdatasparse.a"]
    library = _compile("core", sources, [*FLAGS, *includes])
    library.bench_groups.restype = ctypes.c_void_p
    library.bench_count_zeros.restype = ctypes.c_int64
    return library
