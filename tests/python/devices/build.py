"""Compiles the pretended device, once for a source, a compiler and a torch."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("pretended.cpp")
FOLDER = Path(__file__).resolve().parents[3] / "build/devices"
TORCH = Path(torch.__file__).parent


def compiler() -> str | None:
    return shutil.which("g++")


def library() -> Path:
    """The compiled device; five seconds where it has to be compiled."""
    found = compiler()
    if found is None:
        raise RuntimeError("the pretended device needs g++, which scripts/test installs")
    options = [
        "-std=c++20", "-O0", "-shared", "-fPIC",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib",
    ]  # fmt: skip
    version = subprocess.run([found, "--version"], check=True, capture_output=True).stdout
    facts = [SOURCE.read_bytes(), version, repr(options).encode(), torch.__version__.encode()]
    result = FOLDER / f"pretended-{hashlib.sha256(b'|'.join(facts)).hexdigest()[:16]}.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:  # of the tests that run side by side one compiles
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            made = result.with_suffix(f".{os.getpid()}")
            command = [found, *options, str(SOURCE), "-o", str(made), "-lc10", "-ltorch_cpu"]
            subprocess.run(command, check=True)
            made.replace(result)
    return result
