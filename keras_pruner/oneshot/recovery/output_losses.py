"""Measures how far the outputs of a model are from those of its teacher."""

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import producer_of
from keras_pruner.checks import check_choice

# A probability whose logarithm and inverse are finite in float32.
_LEAST = 1e-30


class SquaredError:
    """Compares real numbers: `mean (y - t)^2 / variance of t`.

    The agreement is the share of the variance that the outputs explain, at most 1.

    Args:
        expected: Float array: the teacher's outputs on all samples.
        temperature: Has no effect.
    """

    def __init__(self, expected, temperature=1.0):
        # Features may have other means, but share a scale.
        variance = float(np.mean(np.var(expected, axis=0, dtype="float64")))
        self._scale = 1 / variance if variance > 0 else 1.0

    def __call__(self, expected, outputs):
        return self._scale * ops.mean(ops.square(outputs - expected))

    def agreement(self, expected, outputs):
        return 1 - SquaredError.__call__(self, expected, outputs)


class _Divergence:
    """Compares probabilities, or the logits of some, with those of the teacher.

    Args:
        expected: As of `SquaredError`. They tell whether outputs are probabilities.
        temperature: Logits are divided by it, and the loss multiplied by its square.
    """

    def __init__(self, expected, temperature=1.0):
        self._are_probabilities = self.are_probabilities(expected)
        self._temperature = temperature

    def __call__(self, expected, outputs):
        logits = (self._logits(x) / self._temperature for x in (expected, outputs))
        return self._temperature**2 * ops.mean(self._divergence(*logits))


class SoftmaxDivergence(_Divergence):
    """Compares distributions over the last axis: `KL = sum p log(p / q)`, in nats.

    The agreement is the share of samples, or positions, with the same first class.
    """

    @staticmethod
    def are_probabilities(expected):
        if expected.ndim < 2 or expected.shape[-1] < 2 or (expected < 0).any():
            return False
        return bool(np.allclose(expected.sum(-1), 1, atol=1e-2))

    def _logits(self, x):
        return ops.log(ops.maximum(x, _LEAST)) if self._are_probabilities else x

    def _divergence(self, expected, outputs):
        log_p, log_q = (ops.log_softmax(x, axis=-1) for x in (expected, outputs))
        return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)

    def agreement(self, expected, outputs):
        same = ops.argmax(expected, axis=-1) == ops.argmax(outputs, axis=-1)
        return ops.mean(ops.cast(same, "float32"))


class SigmoidDivergence(_Divergence):
    """Compares independent probabilities: `p log(p / q) + (1-p) log((1-p) / (1-q))`.

    The agreement is the share of the outputs on the same side of one half.
    """

    @staticmethod
    def are_probabilities(expected):
        return bool(((expected >= 0) & (expected <= 1)).all())

    def _logits(self, x):
        if not self._are_probabilities:
            return x
        return ops.log(ops.maximum(x, _LEAST)) - ops.log(ops.maximum(1 - x, _LEAST))

    def _divergence(self, expected, outputs):
        def kept(sign):
            log_p, log_q = (ops.log_sigmoid(sign * x) for x in (expected, outputs))
            return ops.exp(log_p) * (log_p - log_q)

        return kept(1) + kept(-1)

    def agreement(self, expected, outputs):
        same = (self._logits(expected) > 0) == (self._logits(outputs) > 0)
        return ops.mean(ops.cast(same, "float32"))


class _GivenLoss(SquaredError):
    """A loss of the user, from the teacher's outputs and the model's."""

    def __init__(self, function, expected):
        super().__init__(expected)
        self._function = function

    def __call__(self, expected, outputs):
        return ops.mean(self._function(expected, outputs))


LOSSES = {
    "softmax": SoftmaxDivergence,
    "sigmoid": SigmoidDivergence,
    "mse": SquaredError,
}


def check_loss(loss):
    """Raises an error if `loss` of `distill` is no loss."""
    if not callable(loss):
        check_choice(loss, "`loss`", (None, *LOSSES))


def losses_of(loss, expected, temperature, models):
    """Returns one loss for each output.

    Args:
        loss: `loss` of `distill`.
        expected: List of float arrays: the teacher's outputs on all samples.
        temperature: Positive number.
        models: Models of these outputs, which may tell their kind.
    """
    if callable(loss):
        return [_GivenLoss(loss, each) for each in expected]
    kinds = [loss] * len(expected)
    if loss is None:
        kinds = _kinds(expected, models)
    pairs = zip(kinds, expected, strict=True)
    return [LOSSES[kind](each, temperature) for kind, each in pairs]


def _kinds(expected, models):
    """Returns the name of the loss that fits each output."""
    kinds = [
        "softmax" if SoftmaxDivergence.are_probabilities(each) else None
        for each in expected
    ]
    for model in models:
        for hints in (_by_activation(model), _by_compiled_loss(model, len(kinds))):
            if len(hints) == len(kinds):
                kinds = [a or b for a, b in zip(kinds, hints, strict=True)]
    return [kind or "mse" for kind in kinds]


def _by_activation(model):
    kinds = []
    for tensor in getattr(model, "outputs", None) or ():
        operation, _ = producer_of(tensor)
        while getattr(operation, "outputs", None) and hasattr(operation, "layers"):
            # The output of a nested model.
            operation, _ = producer_of(operation.outputs[0])
        activation = getattr(operation, "activation", None)
        kinds.append("sigmoid" if activation is keras.activations.sigmoid else None)
    return kinds


def _by_compiled_loss(model, number):
    loss, names = getattr(model, "loss", None), getattr(model, "output_names", None)
    if isinstance(loss, dict) and names and set(loss) == set(names):
        loss = [loss[name] for name in names]
    kinds = list(map(_kind_of_loss, keras.tree.flatten(loss)))
    return kinds * number if len(kinds) == 1 else kinds


def _kind_of_loss(loss):
    is_known = isinstance(loss, keras.losses.Loss)
    if not is_known or not loss.get_config().get("from_logits"):
        return None
    return "sigmoid" if "Binary" in type(loss).__name__ else "softmax"
