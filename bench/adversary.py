"""Inputs built against the sampling: what the engine looks at first says nothing about the rest.

The positions imitate score_sample() of cpp/src/select/sampling.hpp and runs_of_sample() of
cpp/src/tiles/lane.hpp, and must follow them. The answer has to be right all the same, and the
time within its goal.
"""

from collections.abc import Callable

import numpy as np

from bench.inputs import Shape, gaussian

RUN = 16  # elements that are sampled together: a cache line of float32
SHARE = 1.25  # of n ** (2 / 3), how many of them the first sample has
SECOND = 6  # how many times as many the second one has


def sampled(n: int, times: int) -> np.ndarray:
    """The first element of every run of a sample of n single elements, of so many times the size of
    the first one."""
    runs = min(times * (int(SHARE * n ** (2 / 3)) // RUN), n // 2 // RUN)
    part = n // runs
    index = np.arange(runs, dtype=np.uint64)
    jitter = index * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    jitter = jitter * np.uint64(part - RUN + 1) >> np.uint64(32)
    return (index.astype(np.int64) * part + jitter.astype(np.int64)) // RUN * RUN


def both_tries(n: int) -> np.ndarray:
    return np.union1d(sampled(n, 1), sampled(n, SECOND))


def _plant(data: np.ndarray, values: np.ndarray | float) -> np.ndarray:
    places = both_tries(data.size)[:, None] + np.arange(RUN)
    data.reshape(-1)[places] = values
    return data


def _large(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """The sample is larger than everything else: the bracket lies far above the cut."""
    return _plant(gaussian(rng, shape), 1e6)


def _tiny(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return _plant(gaussian(rng, shape), 1e-6)


def _mixed(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Half the sample tiny, half large: the bracket holds everything."""
    data = gaussian(rng, shape)
    places = both_tries(data.size)
    values = np.where(rng.random((places.size, RUN)) < 0.5, 1e-6, 1e6)
    return _plant(data, values.astype(np.float32))


def _shifted(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """The sample has the data's shape, and ten times its spread: a plausible lie."""
    data = gaussian(rng, shape)
    places = both_tries(data.size)
    return _plant(data, 10 * rng.standard_normal((places.size, RUN), dtype=np.float32))


PLANTED: dict[str, Callable[[np.random.Generator, Shape], np.ndarray]] = {
    "planted: large": _large,
    "planted: tiny": _tiny,
    "planted: tiny and large": _mixed,
    "planted: ten times wider": _shifted,
}
