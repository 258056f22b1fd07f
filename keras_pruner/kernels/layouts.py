"""Views a kernel of any layer as a matrix of inputs by outputs.

Every prunable kernel becomes a 2-D matrix `(K, N)`: K is the reduction (fan-in) axis,
N the output axis. All pruning maths runs on this matrix and only there.
"""

import dataclasses
import math

from keras import ops

from keras_pruner.types import Tensor


@dataclasses.dataclass(frozen=True)
class KernelLayout:
    """Describes how a kernel's axes form a matrix (K, N).

    `K = window * inputs` and `N = outputs`. Inputs run fastest along K, within one
    window position. The outputs of one group of a convolution are adjacent along N.

    Args:
        shape: The kernel's shape.
        window: Tuple of window sizes; `()` for a layer without a window.
        inputs: Input channels that one output sees.
        outputs: Number of outputs.
        groups: Groups of a convolution (its depth for a depthwise one).
        permutation: Order of the kernel's axes in the matrix; `None` keeps the order.
        split: Shape of the kernel before the permutation, if one axis holds two, e.g.
            groups and channels; `None` keeps the shape.
    """

    shape: tuple
    window: tuple
    inputs: int
    outputs: int
    groups: int = 1
    permutation: tuple | None = None
    split: tuple | None = None

    @property
    def window_size(self) -> int:
        return math.prod(self.window)

    @property
    def rows(self) -> int:
        return self.window_size * self.inputs

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Sizes that the ERK formula sums and multiplies: window, inputs, outputs."""
        return (*self.window, self.inputs, self.outputs)

    def zeros(self) -> Tensor:
        """Returns a `(K, N)` matrix of zeros, in float32 as scores are."""
        return ops.zeros((self.rows, self.outputs), "float32")

    def to_matrix(self, kernel: Tensor) -> Tensor:
        """Views a tensor of the kernel's shape as its `(K, N)` matrix.

        Example:

        >>> kernel = np.arange(8).reshape(2, 2, 2)
        >>> conv = conv_layout((2, 2, 2))  # Conv1D: (window, inputs, outputs)
        >>> ops.convert_to_numpy(conv.to_matrix(kernel)).tolist()
        [[0, 1], [2, 3], [4, 5], [6, 7]]
        >>> transpose = conv_transpose_layout((2, 2, 2))  # (window, outputs, inputs)
        >>> ops.convert_to_numpy(transpose.to_matrix(kernel)).tolist()
        [[0, 2], [1, 3], [4, 6], [5, 7]]
        """
        if self.split is not None:
            kernel = ops.reshape(kernel, self.split)
        if self.permutation is not None:
            kernel = ops.transpose(kernel, self.permutation)
        return ops.reshape(kernel, (self.rows, self.outputs))

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Inverts `to_matrix`."""
        if self.permutation is None:
            return ops.reshape(matrix, self.shape)
        axes = self.split or self.shape
        permuted = ops.reshape(matrix, [axes[axis] for axis in self.permutation])
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        kernel = ops.transpose(permuted, inverse)
        return kernel if self.split is None else ops.reshape(kernel, self.shape)


def dense_layout(shape):
    """Returns the layout of `(*inputs, outputs)`.

    Example:

    >>> layout = dense_layout((2, 4))
    >>> layout.rows, layout.outputs
    (2, 4)
    """
    shape = tuple(shape)
    return KernelLayout(shape, (), math.prod(shape[:-1]), shape[-1])


def conv_layout(shape, groups=1):
    """Returns the layout of `(*window, inputs, outputs)`."""
    *window, inputs, outputs = shape
    return KernelLayout(tuple(shape), tuple(window), inputs, outputs, groups)


def conv_transpose_layout(shape):
    """Returns the layout of `(*window, outputs, inputs)`."""
    *window, outputs, inputs = shape
    rank = len(window)
    order = (*range(rank), rank + 1, rank)
    return KernelLayout(tuple(shape), tuple(window), inputs, outputs, permutation=order)


def depthwise_layout(shape):
    """Returns the layout of `(*window, inputs, multiplier)`, with K = window."""
    *window, inputs, multiplier = shape
    outputs = inputs * multiplier
    return KernelLayout(tuple(shape), tuple(window), 1, outputs, groups=inputs)


def stacked_layout(shape):
    """Returns the layout of `(matrices, inputs, outputs)`, e.g. for experts."""
    matrices, inputs, outputs = shape
    order = (1, 0, 2)
    return KernelLayout(
        tuple(shape), (), inputs, matrices * outputs, matrices, permutation=order
    )


def einsum_layout(equation, shape):
    """Returns the layout of an einsum kernel.

    K combines the kernel's letters that the output lacks. Letters that input, kernel
    and output share are groups, as in a grouped convolution, and come first along N.

    Example:

    >>> layout = einsum_layout("abc,cde->abde", (2, 4, 1))  # 4 attention heads
    >>> layout.rows, layout.outputs
    (2, 4)
    """
    left, output = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    axes = range(len(kernel))
    reduced = [a for a in axes if kernel[a] not in output]
    shared = [a for a in axes if a not in reduced and kernel[a] in inputs]
    rest = [a for a in axes if a not in reduced and a not in shared]
    order = (*reduced, *shared, *rest)

    def size(members):
        return math.prod(shape[axis] for axis in members)

    return KernelLayout(
        tuple(shape),
        (),
        size(reduced),
        size(shared) * size(rest),
        groups=size(shared),
        permutation=None if order == tuple(axes) else order,
    )
