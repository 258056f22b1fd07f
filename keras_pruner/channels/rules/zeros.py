"""Tells which layers and operations keep zeros, for normalization by the mean square.

A channel is cut out exactly in front of such a normalization if it is zero. It is zero
if its weights are, unless something on its way turns zeros into other numbers.
"""

import keras

from keras_pruner.channels.labels import Labels

# Their outputs are zero at the indices at which an input is, or the weights are.
_KEEPING = set(
    """
    Abs Absolute Amax Amin Arcsin Arcsinh Arctan Arctanh ArraySplit AveragePool
    BroadcastTo Cast Celu Concatenate Conv ConvTranspose ConvertToTensor Copy Cumsum
    DepthToSpace DepthwiseConv Dot DotProductAttention Einsum Elu Erf ExpandDims Expm1
    Fabs Flip Fliplr Flipud Gelu GetItem Glu HardShrink HardSilu HardTanh LeakyRelu
    Log1p Matmul Max MaxPool Mean Min Mish Moveaxis Multiply Negative Pad RMSNorm ReLU
    Ravel Relu Relu6 Repeat Reshape Roll Round Selu Sign Silu Sin Sinh Slice SoftShrink
    Softsign SpaceToDepth Split Sqrt Square Squeeze Stack StopGradient Sum Swapaxes Take
    Tan Tanh TanhShrink Tensordot Tile Transpose Unstack

    Activation ActivityRegularization AlphaDropout AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Bidirectional Conv1D Conv1DTranspose Conv2D
    Conv2DTranspose Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense
    DepthwiseConv1D DepthwiseConv2D Dropout GaussianDropout GaussianNoise
    GroupQueryAttention Identity MaxPooling1D MaxPooling2D MaxPooling3D RMSNormalization
    RepeatVector SeparableConv1D SeparableConv2D SpatialDropout1D SpatialDropout2D
    SpatialDropout3D TimeDistributed UpSampling1D UpSampling2D UpSampling3D
    ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()
)
# They do if their first input does, which the other one divides.
_QUOTIENTS = {"Divide", "TrueDivide"}
# They do if their activation does: gates only multiply it, and the states before.
_RECURRENT = {"GRU", "LSTM", "SimpleRNN", "GRUCell", "LSTMCell", "SimpleRNNCell"}
_CELLS = keras.layers.GRUCell, keras.layers.LSTMCell, keras.layers.SimpleRNNCell
# They do if both inputs do.
_SUMS = {"Add", "Average", "Maximum", "Minimum", "Subtract"}
_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in """celu elu gelu hard_shrink hard_silu hard_tanh leaky_relu linear mish
    relu relu6 selu silu soft_shrink softsign tanh tanh_shrink""".split()
    if hasattr(keras.activations, name)
}


def keeps_zeros(activation):
    """Whether an activation, a function, is zero at zero."""
    return activation is None or activation in _ACTIVATIONS


def mark_alive(trace, operation, given, outputs):
    """Marks the indices of outputs that may not be zero where their weights are.

    Args:
        trace: `Trace`.
        operation: Layer or operation, of whose class there is a rule.
        given: Its arguments, with `Labels` in place of tensors.
        outputs: The `Labels` that the rule returned.
    """
    names = {cls.__name__ for cls in type(operation).__mro__}
    cell = trace.layer
    if isinstance(cell, _CELLS) and type(cell).__module__.startswith("keras."):
        if keeps_zeros(cell.activation):
            return
    if names & _KEEPING or _keeps(operation, names):
        return
    terms = keras.tree.flatten(given)
    if names & _QUOTIENTS:
        terms = terms[:1]
    adds_terms = bool(names & (_SUMS | _QUOTIENTS))
    for labels in keras.tree.flatten(outputs):
        for axis in range(-labels.ndim, 0):
            if not (adds_terms and all(_reaches(x, axis, labels) for x in terms)):
                trace.classes.mark_alive(labels.axes[axis])


def _keeps(operation, names):
    """Whether the settings of an operation say that zeros stay."""
    if names & _RECURRENT:
        return keeps_zeros(operation.activation)
    if "Clip" in names:
        bounds = operation.x_min, operation.x_max
        are_numbers = all(isinstance(x, int | float) for x in bounds)
        return are_numbers and bounds[0] <= 0 <= bounds[1]
    return False


def _reaches(term, axis, result):
    """Whether a term of a sum has all the indices of an axis of the result."""
    return (
        isinstance(term, Labels)
        and term.ndim >= -axis
        and len(term.axes[axis]) == len(result.axes[axis])
    )
