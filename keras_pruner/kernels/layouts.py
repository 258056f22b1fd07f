"""How a kernel of any layer is seen as a matrix of inputs by outputs.

Every prunable kernel is viewed as a 2-D matrix `(K, N)`: K the reduction (fan-in)
axis, N the output axis. All pruning maths runs on this matrix and only there.
"""

import dataclasses
import math

from keras import ops


@dataclasses.dataclass(frozen=True)
class KernelLayout:
    """How a kernel's axes form its matrix of `K = window * inputs` by `N = outputs`.

    In the matrix, inputs run fastest along K, within one window position; the outputs
    of one group of a grouped convolution stand together along N.

    Args:
        shape: The kernel's shape.
        window: Tuple of window sizes; `()` for a layer without a window.
        inputs: Input channels that one output sees.
        outputs: Number of outputs.
        groups: Groups of a convolution (its depth for a depthwise one).
        permutation: Order of the kernel's axes in the matrix, or `None` for as is.
        split: Shape that the kernel is given before its axes are permuted, where one
            of them holds two, e.g. groups and channels; `None` for as is.
        heads: Attention heads that stand side by side in the matrix; 0 for none.
        head_axis: Axis of the matrix that the heads divide: 0 (K) or 1 (N).
    """

    shape: tuple
    window: tuple
    inputs: int
    outputs: int
    groups: int = 1
    permutation: tuple | None = None
    heads: int = 0
    head_axis: int = 1
    split: tuple | None = None

    @property
    def window_size(self):
        return math.prod(self.window)

    @property
    def rows(self):
        return self.window_size * self.inputs

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def dimensions(self):
        """Sizes that the ERK formula sums and multiplies: window, inputs, outputs."""
        return (*self.window, self.inputs, self.outputs)

    def to_matrix(self, kernel):
        """Views a tensor of the kernel's shape as its `(K, N)` matrix."""
        if self.split is not None:
            kernel = ops.reshape(kernel, self.split)
        if self.permutation is not None:
            kernel = ops.transpose(kernel, self.permutation)
        return ops.reshape(kernel, (self.rows, self.outputs))

    def from_matrix(self, matrix):
        """Inverse of `to_matrix`."""
        if self.permutation is None:
            return ops.reshape(matrix, self.shape)
        axes = self.split or self.shape
        permuted = ops.reshape(matrix, [axes[axis] for axis in self.permutation])
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        kernel = ops.transpose(permuted, inverse)
        return kernel if self.split is None else ops.reshape(kernel, self.shape)


def dense_layout(shape):
    """Layout of a kernel whose last axis is the output and the others the input."""
    shape = tuple(shape)
    return KernelLayout(shape, (), math.prod(shape[:-1]), shape[-1])


def conv_layout(shape, groups=1):
    """Layout of `(*window, inputs, outputs)`."""
    *window, inputs, outputs = shape
    return KernelLayout(tuple(shape), tuple(window), inputs, outputs, groups)


def conv_transpose_layout(shape):
    """Layout of `(*window, outputs, inputs)`."""
    *window, outputs, inputs = shape
    rank = len(window)
    order = (*range(rank), rank + 1, rank)
    return KernelLayout(tuple(shape), tuple(window), inputs, outputs, permutation=order)


def depthwise_layout(shape):
    """Layout of `(*window, inputs, multiplier)`: each output sees one input."""
    *window, inputs, multiplier = shape
    outputs = inputs * multiplier
    return KernelLayout(tuple(shape), tuple(window), 1, outputs, groups=inputs)


def stacked_layout(shape):
    """Layout of `(matrices, inputs, outputs)`: one matrix for each expert, say."""
    matrices, inputs, outputs = shape
    order = (1, 0, 2)
    return KernelLayout(
        tuple(shape), (), inputs, matrices * outputs, matrices, permutation=order
    )


def einsum_layout(equation, shape):
    """Layout of an einsum kernel: K are its letters that the output has not.

    Letters that input, kernel and output share are groups, like those of a grouped
    convolution, and stand first along N.
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
