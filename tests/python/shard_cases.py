"""Simulated ranks: random jobs are cut into parts, which answer a selection one after the other."""

import math
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from datasparse.torch.device.operations.grid import Grid, order_of
from datasparse.torch.sharded import sample
from datasparse.torch.sharded.compute import cut, in_memory, searches_of
from datasparse.torch.sharded.core_parts import CoreParts


def cuts(rng, length, step, pieces):
    """Where pieces of a length begin and end, at multiples of a step: some may be empty."""
    places = np.sort(rng.integers(0, -(-length // step) + 1, pieces - 1)) * step
    ends = [0, *np.minimum(places, length).tolist(), length]
    return list(pairwise(ends))


def boxes_of(rng, job, ranks, row_step=None):
    """The box that each rank has of a tensor, as slices, and whether it counts there: all of it is
    somewhere, parts of it twice, and some ranks may have nothing."""
    shape, grid = tuple(job.scores.shape), Grid.of(job)
    axes = list(order_of(job) or range(len(shape)))
    whole = tuple(slice(0, n) for n in shape)
    nothing = tuple(slice(0, 0) for _ in shape)
    boxes = [whole]
    if shape and math.prod(shape) > 0:
        rows, *others = axes if len(axes) > 1 else (None, *axes)
        split = next((axis for axis in others if shape[axis] > 1), None)
        down = int(rng.integers(1, ranks + 1)) if rows is not None else 1
        across = int(rng.integers(1, ranks // down + 1)) if split is not None else 1
        row_cuts = (
            cuts(rng, shape[rows], row_step or grid_step(grid, 0), down)
            if rows is not None
            else [None]
        )
        if split is not None:
            behind = math.prod(shape[axis] for axis in others[others.index(split) + 1 :])
            step = math.lcm(grid_step(grid, 1), behind) // behind
            column_cuts = cuts(rng, shape[split], step, across)
        else:
            column_cuts = [None]
        boxes = []
        for row in row_cuts:
            for column in column_cuts:
                box = list(whole)
                if row is not None:
                    box[rows] = slice(*row)
                if column is not None:
                    box[split] = slice(*column)
                boxes.append(tuple(box))
    given = [(box, True) for box in boxes]
    while len(given) < ranks:
        copied = shape and rng.random() < 0.5
        given.append((boxes[rng.integers(len(boxes))] if copied or not shape else nothing, False))
    return [given[i] for i in rng.permutation(ranks)]


def grid_step(grid, axis):
    """The height or the width of a block within the whole matrix."""
    return max((grid.height, grid.width)[axis], 1)


def may_cut_rows(rng, job, kind):
    """Whether parts may begin within blocks: the core carries sums of those."""
    grid = Grid.of(job)
    is_whole = grid.zeros == grid.size and not order_of(job)
    return kind is CoreParts and is_whole and len(job.scores.shape) > 1 and rng.random() < 0.5


def compute_on(rng, ranks, kind, hints=None, traffic=None, most=8192):
    """A route for check_route(): simulated ranks, whose parts are of that kind. `hints` are kept
    from one call to the next."""

    def compute(jobs, pools):
        steps = [1 if may_cut_rows(rng, job, kind) else None for job in jobs]
        boxes = [
            boxes_of(rng, *each) for each in zip(jobs, [ranks] * len(jobs), steps, strict=True)
        ]
        rows = [
            sorted({box[0].start for box, _ in given}) if step else []
            for given, step in zip(boxes, steps, strict=True)
        ]
        parts = []
        for rank in range(ranks):
            own = []
            for job, given, begins in zip(jobs, boxes, rows, strict=True):
                box, counts = given[rank]
                cut_at = tuple(row for row in begins if row % max(Grid.of(job).height, 1))
                size = tuple(part.stop - part.start for part in box)
                offset = tuple(part.start for part in box)
                here = cut(job, size, offset, counts, lambda t, box=box: t[box], cut_at)
                own.append(here)
            parts.append(own)
        searches = searches_of(jobs, pools, parts[0])
        for i, hint in enumerate(hints or []):
            searches[i] = replace(searches[i], hint=hint)
        answers = [kind(own, searches) for own in parts]
        while (preludes := [answer.prelude() for answer in answers])[0].size:
            for answer in answers:
                answer.begin(sum(preludes))
        selections = [answer.selection(most) for answer in answers]
        if rng.random() < 0.5:
            with patch.object(sample, "LARGE", 1):
                samples = [sample.Sample.of(own, searches) for own in parts]
            guesses = np.max([one.guesses for one in samples], axis=0)
            for selection, one in zip(selections, samples, strict=True):
                one.expect(selection, guesses)
                assert [len(q[2]) for q in selection.questions] == [
                    len(q[2]) for q in selections[0].questions
                ]
        while not selections[0].done:
            sums = sum(a.count(s) for a, s in zip(answers, selections, strict=True))
            for selection in selections:
                selection.tell(sums)
            if traffic is not None:
                traffic.append(8 * len(sums))
        if hints is not None:
            hints[:] = [selections[0].hint(i) for i in range(len(searches))]
        masks = [torch.zeros(job.scores.shape, dtype=torch.bool) for job in jobs]
        written = [torch.zeros(job.scores.shape, dtype=torch.bool) for job in jobs]
        for rank, (answer, selection) in enumerate(zip(answers, selections, strict=True)):
            assert selection.done
            for i, mask in enumerate(answer.contents(selection)):
                box, _ = boxes[i][rank]
                own = in_memory(jobs[i], mask)
                seen = written[i][box]
                assert torch.equal(masks[i][box][seen], own[seen])  # copies are equal
                masks[i][box] = own
                written[i][box] = True
        assert all(bool(w.all()) for w in written)
        return masks

    return compute
