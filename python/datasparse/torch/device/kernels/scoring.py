"""From elements to keys, in a kernel.

Keys are signed integers in the order of scores: the bits of the magnitude, negated below 0. So -0
is +0; every NaN is one above infinity. Sums are added up one element after another, and divided,
as the core does: launches must not fuse multiplications with additions.

What a kernel is compiled for, beside the sizes of its tiles:
    DTYPE   of the elements; "key32" and "key64" are keys that were computed before
    NORM    "L1", "L2" or "none"
    BITS    of a key: 16, 32 or 64
    SINGLE  blocks are single elements
    FLAT    the matrix is one row, evenly spaced
    MERGED  its columns are evenly spaced
    INDEX   the type of indices: tl.int32, or tl.int64 where they take more
    PAST    the mask before counts
"""

import triton
import triton.language as tl

from datasparse.torch.device.kernels import fields as f


@triton.jit
def strides_of(matrix, OF_MASK: tl.constexpr, INDEX: tl.constexpr):
    """Of the rows, and of the columns' axes, innermost first; then the lengths of the inner two."""
    stride = matrix + f.AXES + 1 + OF_MASK
    return (
        tl.load(matrix + f.ROW + OF_MASK).to(INDEX),
        tl.load(stride + 0).to(INDEX),
        tl.load(stride + 3).to(INDEX),
        tl.load(stride + 6).to(INDEX),
        tl.load(matrix + f.AXES).to(INDEX),
        tl.load(matrix + f.AXES + 3).to(INDEX),
    )


@triton.jit
def offset_of(strides, row, column, FLAT: tl.constexpr, MERGED: tl.constexpr):
    """Where an element lies, in elements from the first one."""
    if FLAT:
        offset = column * strides[1]
    elif MERGED:
        offset = row * strides[0] + column * strides[1]
    else:
        outer = column // strides[4]
        offset = row * strides[0] + (column - outer * strides[4]) * strides[1]
        offset += (outer % strides[5]) * strides[2] + (outer // strides[5]) * strides[3]
    return offset


@triton.jit
def key_of_bits(bits, SIGNED: tl.constexpr, MAGNITUDE: tl.constexpr, INFINITE: tl.constexpr):
    magnitude = bits & MAGNITUDE
    if SIGNED:
        signed = tl.where(bits < 0, -magnitude, magnitude)
        key = tl.where(magnitude > INFINITE, INFINITE + 1, signed)
    else:
        key = tl.minimum(magnitude, INFINITE + 1)
    return key


@triton.jit
def key_of_number(number, SIGNED: tl.constexpr):
    if number.dtype == tl.float64:
        bits = number.to(tl.int64, bitcast=True)
        key = key_of_bits(bits, SIGNED, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000)
    else:
        bits = number.to(tl.int32, bitcast=True)
        key = key_of_bits(bits, SIGNED, 0x7FFFFFFF, 0x7F800000)
    return key


@triton.jit
def bits_at(address, offset, there, DTYPE: tl.constexpr):
    if DTYPE == "float64" or DTYPE == "key64":
        pointer = address.to(tl.pointer_type(tl.int64))
    elif DTYPE == "float32" or DTYPE == "key32":
        pointer = address.to(tl.pointer_type(tl.int32))
    else:
        pointer = address.to(tl.pointer_type(tl.int16))
    return tl.load(pointer + offset, mask=there, other=0)


@triton.jit
def number_of_bits(bits, DTYPE: tl.constexpr):
    """Widened to the type that is summed in; of bfloat16 by its bits, denormals as they are."""
    if DTYPE == "float64":
        number = bits.to(tl.float64, bitcast=True)
    elif DTYPE == "float32":
        number = bits.to(tl.float32, bitcast=True)
    elif DTYPE == "bfloat16":
        number = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        number = bits.to(tl.float16, bitcast=True).to(tl.float32)
    return number


@triton.jit
def score_of_bits(bits, DTYPE: tl.constexpr, NORM: tl.constexpr):
    number = number_of_bits(bits, DTYPE)
    if NORM == "L1":
        number = tl.abs(number)
    elif NORM == "L2":
        number = number * number
    return number


@triton.jit
def key_at(address, offset, there, DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr):
    """The key of an element. By its bits alone, where these tell."""
    bits = bits_at(address, offset, there, DTYPE)
    if DTYPE == "key32" or DTYPE == "key64":
        key = bits
    elif BITS == 16:
        infinite: tl.constexpr = 0x7F80 if DTYPE == "bfloat16" else 0x7C00
        key = key_of_bits(bits.to(tl.int32), NORM == "none", 0x7FFF, infinite)
    elif NORM == "L2":
        key = key_of_number(score_of_bits(bits, DTYPE, NORM), False)
    else:
        key = key_of_number(number_of_bits(bits, DTYPE), NORM == "none")
    return key


@triton.jit
def byte_at(address, offset, there, absent: tl.constexpr):
    """Of a mask that need not be: 0 is no address."""
    byte = tl.load(address.to(tl.pointer_type(tl.int8)) + offset, mask=there & (address != 0),
                   other=absent)  # fmt: skip
    return (byte != 0).to(tl.int32)


@triton.jit
def free_at(past, kept, offset, there):
    """1 where the mask before prunes an element by the rule; a zero that stays says nothing."""
    return byte_at(past, offset, there, 1) | byte_at(kept, offset, there, 0)


@triton.jit
def place_of(matrix, element, FLAT: tl.constexpr, INDEX: tl.constexpr):
    """The row and the column of an element of the matrix."""
    if FLAT:
        row = tl.zeros_like(element)
        column = element
    else:
        columns = tl.load(matrix + f.COLUMNS).to(INDEX)
        row = element // columns
        column = element - row * columns
    return row, column


@triton.jit
def corner_of(matrix, block, INDEX: tl.constexpr):
    """The row and the column of a block's first element."""
    per_band = tl.load(matrix + f.PER_BAND).to(INDEX)
    band = block // per_band
    return (
        band * tl.load(matrix + f.HEIGHT).to(INDEX),
        (block - band * per_band) * tl.load(matrix + f.WIDTH).to(INDEX),
    )


@triton.jit
def keys_of_blocks(
    member, matrix, block, there,
    DTYPE: tl.constexpr, NORM: tl.constexpr, BITS: tl.constexpr, SINGLE: tl.constexpr,
    FLAT: tl.constexpr, MERGED: tl.constexpr, INDEX: tl.constexpr, PAST: tl.constexpr,
):  # fmt: skip
    """The keys of some blocks, and whether the mask before leaves all of each: 1, else 0."""
    scores = tl.load(member + f.SCORES)
    past = tl.load(member + f.PAST)
    strides = strides_of(matrix, 0, INDEX)
    of_mask = strides_of(matrix, 1, INDEX)
    free = tl.full(block.shape, 1, tl.int32)
    if SINGLE:
        row, column = place_of(matrix, block, FLAT, INDEX)
        offset = offset_of(strides, row, column, FLAT, MERGED)
        keys = key_at(scores, offset, there, DTYPE, NORM, BITS)
        if PAST:  # a single element that stays zero is a block that is pruned
            free = byte_at(past, offset_of(of_mask, row, column, FLAT, MERGED), there, 1)
    else:
        kept = tl.load(member + f.KEPT)
        rows = tl.load(matrix + f.ROWS).to(INDEX)
        columns = tl.load(matrix + f.COLUMNS).to(INDEX)
        height = tl.load(matrix + f.HEIGHT).to(INDEX)
        width = tl.load(matrix + f.WIDTH).to(INDEX)
        top, left = corner_of(matrix, block, INDEX)
        total = tl.zeros(block.shape, tl.float64 if DTYPE == "float64" else tl.float32)
        for place in range(0, height * width):
            row = top + place // width
            column = left + place % width
            exists = there & (row < rows) & (column < columns)
            offset = offset_of(strides, row, column, FLAT, MERGED)
            score = score_of_bits(bits_at(scores, offset, exists, DTYPE), DTYPE, NORM)
            total += tl.where(exists, score, 0)  # no sum is -0, which + 0 would change
            if PAST:
                free &= free_at(past, kept, offset_of(of_mask, row, column, FLAT, MERGED), exists)
        size = tl.minimum(height, rows - top) * tl.minimum(width, columns - left)
        number = tl.maximum(size, 1).to(total.dtype)
        # Of doubles, there is no other division than that which rounds to nearest.
        mean = total / number if DTYPE == "float64" else tl.div_rn(total, number)
        keys = key_of_number(mean, NORM == "none")
    return keys, free
