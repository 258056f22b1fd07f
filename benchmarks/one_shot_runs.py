"""Runs the methods of `one_shot.py` on one network, and says how good the result is."""

import math
import time

import keras
import numpy as np
from one_shot_methods import METHODS
from one_shot_networks import TRAINED
from one_shot_shipped import CALIBRATION, SHIPPED

from keras_pruner import PruningCallback, find_kernels, prune_one_shot

# Of training while or after pruning.
EPOCHS = 20


class Network:
    """A network with its samples, and how good a sparse copy of it is.

    A subclass defines `dense`, `calibration` and `test`; each takes the seed.

    Args:
        name: Name of the network.
    """

    # Whether it can be trained.
    is_trained = False

    def __init__(self, name):
        self.name = name

    @property
    def normalizes(self):
        """Whether it has batch statistics."""
        kinds = [type(layer) for layer in self.dense(0).layers]
        return keras.layers.BatchNormalization in kinds

    def score(self, model, seed):
        """Compares a model with the dense one of a seed.

        Returns:
            Dict of `accuracy` on the labels of the test, or `None`; `agreement`, the
            share of samples that get the class that the dense model gives them;
            `error`, `|f - d|^2 / |d|^2` over all outputs; `zeros`, the share of zeros
            in all kernels.
        """
        x, labels = self.test(seed)
        dense, found = _outputs(self.dense(seed), x), _outputs(model, x)
        change = sum(np.sum((f - d) ** 2) for f, d in zip(found, dense, strict=True))
        classes, expected = _classes(found), _classes(dense)
        return {
            "accuracy": None if labels is None else float(np.mean(classes == labels)),
            "agreement": float(np.mean(classes == expected)),
            "error": float(change / sum(np.sum(d**2) for d in dense)),
            "zeros": self.zeros_of(map(np.count_nonzero, model.get_weights())),
        }

    def zeros_of(self, nonzeros):
        """Returns the share of zeros in all kernels.

        Args:
            nonzeros: Numbers of nonzero entries, in the order of `get_weights`.
        """
        model = self.dense(0)
        kernels = {id(kernel.variable) for kernel in find_kernels(model).kernels}
        pairs = zip(model.weights, nonzeros, strict=True)
        kept = [(int(number), v.shape) for v, number in pairs if id(v) in kernels]
        return 1 - sum(n for n, _ in kept) / sum(math.prod(shape) for _, shape in kept)

    def run(self, cell):
        """Runs a method, and returns the `score` with the `seconds` that it took."""
        method, model = METHODS[cell.method], self.dense(cell.seed)
        begin = time.perf_counter()
        if method.one_shot is not None:
            model, _ = prune_one_shot(
                model,
                self.calibration(cell.seed),
                check=False,
                verbose=False,
                **cell.one_shot_settings(),
            )
        if method.training is not None:
            pruning = PruningCallback(verbose=False, **cell.training_settings())
            self.train(model, cell.seed, EPOCHS, [pruning])
        seconds = time.perf_counter() - begin
        return self.score(model, cell.seed) | {"seconds": seconds}


class Trained(Network):
    """A network that is trained here, once for each seed.

    Args:
        name: Key of `TRAINED`.
        folder: `pathlib.Path` of a folder that keeps dense weights.
        epochs: Epochs of dense training; the task's by default.
    """

    is_trained = True

    def __init__(self, name, folder, epochs=None):
        super().__init__(name)
        self.task, self._folder = TRAINED[name], folder
        self.x_train, self.x_test, self.y_train, self.y_test = self.task.load()
        self._epochs = epochs or self.task.epochs

    def dense(self, seed):
        """Returns a compiled model with the dense weights of a seed.

        Its loss tells `distill` that the outputs are logits.
        """
        keras.utils.set_random_seed(seed)
        model = self.task.build(keras)
        path = self._folder / f"{self.name}-{seed}.weights.h5"
        if path.exists():
            model.load_weights(path)
        else:
            self.train(model, seed, self._epochs)
            model.save_weights(path)
        return self._compiled(model)

    def train(self, model, seed, epochs, callbacks=()):
        """Trains a model; the seed decides the order of samples."""
        keras.utils.set_random_seed(seed)
        self._compiled(model).fit(
            self.x_train, self.y_train, batch_size=self.task.batch_size,
            epochs=epochs, verbose=0, callbacks=list(callbacks),
        )  # fmt: skip

    def _compiled(self, model):
        model.compile(
            keras.optimizers.Adam(self.task.learning_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def calibration(self, seed, number=CALIBRATION):
        """Returns unlabelled samples of the training data."""
        order = np.random.default_rng(seed).permutation(len(self.x_train))
        return self.x_train[order[:number]]

    def test(self, seed):
        """Returns the test data and its labels, which are the same for all seeds."""
        return self.x_test, self.y_test


class Shipped(Network):
    """A network that comes with its weights; the seed decides the samples.

    Args:
        name: Key of `SHIPPED`.

    Raises:
        Missing: If the package is not installed.
    """

    def __init__(self, name):
        super().__init__(name)
        build, self._load = SHIPPED[name]
        self._model, self._samples = build(), {}

    def dense(self, seed):
        """Returns the model; nothing changes it."""
        return self._model

    def calibration(self, seed):
        """Returns unlabelled samples."""
        return self._of(seed)[0]

    def test(self, seed):
        """Returns other samples, and their labels or `None`."""
        return self._of(seed)[1:]

    def _of(self, seed):
        if seed not in self._samples:
            self._samples[seed] = self._load(self._model, seed)
        return self._samples[seed]


def network(name, folder, epochs=None):
    """Returns the `Network` of a name."""
    return Trained(name, folder, epochs) if name in TRAINED else Shipped(name)


def _outputs(model, x):
    """Returns a list of arrays."""
    outputs = keras.tree.flatten(model.predict(x, batch_size=512, verbose=0))
    return [output.reshape(len(output), -1) for output in outputs]


def _classes(outputs):
    """Returns the class that the last output gives to each sample."""
    last = outputs[-1]
    return last[:, 0] > 0.5 if last.shape[1] == 1 else last.argmax(axis=1)
