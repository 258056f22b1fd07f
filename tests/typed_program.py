"""A program of a user, for type checkers only: `test_types.py` runs mypy on it.

Each `type: ignore` is an error that a checker has to find.
"""

from collections.abc import Mapping
from typing import Any, assert_type

import keras

import keras_pruner
from keras_pruner import (
    CRITERIA,
    PATTERNS,
    Criterion,
    Measurement,
    ModelComparison,
    OneShotReport,
    Pattern,
    PrunedLayer,
    PruningCallback,
    PruningConfig,
    Report,
    ShrinkReport,
    StatelessPruner,
    StructuredReport,
    Suggestion,
)
from keras_pruner.compat import neural_compressor, tfmot
from keras_pruner.kernels import Kernel, ScoredKernel


class Dense(keras.Model):
    """A model whose class a checker knows."""


model, smaller = Dense(), Dense()
data: Any = None

# Settings, in all places that take them.
PruningCallback(target_sparsity=0.9, pattern="2:4", include=[model, "head"])
PruningCallback({"target_sparsity": 0.5}, verbose=False)
PruningCallback(target_sparsty=0.9)  # type: ignore[call-arg]
PruningCallback(target_sparsity="0.9")  # type: ignore[arg-type]
PruningCallback(0.9)  # type: ignore[arg-type]
PruningConfig(criterion={"name": "taylor", "config": {"decay": 0.5}}, end_step=None)
PruningConfig(frequency=0.5)  # type: ignore[arg-type]
PruningConfig(spasity=0.9)  # type: ignore[call-arg]
PrunedLayer(keras.layers.Dense(3), target_sparsity=0.5, name="pruned")
PrunedLayer(keras.layers.Dense(3), target_sparsity=[0.5])  # type: ignore[arg-type]
PrunedLayer(keras.layers.Dense(3), nam="pruned")  # type: ignore[call-arg]
StatelessPruner(model, keras.optimizers.SGD(), schedule="cubic", total_steps=9)
StatelessPruner(model, keras.optimizers.SGD(), shedule="cubic")  # type: ignore[call-arg]
keras_pruner.wrap(model, exclude=("head",), layer_types=keras.layers.Dense)
keras_pruner.wrap(model, exlude="head")  # type: ignore[call-arg]
keras_pruner.prune_at_init(model, data, criterion="snip", target_sparsity=0.9)
keras_pruner.prune_at_init(model, data, criterion=3)  # type: ignore[arg-type]
keras_pruner.prune_one_shot(model, data, 0.5, allocation="owl", pattern="2:4")
keras_pruner.prune_one_shot(model, data, "0.5")  # type: ignore[arg-type]
keras_pruner.prune_one_shot(model, data, patern="2:4")  # type: ignore[call-arg]
keras_pruner.report(model, target_sparsty=0.9)  # type: ignore[call-arg]

# What functions return.
assert_type(keras_pruner.report(model, target_sparsity=0.9), Report)
assert_type(keras_pruner.report(model).totals(), dict[str, Any])
assert_type(keras_pruner.strip(model), Dense)
pruned, one_shot = keras_pruner.prune_one_shot(model, data, 0.5)
assert_type(pruned, Dense)
assert_type(one_shot, OneShotReport)
assert_type(one_shot.sparsity, float)
assert_type(keras_pruner.shrink(model)[1], ShrinkReport)
assert_type(keras_pruner.prune_structured(model, flops=0.5)[1], StructuredReport)
assert_type(keras_pruner.suggest(model, parameters="1 M"), Suggestion)
assert_type(keras_pruner.measure(model, smaller, engines=["litert"]), Measurement)
assert_type(keras_pruner.compare("model.keras", smaller), ModelComparison)
assert_type(keras_pruner.export(model, "model.tflite").ratio, float | None)
assert_type(keras_pruner.capability_of("litert").rewards, str)
assert_type(keras_pruner.find_kernels(model).kernels, tuple[Kernel, ...])
keras_pruner.measure(model, rounds="ten")  # type: ignore[arg-type]
keras_pruner.export(model, 3)  # type: ignore[arg-type]
keras_pruner.prune_structured(model, flops=[0.5])  # type: ignore[arg-type]
keras_pruner.prune  # type: ignore[attr-defined]  # noqa: B018

# A config holds one form of each setting.
config = PruningConfig(pattern="2:4")
assert_type(config.pattern, Pattern)
assert_type(config.target_sparsity, float)
assert_type(config.to_dict(), dict[str, Any])
callback = PruningCallback(config)
assert_type(callback.sparsity, float)
assert_type(callback.is_done, bool)

# Registries, and classes of one's own.
assert_type(CRITERIA["magnitude"], type[Criterion])
assert_type(PATTERNS.get("2:4"), Pattern)
names: Mapping[str, type[Criterion]] = CRITERIA


@keras_pruner.register_criterion("largest")
class Largest(Criterion):
    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def scores(self, weight: Any, kernel: ScoredKernel) -> Any:
        return -(abs(weight) ** self.power) * kernel.layout.size


assert_type(Largest(power=2.0), Largest)
Largest(powr=2.0)  # type: ignore[call-arg]


@keras_pruner.register_kernel_rule(keras.layers.Layer)
def rule(layer: keras.layers.Layer) -> dict[str, Any]:
    return {}


assert_type(rule(keras.layers.Dense(3)), dict[str, Any])
rule()  # type: ignore[call-arg]

# The names of other libraries.
schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=9)
tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
tfmot.sparsity.keras.ConstantSparsity("0.5", 0)  # type: ignore[arg-type]
tfmot.sparsity.keras.PruneLowMagnitud  # type: ignore[attr-defined]  # noqa: B018
neural_compressor.WeightPruningConfig(target_sparsity="0.8")  # type: ignore[arg-type]
