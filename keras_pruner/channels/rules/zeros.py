"""Tells which layers and operations keep zeros, for normalization by the mean square.

A channel is cut out exactly in front of such a normalization if it is zero. It is zero
if its weights are, unless something on its way turns zeros into other numbers.
"""

import keras

from keras_pruner.channels.labels import Labels

# Their outputs are zero at the indices at which an input is, or the weights are.
_KEEPING = set(
    """
    Abs Absolute Amax Amin Arcsin Arcsinh Arctan Arctanh ArraySplit AveragePool Cast
    Celu Concatenate Conv ConvTranspose ConvertToTensor Copy DepthToSpace DepthwiseConv
    Dot DotProductAttention Einsum Elu Erf ExpandDims Expm1 Fabs Flip Fliplr Flipud Gelu
    GetItem HardShrink HardSilu HardTanh LeakyRelu Log1p Matmul Max MaxPool Mean Min
    Mish Moveaxis Multiply Negative Pad RMSNorm ReLU Ravel Relu Relu6 Reshape Roll Round
    Selu Sign Silu Sin Sinh Slice SoftShrink Softsign SpaceToDepth Split Sqrt Square
    Squeeze Stack StopGradient Sum Swapaxes Take Tan Tanh TanhShrink Tensordot Transpose
    Unstack

    Activation ActivityRegularization AlphaDropout AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Conv1D Conv1DTranspose Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D
    DepthwiseConv2D Dropout GaussianDropout GaussianNoise Identity MaxPooling1D
    MaxPooling2D MaxPooling3D RMSNormalization SeparableConv1D SeparableConv2D
    SpatialDropout1D SpatialDropout2D SpatialDropout3D UpSampling1D UpSampling2D
    UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()
)
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
    if names & _KEEPING:
        return
    is_sum = bool(names & _SUMS)
    terms = keras.tree.flatten(given)
    for labels in keras.tree.flatten(outputs):
        for axis in range(-labels.ndim, 0):
            if not (is_sum and all(_reaches(x, axis, labels) for x in terms)):
                trace.classes.mark_alive(labels.axes[axis])


def _reaches(term, axis, result):
    """Whether a term of a sum has all the indices of an axis of the result."""
    return (
        isinstance(term, Labels)
        and term.ndim >= -axis
        and len(term.axes[axis]) == len(result.axes[axis])
    )
