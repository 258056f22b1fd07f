"""Trains a pruned model towards the outputs of the dense one, without labels."""

import contextlib
import dataclasses
import time
import warnings
from typing import Any

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_pruner.backend import Patch, all_layers, no_gradients
from keras_pruner.checks import check_in_range
from keras_pruner.kernels import check_built
from keras_pruner.oneshot.recovery.base import Recovery, register_recovery
from keras_pruner.oneshot.recovery.output_losses import check_loss, losses_of
from keras_pruner.oneshot.recovery.student import Student, float_outputs
from keras_pruner.oneshot.recovery.unchanged_if_failed import (
    put_back,
    unchanged_if_failed,
)
from keras_pruner.oneshot.samples import collect_samples, fixed_batch_size
from keras_pruner.reporting import percent, progress_bar
from keras_pruner.types import Data


@dataclasses.dataclass(frozen=True, repr=False)
class DistillationReport:
    """Tells what `distill` did.

    Args:
        loss_before: Loss on the samples before training, summed over the outputs.
        loss_after: The same, after it.
        agreement_before: How far the outputs agree with the teacher's, at most 1: the
            share of equal classes; or for real numbers, and for a loss of your own,
            the share of the variance that is explained. The mean over the outputs.
        agreement_after: The same, after it.
        steps: Number of steps.
        num_samples: Number of samples.
        seconds: Time.
    """

    loss_before: float
    loss_after: float
    agreement_before: float
    agreement_after: float
    steps: int
    num_samples: int
    seconds: float

    @property
    def is_kept(self):
        """Whether the model has the new weights: the loss did not rise."""
        return self.loss_after <= self.loss_before

    def __repr__(self):
        undone = "" if self.is_kept else " The loss rose, so the weights were put back."
        return (
            f"distill: {self.steps} steps on {self.num_samples} samples in "
            f"{self.seconds:.1f} s; loss {self.loss_before:.3g} -> "
            f"{self.loss_after:.3g}, agreement with the teacher "
            f"{percent(self.agreement_before)} -> {percent(self.agreement_after)}."
            f"{undone}"
        )


def distill(
    model: keras.Model,
    teacher: Any,
    data: Data,
    *,
    steps: int = 200,
    batch_size: int | None = 32,
    learning_rate: float = 1e-3,
    loss: Any = None,
    temperature: float = 1.0,
    num_samples: int = 2048,
    seed: int = 0,
    verbose: bool = True,
) -> DistillationReport:
    """Trains a pruned model towards the outputs of the dense one, without labels.

    Zeros of kernels stay zero, and frozen variables do not change. The model runs as in
    inference, so statistics of BatchNormalization stay, and Dropout is off. Adam's
    learning rate falls to zero by half a cosine. The model keeps its own optimizer, and
    stays compiled. If the loss on the samples rises, the weights are put back, and a
    warning in the log says so.

    ```python
    dense = keras.models.clone_model(model)
    dense.set_weights(model.get_weights())
    pruning = PruningCallback(target_sparsity=0.9, verbose=False)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[pruning])
    print(distill(model, dense, x))
    ```

    Args:
        model: Built Keras model with zeros in its kernels; it changes in place.
        teacher: Keras model that takes the same inputs and returns outputs of the same
            shapes, or a function from inputs to such outputs. It runs once on each
            sample before training, and its outputs stay in memory.
        data: Samples of the inputs, without labels; see `prune_one_shot`.
        steps: Number of optimizer steps, >= 1.
        batch_size: Samples in a step, >= 1. A model whose inputs have a batch size gets
            this.
        learning_rate: That of the first step, > 0.
        loss: What an output is compared by. `"softmax"`: KL divergence of classes, from
            probabilities or logits. `"sigmoid"`: that of independent probabilities or
            logits. `"mse"`: squared error, divided by the variance of the teacher's
            outputs. Or a function from the teacher's outputs and the model's to a
            tensor. `None` chooses for each output: `"softmax"` for probabilities that
            sum to one, `"sigmoid"` after such an activation, either for logits if a
            model was compiled with such a loss, and otherwise `"mse"`.
        temperature: Logits are divided by it, > 0. `"mse"` and functions ignore it.
        num_samples: Most samples to use. More cost no more steps, and help.
        seed: Integer, seed of the choice and order of samples.
        verbose: Whether to show a progress bar.

    Returns:
        `DistillationReport`.

    Raises:
        ValueError: If the data or the outputs do not fit, nothing is trainable, or the
            loss is not finite. The model then does not change, nor after an interrupt.

    References:
        [Distilling the Knowledge in a Neural Network, Hinton et al.,
        2015](https://arxiv.org/abs/1503.02531)
    """
    settings = Distillation(steps, batch_size, learning_rate, loss, temperature)
    for each in (model, teacher):
        if each is model or isinstance(each, keras.Model):
            check_built(each)
    samples = collect_samples(model, data, num_samples=num_samples, seed=seed)
    return settings.recover(model, teacher, samples, seed=seed, verbose=verbose)


@register_recovery("distill")
class Distillation(Recovery):
    """Trains a pruned model towards the outputs of the dense one; see `distill`.

    Args:
        steps: As of `distill`; so are the other arguments.
    """

    def __init__(
        self, steps=200, batch_size=32, learning_rate=1e-3, loss=None, temperature=1.0
    ):  # fmt: skip
        self.steps = check_in_range(steps, "`steps`", 1, integer=True)
        self.batch_size = check_in_range(batch_size, "`batch_size`", 1, integer=True)
        self.learning_rate = check_in_range(
            learning_rate, "`learning_rate`", 0, open_low=True
        )
        self.temperature = check_in_range(
            temperature, "`temperature`", 0, open_low=True
        )
        check_loss(loss)
        self.loss = loss

    def get_config(self):
        names = ("steps", "batch_size", "learning_rate", "loss", "temperature")
        return {name: getattr(self, name) for name in names}

    def recover(self, model, teacher, samples, *, seed=0, verbose=False):
        with _each_sample_for_itself(model, teacher):
            return self._recover(model, teacher, samples, seed, verbose)

    def _recover(self, model, teacher, samples, seed, verbose):
        start = time.perf_counter()
        if not model.trainable_variables:
            raise ValueError(
                f"'{model.name}' has no trainable variables, so `distill` cannot train "
                "it. Set `trainable=True` on the layers to train."
            )
        expected = _outputs(teacher, samples.batches)
        outputs = _outputs(model, samples.batches)
        _check_outputs(expected, outputs, model)
        losses = losses_of(self.loss, expected, self.temperature, (teacher, model))
        before = _measured(losses, expected, outputs)
        with unchanged_if_failed(model.variables) as values:
            self._train(model, losses, samples, expected, seed, verbose)
            trained = set(map(id, model.trainable_variables))
            # A layer may also assign variables in inference.
            put_back([pair for pair in values if id(pair[0]) not in trained])
            after = _measured(losses, expected, _outputs(model, samples.batches))
            _check_loss_is_finite(after[0], self.steps)
            report = DistillationReport(
                before[0], after[0], before[1], after[1], self.steps, len(samples),
                time.perf_counter() - start,
            )  # fmt: skip
            if not report.is_kept:
                put_back(values)
                logging.warning(
                    "Distillation of '%s' raised its loss from %.3g to %.3g, so the "
                    "weights were put back. Lower `learning_rate`, or take more steps.",
                    model.name,
                    before[0],
                    after[0],
                )
        return report

    def _train(self, model, losses, samples, expected, seed, verbose):
        student = Student(model, losses, self.learning_rate, self.steps)
        size = fixed_batch_size(model) or self.batch_size
        batches = _Batches(samples, expected, size, self.steps, seed)
        with progress_bar(verbose) as progress:
            bar = progress.add_task("distill", total=self.steps)
            each_step = _EachStep(lambda: progress.update(bar, advance=1))
            with warnings.catch_warnings():
                # The data may not reach all layers.
                warnings.filterwarnings("ignore", message="Gradients do not exist")
                student.fit(batches, shuffle=False, verbose=0, callbacks=[each_step])


@contextlib.contextmanager
def _each_sample_for_itself(*models):
    """Lets stateful recurrent layers begin each batch without a state."""
    with contextlib.ExitStack() as patches:
        for model in models:
            is_layer = isinstance(model, keras.layers.Layer)
            for layer in all_layers(model) if is_layer else ():
                if getattr(layer, "stateful", False):
                    patches.enter_context(Patch(layer, stateful=False))
        yield


class _Batches(keras.utils.PyDataset):
    """Pairs of inputs and the teacher's outputs, in an order that a seed decides."""

    def __init__(self, samples, expected, batch_size, steps, seed):
        super().__init__()
        join = keras.tree.map_structure
        self._inputs = join(lambda *parts: np.concatenate(parts), *samples.batches)
        self._expected = tuple(expected)
        size = min(batch_size, len(samples))
        generator = np.random.default_rng(seed)
        rounds = -(-steps * size // len(samples))
        order = [generator.permutation(len(samples)) for _ in range(rounds)]
        self._order = np.concatenate(order)[: steps * size].reshape(steps, size)

    def __len__(self):
        return len(self._order)

    def __getitem__(self, index):
        def part(array):
            return array[self._order[index]]

        return keras.tree.map_structure(part, (self._inputs, self._expected))


class _EachStep(keras.callbacks.Callback):
    """Ends training at a loss that is not finite."""

    # The optimizer keeps the zeros, so `fit` need not warn of losing them.
    prunes_in_fit = True

    def __init__(self, advance):
        super().__init__()
        self._advance = advance

    def on_train_batch_end(self, batch, logs=None):
        _check_loss_is_finite(logs["loss"], batch + 1)
        self._advance()


def _check_loss_is_finite(loss, step):
    if not np.isfinite(loss):
        raise ValueError(
            f"The loss of distillation is not finite at step {step}. Lower "
            "`learning_rate`, or give another `loss`. If the model computes in "
            "float16, train it in bfloat16 or float32. The model was not changed."
        )


def _outputs(model, batches):
    """Returns the outputs of a model, or function, on all batches as float32 arrays."""
    mode = {"training": False} if isinstance(model, keras.Model) else {}
    parts = []
    for batch in batches:
        inputs = keras.tree.map_structure(ops.convert_to_tensor, batch)
        with no_gradients(), keras.StatelessScope():
            outputs = model(inputs, **mode)
        parts.append([ops.convert_to_numpy(leaf) for leaf in float_outputs(outputs)])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _check_outputs(expected, outputs, model):
    theirs, own = ([array.shape for array in part] for part in (expected, outputs))
    if theirs != own or not own:
        raise ValueError(
            f"`distill` compares outputs of real numbers. '{model.name}' returns "
            f"{_shown(own)} for the samples, and the teacher {_shown(theirs)}. Both "
            "need the same outputs, at least one."
        )
    if not all(np.isfinite(array).all() for array in expected):
        raise ValueError(
            "The outputs of the teacher are NaN or infinite on some samples, so "
            f"'{model.name}' cannot be trained towards them. Leave these samples out."
        )


def _shown(shapes):
    return ", ".join(map(str, shapes)) or "none"


def _measured(losses, expected, outputs):
    """Returns the sum of the losses, and the mean agreement."""
    triples = [
        (measure, *map(ops.convert_to_tensor, pair))
        for measure, *pair in zip(losses, expected, outputs, strict=True)
    ]
    loss = sum(float(measure(each, found)) for measure, each, found in triples)
    agreements = [float(m.agreement(each, found)) for m, each, found in triples]
    return loss, sum(agreements) / len(agreements)
