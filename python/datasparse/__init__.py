"""Masks for sparse training: data sparsifiers keep them, data schedulers vary their parameters."""

from . import distributions, recipes, regrowth, schedules, scores
from ._core import (
    AdaptiveDataScheduler,
    BaseDataScheduler,
    BaseDataSparsifier,
    DataNormSparsifier,
    DataScheduler,
    UnknownNameError,
    __version__,
    block_mask,
    get_num_threads,
    load,
    require_known_keys,
    runtime_info,
    save,
    set_num_threads,
)
from ._embedding import get_cmake_dir, get_include, get_library

__all__ = [
    "AdaptiveDataScheduler",
    "BaseDataScheduler",
    "BaseDataSparsifier",
    "DataNormSparsifier",
    "DataScheduler",
    "UnknownNameError",
    "__version__",
    "block_mask",
    "distributions",
    "get_cmake_dir",
    "get_include",
    "get_library",
    "get_num_threads",
    "load",
    "recipes",
    "regrowth",
    "require_known_keys",
    "runtime_info",
    "save",
    "schedules",
    "scores",
    "set_num_threads",
]
