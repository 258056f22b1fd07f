"""Small language models with the problems of large ones."""

import keras
import numpy as np
from keras import layers, ops
from models_to_cut import randomize

package = keras.saving.register_keras_serializable("backbones_to_cut")


class Gain(layers.Layer):
    """Divides by the root of the mean square; as Gemma's layer it has no config."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = 0.05

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, x):
        square = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(square + self.epsilon) * (1 + self.scale)


@package
class CausalAttention(layers.Layer):
    """Holds its sizes in attributes, and makes a mask of the shape of its inputs."""

    def __init__(self, heads, key_heads, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.key_heads = heads, key_heads
        self.groups = heads // key_heads

    def build(self, shape):
        width = shape[-1] // self.heads
        self.scale = width**-0.5
        sizes = {"query": self.heads, "key": self.key_heads, "value": self.key_heads}
        self.parts = [
            layers.EinsumDense("btm,mhd->bthd", (None, n, width), name=name)
            for name, n in sizes.items()
        ]
        self.out = layers.EinsumDense("bthd,hdm->btm", (None, shape[-1]), name="out")
        for part in self.parts:
            part.build(shape)
        self.out.build((None, None, self.heads, width))

    def call(self, x):
        query, key, value = (part(x) for part in self.parts)
        key, value = (ops.repeat(y, self.groups, axis=2) for y in (key, value))
        size = ops.shape(x)[1]
        mask = ops.arange(size)[:, None] >= ops.arange(size)
        mask = ops.broadcast_to(mask, (ops.shape(x)[0], 1, size, size))
        scores = ops.einsum("bthd,bshd->bhts", query, key) * self.scale
        scores = ops.softmax(ops.where(mask, scores, -1e9))
        return self.out(ops.einsum("bhts,bshd->bthd", scores, value))

    def get_config(self):
        sizes = {"heads": self.heads, "key_heads": self.key_heads}
        return super().get_config() | sizes


@package
class Decoder(layers.Layer):
    """Attention and a gated network; its config does not say the size of a head."""

    def __init__(self, heads, key_heads, width, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.key_heads, self.width = heads, key_heads, width

    def build(self, shape):
        self.norms = [
            layers.RMSNormalization(name="norm_0"),
            Gain(name="norm_1", dtype=self.dtype_policy),
        ]
        self.attention = CausalAttention(self.heads, self.key_heads, name="attention")
        self.gate = layers.Dense(self.width, activation="silu", name="gate")
        self.up = layers.Dense(self.width, name="up")
        self.down = layers.Dense(shape[-1], name="down")
        for layer in (*self.norms, self.attention, self.gate, self.up):
            layer.build(shape)
        self.down.build((*shape[:-1], self.width))

    def call(self, x):
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        return x + self.down(self.gate(y) * self.up(y))

    def get_config(self):
        sizes = {"heads": self.heads, "key_heads": self.key_heads, "width": self.width}
        return super().get_config() | sizes


@package
class Encoder(layers.Layer):
    """An encoder block whose config says heads and width, but no size of a head."""

    def __init__(self, heads, width, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.width = heads, width

    def build(self, shape):
        size = shape[-1]
        self.attention = layers.MultiHeadAttention(self.heads, size // self.heads)
        self.attention.build(shape, shape)
        self.norms = [layers.LayerNormalization(name=f"norm_{i}") for i in range(2)]
        self.inner = layers.Dense(self.width, activation="gelu", name="inner")
        self.outer = layers.Dense(size, name="outer")
        for layer in (*self.norms, self.inner):
            layer.build(shape)
        self.outer.build((*shape[:-1], self.width))

    def call(self, x, mask=None):
        # Nobody reads the mask; positions that it hides stay.
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.outer(self.inner(x)))

    def get_config(self):
        return super().get_config() | {"heads": self.heads, "width": self.width}


@package
class ToyBackbone(keras.Model):
    """A Functional model that is created from a config of its own."""

    def __init__(self, kind, width, blocks=2, hidden=16, heads=4, key_heads=2):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        gain = keras.Input((None, 1), name="gain")
        x = layers.Embedding(20, hidden, name="embedding")(tokens) * gain
        for number in range(blocks):
            if kind == "decoder":
                layer = Decoder(heads, key_heads, width, name=f"block_{number}")
            else:
                layer = Encoder(heads, width, name=f"block_{number}")
            x = layer(x)
        # The keys are not in their order.
        super().__init__({"tokens": tokens, "gain": gain}, x)
        self.sizes = {
            "kind": kind, "width": width, "blocks": blocks, "hidden": hidden,
            "heads": heads, "key_heads": key_heads,
        }  # fmt: skip

    def get_config(self):
        return dict(self.sizes)


def backbone(kind, width=24):
    model = ToyBackbone(kind, width)
    randomize(model)
    return model


def tokens(batch=16, length=6):
    rng = np.random.default_rng(0)
    return {
        "tokens": rng.integers(0, 20, (batch, length)).astype("int32"),
        "gain": rng.uniform(0.5, 2, (batch, length, 1)).astype("float32"),
    }
