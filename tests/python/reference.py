"""What a step of DataNormSparsifier computes, written as plainly as possible.

Slow on purpose: one Python loop per rule and NumPy scalars for every sum, so that each line can
be checked by eye against the rules. It shares no code and no idea with the library.

The rules:

1. The data are seen as a matrix (`as_matrix`) and cut into blocks from the origin (`blocks`);
   blocks at the edges may be partial. A block axis of -1 is the whole axis.
2. A block's score is the mean of |x| ("L1") or x*x ("L2") over the elements that exist, summed in
   row-major order one after another in float32 (float64 for float64 data), then divided by their
   number (`block_score`).
3. The k = round-half-even(sparsity_level * number of blocks) lowest blocks are pruned. NaN ranks
   above everything, infinity below NaN; among equals the lower block index goes first.
4. In a pruned block, `zeros_per_block` elements are zeroed (all, when it is None): smallest |x| or
   x*x first, NaN last, equals in row-major order.
5. `min_kept` blocks are kept whatever the level: k is at most the number of blocks less that.
6. With a `past`, what it has pruned ranks below everything else: blocks that have an element among
   it, and in a pruned block these elements. Among each of the two kinds all is as before.

float16 and bfloat16 data widen to float32: pass bfloat16 data as float32 values (`float_values`).
"""

import math

import numpy as np
import torch


def float_values(data):
    """The numbers in a NumPy array or a torch tensor, as a NumPy array (bfloat16 as float32)."""
    if isinstance(data, torch.nn.Module):
        data = data.weight
    if isinstance(data, torch.Tensor):
        data = data.detach()
        if data.dtype == torch.bfloat16:
            data = data.float()
        return data.numpy().copy()
    return np.array(data)


def as_matrix(data):
    """0-d is 1x1, N is 1xN, and N-D is its first axis by all the others."""
    if data.ndim == 0:
        return data.reshape(1, 1)
    if data.ndim == 1:
        return data.reshape(1, data.shape[0])
    return data.reshape(data.shape[0], math.prod(data.shape[1:]))


def blocks(rows, columns, block_shape):
    """For every block, in row-major order, the (row, column) of its elements in row-major order."""
    height = rows if block_shape[0] == -1 else block_shape[0]
    width = columns if block_shape[1] == -1 else block_shape[1]
    result = []
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            block = []
            for row in range(top, min(top + height, rows)):
                for column in range(left, min(left + width, columns)):
                    block.append((row, column))
            result.append(block)
    return result


def element_score(value, norm):
    if norm == "L1":
        return abs(value)
    if norm == "L2":
        return value * value
    if norm is None:
        return value
    raise ValueError(norm)


def block_score(values, norm):
    """The mean of the element scores; `values` are NumPy scalars of the type to sum in."""
    total = type(values[0])(0)
    for value in values:
        total = total + element_score(value, norm)
    return total / type(total)(len(values))


def rank(score):
    """A sort key that puts NaN above everything."""
    if math.isnan(score):
        return (1, 0.0)
    return (0, float(score))


def lowest_first(scores):
    """The indices of the scores, lowest score first, equal scores in index order."""
    return sorted(range(len(scores)), key=lambda index: rank(scores[index]))


def pruned_first(order, was_pruned):
    """The same indices, those of what was pruned before all others."""
    return [i for i in order if was_pruned[i]] + [i for i in order if not was_pruned[i]]


def number_pruned(sparsity_level, number_of_blocks, min_kept=0):
    """Python's round() of a float is round-half-even."""
    return min(round(float(sparsity_level) * number_of_blocks), max(number_of_blocks - min_kept, 0))


def block_scores(matrix, sparse_block_shape, norm="L1"):
    """The score of every block, in order."""
    kind = np.float64 if matrix.dtype == np.float64 else np.float32
    all_blocks = blocks(matrix.shape[0], matrix.shape[1], sparse_block_shape)
    with np.errstate(all="ignore"):
        return [block_score([kind(matrix[place]) for place in block], norm) for block in all_blocks]


def pruned_blocks(data, sparsity_level, sparse_block_shape, norm="L1", min_kept=0, past=None):
    """The blocks that a step prunes, each as the list of its elements' (row, column).

    past: the mask before, as a matrix.
    """
    matrix = as_matrix(np.asarray(data))
    if matrix.size == 0:
        return []
    all_blocks = blocks(matrix.shape[0], matrix.shape[1], sparse_block_shape)
    scores = block_scores(matrix, sparse_block_shape, norm)
    k = number_pruned(sparsity_level, len(all_blocks), min_kept)
    order = lowest_first(scores)
    if past is not None:
        order = pruned_first(order, [not all(past[at] for at in block) for block in all_blocks])
    return [all_blocks[index] for index in order[:k]]


def mask(
    data,
    sparsity_level,
    sparse_block_shape,
    zeros_per_block=None,
    norm="L1",
    min_kept=0,
    past=None,
):
    """The boolean mask, False where an element is zeroed, in the shape of the data.

    past: the mask before, where it counts.
    """
    data = np.asarray(data)
    matrix = as_matrix(data)
    past = None if past is None else np.asarray(past).reshape(matrix.shape)
    kind = np.float64 if matrix.dtype == np.float64 else np.float32
    keep = np.ones(matrix.shape, dtype=bool)
    for block in pruned_blocks(data, sparsity_level, sparse_block_shape, norm, min_kept, past):
        with np.errstate(all="ignore"):
            scores = [element_score(kind(matrix[place]), norm) for place in block]
        zeros = len(block) if zeros_per_block is None else zeros_per_block
        order = lowest_first(scores)
        if past is not None:
            order = pruned_first(order, [not past[place] for place in block])
        for index in order[:zeros]:
            keep[block[index]] = False
    return keep.reshape(data.shape)


def whole_block_mask_by_stable_sort(data, sparsity_level, block_shape=(1, 1), norm="L1"):
    """The same mask for large data and whole blocks: sums column by column, then a stable argsort.

    NumPy's stable argsort keeps equal scores in index order and puts NaN last, infinity before it.
    A partial block is padded with zeros, which change no sum; its number of elements is counted.
    """
    data = np.asarray(data)
    matrix = as_matrix(data)
    if matrix.size == 0:
        return np.ones(data.shape, dtype=bool)
    rows, columns = matrix.shape
    height = rows if block_shape[0] == -1 else block_shape[0]
    width = columns if block_shape[1] == -1 else block_shape[1]
    down, across = -(-rows // height), -(-columns // width)
    kind = np.float64 if matrix.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        scores = matrix.astype(kind)
        if norm is not None:
            scores = np.abs(scores) if norm == "L1" else scores * scores
        padded = np.zeros((down * height, across * width), dtype=kind)
        padded[:rows, :columns] = scores
        exists = np.zeros(padded.shape, dtype=bool)
        exists[:rows, :columns] = True
        total = np.zeros((down, across), dtype=kind)
        count = np.zeros((down, across), dtype=kind)
        for row in range(height):
            for column in range(width):
                total += padded[row::height, column::width]
                count += exists[row::height, column::width]
        total /= count
    k = number_pruned(sparsity_level, total.size)
    keep = np.ones(total.size, dtype=bool)
    keep[np.argsort(total.ravel(), kind="stable")[:k]] = False
    keep = np.repeat(np.repeat(keep.reshape(down, across), height, axis=0), width, axis=1)
    return keep[:rows, :columns].reshape(data.shape)
