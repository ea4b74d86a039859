"""Simulated ranks that move masks together: threads of one process, which sum by turns."""

import threading

import numpy as np
import torch
from datasparse.torch.device.job import Moved
from datasparse.torch.device.operations.grid import in_order
from datasparse.torch.sharded.compute import cut, in_memory
from datasparse.torch.sharded.move import Shard, move_shards
from shard_cases import boxes_of


class Meeting:
    """Where all ranks bring something, and each gets what all have brought."""

    def __init__(self, ranks):
        self.brought = [None] * ranks
        self.barrier = threading.Barrier(ranks, timeout=30)

    def exchange(self, rank, thing):
        self.brought[rank] = thing
        self.barrier.wait()
        everything = list(self.brought)
        self.barrier.wait()
        return everything


class SimulatedCall:
    """What `Call` of the library is, of one of the ranks: it raises what attempt() has caught."""

    def __init__(self, meeting, rank):
        self.meeting, self.rank, self.sent = meeting, rank, 0

    def attempt(self, work, *args):
        return work(*args)

    def agree(self, description=None, numbers=None):
        (first, own), *others = self.meeting.exchange(self.rank, (description, numbers))
        assert all(other == first for other, _ in others)
        return own if own is None else np.max([own, *(theirs for _, theirs in others)], axis=0)

    def sum(self, numbers, size):
        assert numbers.shape == (size,)
        self.sent += 1
        return sum(self.meeting.exchange(self.rank, numbers.copy()))


def move_on(rng, ranks):
    """Moves of whole tensors, by so many ranks, each of which has random parts of them."""

    def move(moves, pools):
        boxes = [boxes_of(rng, one.job, ranks) for one in moves]
        meeting = Meeting(ranks)
        made, errors = [None] * ranks, [None] * ranks

        def work(rank):
            try:
                with torch.no_grad():
                    shards = [shard_of(*own, rank) for own in zip(moves, boxes, strict=True)]
                    made[rank] = move_shards(SimulatedCall(meeting, rank), shards, pools)
            except BaseException as error:
                errors[rank] = error
                meeting.barrier.abort()

        if moves:
            threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for error in errors:
            if error is not None and not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [
            gathered(one, [(box, made[rank][i]) for rank, (box, _) in enumerate(boxes[i])])
            for i, one in enumerate(moves)
        ]

    return move


def shard_of(move, boxes, rank):
    box, counts = boxes[rank]
    size = tuple(part.stop - part.start for part in box)
    offset = tuple(part.start for part in box)
    part = cut(move.job, size, offset, counts, lambda tensor: tensor[box])
    return Shard(move, part, lambda tensor: in_order(tensor[box], move.job))


def gathered(move, parts):
    """The whole tensors, of those of ranks: copies must be equal."""
    whole = []
    for which in ("mask", "ever_active", "grown"):
        tensor = torch.full(move.job.scores.shape, 2, dtype=torch.uint8)
        for box, moved in parts:
            own = in_memory(move.job, getattr(moved, which)).to(torch.uint8)
            seen = tensor[box] < 2
            assert torch.equal(tensor[box][seen], own[seen])
            tensor[box] = own
        assert bool((tensor < 2).all())
        whole.append(tensor.to(torch.bool))
    return Moved(*whole)
