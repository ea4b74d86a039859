"""Masks for sparse training: data sparsifiers keep them, data schedulers vary their parameters."""

from ._core import (
    BaseDataScheduler,
    BaseDataSparsifier,
    DataNormSparsifier,
    UnknownNameError,
    __version__,
    block_mask,
    get_num_threads,
    load,
    runtime_info,
    save,
    set_num_threads,
)

__all__ = [
    "BaseDataScheduler",
    "BaseDataSparsifier",
    "DataNormSparsifier",
    "UnknownNameError",
    "__version__",
    "block_mask",
    "get_num_threads",
    "load",
    "runtime_info",
    "save",
    "set_num_threads",
]
