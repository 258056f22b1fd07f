"""Networks whose trained weights are part of Python packages, and inputs for them.

| name | package | network | inputs |
|---|---|---|---|
| `mtcnn_rnet` | mtcnn | R-Net of a face detector | crops of photos, 24 x 24 |
| `mtcnn_onet` | mtcnn | O-Net of a face detector | crops of photos, 48 x 48 |
| `deepcut` | deepcut | finds the words of Thai text | text of faker's Thai words |

The photos are matplotlib's portrait of Grace Hopper and scikit-learn's two pictures of
a temple and a flower, so all faces are one face, at many places and scales. In the
text, random words follow each other without spaces, and where words begin is known.
None of this is data that the networks were trained on. The packages need not run: only
their files are read, so no old Keras is imported.
"""

import importlib.util
import pathlib

import keras
import numpy as np
from keras import layers

CALIBRATION, TEST = 512, 1000


class Missing(ImportError):
    """Says which package a network lacks."""


def _folder(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise Missing(f"it needs `pip install --no-deps {package}`")
    return pathlib.Path(spec.origin).parent


def _face_network(file, filters, sizes, pools, units, heads):
    """Returns R-Net or O-Net with its weights.

    Args:
        file: Name of the file of weights.
        filters: Filters of each convolution.
        sizes: Their sizes.
        pools: Size and padding of the pooling after each, or `None`.
        units: Units of the dense layer.
        heads: Outputs of each head. The last one tells faces apart, by a softmax.
    """
    if importlib.util.find_spec("lz4") is None:
        raise Missing("it needs `pip install lz4`")
    import joblib

    arrays = iter(joblib.load(_folder("mtcnn") / "assets" / "weights" / file))
    inputs = x = layers.Input((48, 48, 3) if len(filters) == 4 else (24, 24, 3))

    def apply(layer, x):
        y = layer(x)
        layer.set_weights([next(arrays) for _ in layer.weights])
        return y

    for number, size, pool in zip(filters, sizes, pools, strict=True):
        x = apply(layers.Conv2D(number, size), x)
        x = apply(layers.PReLU(shared_axes=[1, 2]), x)
        if pool:
            x = layers.MaxPooling2D(pool[0], 2, padding=pool[1])(x)
    x = layers.Flatten()(layers.Permute((2, 1, 3))(x))
    x = apply(layers.PReLU(), apply(layers.Dense(units), x))
    *boxes, face = (apply(layers.Dense(number), x) for number in heads)
    return keras.Model(inputs, [*boxes, layers.Softmax()(face)])


def rnet():
    """Returns R-Net: 99,000 weights in 6 kernels."""
    pools = [(3, "same"), (3, "valid"), None]
    return _face_network(
        "rnet.lz4", (28, 48, 64), (3, 3, 2), pools, units=128, heads=(4, 2)
    )


def onet():
    """Returns O-Net: 387,000 weights in 8 kernels."""
    pools = [(3, "same"), (3, "valid"), (2, "same"), None]
    return _face_network(
        "onet.lz4", (32, 64, 64, 128), (3, 3, 3, 2), pools, units=256, heads=(4, 10, 2)
    )


def crops(model, seed):
    """Returns crops of photos: those for calibration, those for a test, no labels.

    In half of them the network sees a face.

    Args:
        model: R-Net or O-Net.
        seed: Decides which places of the photos are cut out.
    """
    size = model.input_shape[1]
    generator = np.random.default_rng(seed)
    photos, kept = _photos(), {False: [], True: []}
    half = (CALIBRATION + TEST) // 2
    while min(map(len, kept.values())) < half:
        x = np.stack([_crop(photos, size, generator) for _ in range(1000)])
        is_face = model.predict(x, verbose=0)[-1][:, 1] > 0.5
        for crop, answer in zip(x, is_face, strict=True):
            if len(kept[bool(answer)]) < half:
                kept[bool(answer)].append(crop)
    both = np.concatenate([kept[False], kept[True]])
    both = both[generator.permutation(len(both))]
    return both[:CALIBRATION], both[CALIBRATION:], None


def _photos():
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    portrait = Image.open(get_sample_data("grace_hopper.jpg"))
    # The head and shoulders as well, so that enough crops show a face.
    others = [Image.fromarray(image) for image in load_sample_images().images]
    return [portrait, portrait.crop((100, 20, 420, 380)), *others]


def _crop(photos, size, generator):
    from PIL import Image

    photo = photos[generator.integers(len(photos))]
    side = int(min(photo.size) * generator.uniform(0.15, 0.9))
    left, top = (generator.integers(length - side + 1) for length in photo.size)
    cut = photo.crop((left, top, left + side, top + side))
    if generator.integers(2):
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR), "float32")
    return (np.clip(pixels * generator.uniform(0.6, 1.3), 0, 255) - 127.5) / 128


def deepcut():
    """Returns deepcut: 527,000 weights in 26 kernels."""
    import h5py

    characters, kinds = layers.Input((21,)), layers.Input((21,))
    a = layers.Embedding(178, 32)(characters)
    a = layers.BatchNormalization()(a)
    found = []
    for window in range(1, 13):
        filters = 200 if window < 9 else 150 if window < 12 else 100
        x = layers.Conv1D(filters, window, activation="relu")(a)
        x = layers.TimeDistributed(layers.Dense(5))(x)
        found.append(layers.ZeroPadding1D((0, window - 1))(x))
    b = layers.Embedding(12, 12)(kinds)
    x = layers.Concatenate()([a, layers.Maximum()(found), b])
    x = layers.Flatten()(layers.BatchNormalization()(x))
    x = layers.Dense(100, activation="relu")(x)
    model = keras.Model([characters, kinds], layers.Dense(1, activation="sigmoid")(x))
    # The file names layers by class, and counts them in the order of their creation.
    classes = {
        layers.Embedding: "embedding", layers.BatchNormalization: "batch_normalization",
        layers.Conv1D: "conv1d", layers.TimeDistributed: "time_distributed",
        layers.Dense: "dense",
    }  # fmt: skip
    count = dict.fromkeys(classes, 0) | {layers.Dense: 12}
    path = _folder("deepcut") / "weight" / "cnn_without_ne_ab.h5"
    with h5py.File(path) as file:
        for layer in sorted(model.layers, key=_number_of):
            if type(layer) in classes:
                count[type(layer)] += 1
                group = file[f"{classes[type(layer)]}_{count[type(layer)]}"]
                names = group.attrs["weight_names"]
                layer.set_weights([group[name][()] for name in names])
    return model


def _number_of(layer):
    """Returns the number at the end of a layer's name; Keras counts by class."""
    number = layer.name.rsplit("_", 1)[-1]
    return int(number) if number.isdigit() else 0


def thai(model, seed):
    """Returns places in random Thai text, as deepcut reads them, and their labels.

    Args:
        model: Ignored.
        seed: Decides the words.

    Returns:
        Tuple of inputs for calibration, inputs for a test, and the labels of the test:
        whether a word begins there, as it does in half of the test.
    """
    from faker.providers.lorem.th_TH import Provider

    spec = importlib.util.spec_from_file_location(
        "deepcut_utils", _folder("deepcut") / "utils.py"
    )
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    generator = np.random.default_rng(seed)
    words = generator.choice(sorted(set(Provider.word_list)), 2000)
    starts = np.concatenate([np.arange(len(word)) == 0 for word in words])
    features = utils.create_feature_array("".join(words))
    first, rest = np.split(generator.permutation(len(starts)), [CALIBRATION])
    halves = [rest[starts[rest] == answer][: TEST // 2] for answer in (False, True)]
    second = np.concatenate(halves)
    inputs = [[array[part] for array in features] for part in (first, second)]
    return *map(tuple, inputs), starts[second].astype("int32")


# Name -> function that returns the model, function that returns its inputs.
SHIPPED = {
    "mtcnn_rnet": (rnet, crops),
    "mtcnn_onet": (onet, crops),
    "deepcut": (deepcut, thai),
}
