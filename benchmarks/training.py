"""Trains one task's model, and says how accurate and how sparse it became."""

import dataclasses
import math

import keras
import numpy as np
from data import FREQUENCY, TASKS, end_step

from keras_pruner import PruningCallback, find_kernels


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run came to.

    Args:
        accuracy: On the test set, in [0, 1].
        kernel_sparsity: Zeros / weights over all kernels of the model.
        flops: FLOPs of one forward pass / those of the dense model: 2 for each weight
            that is not zero, at every position where its kernel is applied. Products
            without a weight, as of queries and keys, are not counted.
    """

    accuracy: float
    kernel_sparsity: float
    flops: float


OPTIMIZERS = {
    "adam": lambda task, rate: keras.optimizers.Adam(rate(task.learning_rate)),
    "adamw": lambda task, rate: keras.optimizers.AdamW(rate(task.learning_rate)),
    "sgd": lambda task, rate: keras.optimizers.SGD(rate(task.sgd_rate), momentum=0.9),
}
_schedules = keras.optimizers.schedules
# Functions from a first learning rate and the steps of a run to what it becomes.
RATES = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: _schedules.CosineDecay(rate, steps),
    "step": lambda rate, steps: _schedules.PiecewiseConstantDecay(
        [steps // 2, steps * 3 // 4], [rate, rate / 10, rate / 100]
    ),
}


class Problem:
    """A task with its data, and the dense weights of each seed.

    Args:
        name: Key of `TASKS`.
        epochs: Epochs of dense training, and again of pruning; the task's by default.
        optimizer: Key of `OPTIMIZERS`.
        rate: Key of `RATES`: how the learning rate changes while pruning. Dense
            training has a constant one.
        end: Share of the steps after which masks no longer change. With `None` the
            callback chooses all steps itself.

    Attributes:
        epochs: As given.
        title: The name, and what differs from Adam with a constant learning rate.
        steps: Optimizer steps in so many epochs.
        kernels: The `Kernel`s of the model; their variables are of no model in use.
        positions: How often one forward pass of one example applies each kernel.
    """

    def __init__(self, name, epochs=None, optimizer="adam", rate="constant", end=0.75):
        self.name = name
        self.task = TASKS[name]
        self.optimizer, self.rate, self.end = optimizer, rate, end
        changes = [optimizer] if optimizer != "adam" else []
        changes += [f"{rate} decay"] if rate != "constant" else []
        plan = "steps of the callback" if end is None else f"end at {end}"
        changes += [plan] if end != 0.75 else []
        self.title = ", ".join([name, *changes])
        self.epochs = epochs or self.task.epochs
        self.x_train, self.x_test, self.y_train, self.y_test = self.task.load()
        if len(self.x_train) % self.task.batch_size:
            raise ValueError(
                f"'{name}' has {len(self.x_train)} examples, which are no whole "
                f"batches of {self.task.batch_size}"
            )
        self.steps = self.epochs * len(self.x_train) // self.task.batch_size
        model = self.task.build(keras)
        self.kernels = find_kernels(model).kernels
        self.positions = count_positions(model, self.kernels, self.x_test[:1])
        order = {id(variable): number for number, variable in enumerate(model.weights)}
        self._places = [order[id(kernel.variable)] for kernel in self.kernels]
        self._dense = {}

    @property
    def num_weights(self):
        """Weights in all kernels."""
        return sum(kernel.layout.size for kernel in self.kernels)

    @property
    def dense_flops(self):
        """FLOPs of one forward pass of the dense model, for one example."""
        return 2 * sum(
            kernel.layout.size * positions
            for kernel, positions in zip(self.kernels, self.positions, strict=True)
        )

    def initial_model(self, seed):
        """Returns a compiled model with the seed's initial weights."""
        keras.utils.set_random_seed(seed)
        return self.compile(self.task.build(keras))

    def dense_model(self, seed):
        """Returns a compiled model with the seed's dense weights, new optimizer."""
        model = self.compile(self.initial_model(seed), self.rate)
        model.set_weights(self.dense_weights(seed))
        return model

    def dense_weights(self, seed):
        """Returns the weights after `epochs` of dense training, which is done once."""
        if seed not in self._dense:
            model = self.initial_model(seed)
            self.fit(model, seed, self.epochs)
            self._dense[seed] = model.get_weights()
        return self._dense[seed]

    def compile(self, model, rate="constant"):
        """Compiles a model as every run is compiled, and returns it."""
        model.compile(
            OPTIMIZERS[self.optimizer](
                self.task, lambda first: RATES[rate](first, self.steps)
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def fit(self, model, seed, epochs, callbacks=()):
        """Trains; the seed says how examples are shuffled."""
        keras.utils.set_random_seed(seed)
        model.fit(
            self.x_train,
            self.y_train,
            batch_size=self.task.batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=list(callbacks),
        )

    def prune(self, model, seed, sparsity, *, epochs, **settings):
        """Trains with a `PruningCallback` and returns the `Result`.

        Masks change every 20 steps until three quarters of the steps are done, unless
        `settings` say otherwise; a `None` there leaves a choice to the callback.

        Args:
            model: Compiled model.
            seed: Says how examples are shuffled.
            sparsity: Target over all kernels.
            epochs: Epochs to train.
            **settings: Of `PruningCallback`. A `target_sparsity` there is that of the
                kernels that they select.

        Raises:
            RuntimeError: If the sparsity over the pruned kernels is not the target.
        """
        steps = epochs * len(self.x_train) // self.task.batch_size
        chosen = {"target_sparsity": sparsity}
        if self.end is not None:
            chosen |= {
                "begin_step": 0,
                "end_step": end_step(steps, self.end),
                "frequency": FREQUENCY,
            }
        callback = PruningCallback(verbose=False, **(chosen | settings))
        self.fit(model, seed, epochs, [callback])
        nonzeros = [np.count_nonzero(weight) for weight in model.get_weights()]
        result = self.result(self.accuracy(model), nonzeros)
        self._check_pruned(result, callback)
        return result

    def accuracy(self, model):
        """Returns the accuracy on the test set."""
        logits = keras.ops.convert_to_numpy(model(self.x_test, training=False))
        return float((logits.argmax(axis=-1) == self.y_test).mean())

    def result(self, accuracy, nonzeros):
        """Returns a `Result`.

        Args:
            accuracy: On the test set.
            nonzeros: Numbers of nonzero entries, in the order of `get_weights`.
        """
        kept = [int(nonzeros[place]) for place in self._places]
        flops = 2 * sum(k * p for k, p in zip(kept, self.positions, strict=True))
        sparsity = 1 - sum(kept) / self.num_weights
        return Result(accuracy, sparsity, flops / self.dense_flops)

    def check(self, result, sparsity):
        """Raises unless so many of the weights of all kernels are zero."""
        zeros = round(result.kernel_sparsity * self.num_weights)
        # An allocation may round each kernel by itself.
        slack = max(1, len(self.kernels) / 2)
        if abs(zeros - sparsity * self.num_weights) > slack:
            raise RuntimeError(
                f"{zeros} weights are zero of {self.num_weights}; the target is "
                f"{sparsity:.2%}"
            )

    def _check_pruned(self, result, callback):
        """Raises unless the callback's masks reached its target.

        Weights that are kept may be zero by themselves, as where a pixel is never lit.
        """
        plans = [plan for p in callback.pruners for plan in p.plan.kernels]
        total = sum(plan.num_weights for plan in plans)
        num_pruned = sum(pruner.num_pruned for pruner in callback.pruners)
        target = callback.config.target_sparsity * total
        if callback.config.pruning_type == "pattern_lock":
            target = num_pruned
        # Whole groups come as near as they can, or each kernel by itself.
        slack = max(1, *(plan.group_size for plan in plans), len(plans) / 2)
        zeros = round(result.kernel_sparsity * self.num_weights)
        if abs(num_pruned - target) > slack or zeros < num_pruned:
            raise RuntimeError(
                f"{num_pruned} weights are pruned and {zeros} are zero, of {total}; "
                f"the target is {target:.0f}"
            )


def count_positions(model, kernels, x):
    """Counts how often one forward pass of one example applies each kernel.

    A dense kernel is applied at every step of a sequence, a convolution's at every
    position of its output.

    Args:
        model: Built model.
        kernels: Its `Kernel`s, each of a layer whose last axes are its outputs.
        x: Input of one example.

    Returns:
        List of integers, one for each kernel.
    """
    shapes = {}

    def record(layer):
        call = layer.call

        def recording(*arguments, **keywords):
            outputs = call(*arguments, **keywords)
            shapes[layer] = tuple(outputs.shape)
            return outputs

        layer.call = recording
        return call

    originals = {layer: record(layer) for layer in {k.layer for k in kernels}}
    model(x)
    for layer, call in originals.items():
        layer.call = call
    return [
        math.prod(shapes[kernel.layer]) // kernel.layout.outputs for kernel in kernels
    ]
