"""Linear layers under a squared loss, whose training NumPy can follow."""

import dataclasses

import keras
import numpy as np
from conftest import BACKEND, set_kernel, value_of
from keras import layers

from keras_pruner import PruningCallback, create_pruners
from keras_pruner.backend import slots_of

_generator = np.random.default_rng(0)
X = _generator.normal(size=(16, 8)).astype("float32")
Y = _generator.normal(size=(16, 4)).astype("float32")
A = (_generator.normal(size=(8, 8)) / 3).astype("float32")
B = (_generator.normal(size=(8, 4)) / 3).astype("float32")
PATHS = ("a/kernel", "b/kernel")


def linear_model(optimizer, use_bias=False, **kwargs):
    """Layers "a" and "b" with the kernels A and B, 64 + 32 weights; compiled."""
    dense = [
        layers.Dense(units, use_bias=use_bias, name=name, dtype=dtype)
        for units, name, dtype in ((8, "a", None), (4, "b", "float32"))
    ]
    model = keras.Sequential([layers.Input((8,)), *dense])
    if BACKEND == "tensorflow":
        # XLA would take longer to compile so small a model than to train it.
        kwargs = {"jit_compile": False} | kwargs
    for layer, value in zip(model.layers, (A, B), strict=True):
        set_kernel(layer, value)
    model.compile(optimizer, "mse", **kwargs)
    return model


def gradients(a, b, x=X, y=Y):
    """The gradients of the loss by both kernels, in float64."""
    a, b = a.astype("float64"), b.astype("float64")
    error = 2 * (x @ a @ b - y) / y.size
    return x.T @ error @ b.T, (x @ a).T @ error


def copy_of(variable):
    return np.array(value_of(variable))


@dataclasses.dataclass(frozen=True)
class Row:
    """What one kernel was at one moment.

    Args:
        weight: Array.
        mask: Array.
        slots: List of the arrays that the optimizer keeps for it.
        states: Dict of the arrays that the pruner keeps for it.
    """

    weight: np.ndarray
    mask: np.ndarray
    slots: list
    states: dict


class Recorder(keras.callbacks.Callback):
    """Copies everything after each step.

    Attributes:
        rows: `rows[step][path]` is a `Row`. In front of the pruning callback it is
            what the step left, behind it what the update after the step made.
        sparsities: List of the callback's sparsity at these moments.
        variables: List of lists of the values of all trainable variables.
        iterations: List of the optimizer's own counts of steps.
    """

    def __init__(self, pruning):
        super().__init__()
        self.pruning = pruning
        self.rows, self.sparsities = [], []
        self.variables, self.iterations = [], []

    def on_epoch_begin(self, epoch, logs=None):
        if not self.rows:
            self._record()

    def on_train_batch_end(self, batch, logs=None):
        self._record()
        for row in self.rows[-1].values():
            assert not row.weight[~row.mask].any()

    def _record(self):
        optimizer = self.model.optimizer  # JAX makes its variables current here
        row = {}
        for pruner in self.pruning.pruners:
            for kernel in pruner.kernels:
                states = pruner.state_variables[kernel.path].items()
                row[kernel.path] = Row(
                    copy_of(kernel.variable),
                    copy_of(pruner.mask_variables[kernel.path]),
                    [copy_of(slot) for slot in slots_of(optimizer, kernel.variable)],
                    {name: copy_of(state) for name, state in states},
                )
        self.rows.append(row)
        self.sparsities.append(self.pruning.sparsity)
        self.variables.append([copy_of(v) for v in self.model.trainable_variables])
        self.iterations.append(int(value_of(optimizer.iterations)))


def train(model, steps, *, x=X, y=Y, **settings):
    """Trains for some steps on the whole data, pruning.

    Args:
        model: Compiled model.
        steps: Number of batches, all alike.
        x: Inputs of one batch.
        y: Targets of one batch.
        **settings: Those of `PruningCallback`.

    Returns:
        Tuple of the callback, the `Recorder` in front of it and the one behind it.
    """
    pruning = PruningCallback(verbose=False, **settings)
    before, after = Recorder(pruning), Recorder(pruning)
    fit(model, steps, [before, pruning, after], x=x, y=y)
    return pruning, before, after


def fit(model, steps, callbacks, *, x=X, y=Y, epochs=1, **kwargs):
    """Trains for epochs of some steps on the whole data."""
    x, y = np.tile(x, (steps, 1)), np.tile(y, (steps, 1))
    kwargs |= {"callbacks": callbacks, "epochs": epochs}
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, **kwargs)


def history(before, after, since):
    """Yields each step from `since` on, for each kernel.

    Yields:
        Tuples of the step's number, the kernel's path, the `Row`s before the step,
        after it and after the update, and the gradient that the step was made by.
    """
    for now in range(since, len(after.rows)):
        start = after.rows[now - 1]
        slopes = gradients(*(start[path].weight for path in PATHS))
        for path, slope in zip(PATHS, slopes, strict=True):
            rows = start[path], before.rows[now][path], after.rows[now][path]
            yield now, path, *rows, slope


def pruner_of(values, **settings):
    """Makes a pruner for a loop, one-shot if not told else.

    Args:
        values: Dict from a name to the value of a variable.
        **settings: Those of `PruningConfig`.

    Returns:
        Tuple of the pruner and the variables.
    """
    variables = {
        name: keras.Variable(np.asarray(value, "float32"), name=name)
        for name, value in values.items()
    }
    (pruner,) = create_pruners({"begin_step": 0, "end_step": 0} | settings, variables)
    pruner.on_train_begin()
    return pruner, *variables.values()


def step(pruner, *slopes, rate=0.0):
    """Makes the update that may be due and one step of plain SGD.

    Args:
        pruner: Pruner of `pruner_of`.
        *slopes: A gradient for each kernel.
        rate: Learning rate.

    Returns:
        List of the gradients as the pruner hands them on.
    """
    pruner.on_step_begin(0)
    kernels = [kernel.variable for kernel in pruner.kernels]
    slopes = [keras.ops.convert_to_tensor(np.asarray(s, "float32")) for s in slopes]
    pairs = pruner.on_before_optimizer_step(list(zip(slopes, kernels, strict=True)))
    shaped = [np.array(value_of(gradient)) for gradient, _ in pairs]
    for kernel, gradient in zip(kernels, shaped, strict=True):
        kernel.assign(value_of(kernel) - np.float32(rate) * gradient)
    pruner.on_after_optimizer_step()
    return shaped


def lowest(scores, k):
    """Marks the k lowest of an array; equal ones by index."""
    marks = np.zeros(scores.size, bool)
    marks[np.argsort(scores.ravel(), kind="stable")[:k]] = True
    return marks.reshape(scores.shape)
