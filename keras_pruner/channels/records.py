"""Records of what happens in a trace."""

import dataclasses
import math

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or another operation.

    Args:
        path: Path of the layer, or of the layer that calls the operation; `""` for the
            model.
        operation: `keras.layers.Layer` or `keras.Operation`.
        args: Positional arguments, with `Labels` in place of tensors.
        kwargs: Named arguments, likewise.
        outputs: `Labels`, nested as the outputs are.
        dtypes: Tuple with the type of each tensor in `args` and `kwargs`, in the order
            of `keras.tree.flatten`.
    """

    path: str
    operation: object
    args: tuple
    kwargs: dict
    outputs: object
    dtypes: tuple = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """Products of two tensors that are summed, e.g. by a kernel.

    Args:
        path: Path of the layer that computes it.
        layer: `keras.layers.Layer`, or `None`.
        axes: Tuple of arrays of ids, one for each axis of the loop.
    """

    path: str
    layer: object
    axes: tuple

    @property
    def multiply_adds(self):
        """Number of products: of the sizes of all axes."""
        return math.prod(map(len, self.axes))


class VariableSymbol(keras.KerasTensor):
    """Symbolic tensor that stands for a variable."""

    def __init__(self, variable):
        super().__init__(variable.shape, variable.dtype)
        self.variable = variable

    @property
    def value(self):
        return self

    @property
    def path(self):
        return self.variable.path

    @property
    def trainable(self):
        return self.variable.trainable
