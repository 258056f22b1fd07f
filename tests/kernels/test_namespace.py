"""Every layer of `keras.layers`: its matrices are found, or left with a reason.

A layer that is new to Keras fails `test_every_layer_of_keras_is_known` until it is
written down here.
"""

import inspect
import math

import keras
import numpy as np
import pytest
from keras import layers

from keras_pruner.kernels import find_kernels

# Layer -> its input's shape, and how many kernels it has.
WITH_KERNELS = {
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), (5, 4), 4),
    "Conv1D": (lambda: layers.Conv1D(3, 2), (5, 4), 1),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 2), (5, 4), 1),
    "Conv2D": (lambda: layers.Conv2D(3, 2), (5, 5, 4), 1),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), (5, 5, 4), 1),
    "Conv3D": (lambda: layers.Conv3D(3, 2), (5, 5, 5, 4), 1),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(3, 2), (5, 5, 5, 4), 1),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(3, 2), (4, 5, 2), 2),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(3, 2), (4, 5, 5, 2), 2),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(3, 2), (4, 5, 5, 5, 2), 2),
    "Dense": (lambda: layers.Dense(3), (4,), 1),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), (5, 4), 1),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), (5, 5, 4), 1),
    "EinsumDense": (lambda: layers.EinsumDense("ab,bc->ac", 3), (4,), 1),
    "Embedding": (lambda: layers.Embedding(9, 4), (5,), 1),
    "GRU": (lambda: layers.GRU(3), (5, 4), 2),
    "GRUCell": (lambda: layers.GRUCell(3), (4,), 2),
    "GroupQueryAttention": (
        lambda: layers.GroupQueryAttention(3, 4, 2),
        ((5, 8), (5, 8)),
        4,
    ),
    "LSTM": (lambda: layers.LSTM(3), (5, 4), 2),
    "LSTMCell": (lambda: layers.LSTMCell(3), (4,), 2),
    "MultiHeadAttention": (
        lambda: layers.MultiHeadAttention(2, 3),
        ((5, 8), (5, 8)),
        4,
    ),
    "RNN": (lambda: layers.RNN(layers.GRUCell(3)), (5, 4), 2),
    "ReversibleEmbedding": (
        lambda: layers.ReversibleEmbedding(9, 4, tie_weights=False),
        (5,),
        2,
    ),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(3, 2), (5, 4), 2),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 2), (5, 5, 4), 2),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), (5, 4), 2),
    "SimpleRNNCell": (lambda: layers.SimpleRNNCell(3), (4,), 2),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        (4,),
        1,
    ),
    "StackedRNNCells": (
        lambda: layers.StackedRNNCells([layers.GRUCell(3), layers.LSTMCell(2)]),
        (4,),
        4,
    ),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(3)), (5, 4), 1),
}

# Layers that hold several numbers for each feature, and no matrix to prune.
WITHOUT_KERNELS = {
    "AdditiveAttention": (layers.AdditiveAttention, ((5, 4), (5, 4))),
    "Attention": (lambda: layers.Attention(use_scale=True), ((5, 4), (5, 4))),
    "BatchNormalization": (layers.BatchNormalization, (5, 4)),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), (5, 4)),
    "LayerNormalization": (lambda: layers.LayerNormalization(axis=(1, 2)), (5, 4)),
    "Normalization": (lambda: layers.Normalization(axis=(1, 2)), (5, 4)),
    "PReLU": (layers.PReLU, (5, 4)),
    "RMSNormalization": (layers.RMSNormalization, (5, 4)),
    "STFTSpectrogram": (
        lambda: layers.STFTSpectrogram(frame_length=8, frame_step=4, fft_length=8),
        (32, 1),
    ),
}

# They hold no weights, or what a user puts into them.
WITHOUT_WEIGHTS = set(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D
    AdaptiveMaxPooling3D Add AlphaDropout AugMix AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D CategoryEncoding CenterCrop Concatenate
    ContrastLimitedAdaptiveHistogramEqualization Cropping1D Cropping2D Cropping3D
    CutMix Discretization Dot Dropout ELU Equalization Flatten GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
    GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D HashedCrossing Hashing
    Identity InputLayer IntegerLookup Lambda Layer LeakyReLU Masking MaxNumBoundingBoxes
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp Multiply
    Permute Pipeline RandAugment RandomBrightness RandomColorDegeneration
    RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
    RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
    RandomPerspective RandomPosterization RandomRotation RandomSaturation
    RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling
    Reshape Resizing Softmax Solarization SpatialDropout1D SpatialDropout2D
    SpatialDropout3D StringLookup Subtract TextVectorization UnitNormalization
    UpSampling1D UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
    """.split()
)

# Their variables are those of another framework, which only their user can name.
FOREIGN = {"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"}


def layer_classes():
    """Public layer classes, by all names that Keras exports them under."""
    return {
        name: item
        for name, item in vars(layers).items()
        if inspect.isclass(item) and issubclass(item, layers.Layer)
    }


def built(make, shape):
    """A layer that was called on symbolic inputs, and so has all its weights."""
    layer = make()
    if isinstance(layer, layers.StackedRNNCells) or hasattr(layer, "state_size"):
        layer.build((None, *shape))
        return layer
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    dtype = "int32" if isinstance(layer, layers.Embedding) else "float32"
    inputs = [keras.Input(s, dtype=dtype) for s in shapes]
    additive = isinstance(layer, layers.Attention)
    layer(inputs) if additive else layer(*inputs)
    return layer


def matrices(layer):
    """Variables with two axes or more, told from biases by their names."""
    return [
        variable
        for variable in layer.variables
        if len(variable.shape) > 1 and "bias" not in variable.name
    ]


def test_every_layer_of_keras_is_known():
    names = {*WITH_KERNELS, *WITHOUT_KERNELS, *WITHOUT_WEIGHTS, *FOREIGN}
    # By class, so that an alias such as `Convolution2D` counts as known.
    known = {getattr(layers, name) for name in names if hasattr(layers, name)}
    unknown = [name for name, item in layer_classes().items() if item not in known]
    assert unknown == []


def test_layers_without_weights_add_none():
    # `Layer` defines the method, and `Wrapper` inherits what it has.
    for name, layer_class in layer_classes().items():
        if name in WITHOUT_WEIGHTS - {"Layer"}:
            assert "add_weight" not in inspect.getsource(layer_class), name


@pytest.mark.parametrize("name", [n for n in WITH_KERNELS if hasattr(layers, n)])
def test_layer_has_its_matrices_found(name):
    make, shape, number = WITH_KERNELS[name]
    layer = built(make, shape)
    search = find_kernels(layer, embeddings=True)
    assert len(search.kernels) == number
    for kernel in search.kernels:
        assert kernel.layout.size == math.prod(kernel.variable.shape)
    # Whatever else is left has a reason, e.g. the vector of a spectral norm.
    listed = {kernel.path for kernel in search.kernels} | {
        s.path for s in search.skipped
    }
    assert len(listed) == len(matrices(layer))


@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_layer_without_kernels_lists_what_it_holds_with_a_reason(name):
    layer = built(*WITHOUT_KERNELS[name])
    search = find_kernels(layer, embeddings=True)
    assert search.kernels == ()
    listed = sorted(skipped.shape for skipped in search.skipped)
    held = [tuple(v.shape) for v in layer.variables if len(v.shape) > 1]
    assert listed == sorted(held)
    for skipped in search.skipped:
        assert skipped.reason.startswith("not multiplied by as a matrix: ")


def test_reason_of_a_known_layer_says_what_it_holds():
    layer = layers.PReLU(name="slopes")
    layer(np.ones((2, 5, 4), "float32"))
    (skipped,) = find_kernels(layer).skipped
    assert skipped.reason == "not multiplied by as a matrix: a slope for each input"
