"""Whether a device computes scores as the rule has it: rounded by IEEE 754, denormals and all.

CPU: torch.set_flush_denormal(True) makes sums and squares others; it is put off meanwhile. CUDA:
torch's own kernels are compiled for IEEE 754, denormals included, and no setting of torch changes
that; ROCm goes by the same name, and has not been run. Any other kind of device is asked once, when
first it is to compute scores, whether its results are these: MPS, for one, is said to flush.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

TRUSTED = {"cpu", "cuda"}


def dtype_of_sums(dtype: torch.dtype) -> torch.dtype:
    """What scores of a dtype are squared, added up and divided in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """On the CPU, denormals count meanwhile. The setting is that of a thread, and what the other
    threads of an operation have is not known: so there is one."""
    if device.type != "cpu":
        yield
        return
    threads, flushes = torch.get_num_threads(), sys.float_info.min * 0.5 == 0.0
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushes)
        torch.set_num_threads(threads)


def require_exact(device: torch.device, dtype: torch.dtype) -> None:
    """ValueError where the device computes in that dtype otherwise than the CPU: float32, or
    float64. Reads values, once for a kind of device and dtype."""
    if is_exact(device, dtype):
        return
    raise ValueError(
        f"scores on device {str(device)!r} must be computed as IEEE 754 has it, but its {dtype} "
        "flushes denormals, rounds otherwise, or is missing, and the mask would be another than on "
        "the CPU; use sparse_block_shape=(1, 1) with norm='L1' or None and without pools of "
        "several dtypes or normalize, or move the tensor to the CPU"
    )


def is_exact(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device computes in that dtype as the CPU does, as require_exact() asks."""
    return device.type in TRUSTED or _is_exact(device.type, dtype)


@cache
def _is_exact(kind: str, dtype: torch.dtype) -> bool:
    try:
        found = _results(torch.device(kind), dtype).tolist()
    except torch.OutOfMemoryError:  # says nothing of the dtype, and is over another time
        raise
    except (TypeError, RuntimeError, NotImplementedError):  # no such dtype there
        return False
    with exact_arithmetic(torch.device("cpu")):
        return bool(found == _results(torch.device("cpu"), dtype).tolist())


def _results(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The bits of sums, squares and quotients that tell."""
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    steps = torch.arange(1, 64, device=device)
    denormals = steps.to(integer).view(dtype)
    tenths = steps.to(dtype) / torch.full((), 10, dtype=dtype, device=device)
    third = torch.full((), 3, dtype=dtype, device=device)
    small = tenths * torch.full((), 2.0**-70 if integer == torch.int32 else 2.0**-530,
                                dtype=dtype, device=device)  # fmt: skip
    narrow = [(torch.float16, torch.int16), (torch.bfloat16, torch.int16),
              (torch.float32, torch.int32)]  # fmt: skip
    widened = [steps.to(bits).view(kind).to(dtype) for kind, bits in narrow]
    results = [denormals + denormals, denormals / third, tenths / third, tenths * tenths + tenths,
               small * small, *widened]  # fmt: skip
    return torch.stack([result.view(integer) for result in results])
