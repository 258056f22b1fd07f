"""What `test_contracts.py` runs: one case for each name in each registry."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from keras import layers

from keras_pruner import PruningCallback, PruningConfig
from keras_pruner.backend import CompiledFunction, innermost
from keras_pruner.components import (
    ALLOCATIONS,
    CRITERIA,
    PATTERNS,
    REGULARIZERS,
    SCHEDULES,
)
from keras_pruner.pruners import PRUNERS, mask_updater

REGISTRIES = {
    "criterion": CRITERIA,
    "pattern": PATTERNS,
    "schedule": SCHEDULES,
    "allocation": ALLOCATIONS,
    "regularizer": REGULARIZERS,
    "pruning_type": PRUNERS,
}

# Updates at steps 2, 5, 8 and 11 of 12; the run may be cut after 6.
DEFAULTS = {
    "target_sparsity": 0.45,
    "begin_step": 2,
    "end_step": 11,
    "frequency": 3,
    "regularizer_strength": 0.1,
}

# Share of weights that is zero where a case locks zeros.
LOCKED = 56 / 320

# What a name needs in place of the defaults; a name that is not here just runs.
SETTINGS = {
    "pattern 1xchannel": {"include": ".*"},
    "pattern {n}x{m}": {"pattern": "4x1"},
    "pattern {n}:{m}": {"pattern": "2:4"},
    "allocation custom": {"allocation": {"hidden": 0.4}},
    "criterion block_mask": {"pattern": "4x1"},
    "criterion retrain_free": {"pattern": "1xchannel", "include": ".*"},
    "criterion taylor": {"pattern": "4x1"},
    "pruning_type block_mask": {"pattern": "4x1"},
    "pruning_type progressive": {"pattern": "4x1"},
    # It prunes once, here after the run was cut.
    "pruning_type retrain_free": {
        "pattern": "1xchannel",
        "include": ".*",
        "begin_step": 8,
    },
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One name of one registry.

    Args:
        setting: Field of `PruningConfig` that takes the name.
        name: Registered name.
    """

    setting: str
    name: str

    def __str__(self):
        return f"{self.setting} {self.name}"

    def config(self, **changes):
        """Returns the `PruningConfig`."""
        values = DEFAULTS | {self.setting: self.name} | SETTINGS.get(str(self), {})
        return PruningConfig(**values | changes)

    @property
    def is_at_init_only(self):
        return getattr(self.config().criterion, "at_init_only", False)

    @property
    def locks_zeros(self):
        """Whether it takes its sparsity from the model, not from the config."""
        return self.name == "pattern_lock"

    def model(self):
        """Returns a small built model: 16 x 16 and 16 x 4, or one with attention."""
        inputs = keras.Input((16,))
        x = Tap(name="tap")(inputs)
        if self.name == "mha":
            x = layers.Reshape((4, 4))(x)
            x = layers.MultiHeadAttention(4, 2, name="attention")(x, x)
            x = layers.Flatten()(x)
        else:
            x = layers.Dense(16, activation="relu", name="hidden")(x)
        head = layers.Dense(4, activation="softmax", name="head")
        model = keras.Model(inputs, head(x))
        if self.locks_zeros:
            # Random bfloat16 numbers may be zero by themselves.
            value = np.ones((16, 16))
            value[::2, :7] = 0  # 8 x 7
            model.get_layer("hidden").kernel.assign(value)
            model.get_layer("head").kernel.assign(np.ones((16, 4)))
        return model


CASES = [Case(key, name) for key, names in REGISTRIES.items() for name in names]


def trained_cases():
    """Returns the cases that differ in training, each config once."""
    distinct = {}
    for case in CASES:
        # Schedules act on the host only. Criteria of untrained models are fed by
        # `prune_at_init` alone; `test_at_init.py` has its tests.
        if case.setting == "schedule" or case.is_at_init_only:
            continue
        config = case.config()
        complete, _ = PRUNERS[config.pruning_type].complete(config)
        distinct.setdefault(complete, case)
    return list(distinct.values())


@keras.saving.register_keras_serializable(package="contracts")
class Tap(layers.Layer):
    """Passes its input on, and counts how often Python does so."""

    executions = 0

    def call(self, x):
        self.executions += 1
        return x


class Watch(keras.callbacks.Callback):
    """Looks at the weights after every optimizer step, before the masks may change.

    Attributes:
        broken: List of what was seen and must not be, as strings.
        executions: List of how often the model's Python code had run, by batch.
        halfway: What `snapshot` gave at the end of epoch 0.
    """

    def __init__(self, pruning, path=None):
        super().__init__()
        self.pruning = pruning
        self.path = path
        self.broken = []
        self.executions = []
        self.halfway = None

    def on_train_batch_end(self, batch, logs=None):
        model = self.model  # JAX makes its variables current here
        (pruner,) = self.pruning.pruners
        step = pruner.global_step
        pruned = 0
        for kernel in pruner.kernels:
            mask = value_of(pruner.mask_variables[kernel.path])
            grown = np.count_nonzero(value_of(kernel.variable)[~mask])
            if grown:
                self.broken.append(f"step {step}: {grown} grown in {kernel.path}")
            pruned += np.count_nonzero(~mask)
        if pruned != pruner.num_pruned:
            told = pruner.num_pruned
            self.broken.append(f"step {step}: {pruned} are pruned, not {told}")
        self.executions.append(model.get_layer("tap").executions)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            (pruner,) = self.pruning.pruners
            self.halfway = snapshot(self.model, pruner)
            if self.path is not None:
                whole = self.path.endswith(".keras")
                (self.model.save if whole else self.model.save_weights)(self.path)


def train(model, config, data, *, first_epoch=0, epochs=2, path=None, callbacks=()):
    """Trains in epochs of six steps, pruning.

    Args:
        model: Compiled model.
        config: `PruningConfig`.
        data: Tuple (x, y).
        first_epoch: Where to begin.
        epochs: Where to end.
        path: Where the model is saved after epoch 0, whole if it ends in ".keras",
            else its weights; or `None`.
        callbacks: More of them.

    Returns:
        Tuple of the pruner and the `Watch`.
    """
    pruning = PruningCallback(config, verbose=False)
    watch = Watch(pruning, path)
    x, y = data
    model.fit(
        x,
        y,
        batch_size=16,
        shuffle=False,
        initial_epoch=first_epoch,
        epochs=epochs,
        verbose=0,
        # The watch comes first, so it sees the steps before the updates.
        callbacks=[watch, pruning, *callbacks],
    )
    (pruner,) = pruning.pruners
    return pruner, watch


def resume(model, config, data, path, epochs=2):
    """Goes on from what `train` saved, with masks made eagerly.

    Args:
        model: Fresh compiled model, for a file of weights.
        config: `PruningConfig`.
        data: Tuple (x, y).
        path: Where it was saved.
        epochs: Where to end.

    Returns:
        Tuple of the model, the pruner and the `Watch`.
    """
    if path.endswith(".keras"):
        model, restore = keras.models.load_model(path), ()
    else:
        restore = keras.callbacks.LambdaCallback(
            # As Keras' BackupAndRestore does.
            on_train_begin=lambda logs: model.load_weights(path)
        )
        restore = (restore,)
    with eager_updates():
        made = train(
            model, config, data, first_epoch=1, epochs=epochs, callbacks=restore
        )
    return model, *made


def compiled(model, wrap=lambda optimizer: optimizer, **settings):
    """Compiles a model with Adam, and returns it."""
    optimizer = wrap(keras.optimizers.Adam(1e-2, **settings))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def snapshot(model, pruner):
    """Returns a dict from a name to a copy of all that a run goes on from."""
    values = {variable.path: variable for variable in model.weights}
    for path, mask in pruner.mask_variables.items():
        values[f"mask of {path}"] = mask
    for path, states in pruner.state_variables.items():
        values |= {f"{name} of {path}": state for name, state in states.items()}
    for variable, states in pruner.extra_states():
        values |= {f"{name} of {variable.path}": s for name, s in states.items()}
    for number, variable in enumerate(innermost(model.optimizer).variables):
        values[f"{number}: {variable.name} of optimizer"] = variable
    values = {name: np.array(value_of(value)) for name, value in values.items()}
    return values | {"step": np.array(pruner.global_step)}


def differences(values, expected):
    """Returns the names of all arrays that are not equal bit for bit."""
    assert list(values) == list(expected)
    return [
        name
        for name, value in values.items()
        if value.dtype != expected[name].dtype
        or not np.array_equal(value, expected[name])
    ]


def demanded(pruner, sparsity):
    """Returns how many weights the masks shall zero, and how far off that may be.

    Counted from what `docs/config.md` says, not from the plan's own code.
    """
    total = sum(plan.num_weights for plan in pruner.plan.kernels)
    sizes = [plan.group_size for plan in pruner.plan.kernels]
    if pruner.pattern.overlaps:
        # The fewest groups that reach it.
        return sparsity * pruner.num_weights + max(sizes) / 2, max(sizes) / 2
    # Whole groups come as near as they can.
    slack = min(sizes) // 2
    if pruner.config.allocation.is_absolute:
        # Each kernel is rounded by itself.
        slack = sum(sizes) / 2
    if pruner.config.allocation.rounds_each_kernel:
        counts = [
            round(sparsity * plan.num_weights / plan.group_size)
            for plan in pruner.plan.kernels
        ]
        return sum(k * size for k, size in zip(counts, sizes, strict=True)), 0
    return round(sparsity * total), slack


def run_eagerly(function, *arguments):
    """Calls a function operation by operation, on every backend."""
    context = contextlib.nullcontext()
    if BACKEND == "jax":
        import jax

        # Else JAX compiles each loop anew whenever it meets it.
        context = jax.disable_jit()
    with context:
        return CompiledFunction(function, eager=True)(*arguments)


@contextlib.contextmanager
def compile_cache(path):
    """Context in which JAX compiles what is equal once, for all models."""
    if BACKEND != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in (settings, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is settings:
            yield


@contextlib.contextmanager
def eager_updates():
    """Context in which new pruners make their masks without compiling."""

    def eager(function):
        return CompiledFunction(functools.partial(run_eagerly, function), eager=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_updater, "CompiledFunction", eager)
        yield
