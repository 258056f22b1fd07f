"""Evaluates two models on labelled data by the same metrics."""

import dataclasses

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Scores:
    """Metrics of both models.

    Args:
        values: Dict from the name of a metric to its value of both models.
        reason: Why there are none, or `None`.
    """

    values: dict = dataclasses.field(default_factory=dict)
    reason: str | None = None

    @property
    def accuracy(self):
        """Both accuracies, of the first metric with "acc" in its name, or `None`."""
        return next((v for k, v in self.values.items() if "acc" in k.lower()), None)


class ScoredModel(keras.Model):
    """Runs another model, so that this one is compiled and the other one is not."""

    def __init__(self, model, has_loss):
        super().__init__(name=model.name)
        self.scored, self.has_loss = model, has_loss

    def call(self, inputs, training=None):
        return self.scored(inputs, training=training)

    def compute_loss(self, *args, **kwargs):
        """Returns the loss, or zero if only metrics are asked for."""
        if self.has_loss:
            return super().compute_loss(*args, **kwargs)
        return ops.zeros(())


def scores_of(models, data, metrics=None, batch_size=None):
    """Returns the `Scores` of two models.

    Args:
        models: List of two Keras models. Only the state of their own metrics changes.
        data: `LabelledData`.
        metrics: As `compile` takes them, or `None` for those that the models are
            compiled with. A model that is not compiled takes those of the other one.
        batch_size: Samples in a batch of arrays, or `None` for 32.

    Raises:
        ValueError: If `metrics` are given, and fail.
    """
    if data.labelled is None:
        if metrics is None:
            return Scores(reason="no labels are given")
        raise ValueError("`metrics` needs labels: give `data` as a tuple `(x, y)`.")
    compiled = next((model for model in models if model.compiled), None)
    if metrics is None and compiled is None:
        return Scores(reason="no model is compiled, and `metrics` names none")
    try:
        found = [
            _evaluate(model, compiled, data.labelled, metrics, batch_size)
            for model in models
        ]
    except Exception as error:
        text = f"the models cannot be evaluated ({type(error).__name__}: {error})"
        if metrics is not None:
            raise ValueError(f"With these `metrics`, {text}") from error
        return Scores(reason=" ".join(text.split())[:200])
    names = [name for name in found[0] if name in found[1]]
    return Scores({name: tuple(float(one[name]) for one in found) for name in names})


def _evaluate(model, compiled, labelled, metrics, batch_size):
    """Returns a dict from the names of metrics to their values."""
    if metrics is not None:
        scored = ScoredModel(model, has_loss=False)
        # Each model gets metrics of its own, so that none begins with another's state.
        scored.compile(loss=None, metrics=_copies(metrics), jit_compile=False)
    elif model.compiled:
        scored = model
    else:
        config = keras.saving.deserialize_keras_object(compiled.get_compile_config())
        scored = ScoredModel(model, has_loss=True)
        scored.compile(**config | {"optimizer": None, "jit_compile": False})
    sizes = {"batch_size": batch_size} if len(labelled) > 1 else {}
    if len(labelled) == 3:
        sizes["sample_weight"] = labelled[2]
    found = scored.evaluate(*labelled[:2], verbose=0, return_dict=True, **sizes)
    if metrics is not None:
        del found["loss"]
    return found


def _copies(metrics):
    """Returns metrics, in their structure, with copies of those that have a state."""
    if not isinstance(metrics, list | tuple | dict):
        metrics = [metrics]

    def copied(metric):
        if isinstance(metric, keras.metrics.Metric):
            return type(metric).from_config(metric.get_config())
        return metric

    return keras.tree.map_structure(copied, metrics)
