"""Masks by plain torch operations, on any device that has them.

The bits of `datasparse.block_mask()`, without a value read back or a number copied to the device.
"""

from .compute import compute
from .move import move

__all__ = ["compute", "move"]
