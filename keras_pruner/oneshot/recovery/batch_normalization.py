"""Recomputes the statistics of BatchNormalization layers from a few samples."""

import dataclasses
import inspect
import time

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_pruner.backend import all_layers
from keras_pruner.kernels import check_built
from keras_pruner.oneshot.inputs import Watch, forward_of
from keras_pruner.oneshot.passage import Passage
from keras_pruner.oneshot.recovery.base import Recovery, register_recovery
from keras_pruner.oneshot.recovery.unchanged_if_failed import unchanged_if_failed
from keras_pruner.oneshot.samples import collect_samples
from keras_pruner.types import Data

_BASE = keras.layers.BatchNormalization
_CALL = inspect.signature(_BASE.call)
# Most bytes of activations in memory; more go to temporary files.
_MAX_MEMORY = 2**32


@dataclasses.dataclass(frozen=True, repr=False)
class BatchNormalizationReport:
    """Tells what `reestimate_batch_normalization` did.

    Args:
        layers: Tuple of the paths of the layers with new statistics, in the order in
            which data reaches them.
        skipped: Dict from the path of another layer to the reason.
        mean_shift: How far the means moved, in standard deviations of the inputs: the
            mean over all features.
        num_samples: Number of samples.
        seconds: Time.
    """

    layers: tuple
    skipped: dict
    mean_shift: float
    num_samples: int
    seconds: float

    def __repr__(self):
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"batch_normalization: statistics of {len(self.layers)} layers from "
            f"{self.num_samples} samples{skipped}, in {self.seconds:.1f} s; means "
            f"moved by {self.mean_shift:.2g} standard deviations."
        )


def reestimate_batch_normalization(
    model: keras.Model,
    data: Data,
    *,
    num_samples: int = 512,
    batch_size: int | None = None,
    seed: int = 0,
) -> BatchNormalizationReport:
    """Recomputes the statistics of BatchNormalization layers from samples.

    `moving_mean` and `moving_variance` become the mean and the population variance of
    the layer's inputs over all samples, while the layers before it have their new
    statistics. Momentum and the division into batches do not matter. Masked steps do
    not count. The model runs as in inference, so Dropout is off. Nothing else changes.
    Frozen layers keep their statistics, as they do in `fit`.

    A Functional or Sequential model runs once, and keeps activations between layers. A
    model with a `call` of its own runs once for each layer, up to the layer. If a layer
    is called several times, e.g. because it is shared, the inputs of all calls count.

    Args:
        model: Built Keras model; it changes in place.
        data: Samples of its inputs, without labels; see `prune_one_shot`.
        num_samples: Most samples to use.
        batch_size: Samples in a batch; `None` chooses.
        seed: Integer, seed of the draw of samples.

    Returns:
        `BatchNormalizationReport`.

    Raises:
        ValueError: If no layer can be re-estimated, the data does not fit, or inputs of
            a layer are not finite. The model then does not change.

    References:
        [EagleEye, Li et al., 2020](https://arxiv.org/abs/2007.02491);
        [Rethinking "Batch" in BatchNorm, Wu and Johnson, 2021](https://arxiv.org/abs/2105.07576)
    """
    check_built(model)
    _check_has_layers(model)
    samples = collect_samples(
        model, data, num_samples=num_samples, batch_size=batch_size, seed=seed
    )
    return _reestimate(model, samples)


@register_recovery("batch_normalization")
class BatchNormalizationRecovery(Recovery):
    """Recomputes the statistics of BatchNormalization layers.

    It helps if kernels were pruned without the dense model's outputs as target; see
    `reestimate_batch_normalization`.
    """

    def check(self, model, dense_target):
        _check_has_layers(model)
        if dense_target:
            logging.warning(
                "Recovery 'batch_normalization' costs accuracy with "
                "`dense_target=True`, which already keeps the inputs of the layers as "
                "they were in the dense model. Use `dense_target=False`, or leave the "
                "recovery out."
            )

    def recover(self, model, teacher, samples, *, seed=0, verbose=False):
        return _reestimate(model, samples)


def _reestimate(model, samples):
    start = time.perf_counter()
    num_calls, skipped = _count_calls(model, samples.batches[0])
    chosen = [layer for layer in num_calls if layer not in skipped]
    shifts, passage = [], Passage(model, samples.batches, _MAX_MEMORY)
    with unchanged_if_failed([v for layer in chosen for v in layer.variables]):
        for layer in chosen:
            moments = _Moments()
            for number in range(len(samples.batches)):
                _add_inputs(model, layer, num_calls[layer], passage, number, moments)
            if moments.is_empty:
                skipped[layer] = "all of its inputs are masked"
                continue
            moments.check_finite(layer)
            shifts.append(moments.shift_from(layer))
            moments.assign_to(layer)
    return BatchNormalizationReport(
        tuple(layer.path for layer in num_calls if layer not in skipped),
        {layer.path: reason for layer, reason in skipped.items()},
        float(np.concatenate(shifts).mean()) if shifts else 0.0,
        len(samples),
        time.perf_counter() - start,
    )


def _layers_of(model):
    return [layer for layer in all_layers(model) if isinstance(layer, _BASE)]


def _check_has_layers(model):
    if not any(layer.trainable for layer in _layers_of(model)):
        raise ValueError(
            f"'{model.name}' has no BatchNormalization layer that is trainable, so no "
            "statistics can be re-estimated. Leave this recovery out, or set "
            "`trainable=True` on the layers."
        )


def _count_calls(model, batch):
    """Counts the calls of each layer in a pass.

    Returns:
        Dict from the layers that are called to the number of calls, in the order of the
        first; and a dict from the layers that keep their statistics to the reason.
    """
    num_calls, skipped, layers = {}, {}, _layers_of(model)

    def on_call(layer, args, kwargs, is_compiled):
        num_calls[layer] = num_calls.get(layer, 0) + 1
        if is_compiled:
            skipped[layer] = "it runs inside a compiled function"

    Watch(model, list(map(_watched, layers)), on_call).run(forward_of(model, batch))
    for layer in layers:
        if not layer.trainable:
            skipped[layer] = "frozen: the layer has trainable=False"
        elif layer not in num_calls:
            skipped[layer] = (
                "the data never reaches it, or its `call` does not run that of "
                "BatchNormalization"
            )
    return num_calls, skipped


def _add_inputs(model, layer, num_calls, passage, number, moments):
    calls, first = 0, passage.first_step(layer.variables)

    def on_call(_, args, kwargs, is_compiled):
        nonlocal calls
        given = _CALL.bind(layer, *args, **kwargs)
        x, mask = given.arguments["inputs"], given.arguments.get("mask")
        moments.add(x, layer.axis, mask)
        calls += 1
        if calls == num_calls:
            watch.stop()

    watch = Watch(model, [_watched(layer)], on_call)
    watch.run(lambda: passage.run(number, keep_at=first))


def _watched(layer):
    """Returns a layer, and the class whose `call` counts if it has a `call` itself."""
    return layer, None if type(layer).call is _BASE.call else _BASE


class _Moments:
    """Mean and population variance of each feature over batches, in float64."""

    def __init__(self):
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    @property
    def is_empty(self):
        return not np.any(self._count)

    @property
    def _variance(self):
        return self._squares / np.maximum(self._count, 1)

    # `check_finite` tells the layer.
    @np.errstate(invalid="ignore")
    def add(self, x, axis, mask=None):
        x = ops.convert_to_numpy(ops.cast(x, "float32"))
        kept = np.ones((), bool)
        if mask is not None:
            kept = ops.convert_to_numpy(mask).astype(bool)[..., None]
        kept = np.broadcast_to(kept, x.shape)
        axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        count = kept.sum(axes)
        if not count.all():
            # A feature without a step in the batch; masks hide all features alike.
            return
        mean = x.mean(axes, dtype="float64", where=kept)
        squares = count * x.var(axes, dtype="float64", where=kept)
        # The update of Chan; see `Moments`.
        step, total = mean - self._mean, self._count + count
        between = step**2 * (self._count * count / total)
        self._squares = self._squares + squares + between
        self._mean = self._mean + step * (count / total)
        self._count = total

    def check_finite(self, layer):
        if not np.isfinite(self._squares).all():
            raise ValueError(
                f"An input of layer '{layer.name}' is NaN or infinite, so its "
                "statistics cannot be re-estimated. Check the data and the layers "
                "before this one. In float16, activations may overflow."
            )

    def shift_from(self, layer):
        """Returns by how many standard deviations the mean of each feature moves."""
        before = ops.convert_to_numpy(layer.moving_mean).astype("float64")
        return np.abs(self._mean - before) / np.sqrt(self._variance + layer.epsilon)

    def assign_to(self, layer):
        deviation = np.sqrt(self._variance + layer.epsilon)
        values = {"moving_mean": self._mean, "moving_variance": self._variance}
        if getattr(layer, "renorm", False):
            values |= {"moving_stddev": deviation, "renorm_mean": self._mean}
            values["renorm_stddev"] = deviation
        for name, value in values.items():
            variable = getattr(layer, name)
            variable.assign(ops.cast(value, variable.dtype))
