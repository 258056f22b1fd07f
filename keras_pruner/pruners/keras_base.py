"""The pruner of Keras models: score -> pattern -> allocation -> mask, compiled."""

import collections

import keras
from absl import logging
from keras import ops

from keras_pruner.backend import (
    CompiledFunction,
    CompiledUpdate,
    FunctionCache,
    count_true,
)
from keras_pruner.kernels import collect_kernels, fit_pattern
from keras_pruner.masks import (
    Forecast,
    PruningPlan,
    read_mask,
    score_kernel,
    scores_are_pooled,
    variable_of,
)
from keras_pruner.pruners.base import BasePruner, NonFiniteError
from keras_pruner.pruners.loop import LoopHooks
from keras_pruner.pruners.mask_assignment import MaskAssignment
from keras_pruner.pruners.state import make_mask, make_state
from keras_pruner.pruners.training_rule import TrainingRule


class KerasBasePruner(MaskAssignment, LoopHooks, BasePruner):
    """Prunes Keras layers by masks that it makes from their weights.

    Use it through `PruningCallback` in `model.fit`, or call its step hooks from a
    training loop of your own; see `BasePruner` for the hooks and attributes.

    An update scores every kernel, reduces the scores to the pattern's groups, divides
    the target over the kernels and selects exactly that many groups. What it
    does with one kernel is compiled once for all that are alike, and a whole schedule.

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`.
        modules: What to prune: a dict from a name of your choice to a Keras layer, a
            `keras.Variable`, or a `Kernel`; or a model, whose kernels then are named
            by their paths. A layer with one kernel gives that kernel its name; one
            with several adds theirs, `"name/recurrent_kernel"`.

    Attributes:
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: what is left dense, and why.
        mask_variables: Dict from name to the bool `keras.Variable` of the mask, or to
            a `PackedMask` where `mask_bits` is 1.
        state_variables: Dict from name to a dict of the further variables that the
            kernel needs, e.g. `"memory"` of a gradient criterion; empty for most.
        rules: Dict from name to `TrainingRule`: what a training step does.

    Raises:
        ValueError: If nothing is prunable (naming each layer and why), a layer is not
            built or is quantized, a selector matches nothing, the caps cannot meet the
            target, or criterion, pattern and pruner do not go together.
        TypeError: If `modules` holds anything else.
    """

    # What a training step does to a kernel.
    rule_class = TrainingRule
    # Whether optimizer slots are set to zero where weights grow back.
    clears_slots = False
    # Whether training changes nothing but scores and masks.
    freezes_weights = False
    # Whether it cannot share a model with other pruners.
    takes_whole_model = False

    def __init__(self, config, modules, framework="keras"):
        if framework != "keras":
            raise ValueError(
                f"{type(self).__name__} prunes Keras models: `framework` must be "
                f"'keras'. Received: framework={framework!r}"
            )
        # The base asks for `target_sparsity_ratio`, so all this comes first.
        config, options = self.complete(config)
        self.kernels, self.skipped = fit_pattern(
            collect_kernels(modules, config), config
        )
        self.plan = PruningPlan(config, self.kernels)
        self._step_variable = None
        self._update_variable = None
        self.rules = {
            kernel.path: self.rule_class(config, kernel, options)
            for kernel in self.kernels
        }
        self.mask_variables = {
            kernel.path: make_mask(kernel, config.mask_bits) for kernel in self.kernels
        }
        self.state_variables = {
            kernel.path: {
                name: make_state(kernel, name, spec)
                for name, spec in self.rules[kernel.path].states().items()
            }
            for kernel in self.kernels
        }
        super().__init__(config, modules, framework)
        for kernel in self.kernels:
            if kernel.owner is not None and self.needs_gradients:
                kernel.owner.straight_through = True
        self._optimizer = None
        self._observed = {}
        self._has_seen_gradients = False
        self._num_pruned = 0
        # Groups of each unit that were zero before pruning began, once counted.
        self.pinned = None
        self._warned_about_empty = False
        self.units = self.make_units()
        self._compiled = FunctionCache(CompiledFunction)
        variables = [kernel.variable for kernel in self.kernels]
        variables += map(variable_of, self.mask_variables.values())
        self._at_once = CompiledUpdate(self._update_values, variables)
        # Integers that updates ask for -> tensor.
        self._lists = {}
        self._forecasts = collections.defaultdict(Forecast)
        self.refresh()

    # What it holds.

    @property
    def masks(self):
        return {k.path: ops.copy(self.mask_value(k)) for k in self.kernels}

    @property
    def scores(self):
        scores = {}
        for kernel in self.kernels:
            layout = kernel.layout
            matrix = score_kernel(
                self.config,
                kernel,
                self.rules[kernel.path],
                self.source_value(kernel),
                self.state_variables[kernel.path].get("memory"),
            )
            if scores_are_pooled(self.config):
                pooled = self.pattern.pool(
                    ops.zeros((layout.rows, layout.outputs)), layout
                )
                matrix = self.pattern.spread(ops.reshape(matrix, pooled.shape), layout)
            scores[kernel.path] = ops.copy(layout.from_matrix(matrix))
        return scores

    @property
    def current_sparsity_ratio(self):
        return self._num_pruned / self.num_weights

    @property
    def target_sparsity_ratio(self):
        return self.plan.final_sparsity

    @property
    def num_weights(self):
        """Weights in all kernels that the pruner took."""
        return self.plan.num_weights

    @property
    def num_pruned(self):
        """Weights that the masks zero."""
        return self._num_pruned

    @property
    def needs_gradients(self):
        """Whether it learns from the gradients of the loss."""
        return any(rule.needs_gradients for rule in self.rules.values())

    @property
    def trace_count(self):
        """How often parts of the update were traced: each once for a whole schedule."""
        return self._compiled.trace_count + self._at_once.trace_count

    @property
    def num_compiled(self):
        """Functions that the update compiled: one, or some for each kind of kernel."""
        return len(self._compiled) + (self._at_once.trace_count > 0)

    def source_value(self, kernel):
        """Returns what a kernel is scored by: the hidden dense values, if any."""
        dense = self.state_variables[kernel.path].get("dense")
        return ops.convert_to_tensor(kernel.variable if dense is None else dense)

    def mask_value(self, kernel):
        """Returns a kernel's mask as a bool tensor."""
        return read_mask(self.mask_variables[kernel.path], self._compiled)

    # State that a compiled training step shares.

    @property
    def global_step(self):
        if self._step_variable is None:
            return self._global_step
        return int(keras.ops.convert_to_numpy(self._step_variable))

    def bind(self, step, updated_at, optimizer=None):
        """Lets a compiled training step count for this pruner.

        Args:
            step: Int variable that counts applied updates, or `None` to keep the
                count and go on by hand.
            updated_at: Int variable that remembers the latest mask update.
            optimizer: The optimizer whose slots are cleared where the pruner clears
                any. A loop of one's own sets it by `attach_optimizer`.
        """
        if step is None and self._step_variable is not None:
            self._global_step = self.global_step
            self._has_seen_gradients |= self._global_step > 0
        self._step_variable = step
        self._update_variable = updated_at
        self._optimizer = optimizer
        if updated_at is not None:
            self._updated_at = int(keras.ops.convert_to_numpy(updated_at))

    def _set_updated_at(self, step):
        super()._set_updated_at(step)
        if self._update_variable is not None:
            self._update_variable.assign(step)

    def refresh(self):
        """Counts the masks anew, after they were assigned from outside."""
        kept = sum(count_true(self.mask_value(kernel)) for kernel in self.kernels)
        self._num_pruned = self.num_weights - kept

    def extra_states(self):
        """Returns further variables to save: pairs of a variable and its states."""
        return []

    def _has_gradients(self):
        # What grows by gradients first has to be pruned, which needs none.
        wants = self.needs_gradients and self._updated_at >= 0
        if not (wants or self.config.criterion.needs_gradients):
            return True
        if self._has_seen_gradients:
            return True
        return self._step_variable is not None and self.global_step > 0

    def _check_gradients(self):
        if not self._has_gradients():
            raise ValueError(
                f"Pruner '{self.name or type(self).__name__}' with criterion "
                f"'{self.config.criterion.name}' needs gradients and has seen none. "
                "Train with PruningCallback and `begin_step` >= 1, give the gradients "
                "to `on_before_optimizer_step` in a loop of your own, or call "
                "`prune_at_init(model, data)`."
            )

    def _check_finite(self, finite):
        for row, what, advice in (
            (0, "weights", "Look for a diverging loss, e.g. a learning rate too high."),
            (1, "gradients, as the criterion remembers them,", "Look at the loss."),
        ):
            if not all(finite[row]):
                bad = [
                    kernel.path
                    for kernel, ok in zip(self.kernels, finite[row], strict=True)
                    if not ok
                ]
                raise NonFiniteError(
                    f"Cannot prune: NaN or infinite {what} in {', '.join(bad)}. The "
                    f"masks are left as they were. {advice}"
                )

    def _warn_about_empty(self, counts):
        empty = [
            plan.path
            for plan, count in zip(self.plan.kernels, counts, strict=True)
            if count * plan.group_size == plan.num_weights
        ]
        if empty and not self._warned_about_empty:
            self._warned_about_empty = True
            logging.warning(
                "Every weight is pruned in %s: nothing passes through. Lower "
                "`max_sparsity` or `target_sparsity`, or exclude the layer.",
                ", ".join(empty),
            )

    def begin(self):
        """Pins what is zero already, if the config asks for that."""
        if self.config.resume_from_pruned_checkpoint and self._updated_at < 0:
            self.update_masks(0.0)

    def on_train_begin(self):
        super().on_train_begin()
        self.begin()

    def schedule_steps(self, total_steps=None, first_step=0):
        if self.config.criterion.needs_gradients:
            # The first update comes after the first gradient.
            first_step = max(first_step, 1)
        super().schedule_steps(total_steps, first_step)
