"""Sums in a fixed order, so that scores are equal on every backend.

A compiler may add the members of a group in any order, and each order rounds
differently. Scores that differ in the last bit can prune different groups. The
functions here add halves elementwise, because every backend rounds that alike.
"""

import operator

from keras import ops

from keras_pruner.backend.tracing import fuses_loops

REDUCTIONS = ("mean", "sum", "max", "l2")

# Limits the rows in one sum. A count in eight bits allows 255.
LARGEST_BLOCK = 16


def ordered_sum(x, axis):
    """Sums over one axis by repeatedly adding halves: `x[:n/2] + x[n/2:]`.

    Args:
        x: Float tensor with a static size along `axis`.
        axis: Integer.

    Returns:
        Tensor of the dtype of `x`, without `axis`.

    Example:

    >>> x = ops.array([[1.0, 2.0, 3.0, 4.0], [1e8, 1.0, -1e8, 1.0]])
    >>> # (1e8 - 1e8) + (1 + 1) = 2; from left to right float32 yields 1.
    >>> ops.convert_to_numpy(ordered_sum(x, axis=1)).tolist()
    [10.0, 2.0]
    """
    axis = axis % len(x.shape)
    size = x.shape[axis]
    if size <= LARGEST_BLOCK:
        # A compiler fuses separate additions into one loop.
        before = (slice(None),) * axis
        parts = [x[(*before, index)] for index in range(size)]
        while len(parts) > 1:
            half = len(parts) // 2
            pairs = zip(parts[:half], parts[half:], strict=False)
            parts = [a + b for a, b in pairs] + parts[2 * half :]
        return parts[0]
    x = ops.moveaxis(x, axis, 0)
    while size > 1:
        half = size // 2
        folded = x[:half] + x[half : 2 * half]
        # (half, ...) plus the odd row, which waits for the next round.
        x = ops.concatenate([folded, x[2 * half :]]) if size % 2 else folded
        size -= half
    return x[0]


def as_rows(x):
    """Views a tensor as (rows, columns) and keeps the last axis, even if sharded."""
    return ops.reshape(x, (-1, x.shape[-1]))


def sum_blocks(function, matrix, first=0, add=operator.add):
    """Applies a function to a matrix and sums the results over blocks of rows.

    It adds pairs of neighbouring rows, then pairs of these sums.

    Args:
        function: Elementwise function of a tensor.
        matrix: Tensor (rows, columns).
        first: Zero, or an int tensor () that is zero but seems to change in a loop. The
            compiler then keeps the calls of `function` inside the loop.
        add: Elementwise function of two tensors that replaces the addition.

    Returns:
        Tuple of a tensor (blocks, columns) and the number of rows in a block, at most
        `LARGEST_BLOCK`. Rows that do not fill a block come last, one per block.
    """
    rows, columns = matrix.shape
    height = _block_height(rows, columns)
    if height == 1:
        return function(matrix), 1
    whole = rows // height * height
    upper = matrix if whole == rows else matrix[:whole]
    blocks = ops.reshape(upper, (-1, height, columns))
    if fuses_loops():
        # A compiler fuses separate rows into one loop. For a sum along an axis it
        # would materialise the terms first.
        shape = (blocks.shape[0], 1, columns)
        parts = [
            function(ops.slice(blocks, (0, first + row, 0), shape)[:, 0])
            for row in range(height)
        ]
        while len(parts) > 1:
            odd = parts[len(parts) // 2 * 2 :]
            parts = [*map(add, parts[::2], parts[1::2]), *odd]
        (total,) = parts
    else:
        total = _add_pairs(function(blocks), add)
    if whole < rows:
        total = ops.concatenate([total, function(matrix[whole:])])
    return total, height


def _add_pairs(x, add):
    """Adds pairs of neighbours along axis 1 of (blocks, height, columns) until one."""
    blocks, height, columns = x.shape
    while height > 1:
        half, odd = divmod(height, 2)
        paired = x[:, :-1] if odd else x
        pairs = ops.reshape(paired, (blocks, half, 2, columns))
        folded = add(*_halves(pairs, axis=2))
        # The odd row waits for the next round.
        x = ops.concatenate([folded, x[:, -1:]], 1) if odd else folded
        height -= half
    return ops.squeeze(x, 1)


def _halves(pairs, axis):
    """Returns the first and the second of the pairs along an axis."""
    if fuses_loops():
        before = (slice(None),) * axis
        return pairs[(*before, 0)], pairs[(*before, 1)]
    return ops.unstack(pairs, 2, axis)


def _block_height(rows, columns):
    """Returns the rows in a block: fewer in a small matrix, which compiles faster.

    The height divides an eighth of the rows if possible, else the rows. Blocks then
    end at the shards of up to eight devices, and no row moves between devices.
    """
    if rows * columns <= 2**16:
        return 1
    most = LARGEST_BLOCK if rows * columns > 2**22 else LARGEST_BLOCK // 2
    heights = range(most, most // 2 - 1, -1)
    for part in (rows / 8, rows):
        for height in heights:
            if part % height == 0:
                return height
    return min(rows, most)


def sum_of_all(x, function=lambda x: x):
    """Applies a function to a tensor and sums all results.

    It repeatedly adds pairs of neighbouring rows, then sums the last row. If rows or
    columns are sharded, neighbours share a device until few are left. Hardly any data
    moves, and the order stays the same.

    Args:
        x: Tensor of a static shape, with at least one axis.
        function: Elementwise function from a tensor to a float tensor.

    Returns:
        Tensor () of the dtype of the function's result.
    """
    x, _ = sum_blocks(function, as_rows(x))
    size = x.shape[0]
    while size > 1:
        paired = x[:-1] if size % 2 else x
        first, second = _halves(ops.reshape(paired, (size // 2, 2, -1)), axis=1)
        folded = first + second
        # The odd row waits for the next round.
        x = ops.concatenate([folded, x[-1:]]) if size % 2 else folded
        size = x.shape[0]
    return ordered_sum(x[0], 0)


def map_blocks(function, x, combine):
    """Applies a function to a tensor, and combines results in any order.

    Args:
        function: Elementwise function of a tensor.
        x: Tensor with at least one axis.
        combine: Elementwise function of two results, in which order does not matter.

    Returns:
        Tensor whose elements combine to the result of the whole.
    """
    if not fuses_loops():
        return function(x)
    return sum_blocks(function, as_rows(x), add=combine)[0]


def scale_to_one(*tensors):
    """Returns a power of two that brings the largest magnitude into [1, 2).

    Squares of scaled values neither overflow nor vanish as a whole. A power of two
    changes no digit, so a ratio of scaled values has the same bits.

    Args:
        *tensors: Float32 tensors, finite, with at least one axis.

    Returns:
        Float32 tensor (). It is 2^126 if all values are zero, and at least 2^-126.

    Example:

    >>> float(scale_to_one(ops.array([[0.0, -3e20], [5.0, 1e-20]]))) * 3e20
    1.0164395367051604
    """
    largest = [ops.max(map_blocks(ops.abs, x, ops.maximum)) for x in tensors]
    largest = ops.reshape(ops.max(ops.stack(largest)), (1,))
    exponent = ops.bitwise_and(ops.view(largest, "int32"), 0x7F800000)
    power = ops.clip(ops.view(exponent, "float32"), 2.0**-126, 2.0**126)
    return (1.0 / power)[0]


def all_finite(x):
    """Returns whether all elements of a float tensor are finite, as a bool tensor."""
    if len(x.shape) == 0:
        return ops.isfinite(x)
    return ops.all(map_blocks(ops.isfinite, x, ops.logical_and))


def count_true(mask):
    """Counts the `True` entries of a bool tensor, as a Python int.

    It counts in parts, because integers take four times the bytes of a mask.
    """
    rows = as_rows(mask)
    step = max(1, 2**22 // rows.shape[1])
    parts = [rows[i : i + step] for i in range(0, rows.shape[0], step)]
    sums = [ops.sum(ops.cast(part, "int32")) for part in parts]
    return sum(int(ops.convert_to_numpy(total)) for total in sums)


def rounded_square(x):
    """Squares float32 values so that a sum of squares is equal on every backend.

    A compiler may fuse a product and a sum into one operation, which rounds once, not
    twice. Clearing the last bit of the square prevents this.
    """
    bits = ops.view(ops.square(x), "int32")
    return ops.view(ops.bitwise_and(bits, -2), "float32")


def reduce_groups(x, axes, reduction):
    """Reduces the scores of each group's members to the group's score.

    Args:
        x: Float32 tensor.
        axes: Tuple of axes that run over the members of one group.
        reduction: `"mean"`, `"sum"`, `"max"` or `"l2"` (root of the sum of squares).

    Returns:
        Float32 tensor without `axes`.

    Example:

    >>> scores = ops.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    >>> ops.convert_to_numpy(reduce_groups(scores, (0,), "mean")).tolist()
    [3.0, 4.0, 5.0, 6.0]
    >>> ops.convert_to_numpy(reduce_groups(scores, (1,), "max")).tolist()
    [4.0, 8.0]
    """
    axes = sorted((axis % len(x.shape) for axis in axes), reverse=True)
    if reduction == "max":
        return ops.max(x, axis=tuple(axes))
    size = 1
    total = _terms(x, reduction)
    for axis in axes:
        size *= x.shape[axis]
        total = ordered_sum(total, axis)
    return _reduced(total, size, reduction)


def reduce_blocks(matrix, height, width, reduction):
    """Reduces the scores of a matrix to scores of its blocks; see `reduce_groups`.

    Args:
        matrix: Float32 tensor (rows, columns).
        height, width: Size of a block; divisors of rows and columns.
        reduction: As for `reduce_groups`.

    Returns:
        Float32 tensor (rows / height, columns / width).

    Example:

    >>> scores = ops.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    >>> ops.convert_to_numpy(reduce_blocks(scores, 2, 2, "sum")).tolist()
    [[14.0, 22.0]]
    """
    rows, columns = matrix.shape
    shape = (rows // height, columns // width)
    if reduction == "max":
        blocks = ops.reshape(matrix, (shape[0], height, shape[1], width))
        return ops.max(blocks, axis=(1, 3))
    # Sums over long rows first.
    total = ops.reshape(_terms(matrix, reduction), (shape[0], height, columns))
    if height % 2 == 0 and height * width >= LARGEST_BLOCK:
        # `ops.sum` over two terms has one order, and XLA computes it once. With a plain
        # addition XLA would materialise the scores, because the result is used
        # sixteen times.
        pairs = ops.reshape(total, (shape[0], 2, height // 2, columns))
        total = ops.sum(pairs, axis=1)
    total = ops.reshape(ordered_sum(total, 1), (*shape, width))
    return _reduced(ordered_sum(total, 2), height * width, reduction)


def _terms(x, reduction):
    """Returns the terms of a reduction's sum."""
    return rounded_square(x) if reduction == "l2" else x


def _reduced(total, size, reduction):
    """Returns the scores of groups of `size` members from the sums of their terms."""
    if reduction == "l2":
        return ops.sqrt(total)
    # Multiplies, because XLA rewrites a division by a constant.
    return total * (1.0 / size) if reduction == "mean" else total


def running_sum(x):
    """Computes the cumulative sum of a vector in a fixed order.

    It adds shifted vectors in log2(n) rounds, so that every backend rounds alike. A
    compiler's own cumulative sum does not.

    Args:
        x: Float tensor of shape (n,).

    Returns:
        Tensor of the same shape and dtype.

    Example:

    >>> x = ops.array([1.0, 2.0, 3.0, 4.0])
    >>> ops.convert_to_numpy(running_sum(x)).tolist()
    [1.0, 3.0, 6.0, 10.0]
    """
    size, reach = x.shape[0], 1
    while reach < size:
        shifted = ops.concatenate([ops.zeros((reach,), x.dtype), x[:-reach]])
        x = x + shifted
        reach *= 2
    return x
