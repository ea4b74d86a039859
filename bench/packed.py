"""Sizes of packed files beside gzip and zstd, and how long reading them takes.

    python bench/packed.py [--mib N] [--runs N] [--only-loads] [--folder F]

A checkpoint of bfloat16 matrices, normally distributed, with zeros of several kinds. Sizes: each
over that of the dense file; gzip and zstd (where its program is there) take the dense file as it
is. Times: each load is the first one of a process of its own, in turn with those that it is beside,
all of the tensors, from the page cache, by one thread; medians. safetensors' load_file for torch
maps the file and reads nothing; `copied` is the same with each tensor copied to memory of its own.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasparse.files import pack, unpack
from safetensors.torch import save_file

SIDE = 2048
COMPRESSORS = (("gzip", "-6"), ("zstd", "-3"), ("zstd", "-19"))
KINDS = ("90%", "70%", "50%", "2:4", "4:8")
LOADS = {
    "load_packed numpy": "dict(datasparse.files.load_packed(path))",
    "load_file numpy": "safetensors.numpy.load_file(path)",
    "load_packed torch": "dict(datasparse.files.load_packed(path, 'torch'))",
    "load_file torch, copied": (
        "{name: t.clone() for name, t in safetensors.torch.load_file(path).items()}"
    ),
    "load_file torch, mapped": "safetensors.torch.load_file(path)",
}
CHILD = """
import sys, time
import datasparse.files, ml_dtypes, safetensors.numpy, safetensors.torch, torch
torch.set_num_threads(1)
path = {path!r}
begin = time.perf_counter()
tensors = {load}
print(time.perf_counter() - begin)
"""


def make(kind: str, path: Path, mib: int) -> None:
    """Write matrices of 8 MiB each with such zeros."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for number in range(max(1, mib // 8)):
        weight = torch.randn(SIDE, SIDE, generator=generator)
        if kind.endswith("%"):
            count = round(int(kind[:-1]) / 100 * weight.numel())
            weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0
        else:
            zeros, size = map(int, kind.split(":"))
            groups = weight.view(-1, size)
            groups.scatter_(1, groups.abs().argsort(1)[:, :zeros], 0)
        tensors[f"layers.{number}.weight"] = weight.bfloat16()
    save_file(tensors, path)


def timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def by_program(path: Path, program: str, option: str) -> tuple[float, float] | None:
    """The size over that of the file, and the seconds of reading it back; None without it."""
    if shutil.which(program) is None:
        return None
    small = path.with_suffix({"gzip": ".gz", "zstd": ".zst"}[program])
    with small.open("wb") as file:
        subprocess.run([program, option, "-q", "-c", str(path)], check=True, stdout=file)
    command = [program, "-d", "-q", "-c", str(small)]
    seconds = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    ratio = small.stat().st_size / path.stat().st_size
    small.unlink()
    return ratio, seconds


# NumPy asks for huge pages, which come at once or after 0.1 s, as the kernel has some or not. Here
# all loads get small ones.
SMALL_PAGES = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}


def load_times(dense: Path, packed: Path, runs: int) -> dict[str, float]:
    """The median of each load, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in LOADS}
    for _ in range(runs):
        for name, load in LOADS.items():
            path = packed if name.startswith("load_packed") else dense
            script = CHILD.format(path=str(path), load=load)
            done = subprocess.run(
                [sys.executable, "-c", script], check=True, capture_output=True, env=SMALL_PAGES
            )
            times[name].append(float(done.stdout))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=128, help="of the dense file")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only-loads", action="store_true", help="no gzip, no zstd: they are slow")
    parser.add_argument("--folder", type=Path, help="where files are made for the while")
    options = parser.parse_args()

    print(f"NumPy {np.__version__}, torch {torch.__version__}, {options.mib} MiB of bfloat16")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        dense, packed, back = (Path(folder, name) for name in ("dense", "packed", "back"))
        for kind in KINDS:
            make(kind, dense, options.mib)
            size = dense.stat().st_size
            packing = timed(lambda: pack(dense, packed))
            unpacking = timed(lambda: unpack(packed, back))
            assert back.read_bytes() == dense.read_bytes()
            rate = size / 1e9
            rates = f"packing {rate / packing:.2f} GB/s, unpacking {rate / unpacking:.2f} GB/s"
            print(f"{kind}: packed {packed.stat().st_size / size:.3f}, {rates} (dense)")
            for program, option in () if options.only_loads else COMPRESSORS:
                done = by_program(dense, program, option)
                if done is not None:
                    ratio, seconds = done
                    print(f"  {program} {option}: {ratio:.3f}, reading {rate / seconds:.2f} GB/s")
            times = load_times(dense, packed, options.runs)
            for name, seconds in times.items():
                print(f"  {name:<24} {seconds * 1e3:7.1f} ms")
            for other in ("numpy", "torch, copied"):
                ours = times[f"load_packed {other.split(',')[0]}"]
                print(f"  against load_file {other}: {ours / times[f'load_file {other}']:.2f}")
            for path in (packed, back):
                path.unlink()


if __name__ == "__main__":
    main()
