"""Runs the training step of a pruner in the hooks of a custom training loop."""

from keras import ops

from keras_pruner.backend import (
    call_in_trace,
    innermost,
    is_tracing,
    no_gradients,
    num_replicas,
)
from keras_pruner.pruners.loop.hook_order import refuse_in_stateless_trace
from keras_pruner.pruners.training_step import TrainingStep, pair_gradients


class CustomLoop:
    """Runs the training step of a pruner, hook by hook.

    The hooks run eagerly, or are traced into the user's `tf.function`. In `fit`,
    `PruningOptimizer` runs the same `TrainingStep` compiled.

    Args:
        pruner: `KerasBasePruner`.

    Attributes:
        step: `TrainingStep`.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.step = TrainingStep(pruner.trained_kernels(), self._call)
        self._rate = None
        # Whether `before` was traced; `None` before its first call.
        self._was_traced = None
        self._is_regularized = False

    def _call(self, function, *arguments, **settings):
        call = call_in_trace if is_tracing() else self.pruner.updater.call
        return call(function, *arguments, **settings)

    def before(self, gradients, true_gradients=None):
        """Makes the gradients that the optimizer gets.

        Args:
            gradients: See `BasePruner.on_before_optimizer_step`.
            true_gradients: Dict from a kernel's name to the gradient that criteria see,
                if it differs, e.g. because `gradients` were clipped.

        Returns:
            The same form as `gradients`.
        """
        refuse_in_stateless_trace("on_before_optimizer_step")
        self._was_traced = is_tracing()
        true_gradients = true_gradients or {}
        replicas = num_replicas()
        if replicas > 1:
            self._check_replicated(replicas)
        # Read before the step, which may advance a learning rate schedule.
        self._rate = self._rate_of_optimizer() if self._regularizes else None

        def shape(kernel, gradient):
            # Each replica has a share of the loss, and gradients are summed later.
            return self.step.before(
                kernel.path,
                gradient,
                share=1.0 / replicas,
                true_gradient=true_gradients.get(kernel.path),
            )

        shaped = pair_gradients(self.pruner.kernels, gradients, shape)
        if self.pruner.needs_gradients and self.step.has_seen_gradients:
            self.pruner.note_gradients()
        return shaped

    def after(self, learning_rate=None):
        """Accumulates, regularizes and masks after the optimizer's step.

        Args:
            learning_rate: Float, or a dict from a kernel's name to its float; `None`
                uses the rate of the attached optimizer.
        """
        refuse_in_stateless_trace("on_after_optimizer_step")
        self.pruner.order.check_step()
        self._check_traced_together()
        for path, rule in self.pruner.rules.items():
            if rule.keeps_dense and not self.step.was_shown(path):
                raise ValueError(
                    f"'{path}' keeps dense weights: give its gradient to"
                    " `on_before_optimizer_step` at every step."
                )
        is_frozen = self.pruner.freezes_weights
        rate = None
        if self._regularizes and not is_frozen:
            rate = self._rate if learning_rate is None else learning_rate
            if rate is None:
                rate = self._rate_of_optimizer()
            if rate is None:
                raise ValueError(
                    "The config has a regularizer, whose strength is multiplied by the "
                    "learning rate: call `attach_optimizer(optimizer)` before the "
                    "loop, or `on_after_optimizer_step(learning_rate=...)`."
                )
        with no_gradients():
            self.step.after(rate, is_frozen=is_frozen)
        self._rate, self._is_regularized = None, False
        self.pruner.order.remember_values()

    def _check_traced_together(self):
        """Raises an error if only one of two hooks that share data is traced."""
        if self._was_traced in (None, is_tracing()):
            return
        # The rate is a tensor of the other hook's trace.
        self._rate = None
        rules = self.pruner.rules.values()
        if any(rule.needs_gradients or rule.keeps_dense for rule in rules):
            raise ValueError(
                f"Pruner '{self.pruner.name or type(self.pruner).__name__}' with "
                f"criterion '{self.pruner.config.criterion.name}' passes gradients or "
                "weights from `on_before_optimizer_step` to `on_after_optimizer_step`. "
                "Call both inside of the same `tf.function`, or both outside."
            )

    @property
    def _regularizes(self):
        has_regularizer = self.pruner.config.regularizer is not None
        return has_regularizer and not self._is_regularized

    def regularize(self, learning_rate):
        """Takes the proximal step of the regularizer now instead of in `after`.

        Args:
            learning_rate: Float; or a dict from a kernel's name to its float.
        """
        self._is_regularized = True
        if self.pruner.config.regularizer is None:
            return
        with no_gradients():
            norms = self.step.unit_norms()
            for key, (variable, _, rule, states) in self.step.kernels.items():
                rate = learning_rate
                if isinstance(rate, dict):
                    rate = rate[key]
                mask = self.step.mask_value(key)
                weight = ops.convert_to_tensor(variable)
                variable.assign(rule.regularize(weight, mask, states, rate, norms))

    def let_gradients_pass(self, value):
        """Sets whether wrapper layers pass gradients of pruned weights, if needed."""
        if self.pruner.needs_gradients:
            for kernel in self.pruner.kernels:
                if kernel.wrapper is not None:
                    kernel.wrapper.straight_through = value

    def take_over_weights(self):
        """Updates dense weights after training without the pruner."""
        with no_gradients():
            for key, (variable, _, rule, states) in self.step.kernels.items():
                if not rule.keeps_dense:
                    continue
                dense = ops.convert_to_tensor(states["dense"])
                value = ops.convert_to_tensor(variable)
                mask = self.step.mask_value(key)
                same = value == rule.forward_weights(dense, mask, states)[0]
                changed = rule.dense_from_forward(value, states)
                states["dense"].assign(ops.where(same, dense, changed))

    def _rate_of_optimizer(self):
        optimizer = innermost(self.pruner.optimizer)
        if not hasattr(optimizer, "learning_rate"):
            return None
        return ops.cast(optimizer.learning_rate, "float32")

    def _check_replicated(self, replicas):
        """Raises an error if a state depends on the gradients of one replica only."""
        pruner = self.pruner
        if any(r.needs_gradients or r.keeps_dense for r in pruner.rules.values()):
            raise ValueError(
                f"Pruner '{pruner.name or type(pruner).__name__}' with criterion "
                f"'{pruner.config.criterion.name}' learns from gradients, and its "
                "hooks see those of one replica only. Give a PruningCallback to a "
                "`keras.callbacks.CallbackList` that your loop calls, and let "
                "`model.optimizer` apply the gradients. Received: a step that is "
                f"divided over {replicas} replicas"
            )
