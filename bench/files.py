"""Times `datasparse prune` beside cp on the same disk, and compares its memory with the dry run's.

    python bench/files.py [--gigabytes N] [--files N] [--runs N] [--folder F] [--own OPTIONS]

A checkpoint of bfloat16 matrices is made up, none above 512 MiB. In turn, cp copies it without
sharing blocks and sync waits for the disk, and `datasparse prune`, which waits by itself, makes 50%
of it zero. Before each, the page cache is dropped, which takes root. Then some seconds pass, in
which a virtual machine gives free memory back to its host. It comes again page by page, which is
slow, and whoever came sooner would be spared that. Medians.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasparse.files.safetensors import Writer

GREATEST = 512 << 20  # bytes of a tensor
SETTLES = 5.0  # seconds
SIZES = (GREATEST, 117_440_512, 117_440_512, 33_554_432, 33_554_432, 8192)


def make_checkpoint(folder: Path, total: int, files: int) -> None:
    """A folder of files and an index, with tensors of some sizes in turn."""
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal(GREATEST // 4, np.float32).view("<u2")[1::2]
    noise = np.ascontiguousarray(noise)  # the upper halves of float32 are bfloat16
    index = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        tensors, left = [], total // files
        while left >= SIZES[-1]:
            size = next(size for size in SIZES[len(tensors) % 6 :] + SIZES if size <= left)
            shape = (size // 2,) if size == SIZES[-1] else (size // 8192, 4096)
            tensors.append((f"layers.{number}.{len(tensors)}.weight", "BF16", shape))
            left -= size
        with Writer(folder / name, tensors, {"format": "pt"}) as file:
            for tensor in file.header.tensors.values():
                left = tensor.size
                while left:
                    piece = noise.view(np.uint8)[: min(left, noise.nbytes)]
                    file.write(tensor.name, piece)
                    left -= len(piece)
        index |= {tensor: name for tensor, _, _ in tensors}
    weight_map = ",\n".join(f'"{tensor}": "{name}"' for tensor, name in index.items())
    (folder / "model.safetensors.index.json").write_text(
        f'{{"metadata": {{}}, "weight_map": {{{weight_map}}}}}'
    )


def forget() -> None:
    """Empty the page cache, and let free memory come to rest."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(SETTLES)


def timed(*command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


WATCHED = """
import sys
from pathlib import Path
from datasparse.cli import main
status = main(sys.argv[1:])
print([line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line][0])
sys.exit(status)
"""


def pruned(source: Path, target: Path, own: list[str]) -> tuple[float, int]:
    """The seconds that it took, and the most memory in bytes."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", WATCHED, "prune", str(source), str(target), *own]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found
    return seconds, int(found[1]) * 1024


def promised(source: Path, own: list[str]) -> str:
    """The memory that the dry run names."""
    command = [sys.executable, "-m", "datasparse", "prune", str(source), "--dry-run", *own]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("memory"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=12)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--own", default="--level 0.5", help="options of datasparse prune")
    options = parser.parse_args()
    own = options.own.split()

    times: dict[str, list[float]] = {"cp": [], "prune": []}
    memory = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = folder / "source"
        make_checkpoint(source, int(options.gigabytes * 1e9), options.files)
        size = sum(path.stat().st_size for path in source.iterdir())
        for _ in range(options.runs):
            forget()
            copy = f"cp -r --reflink=never {source} {folder / 'copy'} && sync"
            times["cp"].append(timed("sh", "-c", copy))
            shutil.rmtree(folder / "copy")
            forget()
            seconds, most = pruned(source, folder / "target", own)
            times["prune"].append(seconds)
            memory = max(memory, most)
            shutil.rmtree(folder / "target")
        print(promised(source, own))
    print(f"VmHWM: {memory / 1e6:.1f} MB")
    for what, values in times.items():
        middle = statistics.median(values)
        print(f"{what:<6} {middle:7.2f} s  {size / middle / 1e9:.2f} GB/s  "
              f"({min(values):.2f} to {max(values):.2f})")  # fmt: skip
    print(f"prune / cp: {statistics.median(times['prune']) / statistics.median(times['cp']):.2f}")


if __name__ == "__main__":
    main()
