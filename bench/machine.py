"""What the figures were measured on."""

import platform
from pathlib import Path

import datasparse
import numpy as np

from bench.build import yardstick
from bench.options import Options
from bench.place import Place


def processor() -> str:
    """The model's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(options: Options) -> dict[str, str | int]:
    import torch

    if options.device is None:
        bound = {"bound": yardstick().yardstick_isa().decode()}
    else:
        bound = Place(options.device).describe()
    return (
        datasparse.runtime_info()
        | bound
        | {
            "threads": options.threads,
            "rounds": options.rounds,
            "processor": processor(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        }
    )
