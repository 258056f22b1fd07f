"""Makes the masks of a pruner and writes them into its variables."""

import collections
import contextlib
import math

from absl import logging
from keras import ops

from keras_pruner.backend import (
    LARGEST_WITHOUT_XLA_IF_OFTEN,
    CompiledFunction,
    CompiledUpdate,
    FunctionCache,
    call_in_trace,
    clear_slots,
)
from keras_pruner.masks import (
    Forecast,
    apply_mask,
    as_counts,
    as_stored,
    assign_mask,
    check_total,
    demand_of,
    variable_of,
    zero_groups,
)
from keras_pruner.pruners.mask_maker import MaskMaker, UpdateInputs, signature_of
from keras_pruner.pruners.moments import moments_of
from keras_pruner.pruners.teller import Teller


class NonFiniteError(ValueError):
    """Raised if a weight, a criterion state or a score is not finite."""


class MaskUpdater:
    """Makes the masks of a pruner and writes them into its variables.

    The pruner decides how many groups to prune (`demands`), and by which states. The
    updater reads the variables, makes the masks by compiled functions of a `MaskMaker`,
    checks the results and assigns them.

    Args:
        pruner: `KerasBasePruner`.

    Attributes:
        maker: `MaskMaker`.
        call: `FunctionCache` of the compiled functions.
        pinned: List with the number of groups of each unit that were zero before
            pruning began; `None` until they are counted.
        tell: `Teller` of the lines that the user sees.

    Example:

    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 2))
    >>> _ = layer.kernel.assign([[1.0, -2.0, 3.0, -4.0], [5.0, -6.0, 7.0, -8.0]])
    >>> pruner = KerasBasePruner({"pattern": "2x1"}, {"dense": layer})
    >>> pruner.update_masks(sparsity=0.5)
    >>> ops.convert_to_numpy(pruner.masks["dense"]).tolist()
    [[False, False, False, False], [True, True, True, True]]
    >>> ops.convert_to_numpy(layer.kernel).tolist()
    [[0.0, 0.0, 0.0, 0.0], [5.0, -6.0, 7.0, -8.0]]
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.maker = MaskMaker(pruner)
        self.call = FunctionCache(CompiledFunction, signature_of(pruner))
        variables = [kernel.variable for kernel in pruner.kernels]
        variables += map(variable_of, pruner.mask_variables.values())
        self._at_once = CompiledUpdate(self._update_values, variables)
        self.pinned = None
        self.tell = Teller()
        # Maps the integers that updates need to tensors.
        self._lists = {}
        self._forecasts = collections.defaultdict(Forecast)
        self._warned_about_empty = False
        # Whether a bound limited a kernel in an update at once.
        self._is_bounded = False

    @property
    def trace_count(self):
        """Number of traces: one for each function in a whole schedule."""
        return self.call.trace_count + self._at_once.trace_count

    @property
    def num_compiled(self):
        """Number of compiled functions: one, or some for each kind of kernel."""
        return len(self.call) + (self._at_once.trace_count > 0)

    def update(self, sparsity):
        """Makes masks of a sparsity from the weights, and applies them.

        Args:
            sparsity: Target over all kernels, in [0, 1). If it prunes nothing and
                nothing is pruned, no weight is read.

        Raises:
            NonFiniteError: If a kernel, a criterion state or the scores hold NaN or
                infinity. No mask and no weight changes.
            ValueError: If the pruner needs gradients and has seen none.
        """
        if self._changes_nothing(sparsity):
            self._set_growth(sparsity)
            self.copy_to_wrappers()
            return
        if self._lacks_gradients:
            demand = self.pruner.plan.demand(sparsity, self.pinned_groups())
            if demand.target == 0:
                # Nothing is pruned yet, so nothing needs a score.
                return
            if sparsity > 0:  # Pinned zeros rank first, whatever the scores are.
                self._raise_without_gradients()
        with self._telling_what_takes_long():
            if self._is_updated_at_once and not self._is_bounded:
                result = self._update_at_once(sparsity)
                self._is_bounded = not ops.convert_to_numpy(result.is_exact)
                if not self._is_bounded:
                    self._take_in(result, sparsity)
                    return
            self._take_in(self._update_by_units(sparsity), sparsity)
            self.pruner.apply_masks()

    def _telling_what_takes_long(self):
        """Context that says if the first update takes some seconds, and why."""
        if self.num_compiled:
            return contextlib.nullcontext()
        return self.tell.if_it_takes_long(
            "Compiling the mask update. Later updates reuse the compiled code."
        )

    def _changes_nothing(self, sparsity):
        """Whether an update would keep all weights, as the masks do already.

        Such an update compiles nothing. Schedules begin with one.
        """
        pruner = self.pruner
        if not pruner.num_weights:
            return True  # All kernels were released.
        # A subclass with its own function may do more.
        obeys = getattr(pruner.make_unit, "does_what_is_demanded", False)
        if pruner.num_pruned or not obeys:
            return False
        return not any(
            demand.target or any(demand.counts) or any(demand.lower)
            for demand in pruner.demands(sparsity).values()
        )

    @property
    def _lacks_gradients(self):
        """Whether an update needs gradients, but the pruner has seen none."""
        pruner = self.pruner
        # A pruner that grows weights by gradients prunes first, which needs none.
        wants = pruner.needs_gradients and pruner.updated_at >= 0
        if not (wants or pruner.config.criterion.keeps_memory):
            return False
        return not pruner.has_seen_gradients

    def _raise_without_gradients(self):
        pruner = self.pruner
        raise ValueError(
            f"Pruner '{pruner.name or type(pruner).__name__}' with criterion "
            f"'{pruner.config.criterion.name}' needs gradients and has seen none. "
            "Train with PruningCallback and `begin_step` >= 1, give the gradients "
            "to `on_before_optimizer_step` in a custom training loop, or call "
            "`prune_at_init(model, data)`."
        )

    # Two ways to update.

    def _update_by_units(self, sparsity):
        """Updates masks by functions for each kind of kernel, which pruners share.

        It masks one kernel at a time, which needs less memory than all at once.
        """
        pruner = self.pruner
        result = self.maker.make_masks(self.update_inputs(sparsity), self.call)
        self._check_finite(result.finite)
        optimizer = pruner.optimizer if pruner.clears_slots else None
        for kernel, mask in zip(pruner.kernels, result.masks, strict=True):
            variable = pruner.mask_variables[kernel.path]
            if optimizer is not None:
                pruned = ops.logical_not(pruner.mask_value(kernel))
                grown = ops.logical_and(mask, pruned)
                clear_slots(optimizer, kernel.variable, where=grown)
            assign_mask(variable, mask, self.call)
        return result

    def _update_at_once(self, sparsity):
        """Updates all masks by one function: one call costs less than many."""
        all_states = self.pruner.state_variables.values()
        has_dense = any("dense" in states for states in all_states)
        inputs = self.update_inputs(
            sparsity, with_weights=has_dense or self.maker.has_groups
        )
        inputs = self.maker.with_groups(inputs, self.call)
        result = self._at_once(inputs if has_dense else inputs._replace(weights=[]))
        self._check_finite(result.finite)
        return result

    def _update_values(self, values, inputs):
        """Computes new values of the kernels and mask variables.

        They stay unchanged if a value is not finite, or a bound limited a kernel.

        Args:
            values: List of the kernels' values, then those of the mask variables.
            inputs: `UpdateInputs`; without weights, the kernels' values are used.

        Returns:
            Tuple of a list of the new values, and an `UpdateResult` without masks.
        """
        if not inputs.weights:
            inputs = inputs._replace(weights=values[: len(self.pruner.kernels)])
        result = self.maker.make_masks(inputs, call_in_trace)
        is_right = ops.logical_and(ops.all(result.finite), result.is_exact)
        made = list(map(apply_mask, inputs.weights, result.masks))
        num_bits = self.pruner.config.mask_bits
        made += [as_stored(mask, num_bits) for mask in result.masks]
        made = [
            ops.where(is_right, new, old) for new, old in zip(made, values, strict=True)
        ]
        return made, result._replace(masks=[])

    @property
    def _is_updated_at_once(self):
        """Whether one function updates all masks: few small kernels, many updates.

        Otherwise each kind of kernel has its own functions, which pruners share.
        """
        pruner = self.pruner
        plan = pruner.scheduler
        largest = max(math.prod(kernel.variable.shape) for kernel in pruner.kernels)
        is_compiled_fast = largest <= LARGEST_WITHOUT_XLA_IF_OFTEN
        fewest_updates = 20 if is_compiled_fast else 200
        if plan is None or plan.last_update - plan.begin < (
            fewest_updates * plan.frequency
        ):
            return False
        is_small = len(self.maker.units) <= 8 and pruner.num_weights <= 2**24
        clears = pruner.clears_slots and pruner.optimizer is not None
        is_plain = all(rule.only_masks for rule in pruner.rules.values())
        return is_small and is_plain and not (self.has_caps or clears)

    @property
    def has_caps(self):
        """Whether a unit may have to prune more or less than the ranking says."""
        config = self.pruner.config
        # The floor of `max_sparsity=None` limits few models; see `is_exact`.
        is_capped = config.min_sparsity > 0 or config.max_sparsity not in (None, 1)
        has_idle = bool(self.pruner.plan.idle) or config.pattern.overlaps
        return is_capped or has_idle or config.resume_from_pruned_checkpoint

    # The results.

    def _check_finite(self, finite):
        finite = ops.convert_to_numpy(finite).tolist()
        for row, words, advice in (
            (0, "weights", "Look for a diverging loss, e.g. a learning rate too high."),
            (1, "gradients, as the criterion remembers them,", "Look at the loss."),
            (2, "scores", "They exceed float32: scale weights or loss down."),
        ):
            kernels = zip(self.pruner.kernels, finite[row], strict=True)
            bad = [kernel.path for kernel, is_finite in kernels if not is_finite]
            if bad:
                raise NonFiniteError(
                    f"Cannot prune: NaN or infinite {words} in {', '.join(bad)}. The "
                    f"masks are unchanged. {advice}"
                )

    def _take_in(self, result, sparsity):
        """Assigns the results of an update, except masks and weights."""
        pruner = self.pruner
        self._set_growth(sparsity)
        self.copy_to_wrappers()
        for kernel, states in zip(pruner.kernels, result.states, strict=True):
            for name, value in states.items():
                pruner.state_variables[kernel.path][name].assign(value)
        for what, threshold in result.thresholds.items():
            self._forecasts[what].learn(float(ops.convert_to_numpy(threshold)))
        counts = ops.convert_to_numpy(result.counts).tolist()
        pruner.count_pruned(counts)
        self._warn_about_empty(counts)

    def copy_to_wrappers(self):
        for kernel in self.pruner.kernels:
            if kernel.wrapper_mask is not None:
                # A copy, because JAX donates each buffer only once.
                mask = ops.copy(self.pruner.mask_value(kernel))
                assign_mask(kernel.wrapper_mask, mask, self.call)

    def _set_growth(self, sparsity):
        """Sets the progress of the schedule, 0 to 1, for a regularizer that grows."""
        pruner = self.pruner
        regularizer = pruner.config.regularizer
        if regularizer is None or not regularizer.grows:
            return
        progress = sparsity / max(pruner.target_sparsity_ratio, 1e-9)
        if pruner.scheduler is not None:
            length = max(1, pruner.scheduler.last_update - pruner.scheduler.begin)
            progress = (pruner.global_step - pruner.scheduler.begin) / length
        for states in pruner.state_variables.values():
            states["growth"].assign(min(1.0, max(0.0, progress)))

    def _warn_about_empty(self, counts):
        empty = [
            plan.path
            for plan, count in zip(self.pruner.plan.kernels, counts, strict=True)
            if count == plan.num_groups and plan.can_be_empty
        ]
        if empty and not self._warned_about_empty:
            self._warned_about_empty = True
            logging.warning(
                "Every weight is pruned in %s: nothing passes through. The config asks "
                "for it, or the checkpoint has these zeros. To keep some weights, "
                "leave `max_sparsity` open, or exclude the layer.",
                ", ".join(empty),
            )

    # The inputs.

    def update_inputs(self, sparsity, with_weights=True):
        """Returns the `UpdateInputs` of an update.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            with_weights: Whether to read the weights, or leave them out.
        """
        pruner = self.pruner
        names = {"memory", *pruner.states_in_update}
        states = [
            {
                name: ops.convert_to_tensor(state)
                for name, state in pruner.state_variables[kernel.path].items()
                if name in names
            }
            | moment
            for kernel, moment in zip(pruner.kernels, moments_of(pruner), strict=True)
        ]
        masks = map(pruner.mask_value, pruner.kernels) if pruner.masks_in_update else ()
        weights = list(map(pruner.source_value, pruner.kernels)) if with_weights else []
        demands = pruner.demands(sparsity)
        return UpdateInputs(
            weights=weights,
            masks=list(masks),
            states=states,
            demands={what: self._as_tensors(d) for what, d in demands.items()},
            extra=pruner.update_extra(sparsity, demands),
            guesses={what: self._forecasts[what].guess() for what in demands},
        )

    def _as_tensors(self, demand):
        pruner, target = self.pruner, 0
        if pruner.pattern.overlaps:
            return demand
        if pruner.config.allocation.ranks_jointly:
            check_total(pruner.num_weights)
            target = demand.target
        sizes = [plan.group_size for plan in pruner.plan.kernels]
        lists = (sizes, demand.lower, demand.upper, demand.counts)
        return demand_of(target, *map(self._list_as_tensor, lists))

    def _list_as_tensor(self, counts):
        # Bounds rarely change, and creating tensors costs more than keeping them.
        counts = tuple(counts)
        if counts not in self._lists:
            if len(self._lists) == 8:
                self._lists.clear()
            self._lists[counts] = as_counts(list(counts))
        return self._lists[counts]

    def pinned_groups(self):
        """Counts, once, the groups of each unit that were zero before pruning began.

        Returns:
            List of integers; `None` if the config does not keep such zeros.
        """
        pruner = self.pruner
        if not pruner.config.resume_from_pruned_checkpoint:
            return None
        if self.pinned is None:
            self.pinned = []
            for unit in self.maker.units:
                kernels = [pruner.kernels[index] for index in unit.indices]
                zero = zero_groups(unit, list(map(pruner.source_value, kernels)))
                count = ops.convert_to_numpy(ops.sum(ops.cast(zero, "int32")))
                self.pinned.append(int(count))
        return self.pinned
