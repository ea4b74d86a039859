"""Times a checkpoint beside dd on the same disk.

    python bench/checkpoint.py [--bits N] [--runs N] [--folder F]

Saving: dd writes as many bytes with conv=fsync. Loading: dd reads the file, which is dropped from
the page cache first for both. Medians of several runs, in turn; what was loaded is compared.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import datasparse
import numpy as np


def timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def dd(source, target, *options) -> None:
    command = ["dd", f"if={source}", f"of={target}", "bs=1M", "status=none", *options]
    subprocess.run(command, check=True)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=10**9)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()

    # One number, seen as many: the tensor takes no memory.
    data = np.broadcast_to(np.float32(1), (options.bits,))
    sparsifier = datasparse.DataNormSparsifier([("w", data)])
    mask = sparsifier.get_mask("w")
    mask[...] = np.resize(
        np.random.default_rng(0).integers(0, 2, 1_000_003).astype(bool), data.shape
    )

    times: dict[str, list[float]] = {"save": [], "dd write": [], "load": [], "dd read": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoint, copy = Path(folder, "checkpoint"), Path(folder, "copy")
        for _ in range(options.runs):
            times["save"].append(timed(lambda: datasparse.save(checkpoint, sparsifier)))
            times["dd write"].append(timed(lambda: dd(checkpoint, copy, "conv=fsync")))
            forget(checkpoint)
            times["dd read"].append(timed(lambda: dd(checkpoint, "/dev/null")))
            forget(checkpoint)
            saved = mask.copy()
            mask ^= True
            times["load"].append(timed(lambda: datasparse.load(checkpoint, sparsifier)))
            assert np.array_equal(mask, saved)
    megabytes = options.bits / 8e6
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<9} {middle * 1e3:8.1f} ms  {megabytes / middle:8.0f} MB/s")
    for ours, theirs in (("save", "dd write"), ("load", "dd read")):
        ratio = statistics.median(times[ours]) / statistics.median(times[theirs])
        print(f"{ours} / {theirs}: {ratio:.2f}")


if __name__ == "__main__":
    main()
