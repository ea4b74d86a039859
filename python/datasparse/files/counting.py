"""How many blocks each tensor of a pool loses, found by reading all of them, and keeping few."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._core import ShardParts
from .closing import Closing
from .plan import ALIGNMENT, Plan, Task
from .pools import blocks_of, job_of, search_of
from .safetensors import as_array
from .sample import hint_of

Told = Callable[[int, str], None]
"""Called with the bytes that were read, and the name of the tensor."""


def count_pools(plan: Plan, told: Told) -> dict[str, int]:
    """How many of its lowest blocks each tensor of the plan's pools loses: those of a step of
    `DataNormSparsifier` in memory, where groups are sorted by name.

    Cost: a look at a few places of each tensor, and mostly two passes over all of them. Memory: the
    plan's buffers, 1% of what ranks the tensors, and 1 MiB, besides the scratch memory of a step.
    ValueError for a source that has changed.
    """
    tasks = {name: plan.tasks[name] for pool in plan.pools for name in pool.names}
    groups = {name: (task.tensor, task.layout, task.config) for name, task in tasks.items()}
    blocks = blocks_of(groups)
    dtypes = {name: plan.scores.dtype(task.tensor) for name, task in tasks.items()}
    searches = [search_of(pool, groups, blocks, dtypes) for pool in plan.pools]
    searches = [search for search in searches if search.names and search.pool.budget]
    names = [name for search in searches for name in search.names]
    pruned = dict.fromkeys(tasks, 0)
    if not names:
        return pruned
    given: list[dict[str, Any]] = []
    first = 0
    for search in searches:
        given.append(search.as_dict(first, hint_of(plan, search, blocks)))
        first += len(search.names)
    with Loads(plan, [tasks[name] for name in names], told) as loads:
        jobs = [
            job_of(groups[name], blocks[name], dtypes[name], partial(loads.load, place))
            for place, name in enumerate(names)
        ]
        found = counted(ShardParts(jobs, given))
    plan.require_unchanged()
    return pruned | dict(zip(names, found, strict=True))


def counted(parts: ShardParts) -> list[int]:
    """How many blocks each part loses, where nobody else has others: rounds of a selection."""
    while (numbers := parts.prelude()).size:
        parts.begin(numbers)
    selection = parts.selection()
    while not selection.done:
        selection.tell(parts.count(selection))
    parts.find(selection)
    return parts.pruned()


class Ahead(NamedTuple):
    """A tensor that is being read."""

    place: int
    memory: NDArray[np.uint8]
    read: Future[None]


class Loads(Closing):
    """What ranks tensors, one after the other, as somebody asks for them.

    Whoever asks for a tensor behind the one before gets the next one read meanwhile, if the plan's
    buffers hold both. To be used in a `with`.
    """

    def __init__(self, plan: Plan, tasks: list[Task], told: Told) -> None:
        self._plan, self._tasks, self._told = plan, tasks, told
        memory = np.empty(plan.buffers + ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        self._memory = memory[first : first + plan.buffers]
        self._sizes = [plan.task_bytes(task) for task in tasks]
        self._place = -1  # of what was given out last
        self._is_at_end = False  # of the memory
        self._ahead: Ahead | None = None
        self._reader = ThreadPoolExecutor(1)
        self._done = 0

    def load(self, place: int) -> NDArray[Any]:
        """What ranks a tensor. The memory of the one before may be used again from now on."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.read.result()
        if ahead is not None and ahead.place == place:
            memory = ahead.memory
            self._is_at_end = not self._is_at_end
        else:
            memory, self._is_at_end = self._memory[: self._sizes[place]], False
            self._read(place, memory)
        follows, self._place = place == self._place + 1, place
        if follows and place + 1 < len(self._tasks):
            self._begin(place + 1)
        task = self._tasks[place]
        data = as_array(task.tensor, memory[: task.tensor.size])
        ranked_by = self._plan.ranked_by(task, memory)
        scores = self._plan.scores.of(task.tensor.name, data, ranked_by)
        return data if scores is None else scores

    def _begin(self, place: int) -> None:
        """Read a tensor where the one that is given out is not, if there is room."""
        size = self._sizes[place]
        if size + self._sizes[self._place] > len(self._memory):
            return
        begin = 0 if self._is_at_end else len(self._memory) - size
        memory = self._memory[begin : begin + size]
        self._ahead = Ahead(place, memory, self._reader.submit(self._read, place, memory))

    def _read(self, place: int, memory: NDArray[np.uint8]) -> None:
        task = self._tasks[place]
        self._plan.read_into(task, memory)
        self._done += self._sizes[place]
        self._told(self._done, task.tensor.name)

    def close(self) -> None:
        self._reader.shutdown()
