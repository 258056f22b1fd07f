"""Models whose channel groups are written down by hand, and cut by hand."""

import keras
import numpy as np
from conftest import value_of
from keras import layers


class Net:
    """A model that can be built with any widths.

    Args:
        build: Function from a dict of widths to a model.
        widths: Dict from the name of a group to its number of channels.
        places: Dict from a variable's path to a dict from an axis to the group that
            lies on it, or to a pair of a group and the positions of each channel.
    """

    def __init__(self, build, widths, places):
        self.build, self.widths, self.places = build, widths, places

    def model(self, seed=0):
        keras.utils.set_random_seed(seed)
        model = self.build(self.widths)
        generator = np.random.default_rng(seed)
        for path, variable in variables_of(model).items():
            value = generator.normal(size=variable.shape)
            if path.endswith("variance"):
                value = np.abs(value) + 0.5
            elif path.endswith("gamma"):
                value = 1 + value / 2
            elif len(variable.shape) > 1:
                value *= 2 / np.sqrt(np.prod(variable.shape[:-1]))
            else:
                value /= 2
            variable.assign(value.astype("float32"))
        return model

    def indices(self, place, channels):
        """Indices along an axis that hold some channels."""
        name, positions = place if isinstance(place, tuple) else (place, 1)
        steps = np.arange(positions)[:, None] * self.widths[name]
        return np.sort((steps + np.asarray(channels, int)).ravel())

    def pruned_channels(self, model, atol=0.0):
        """Dict from a group to its channels that are zero in all trainable variables.

        Raises:
            AssertionError: If a channel is zero in some of the variables only.
        """
        zero = {name: np.ones(width, bool) for name, width in self.widths.items()}
        parts = {name: [] for name in self.widths}
        for path, variable in variables_of(model).items():
            if not variable.trainable:
                continue
            for axis, place in self.places.get(path, {}).items():
                name = place[0] if isinstance(place, tuple) else place
                own = []
                for channel in range(self.widths[name]):
                    rows = self.indices(place, [channel])
                    own.append(not np.take(value_of(variable), rows, axis).any())
                zero[name] &= own
                parts[name].append((path, own))
        return {name: np.flatnonzero(marks).tolist() for name, marks in zero.items()}

    def cut(self, model, pruned):
        """A smaller model of plain layers, with the values of the kept channels."""
        kept = {
            name: np.setdiff1d(np.arange(width), pruned[name])
            for name, width in self.widths.items()
        }
        smaller = self.build({name: len(own) for name, own in kept.items()})
        old = variables_of(model)
        for path, variable in variables_of(smaller).items():
            value = value_of(old[path])
            for axis, place in self.places.get(path, {}).items():
                name = place[0] if isinstance(place, tuple) else place
                value = np.take(value, self.indices(place, kept[name]), axis)
            variable.assign(value)
        return smaller


def variables_of(model):
    """Dict from `layer/variable` to the variable."""
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if "seed" not in variable.name
    }


def _batch_normalization(name, group):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{name}/{part}": {0: group} for part in names}


def _chain(widths):
    return keras.Sequential(
        [
            layers.Input((4, 4, 2)),
            layers.Conv2D(widths["a"], 3, padding="same", name="a"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(widths["b"], 3, name="b", activation="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(widths["c"], name="c", activation="sigmoid"),
            layers.Dense(3, name="head"),
        ]
    )


# Conv, batch normalization, Flatten, and a sigmoid, which is not zero at zero.
CHAIN = Net(
    _chain,
    {"a": 10, "b": 8, "c": 12},
    {
        "a/kernel": {3: "a"},
        "a/bias": {0: "a"},
        **_batch_normalization("norm", "a"),
        "b/kernel": {2: "a", 3: "b"},
        "b/bias": {0: "b"},
        "c/kernel": {0: ("b", 4), 1: "c"},
        "c/bias": {0: "c"},
        "head/kernel": {0: "c"},
    },
)


def _residual(widths):
    inputs = layers.Input((4, 4, 2))
    x = layers.Conv2D(widths["a"], 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(widths["b"], 1, name="b", activation="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.Conv2D(widths["a"], 1, name="back", use_bias=False)(y)
    x = layers.Add(name="add")([x, y])
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.PReLU(shared_axes=(1, 2), name="slopes")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


# The addition couples the first and the last convolution.
RESIDUAL = Net(
    _residual,
    {"a": 8, "b": 12},
    {
        "a/kernel": {3: "a"},
        "a/bias": {0: "a"},
        "b/kernel": {2: "a", 3: "b"},
        "b/bias": {0: "b"},
        "depthwise/kernel": {2: "b"},
        "depthwise/bias": {0: "b"},
        "back/kernel": {2: "b", 3: "a"},
        **_batch_normalization("norm", "a"),
        "slopes/alpha": {2: "a"},
        "head/kernel": {0: "a"},
    },
)


def _dense(widths):
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(widths["a"], activation="relu", name="a"),
            layers.Dense(widths["b"], activation="relu", name="b"),
            layers.Dense(3, name="head"),
        ]
    )


DENSE = Net(
    _dense,
    {"a": 10, "b": 10},
    {
        "a/kernel": {1: "a"},
        "a/bias": {0: "a"},
        "b/kernel": {0: "a", 1: "b"},
        "b/bias": {0: "b"},
        "head/kernel": {0: "b"},
    },
)


def _recurrent(widths):
    return keras.Sequential(
        [
            layers.Input((5, 3)),
            layers.LSTM(widths["a"], return_sequences=True, name="a"),
            layers.GRU(widths["b"], name="b"),
            layers.Dense(3, name="head"),
        ]
    )


# Units lie once in each gate, and square kernels lose rows and columns with them.
RECURRENT = Net(
    _recurrent,
    {"a": 8, "b": 10},
    {
        "a/kernel": {1: ("a", 4)},
        "a/recurrent_kernel": {0: "a", 1: ("a", 4)},
        "a/bias": {0: ("a", 4)},
        "b/kernel": {0: "a", 1: ("b", 3)},
        "b/recurrent_kernel": {0: "b", 1: ("b", 3)},
        "b/bias": {1: ("b", 3)},
        "head/kernel": {0: "b"},
    },
)


def data_for(model, number=48):
    generator = np.random.default_rng(7)
    x = generator.normal(size=(number, *model.inputs[0].shape[1:]))
    return x.astype("float32"), generator.integers(0, 3, size=number)
