"""Rules for operations that compute each element from the elements at its place."""

import numpy as np
from keras import layers

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule

_UNARY = """
    ReLU Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu
    Squareplus LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink
    HardTanh HardShrink Threshold Absolute Abs Fabs Angle Arccos Arccosh Arcsin Arcsinh
    Arctan Arctanh BitwiseInvert Cast Cbrt Ceil Clip Conj Conjugate ConvertToTensor Copy
    Cos Cosh Deg2rad EmptyLike Erf Erfc Erfinv Exp Exp2 Expm1 Floor Imag I0 Isfinite
    Isinf Isnan Isneginf Isposinf Isreal Log Log10 Log1p Log2 LogicalNot NanToNum
    Mish Negative OnesLike Rad2deg Real Reciprocal Round Rsqrt SaturateCast Sign Signbit
    Sin Sinc Sinh Sqrt Square StopGradient Tan Tanh Trunc ZerosLike
""".split()
_BINARY = """
    Add Arctan2 BitwiseAnd BitwiseLeftShift BitwiseOr BitwiseRightShift BitwiseXor
    Divide DivideNoNan Equal FloorDivide Fmax Fmin Fmod Gcd Greater GreaterEqual
    Heaviside Hypot Isclose Lcm Ldexp LeftShift Less LessEqual Logaddexp Logaddexp2
    LogicalAnd LogicalOr LogicalXor Maximum Minimum Mod Multiply Nextafter NotEqual
    Power RightShift Subtract TrueDivide
""".split()


@operation_rule(*_UNARY)
def _unary(trace, operation, x):
    return Labels(x.axes)


@operation_rule(*_BINARY)
def _binary(trace, operation, x1, x2):
    return trace.broadcast(x1, x2)


@operation_rule("Glu")
def _glu(trace, operation, x):
    halves = np.split(x.axes[operation.axis], 2)
    trace.divided += halves
    return trace.same_shape(*(x.replace(operation.axis, ids) for ids in halves))


@operation_rule("Where")
def _where(trace, operation, condition, x1=None, x2=None):
    if x1 is None or x2 is None:
        raise ValueError("it selects elements by their values")
    return trace.broadcast(condition, x1, x2)


@operation_rule("FullLike")
def _full_like(trace, operation, x, fill_value):
    return trace.broadcast(x, fill_value)


@register_channel_rule(
    (
        layers.ActivityRegularization,
        layers.AlphaDropout,
        layers.Dropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.Identity,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
    )
)
def _noise(trace, layer, inputs, training=False):
    return inputs


@register_channel_rule(layers.Activation)
def _activation(trace, layer, inputs):
    return trace.activate(layer.activation, inputs)


@register_channel_rule(layers.Masking)
def _masking(trace, layer, inputs):
    trace.pin(inputs.axes[-1], "steps are masked by all their features")
    return inputs


@register_channel_rule(
    (
        layers.Add,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
        layers.Multiply,
        layers.Subtract,
    )
)
def _merge(trace, layer, inputs):
    if len({x.ndim for x in inputs}) > 1:
        return trace.open(layer, inputs)
    # A layer that was only built inside of another may lack what its `call` reads.
    return trace.broadcast(*inputs)
