"""Models of all kinds of layers, and what tests do with them.

Each builder in `MODELS` returns a model whose outputs depend on every channel.
"""

import keras
import numpy as np
from conftest import slow_value_where_compiled
from keras import layers, ops

MODELS = {}
# JAX compiles each call of an operation: there, fewer models.
IS_JAX = keras.backend.backend() == "jax"


def model_names():
    """Returns the names of the models to test on the backend, as parameters."""
    return [
        slow_value_where_compiled(name) if name in ("deep", "recurrent") else name
        for name in list(MODELS)[:: 5 if IS_JAX else 1]
    ]


def model_of(name):
    """Builds a model; its biases, gains and statistics are random."""
    model = MODELS[name]()
    randomize(model)
    return model


def builder(function):
    MODELS[function.__name__] = function
    return function


def randomize(model, seed=0):
    """Gives vectors random values, so that no channel is a special case."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if "float" not in variable.dtype:
            continue
        value = ops.convert_to_numpy(variable)
        if "variance" in variable.name:
            variable.assign(generator.uniform(0.25, 0.75, value.shape))
        elif "kernel" not in variable.name or not value.any():
            variable.assign(value + generator.normal(0, 0.3, value.shape))


def removed_half(graph, seed=0, share=0.5):
    """Chooses random channels of each group."""
    generator = np.random.default_rng(seed)
    return {
        group.name: generator.choice(group.size, int(group.size * share), replace=False)
        for group in graph.groups
        if int(group.size * share)
    }


def with_zeros(model, kept):
    """Pairs of a variable and its value, zero where channels are removed."""
    pairs = []
    for variable in model.trainable_variables:
        value = ops.convert_to_numpy(variable).copy()
        for axis, indices in enumerate(kept.indices(variable)):
            if indices is not None:
                gone = np.setdiff1d(np.arange(value.shape[axis]), indices)
                np.moveaxis(value, axis, 0)[gone] = 0
        pairs.append((variable, value))
    return pairs


class Scale(layers.Layer):
    """Has its size in its config, and no rule."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(self.width,), name="gain")

    def call(self, x):
        return x * self.gain

    def get_config(self):
        return super().get_config() | {"width": self.width}


class Block(layers.Layer):
    """Computes the sizes of its layers from one number, so it has to be unrolled."""

    def __init__(self, ratio=2, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, input_shape):
        width = input_shape[-1]
        self.wide = layers.Dense(self.ratio * width, activation="gelu", name="wide")
        self.narrow = [layers.Dense(width, name="narrow")]
        self.wide.build(input_shape)
        self.narrow[0].build((*input_shape[:-1], self.ratio * width))

    def call(self, x):
        return x + self.narrow[0](self.wide(x))

    def get_config(self):
        return super().get_config() | {"ratio": self.ratio}


class Subclassed(keras.Model):
    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.stem = layers.Conv2D(width, 3, name="stem")
        self.norm = layers.BatchNormalization(name="norm")
        self.inner = keras.Sequential(
            [layers.Conv2D(width, 1, name="one"), layers.ReLU()], name="inner"
        )
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=None):
        x = ops.relu(self.norm(self.stem(x), training=training))
        x = self.inner(x) + x
        return self.head(ops.mean(x, axis=(1, 2)))

    def get_config(self):
        return super().get_config() | {"width": self.width}


class SplitHeads(layers.Layer):
    """Has sizes in its config, and no variables."""

    def __init__(self, heads, size, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def call(self, x):
        x = ops.reshape(x, (-1, x.shape[1], self.heads, self.size))
        return ops.transpose(x, (0, 2, 1, 3))

    def get_config(self):
        return super().get_config() | {"heads": self.heads, "size": self.size}


class MergeHeads(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def call(self, x):
        x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (-1, x.shape[1], self.width))

    def get_config(self):
        return super().get_config() | {"width": self.width}


@builder
def mlp():
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(6, activation="sigmoid"),
            layers.Dense(3),
        ]
    )


@builder
def residual_convolutions():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = short = layers.ReLU(max_value=6)(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(8, 1)(x)
    x = layers.Add()([x, short])
    x = layers.SeparableConv2D(10, 3, depth_multiplier=2)(x)
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


@builder
def reshape_before_transposed_convolution():
    x = inputs = keras.Input((6,))
    x = layers.Dense(4 * 4 * 6)(x)
    x = layers.Reshape((4, 4, 6))(x)
    x = layers.LeakyReLU()(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


@builder
def chunked_qkv():
    x = inputs = keras.Input((5, 8))
    q, k, v = ops.split(layers.Dense(3 * 12)(x), 3, axis=-1)
    heads = [layers.Reshape((5, 3, 4))(part) for part in (q, k, v)]
    scores = ops.einsum("bqhd,bkhd->bhqk", heads[0], heads[1])
    x = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), heads[2])
    x = layers.Reshape((5, 12))(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def gates_of_size_one():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, activation="swish")(x)
    x = x * layers.Conv2D(1, 1, activation="sigmoid")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    x = x * layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))


@builder
def nested_concatenations():
    inputs = keras.Input((5,))
    a, b = layers.Dense(4, activation="tanh")(inputs), layers.Dense(6)(inputs)
    x = layers.Concatenate()([a, b])
    x = layers.Concatenate()([x, a, x])
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@builder
def one_split_used_by_several():
    inputs = keras.Input((5,))
    a, b = ops.split(layers.Dense(12)(inputs), [4], axis=-1)
    x = layers.Dense(6)(a) + layers.Dense(6)(b)
    y = layers.Concatenate()([ops.tanh(a), b[:, 2:6], b[..., :1]])
    return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(2)(y)])


@builder
def depth_to_space():
    x = inputs = keras.Input((3, 3, 2))
    x = layers.Conv2D(4 * 5, 1)(x)
    x = layers.Reshape((3, 3, 2, 2, 5))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    x = layers.Reshape((6, 6, 5))(x)
    return keras.Model(inputs, layers.Conv2D(2, 3)(x))


@builder
def normalized_groups():
    x = inputs = keras.Input((5, 5, 3))
    x = layers.Conv2D(12, 3)(x)
    x = layers.GroupNormalization(4)(x)
    x = layers.Conv2D(8, 1, groups=4)(x)
    x = layers.GroupNormalization(-1)(x)
    x = layers.Conv2D(9, 1)(x)
    x = layers.GroupNormalization(9, center=False, scale=False)(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(ops.relu(x)))


@builder
def residual_width_of_mean_squares():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(12, 8)(inputs)
    for number in range(2):
        y = layers.RMSNormalization(epsilon=0.1, name=f"norm_{number}")(x)
        x = x + layers.MultiHeadAttention(2, 3)(y, y)
        y = layers.RMSNormalization(epsilon=0.1)(x)
        y = layers.Dense(12, "silu")(y) * layers.Dense(12)(y)
        x = layers.Add()([x, layers.Dense(8)(y)])
    x = layers.EinsumDense("bti,ijk->btjk", (None, 4, 6), bias_axes="jk")(x)
    x = layers.RMSNormalization(axis=[-2, -1], epsilon=0.1)(x)
    return keras.Model(inputs, layers.EinsumDense("btjk,jko->bto", (None, 3))(x))


@builder
def steps_that_keep_zeros():
    x = layers.Input((6, 5))
    y = layers.Dense(8)(x)
    y = y + layers.LSTM(8, return_sequences=True)(y)
    y = y + layers.GRU(8, return_sequences=True)(ops.clip(y, -6, 6))
    y = ops.cumsum(y / 2.0, axis=1) + ops.tile(y[:, :1], (1, 6, 1))
    y = y + layers.TimeDistributed(layers.Dense(8))(y)
    y = layers.RMSNormalization()(y)
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))


@builder
def recurrent():
    x = inputs = keras.Input((5, 4))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"))(x)
    x = layers.GRU(6, return_sequences=True)(x)
    x = layers.RNN(layers.SimpleRNNCell(7), return_sequences=True)(x)
    x = layers.GRU(4, reset_after=False)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def attention():
    x = inputs = keras.Input((6, 5))
    x = layers.Dense(8)(x)
    x = x + layers.MultiHeadAttention(4, 6, value_dim=6)(x, x)
    x = layers.Dense(8, activation="gelu")(x)
    x = layers.GroupQueryAttention(4, 4, 2)(x, x)
    x = layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de")(x)
    x = layers.EinsumDense("...de,def->...f", 6)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def embedded():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8)(inputs)
    x = layers.Conv1D(6, 3, activation="relu")(x)
    x = layers.SeparableConv1D(5, 2)(x)
    x = layers.Conv1DTranspose(4, 2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@builder
def siamese():
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    tower = keras.Sequential(
        [layers.Dense(8, activation="relu"), layers.Dense(6)], name="tower"
    )
    shared = layers.Dense(6, activation="tanh", name="shared")
    x = shared(tower(left)) * shared(tower(right))
    return keras.Model({"left": left, "right": right}, layers.Dense(2)(x))


@builder
def nested_models():
    tokens = keras.Input((4, 4, 6))
    inner = keras.Model(tokens, layers.Conv2D(6, 3, padding="same")(tokens) + tokens)
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 1, activation="relu")(x)
    x = inner(inner(x))
    x = keras.Sequential([layers.Flatten(), layers.Dense(5), layers.ReLU()])(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def nested_sequential():
    inner = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(8)])
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(8), inner, layers.Dense(2)]
    )


@builder
def unused_layers():
    x = inputs = keras.Input((5,))
    x = layers.Dense(8, name="used")(x)
    layers.Dense(8, name="unused")(x)
    head = layers.Dense(2, name="head")
    return keras.Model(inputs, head(ops.relu(x)))


@builder
def own_leaf():
    x = inputs = keras.Input((5,))
    x = Scale(8)(layers.Dense(8)(x))
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def own_layers_without_variables():
    x = layers.Input((6, 5))
    q, k, v = (SplitHeads(4, 3)(layers.Dense(12)(x)) for _ in range(3))
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)))
    y = MergeHeads(12)(ops.matmul(scores, v))
    return keras.Model(x, layers.Dense(3)(layers.Dense(8, "gelu")(y)))


@builder
def own_composite():
    x = inputs = keras.Input((3, 5))
    x = layers.Dense(6)(x)
    x = Block(name="block")(x)
    return keras.Model(inputs, layers.Dense(2)(Block(name="other")(x)))


@builder
def shared_own_composite():
    x = inputs = keras.Input((5,))
    block = Block()
    x = block(layers.Dense(6)(x))
    return keras.Model(inputs, layers.Dense(2)(block(ops.tanh(x))))


@builder
def own_composite_in_sequential():
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(6), Block(), layers.Dense(2)]
    )


@builder
def volumes_and_pads():
    x = inputs = keras.Input((4, 4, 4, 2))
    x = layers.Conv3D(6, 2)(x)
    x = layers.ZeroPadding3D(1)(x)
    x = layers.Conv3D(5, 2, strides=2, activation="relu")(x)
    x = layers.UpSampling3D(2)(x)
    x = layers.Cropping3D(1)(x)
    x = layers.Conv3DTranspose(4, 2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling3D()(x)))


@builder
def deep():
    x = inputs = keras.Input((4,))
    x = layers.Dense(6)(x)
    for _ in range(300):
        x = x - 0.01 * ops.tanh(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@builder
def mixed_precision():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, dtype="mixed_bfloat16")(x)
    x = layers.BatchNormalization(dtype="mixed_bfloat16")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(x))
