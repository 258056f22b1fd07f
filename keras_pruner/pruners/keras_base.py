"""Defines the pruner of Keras models: it composes the maths and holds the variables."""

from typing import Any

from absl import logging
from keras import ops

from keras_pruner.backend import count_true, no_gradients
from keras_pruner.kernels import Kernel
from keras_pruner.masks import (
    Unit,
    UnitResult,
    are_finite,
    expand_groups,
    plan_for,
    read_mask,
    score_groups,
    score_kernels,
    select_groups,
)
from keras_pruner.pruners.base import BasePruner
from keras_pruner.pruners.group import only_selection
from keras_pruner.pruners.loop.custom_loop import CustomLoop
from keras_pruner.pruners.loop.hook_order import HookOrder, refuse_in_trace
from keras_pruner.pruners.loop.saved_state import SavedPruner
from keras_pruner.pruners.loop.step_count import StepCount
from keras_pruner.pruners.mask_updater import MaskUpdater
from keras_pruner.pruners.state import make_mask, make_state
from keras_pruner.pruners.training_rule import TrainingRule
from keras_pruner.pruners.training_step import TrainedKernel
from keras_pruner.types import Tensor


class KerasBasePruner(SavedPruner, BasePruner):
    """Prunes Keras layers by masks that it makes from their weights.

    Use it through `PruningCallback` in `model.fit`, or call its step hooks from a
    custom training loop; see `BasePruner` for the hooks and attributes.

    An update scores every kernel, reduces the scores to the pattern's groups, divides
    the target over the kernels and selects exactly that many groups. Each part is
    compiled once for all similar kernels, and for the whole schedule.

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`, without local
            configs; `create_pruners` accepts those.
        modules: Dict from a name of your choice to a Keras layer, a `keras.Variable`
            or a `Kernel`. The only kernel of a layer has that name; one of several is
            named e.g. `"name/recurrent_kernel"`. Or a model, whose kernels are named
            by their paths. Or a `Selection`.

    Attributes:
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: the kernels that stay dense, and why.
        mask_variables: Dict from name to the bool `keras.Variable` of the mask, or to
            a `PackedMask` if `mask_bits` is 1.
        state_variables: Dict from name to a dict of the kernel's state variables, e.g.
            `"memory"` of a gradient criterion; empty for most.
        rules: Dict from name to the `TrainingRule` that a training step runs.
        plan: `PruningPlan` that divides a sparsity over the kernels.
        updater: `MaskUpdater` that makes and assigns the masks.
        loop: `CustomLoop` that runs the training step in the hooks.
        optimizer: The optimizer in use, or `None` if it is not known.

    Raises:
        ValueError: If nothing is prunable (the message says why for each layer), a
            layer is not built or is quantized, a filter matches nothing, the caps
            cannot meet the target, or criterion, pattern and pruner do not match.
        TypeError: If `modules` holds anything else.
    """

    framework = "keras"
    takes_overlaps = True
    # `TrainingRule` class of its kernels.
    rule_class: type[TrainingRule] = TrainingRule
    # Names of the states that an update reads, besides the criterion's memory.
    states_in_update: tuple[str, ...] = ()
    # Whether an update reads the current masks.
    masks_in_update = False
    # Whether it clears the optimizer slots of weights that grow back.
    clears_slots = False
    # Whether training changes scores and masks only.
    freezes_weights = False
    # Whether it cannot share a model with other pruners.
    takes_whole_model = False
    # Whether it sets the optimizer's step count back, and so a learning rate schedule.
    rewinds_schedule = False

    def build(self) -> None:
        selection = only_selection(self.modules, self.config)
        self.modules = selection.modules
        self.kernels, self.skipped = selection.kernels, selection.skipped
        self.plan = plan_for(self.config, self.kernels)
        self.rules, self.mask_variables, self.state_variables = {}, {}, {}
        for kernel in self.kernels:
            rule = self.rule_class(self.config, kernel, self.options)
            self.rules[kernel.path] = rule
            self.mask_variables[kernel.path] = make_mask(kernel, self.config.mask_bits)
            self.state_variables[kernel.path] = {
                name: make_state(kernel.variable, name, spec)
                for name, spec in rule.states().items()
            }
        self.pruners = [self]
        self.optimizer: Any = None
        self.updater = MaskUpdater(self)
        self.loop = CustomLoop(self)
        self.order = HookOrder(self)
        self._count = StepCount(self.kernels[0].variable)
        # Variable in which a compiled training step keeps the latest update.
        self._update_variable: Any = None
        self._has_seen_gradients = False
        self._num_pruned = 0
        # Arguments of the latest `schedule_steps`.
        self.planned: Any = None
        self.refresh()

    # Kernels and their variables.

    def trained_kernels(self) -> dict[str, Any]:
        """Returns a dict from a kernel's name to its `TrainedKernel`."""
        masks, rules, states = self.mask_variables, self.rules, self.state_variables
        return {
            path: TrainedKernel(variable, masks[path], rules[path], states[path])
            for path, variable in ((k.path, k.variable) for k in self.kernels)
        }

    def extra_states(self) -> Any:
        """Returns further variables to save: pairs of a variable and its states."""
        return []

    @property
    def masks(self) -> dict[str, Any]:
        return {k.path: ops.copy(self.mask_value(k)) for k in self.kernels}

    @property
    def scores(self) -> dict[str, Any]:
        return self.updater.maker.scores()

    @property
    def current_sparsity_ratio(self) -> float:
        return self._num_pruned / max(1, self.num_weights)

    @property
    def target_sparsity_ratio(self) -> float:
        return self.plan.final_sparsity

    @property
    def num_weights(self) -> int:
        """Number of weights in all kernels of the pruner."""
        return self.plan.num_weights

    @property
    def num_pruned(self) -> int:
        """Number of weights that the masks zero."""
        return self._num_pruned

    @property
    def needs_gradients(self) -> bool:
        """Whether the pruner learns from the gradients of the loss."""
        return any(rule.needs_gradients for rule in self.rules.values())

    @property
    def units(self) -> list[Unit]:
        """List of the `Unit`s in which the pattern couples the kernels."""
        return self.updater.maker.units

    @property
    def trace_count(self) -> int:
        """Number of traces of the update's parts: one each for a whole schedule."""
        return self.updater.trace_count

    def source_value(self, kernel: Kernel) -> Tensor:
        """Returns the weights that score a kernel: its dense weights if it has any."""
        dense = self.state_variables[kernel.path].get("dense")
        return ops.convert_to_tensor(kernel.variable if dense is None else dense)

    def mask_value(self, kernel: Kernel) -> Tensor:
        """Returns a kernel's mask as a bool tensor."""
        return read_mask(self.mask_variables[kernel.path], self.updater.call)

    def refresh(self) -> None:
        """Counts the pruned weights again, after other code assigned the masks."""
        self._num_pruned = sum(
            kernel.layout.size - count_true(self.mask_value(kernel))
            for kernel in self.kernels
        )

    # A mask update. The methods with a `unit` are compiled, pure functions of it.

    def score_unit(self, unit: Any, inputs: Any) -> list[Tensor]:
        """Scores the kernels of a unit.

        Args:
            unit: `Unit`.
            inputs: `UnitInputs`.

        Returns:
            List of float32 tensors, one per kernel; see `masks.score_kernel`.
        """
        return score_kernels(self.config, unit, inputs)

    def group_unit(self, unit: Any, inputs: Any) -> Tensor:
        """Returns the scores by which the groups of a unit are ranked."""
        if inputs.groups:
            return inputs.groups[0]
        scores = self.score_unit(unit, inputs)
        return score_groups(self.config, unit, inputs.weights, scores)

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        """Makes the masks of a unit, with the demanded number of groups pruned.

        Args:
            unit: `Unit`.
            inputs: `UnitInputs`.

        Returns:
            `UnitResult`.
        """
        groups = self.group_unit(unit, inputs)
        masks = self.expand_unit(unit, inputs, select_groups(groups, inputs))
        states = [{} for _ in masks]
        if "doomed" in inputs.targets:
            doomed = select_groups(groups, inputs, "doomed")
            kept = self.expand_unit(unit, inputs, doomed)
            states = [{"doomed": ops.logical_not(mask)} for mask in kept]
        return UnitResult(masks, states, are_finite(inputs, groups))

    make_unit.does_what_is_demanded = True  # type: ignore[attr-defined]

    def expand_unit(self, unit: Any, inputs: Any, pruned: Tensor) -> list[Tensor]:
        """Turns the chosen groups of a unit into the masks of its kernels."""
        return expand_groups(unit, pruned, self.score_unit(unit, inputs))

    def demands(self, sparsity: float) -> dict[str, Any]:
        """Returns a dict from `"masks"`, or a state of the update, to a `Demand`.

        Args:
            sparsity: Target over all kernels, in [0, 1).
        """
        pinned = self.updater.pinned_groups()
        demands = {"masks": self.plan.demand(sparsity, pinned)}
        regularizer = self.config.regularizer
        if regularizer is not None and regularizer.grows:
            demands["doomed"] = self.plan.demand(self.target_sparsity_ratio, pinned)
        return demands

    def update_extra(self, sparsity: float, demands: Any) -> list[dict[str, Any]]:
        """Returns a list with a dict of further tensors for each unit.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            demands: The dict that `demands` returned.
        """
        return [{} for _ in self.units]

    def update_masks(self, sparsity: float | None = None) -> None:
        """Makes masks of the given sparsity from the weights, and applies them.

        Args:
            sparsity: Target over all kernels, in [0, 1); the config's by default.

        Raises:
            ValueError: If a kernel or its criterion state holds NaN or infinity, or
                the criterion needs gradients and has seen none. No mask and no weight
                changes.
        """
        refuse_in_trace("update_masks")
        if sparsity is None:
            sparsity = self.target_sparsity_ratio
        self.order.look()
        self.updater.update(sparsity)
        self.order.remember_values()

    @property
    def has_seen_gradients(self) -> bool:
        """Whether the criterion states hold gradients."""
        has_stepped = self._count.is_bound and self.global_step > 0
        return self._has_seen_gradients or has_stepped

    def count_pruned(self, counts: Any) -> None:
        """Counts the pruned weights after an update.

        Args:
            counts: List with the number of pruned groups of each unit.
        """
        if self.pattern.overlaps:
            self.refresh()
        else:
            self._num_pruned = self.plan.weights_in(counts)

    # Counts.

    @property
    def global_step(self) -> int:
        return self._count.value

    def bind(self, step: Any, updated_at: Any, optimizer: Any = None) -> None:
        """Lets a compiled training step count for this pruner.

        Args:
            step: Int variable that counts applied updates; `None` keeps the count.
            updated_at: Int variable: the step of the latest mask update.
            optimizer: The optimizer whose slots the pruner clears, if it clears any.
        """
        if step is None and self._count.is_bound:
            self._has_seen_gradients |= self.global_step > 0
        self._count.bind(step)
        self._update_variable = updated_at
        self.optimizer = optimizer
        if updated_at is not None:
            self._updated_at = int(ops.convert_to_numpy(updated_at))

    def restore_counts(self, step: int, updated_at: int) -> None:
        """Sets the step, and that of the latest update, to those of a saved run."""
        self._count.set(step)
        self._set_updated_at(updated_at)
        self._has_seen_gradients |= step > 0
        self.refresh()

    def _set_updated_at(self, step):
        super()._set_updated_at(step)
        if self._update_variable is not None:
            self._update_variable.assign(step)

    # The hooks of a custom training loop.

    def update_if_due(self) -> bool:
        self.order.look()
        return super().update_if_due()

    def attach_optimizer(self, optimizer: Any) -> None:
        """Sets the optimizer of the loop, for its learning rate and its slots."""
        self.optimizer = optimizer

    def note_gradients(self) -> None:
        """Records that the criterion states hold gradients."""
        self._has_seen_gradients = True

    def apply_masks(self) -> None:
        with no_gradients():
            self.loop.step.apply_masks()

    def mask_gradients(self, gradients: Any, true_gradients: Any = None) -> Any:
        """Makes the gradients for the optimizer; see `CustomLoop.before`."""
        return self.loop.before(gradients, true_gradients)

    def on_after_optimizer_step(self, learning_rate: Any = None) -> None:
        """Called after the optimizer's step: regularizes, applies the masks, counts.

        Args:
            learning_rate: Float, or a dict from a kernel's name to its float. Required
                only with a regularizer, if no optimizer is attached.
        """
        self.loop.after(learning_rate)
        self._count.advance()

    def regularize(self, learning_rate: Any) -> None:
        """Takes the proximal step of the regularizer now, with your learning rate.

        Call it between the optimizer's step and `on_after_optimizer_step`, which then
        does not regularize again.

        Args:
            learning_rate: Float; or a dict from a kernel's name to its float.
        """
        self.loop.regularize(learning_rate)

    def begin(self) -> None:
        """Pins the zeros of the model, if the config asks for it."""
        if self.config.resume_from_pruned_checkpoint and self._updated_at < 0:
            self.update_masks(0.0)

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self.loop.let_gradients_pass(True)
        self.order.begin()
        self.begin()

    def on_train_end(self) -> None:
        refuse_in_trace("on_train_end")
        self.order.end()
        self.loop.let_gradients_pass(False)
        super().on_train_end()

    def warn_if_short(self) -> None:
        if self.order.advice is None:
            super().warn_if_short()
        else:
            logging.warning("%r: %s", self, self.order.advice)

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        self.planned = total_steps, first_step
        if self.config.criterion.needs_gradients:
            # The first update comes after the first gradient.
            first_step = max(first_step, 1)
        super().schedule_steps(total_steps, first_step)
