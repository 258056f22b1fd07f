"""Networks that `one_shot.py` trains on scikit-learn's digits and faker's surnames.

Each is a `Task` as in `data.py`: models are built with the Keras that is given, so
that `tf_keras` builds the same, and return logits.
"""

from data import TASKS, Task, build_mlp, load_digits


def build_convnet(keras):
    """Returns three convolutions and two dense layers: 40,000 weights in 5 kernels."""
    layers = keras.layers
    shape = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            layers.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(16, **shape),
            layers.Conv2D(32, **shape),
            layers.MaxPooling2D(),
            layers.Conv2D(64, **shape),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def build_resnet(keras):
    """Returns three residual blocks with BatchNorm: 77,000 weights in 10 kernels."""
    layers = keras.layers

    def convolve(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = layers.Input((64,))
    x = layers.Reshape((8, 8, 1))(inputs)
    x = layers.ReLU()(convolve(x, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(convolve(x, filters, strides=strides))
        y = convolve(y, filters)
        x = x if strides == 1 else convolve(x, filters, size=1, strides=strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def build_separable(keras):
    """Returns depthwise-separable blocks with BatchNorm, as in MobileNet.

    It has 28,000 weights in 8 kernels.
    """
    layers = keras.layers
    block = [
        layers.Input((64,)),
        layers.Reshape((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]
    for filters, strides in ((64, 1), (128, 2), (128, 1)):
        block += [
            layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(filters, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return keras.Sequential([*block, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def build_transformer(keras, width=48, num_heads=4):
    """Returns two blocks of attention over the rows: 60,000 weights in 14 kernels."""
    layers = keras.layers
    inputs = layers.Input((64,))
    x = layers.Dense(width)(layers.Reshape((8, 8))(inputs))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(num_heads, width // num_heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="relu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    # The place of a row in the image matters from here on.
    x = layers.Flatten()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def build_recurrent(keras):
    """Returns a BiLSTM and a GRU over the rows: 20,000 weights in 7 kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((64,)),
            layers.Reshape((8, 8)),
            layers.Bidirectional(layers.LSTM(32, return_sequences=True)),
            layers.GRU(32),
            layers.Dense(10),
        ]
    )


def _digits(build, epochs=30, learning_rate=2e-3):
    return Task(load_digits, build, 48, epochs, learning_rate)


TRAINED = {
    "mlp": _digits(build_mlp),
    "convnet": _digits(build_convnet),
    "resnet": _digits(build_resnet),
    "separable": _digits(build_separable),
    "transformer": _digits(build_transformer),
    "recurrent": _digits(build_recurrent),
    "names": TASKS["names"],
}
