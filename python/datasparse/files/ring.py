"""Memory that is given out and comes back in the same order, and never grows."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray


class StoppedError(Exception):
    """Raised in those who wait for memory that will not come any more."""


class Ring:
    """A buffer of `size` bytes of which parts are taken, and given back first come, first gone.

    All of the memory is taken at once, so that it is there. Threads may share a Ring.
    """

    def __init__(self, size: int, alignment: int) -> None:
        self.size = size
        memory = np.zeros(size + alignment, np.uint8)
        memory.fill(0)  # the system gives memory where it is written to
        first = -memory.ctypes.data % alignment
        self._memory = memory[first : first + size]
        self._out: deque[tuple[int, int]] = deque()  # begin and end of what is out, oldest first
        self._changed = threading.Condition()
        self._stopped = False

    def take(self, size: int) -> NDArray[np.uint8]:
        """So many bytes, at most those of the ring; waits until they are free."""
        with self._changed:
            while True:
                if self._stopped:
                    raise StoppedError
                begin = self._free(size)
                if begin is not None:
                    self._out.append((begin, begin + size))
                    return self._memory[begin : begin + size]
                self._changed.wait()

    def give_back(self) -> None:
        """Give back what was taken first of all that is out."""
        with self._changed:
            self._out.popleft()
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _free(self, size: int) -> int | None:
        """Where so many bytes are free behind what was taken last, or again at the beginning."""
        if not self._out:
            return 0 if size <= self.size else None
        oldest, newest = self._out[0][0], self._out[-1][1]
        if self._out[-1][0] < oldest:  # went round
            return newest if newest + size <= oldest else None
        if newest + size <= self.size:
            return newest
        return 0 if size <= oldest else None
