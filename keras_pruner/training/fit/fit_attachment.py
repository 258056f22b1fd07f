"""Puts pruning into a model during `fit`, and takes it out again."""

import functools
from typing import Any, NamedTuple

import keras

from keras_pruner.backend import (
    Patch,
    check_strategy,
    innermost,
    on_devices_of,
    trains_eagerly,
    variables_trained_by,
)
from keras_pruner.training.fit.fit_guard import running_fit
from keras_pruner.training.pruning_optimizer import PruningOptimizer
from keras_pruner.training.saving.atomic_files import (
    load_weights,
    save_model,
    save_weights,
)
from keras_pruner.training.saving.variable_matching import (
    built_for,
    forget_load,
    trainables_of,
)


class CachedStep(NamedTuple):
    """Holds the compiled training step of a run, for the model's next `fit`.

    Args:
        signature: Settings and objects that it was compiled for; see `_signature`.
        optimizer: The `PruningOptimizer` in it.
        function: The model's `train_function`.
    """

    signature: Any
    optimizer: Any
    function: Any


class FitAttachment:
    """Puts pruning into a compiled model, and takes it out again.

    It wraps the model's optimizer in a `PruningOptimizer`, swaps the train function,
    and replaces the methods of the model in `_IN_FIT`, on JAX also `train_step`.
    `detach` undoes all of it. If the constructor fails, the model is unchanged.

    Args:
        model: Compiled and built Keras model.
        group: `PrunerGroup` of the model.
        cached_step: `CachedStep` of an earlier run, or `None`.

    Attributes:
        optimizer: The `PruningOptimizer`.
    """

    def __init__(self, model, group, cached_step=None):
        self.model = model
        self.group = group
        current = model.optimizer
        restored = current if isinstance(current, PruningOptimizer) else None
        user_optimizer = inner_optimizer_for(restored, model) if restored else current
        check_strategy(model, innermost(user_optimizer))
        _check_overwriting(group, innermost(user_optimizer))
        if restored is None:
            _check_optimizer_knows(model.trainable_variables, user_optimizer)
        if cached_step is not None and (
            restored or cached_step.signature != _signature(model, user_optimizer)
        ):
            cached_step = None
        if restored is None:
            group.take_over_weights()
        if cached_step is None:
            self.optimizer = build_optimizer(model, user_optimizer, group)
        else:
            self.optimizer = cached_step.optimizer
        if restored is not None and restored.built:
            self.optimizer.resume_from(restored)
        else:
            self._begin_counts()
        # The model is unchanged up to here.
        train_function = getattr(model, "train_function", None)
        # A function that was compiled with an earlier wrapper is useless afterwards.
        self._user_train_function = None if restored else train_function
        model.optimizer = self.optimizer
        self.optimizer.shows_all = False
        methods = {n: functools.partial(f, model) for n, f in _IN_FIT.items()}
        if keras.backend.backend() == "jax":
            # JAX would run the trace of an earlier callback again, because bound
            # methods of a model are equal.
            methods["train_step"] = functools.partial(model.train_step)
        self._patch = Patch(model, **methods)
        if cached_step is not None:
            model.train_function = cached_step.function
        elif train_function is not None or running_fit(model) is not None:
            model.make_train_function(force=True)
        self._let_gradients_pass(True)
        self.bind()

    def _begin_counts(self):
        """Starts the optimizer's counts at those of the pruners."""
        self.optimizer.set_plan(None)
        self.optimizer.step.assign(self.group.global_step)
        for pruner, step in zip(
            self.group.pruners, self.optimizer.last_update_steps, strict=True
        ):
            step.assign(pruner.updated_at)

    def _let_gradients_pass(self, value):
        """Switches the wrapper layers of pruners that need gradients of all weights."""
        for pruner in self.group.pruners:
            pruner.loop.let_gradients_pass(value)

    def bind(self):
        """Lets the pruners read masks and counts from the optimizer's variables."""
        steps = self.optimizer.last_update_steps
        for pruner, step in zip(self.group.pruners, steps, strict=True):
            pruner.bind(self.optimizer.step, step, self.optimizer)
            pruner.refresh()

    @property
    def is_in_place(self):
        """Whether the model still has the `PruningOptimizer` of this attachment."""
        return self.model.optimizer is self.optimizer

    @property
    def is_outdated(self):
        """Whether an eager step no longer trains all weights, because of freezing."""
        if not trains_eagerly(self.model):
            # A compiled step trains the same weights until it is compiled again.
            return False
        # Every batch asks, so this does not walk through the model. A weight that
        # becomes trainable is unknown to the user's optimizer, and Keras refuses it.
        return not all(v.trainable for v in self.optimizer.trained_variables)

    def detach(self):
        """Restores the optimizer, train function and methods of the model.

        Returns:
            `CachedStep`, or `None` if the model now has another optimizer.
        """
        model, cached_step = self.model, None
        self._let_gradients_pass(False)
        if model.optimizer is self.optimizer:
            model.optimizer = self.optimizer.inner_optimizer
            signature = _signature(model, model.optimizer)
            cached_step = CachedStep(signature, self.optimizer, model.train_function)
            model.train_function = self._user_train_function
        self._patch.undo()
        for pruner in self.group.pruners:
            pruner.bind(None, None)
        return cached_step


def _check_optimizer_knows(variables, optimizer):
    """Raises an error if an optimizer was built before variables became trainable."""
    if not optimizer.built:
        return
    known = set(map(id, variables_trained_by(innermost(optimizer))))
    new = [variable.path for variable in variables if id(variable) not in known]
    if new:
        raise ValueError(
            f"The model's optimizer cannot train '{new[0]}' ({len(new)} variables in "
            "all), because it was built before they became trainable, or for another "
            "model. Call `model.compile` with a new optimizer before `fit`."
        )


def _check_overwriting(group, optimizer):
    """Raises an error if moving averages would overwrite other weights."""
    if not (optimizer.use_ema and optimizer.ema_overwrite_frequency):
        return
    for pruner in group.pruners:
        rules = pruner.rules.values()
        if any(rule.keeps_dense and not rule.only_masks for rule in rules):
            raise ValueError(
                f"Pruner '{pruner.name}' trains other weights than the model computes "
                "with, so moving averages of these cannot overwrite them. Leave "
                "`ema_overwrite_frequency` out of the optimizer, or use pruning_type "
                "'ste'."
            )


def build_optimizer(model, user_optimizer, group):
    """Returns a built `PruningOptimizer` that holds the variables of the pruners."""
    variables = model.trainable_variables
    index_of = {id(variable): index for index, variable in enumerate(variables)}
    kernels = {
        index_of[id(kernel.variable)]: kernel
        for pruner in group.pruners
        for kernel in pruner.trained_kernels().values()
    }
    extra = [
        (index_of[id(variable)], states)
        for pruner in group.pruners
        for variable, states in pruner.extra_states()
    ]
    with on_devices_of(variables[0]):
        optimizer = PruningOptimizer(user_optimizer, num_pruners=len(group.pruners))
        optimizer.adopt(kernels, extra, trainables_of(model), group.freezes_weights)
        optimizer.build(variables)
    return optimizer


def inner_optimizer_for(restored, model):
    """Returns the user's optimizer inside the `PruningOptimizer` of a model.

    If layers were frozen or unfrozen after loading, it returns an optimizer that is
    built for the variables that the model trains now.
    """
    optimizer, variables = restored.inner_optimizer, model.trainable_variables
    forget_load(optimizer)
    if not restored.built or _Same(restored.trained_variables) == variables:
        return optimizer
    with on_devices_of(variables[0]):
        return built_for(optimizer, variables)


class _Same(list):
    """Keeps objects alive, and compares them by identity."""

    def __eq__(self, other):
        return list(map(id, self)) == list(map(id, other))

    def __ne__(self, other):
        return not self == other


def _signature(model, optimizer):
    """Returns all that a training step depends on; `compile` creates new metrics."""
    settings = model.run_eagerly, model.jit_compile, model.steps_per_execution
    return settings, _Same([optimizer, *model.metrics, *model.trainable_variables])


def _compile_config(model):
    """Returns a model's compile config, with its current optimizer."""
    config = type(model).get_compile_config(model)
    if not config:
        return config
    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    # The inner optimizer already includes loss scaling.
    return config | {"optimizer": optimizer, "auto_scale_loss": False}


def _save(model, filepath, *args, **kwargs):
    """Saves a model; in the legacy format, which has no masks, without pruning."""
    if not str(filepath).endswith((".h5", ".hdf5")):
        return save_model(model, filepath, *args, **kwargs)
    optimizer = model.optimizer
    model.optimizer = optimizer.inner_optimizer
    try:
        return save_model(model, filepath, *args, **kwargs)
    finally:
        model.optimizer = optimizer


def _state_tree(method):
    """Returns a method of a model that sees masks among the optimizer's variables."""

    def with_masks(model, *args, **kwargs):
        optimizer = model.optimizer
        optimizer.shows_all = True
        try:
            return getattr(type(model), method)(model, *args, **kwargs)
        finally:
            optimizer.shows_all = False

    return with_masks


# Methods of a model that are replaced during `fit`.
_IN_FIT = {
    "get_compile_config": _compile_config,
    "get_state_tree": _state_tree("get_state_tree"),
    "save": _save,
    "save_weights": save_weights,
    "load_weights": load_weights,
    "set_state_tree": _state_tree("set_state_tree"),
}
