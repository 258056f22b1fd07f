"""Sums in a fixed order, so that scores are equal on every backend.

A compiler may add the members of a group in any order, and each order rounds
differently. Scores that differ in the last bit can prune different groups, so groups
are summed by halving: elementwise additions only, which every backend rounds alike.
"""

from keras import ops

REDUCTIONS = ("mean", "sum", "max", "l2")

# Most rows that are summed at once. What is counted in eight bits allows 255.
LARGEST_BLOCK = 16


def ordered_sum(x, axis):
    """Sums over one axis by adding halves: `x[:n/2] + x[n/2:]`, again and again.

    Args:
        x: Float tensor with a static size along `axis`.
        axis: Integer.

    Returns:
        Tensor of the dtype of `x`, without `axis`.
    """
    axis = axis % len(x.shape)
    size = x.shape[axis]
    if size <= LARGEST_BLOCK:
        # One by one, which a compiler makes one loop of.
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
        # (half, ...) plus the odd one out, which waits for the next round.
        x = ops.concatenate([folded, x[2 * half :]]) if size % 2 else folded
        size -= half
    return x[0]


def as_rows(x):
    """Views a tensor as (rows, columns); the last axis stays, also if it is sharded."""
    return ops.reshape(x, (-1, x.shape[-1]))


def sum_blocks(function, matrix, first=0):
    """Sums what a function makes of the entries of a matrix over blocks of rows.

    Pairs of neighbouring rows are added, and pairs of these sums.

    Args:
        function: Function of a tensor, entry by entry.
        matrix: Tensor (rows, columns).
        first: Zero; or an int tensor () that is zero, but changes in a loop as far as a
            compiler knows. What is made of the matrix then stays in the loop.

    Returns:
        Tuple of a tensor (blocks, columns) and the number of rows in a block, at most
        `LARGEST_BLOCK`. Rows that do not fill one stand at the end, each as a block of
        its own.
    """
    rows, columns = matrix.shape
    height = _block_height(rows, columns)
    if height == 1:
        return function(matrix), 1
    whole = rows // height * height
    blocks = ops.reshape(matrix[:whole], (-1, height, columns))
    shape = (blocks.shape[0], 1, columns)
    # Row by row, which a compiler makes one loop of; to sum along an axis, it would
    # write down first what is summed.
    parts = [
        function(ops.slice(blocks, (0, first + row, 0), shape)[:, 0])
        for row in range(height)
    ]
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + odd
    (total,) = parts
    if whole < rows:
        total = ops.concatenate([total, function(matrix[whole:])])
    return total, height


def _block_height(rows, columns):
    """How many rows a block has: fewer in a small matrix, which compiles faster.

    A divisor of their number, if there is one, and rather of an eighth of it: blocks
    then end where the rows of a device end, of up to eight, and none is moved.
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
    """Sums what a function makes of all elements.

    Pairs of neighbouring rows are added, again and again, then a row. Where rows or
    columns are divided over devices, neighbours live together until little is left. So
    hardly anything is moved, and the order is still the same.

    Args:
        x: Tensor of a static shape, with at least one axis.
        function: Function from a tensor to a float tensor, entry by entry.

    Returns:
        Tensor () of the dtype of what the function makes.
    """
    x, _ = sum_blocks(function, as_rows(x))
    size = x.shape[0]
    while size > 1:
        pairs = ops.reshape(x[: size - size % 2], (size // 2, 2, -1))
        folded = pairs[:, 0] + pairs[:, 1]
        # The odd one out waits for the next round.
        x = ops.concatenate([folded, x[-1:]]) if size % 2 else folded
        size = x.shape[0]
    return ordered_sum(x[0], 0)


def all_finite(x):
    """Returns whether all elements of a float tensor are finite, as a bool tensor."""
    if len(x.shape) == 0:
        return ops.isfinite(x)
    bad, _ = sum_blocks(lambda x: ops.cast(~ops.isfinite(x), "int32"), as_rows(x))
    return ops.max(bad) == 0


def count_true(mask):
    """Counts what is `True` in a bool tensor, as a Python int.

    In parts: as integers the mask would take four times its bytes.
    """
    rows = as_rows(mask)
    step = max(1, 2**22 // rows.shape[1])
    parts = [rows[i : i + step] for i in range(0, rows.shape[0], step)]
    sums = [ops.sum(ops.cast(part, "int32")) for part in parts]
    return sum(int(ops.convert_to_numpy(total)) for total in sums)


def rounded_square(x):
    """Squares float32 values so that a sum of squares is equal on every backend.

    A compiler may fuse a product and a sum into one operation, which rounds once, not
    twice. Clearing the last bit of the square keeps the two apart.
    """
    bits = ops.view(ops.square(x), "int32")
    return ops.view(ops.bitwise_and(bits, -2), "float32")


def reduce_groups(x, axes, reduction):
    """Turns the scores of a group's members into the group's score.

    Args:
        x: Float32 tensor.
        axes: Tuple of axes that run over the members of one group.
        reduction: `"mean"`, `"sum"`, `"max"` or `"l2"` (root of the sum of squares).

    Returns:
        Float32 tensor without `axes`.
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
    """Turns the scores of a matrix into scores of its blocks; see `reduce_groups`.

    Args:
        matrix: Float32 tensor (rows, columns).
        height, width: Size of a block; divisors of rows and columns.
        reduction: As for `reduce_groups`.

    Returns:
        Float32 tensor (rows / height, columns / width).
    """
    rows, columns = matrix.shape
    shape = (rows // height, columns // width)
    if reduction == "max":
        blocks = ops.reshape(matrix, (shape[0], height, shape[1], width))
        return ops.max(blocks, axis=(1, 3))
    # Over long rows first.
    total = ops.reshape(_terms(matrix, reduction), (shape[0], height, columns))
    if height % 2 == 0 and height * width >= LARGEST_BLOCK:
        # A sum of two has no order. XLA computes it once; what is merely added here and
        # is used sixteen times below, XLA would have the scores written down for.
        pairs = ops.reshape(total, (shape[0], 2, height // 2, columns))
        total = ops.sum(pairs, axis=1)
    total = ops.reshape(ordered_sum(total, 1), (*shape, width))
    return _reduced(ordered_sum(total, 2), height * width, reduction)


def _terms(x, reduction):
    """Returns what is summed."""
    return rounded_square(x) if reduction == "l2" else x


def _reduced(total, size, reduction):
    """Returns the score of groups of a size whose terms have been summed."""
    if reduction == "l2":
        return ops.sqrt(total)
    # A product, not a quotient: XLA rewrites division by a constant.
    return total * (1.0 / size) if reduction == "mean" else total


def running_sum(x):
    """Sums from the first element to each, in a fixed order.

    The elements are added in log2(n) rounds of shifted vectors, so that each sum is
    rounded alike on every backend; a compiler's own cumulative sum is not.

    Args:
        x: Float tensor of shape (n,).

    Returns:
        Tensor of the same shape and dtype.
    """
    size, reach = x.shape[0], 1
    while reach < size:
        shifted = ops.concatenate([ops.zeros((reach,), x.dtype), x[:-reach]])
        x = x + shifted
        reach *= 2
    return x
