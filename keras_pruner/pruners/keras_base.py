"""The pruner of Keras models: score -> pattern -> allocation -> mask, compiled."""

import dataclasses

import keras
from absl import logging
from keras import ops

from keras_pruner.allocations.base import (
    KernelPlan,
    allocate_counts,
    group_bounds,
    target_weights,
    total_weights,
)
from keras_pruner.compiled import CompiledFunction, no_gradients
from keras_pruner.config import as_config
from keras_pruner.kernels import (
    Kernel,
    Skipped,
    conv_layout,
    dense_layout,
    find_kernels,
)
from keras_pruner.pruners.base import BasePruner
from keras_pruner.reductions import ordered_sum
from keras_pruner.selection import count_lowest_jointly, select_lowest
from keras_pruner.selectors import select


class KerasBasePruner(BasePruner):
    """Prunes Keras layers by masks that it makes from their weights.

    Use it through `PruningCallback` in `model.fit`, or call its step hooks from a
    training loop of your own; see `BasePruner` for the hooks and attributes.

    An update scores every kernel, reduces the scores to the pattern's groups, divides
    the target over the kernels and selects exactly that many groups, in one compiled
    function. Counts are tensors to it, so a whole schedule is traced once.

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`.
        modules: What to prune: a dict from a name of your choice to a Keras layer, a
            `keras.Variable`, or a `Kernel`; or a model, whose kernels then are named
            by their paths. A layer with one kernel gives that kernel its name; one
            with several adds theirs, `"name/recurrent_kernel"`.

    Attributes:
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: what is left dense, and why.
        mask_variables: Dict from name to the bool `keras.Variable` of the mask.

    Raises:
        ValueError: If nothing is prunable (naming each layer and why), a layer is not
            built or is quantized, a selector matches nothing, or the caps cannot
            meet the target.
        TypeError: If `modules` holds anything else.
    """

    def __init__(self, config, modules, framework="keras"):
        if framework != "keras":
            raise ValueError(
                f"{type(self).__name__} prunes Keras models: `framework` must be "
                f"'keras'. Received: framework={framework!r}"
            )
        # The base asks for `target_sparsity_ratio`, so the plans come first.
        config = as_config(config)
        search = collect_kernels(modules, config)
        self.kernels, self.skipped = fit_pattern(search, config)
        self._plans = [
            KernelPlan(
                kernel.path,
                kernel.layout,
                config.pattern.num_groups(kernel.layout),
                config.pattern.group_size(kernel.layout),
            )
            for kernel in self.kernels
        ]
        self._final_sparsity = self._check_target(config)
        self._step_variable = None
        self._update_variable = None
        super().__init__(config, modules, framework)
        self.mask_variables = {
            kernel.path: _initial_mask(kernel) for kernel in self.kernels
        }
        self._num_pruned = 0
        self._pinned = None
        self._compiled = CompiledFunction(self.make_masks)
        self.refresh()

    # What it holds.

    @property
    def masks(self):
        return {name: ops.copy(mask) for name, mask in self.mask_variables.items()}

    @property
    def scores(self):
        return {
            kernel.path: kernel.layout.from_matrix(
                self.config.criterion.scores(
                    kernel.layout.to_matrix(ops.convert_to_tensor(kernel.variable)),
                    kernel,
                )
            )
            for kernel in self.kernels
        }

    @property
    def current_sparsity_ratio(self):
        return self._num_pruned / self.num_weights

    @property
    def target_sparsity_ratio(self):
        return self._final_sparsity

    @property
    def num_weights(self):
        """Weights in all kernels that the pruner took."""
        return total_weights(self._plans)

    @property
    def num_pruned(self):
        """Weights that the masks zero."""
        return self._num_pruned

    @property
    def trace_count(self):
        """How often the update was traced: once per pruner, whatever the schedule."""
        return self._compiled.trace_count

    # State that a compiled training step shares.

    @property
    def global_step(self):
        if self._step_variable is None:
            return self._global_step
        return int(keras.ops.convert_to_numpy(self._step_variable))

    def bind(self, step, updated_at):
        """Lets a compiled training step count for this pruner.

        Args:
            step: Int variable that counts applied updates, or `None` to keep the
                count and go on by hand.
            updated_at: Int variable that remembers the latest mask update.
        """
        if step is None:
            self._global_step = self.global_step
        self._step_variable = step
        self._update_variable = updated_at
        if updated_at is not None:
            self._updated_at = int(keras.ops.convert_to_numpy(updated_at))

    def _set_updated_at(self, step):
        super()._set_updated_at(step)
        if self._update_variable is not None:
            self._update_variable.assign(step)

    def refresh(self):
        """Counts the masks anew, after they were assigned from outside."""
        kept = sum(
            int(ops.convert_to_numpy(ops.sum(ops.cast(mask, "int32"))))
            for mask in self.mask_variables.values()
        )
        self._num_pruned = total_weights(self._plans) - kept

    # Making masks.

    def make_masks(self, weights, counts, target, lower, upper):
        """Scores, groups, allocates and selects: the maths of one update.

        Args:
            weights: List of the kernels' values.
            counts: Int tensor (kernels,): groups to prune in each; unused where the
                allocation ranks jointly.
            target: Int tensor: weights to prune in all, for a joint ranking.
            lower: Int tensor (kernels,): fewest groups of each.
            upper: Int tensor (kernels,): most groups of each.

        Returns:
            Tuple of the list of masks, an int tensor (kernels,) of the groups pruned,
            and a bool tensor (kernels,): whether all weights are finite.
        """
        config = self.config
        scores, group_scores, finite = [], [], []
        for kernel, weight in zip(self.kernels, weights, strict=True):
            matrix = kernel.layout.to_matrix(weight)
            finite.append(ops.all(ops.isfinite(matrix)))
            score = config.criterion.scores(matrix, kernel)
            grouped = config.pattern.group_scores(
                score, kernel.layout, config.group_reduction
            )
            if getattr(config.allocation, "normalize", None) == "l2":
                grouped = grouped / _l2_norm(matrix)
            if config.resume_from_pruned_checkpoint:
                grouped = ops.where(self._is_zero(matrix, kernel), -3e38, grouped)
            if config.low_memory_usage:
                grouped = ops.cast(grouped, "bfloat16")
            scores.append(score)
            group_scores.append(grouped)
        if config.allocation.ranks_jointly:
            sizes = [plan.group_size for plan in self._plans]
            counts = count_lowest_jointly(group_scores, sizes, target, lower, upper)
        masks = []
        for index, kernel in enumerate(self.kernels):
            pruned = select_lowest(group_scores[index], counts[index])
            mask = config.pattern.expand(pruned, scores[index], kernel.layout)
            masks.append(kernel.layout.from_matrix(mask))
        return masks, ops.cast(counts, "int32"), ops.stack(finite)

    def _is_zero(self, matrix, kernel):
        """Marks the groups of which nothing is left: pruning them loses nothing."""
        magnitudes = ops.abs(ops.cast(matrix, "float32"))
        return self.pattern.group_scores(magnitudes, kernel.layout, "max") == 0

    def update_masks(self, sparsity):
        """Makes masks of the given sparsity from the weights, and applies them.

        Args:
            sparsity: Target over all kernels, in [0, 1).

        Raises:
            ValueError: If a kernel holds NaN or infinity; no mask or weight changes.
        """
        weights = [ops.convert_to_tensor(kernel.variable) for kernel in self.kernels]
        demand = self._demand(sparsity)
        masks, counts, finite = self._compiled(weights, *demand)
        finite = ops.convert_to_numpy(finite)
        if not finite.all():
            bad = [k.path for k, ok in zip(self.kernels, finite, strict=True) if not ok]
            raise ValueError(
                f"Cannot prune: NaN or infinite weights in {', '.join(bad)}. The masks "
                "are left as they were. Look for a diverging loss, e.g. a learning "
                "rate that is too high."
            )
        for kernel, mask in zip(self.kernels, masks, strict=True):
            self.mask_variables[kernel.path].assign(mask)
            if kernel.owner is not None:
                kernel.owner.mask_of(kernel.variable).assign(mask)
        self._num_pruned = sum(
            int(count) * plan.group_size
            for count, plan in zip(
                ops.convert_to_numpy(counts), self._plans, strict=True
            )
        )
        self.apply_masks()
        self._warn_about_empty(counts)

    def _demand(self, sparsity):
        """Returns what `make_masks` is asked for, as tensors of fixed shapes."""
        config, plans = self.config, self._plans
        share = sparsity / self._final_sparsity if self._final_sparsity else 1.0
        # Caps from below grow with the schedule, so that they never contradict it.
        lower, upper = group_bounds(
            plans, config.min_sparsity * share, config.max_sparsity
        )
        if config.resume_from_pruned_checkpoint:
            lower = [
                max(a, b) for a, b in zip(lower, self._pinned_groups(), strict=True)
            ]
            upper = [max(a, b) for a, b in zip(lower, upper, strict=True)]
        held = sum(k * p.group_size for k, p in zip(lower, plans, strict=True))
        target = max(target_weights(sparsity, plans), held)
        if config.allocation.ranks_jointly:
            counts = [0] * len(plans)
        elif config.allocation.is_absolute:
            given = config.allocation.kernel_sparsities(config.target_sparsity, plans)
            counts = [
                min(b, max(a, round(s * share * p.num_weights / p.group_size)))
                for s, p, a, b in zip(given, plans, lower, upper, strict=True)
            ]
        else:
            effective = max(sparsity, held / total_weights(plans))
            counts = allocate_counts(config.allocation, effective, plans, lower, upper)
        dtype = "int32" if target < 2**31 else "int64"
        return (
            ops.convert_to_tensor(counts, dtype="int32"),
            ops.convert_to_tensor(target, dtype=dtype),
            ops.convert_to_tensor(lower, dtype="int32"),
            ops.convert_to_tensor(upper, dtype="int32"),
        )

    def _pinned_groups(self):
        """Counts, once, the groups that were already zero when pruning began."""
        if self._pinned is None:
            self._pinned = [
                int(
                    ops.convert_to_numpy(
                        ops.sum(
                            ops.cast(
                                self._is_zero(
                                    kernel.layout.to_matrix(
                                        ops.convert_to_tensor(kernel.variable)
                                    ),
                                    kernel,
                                ),
                                "int32",
                            )
                        )
                    )
                )
                for kernel in self.kernels
            ]
        return self._pinned

    def _check_target(self, config):
        """Returns the sparsity that the last update makes, or raises if it cannot."""
        plans = self._plans
        lower, upper = group_bounds(plans, config.min_sparsity, config.max_sparsity)
        for plan, low, high in zip(plans, lower, upper, strict=True):
            if low > high:
                raise ValueError(
                    f"The caps contradict for '{plan.path}': of {plan.num_groups} "
                    f"groups at least {low} and at most {high} would be pruned. Widen "
                    "`min_sparsity` and `max_sparsity`, or exclude the layer."
                )
        if config.allocation.is_absolute:
            given = config.allocation.kernel_sparsities(config.target_sparsity, plans)
            for plan, sparsity, low, high in zip(
                plans, given, lower, upper, strict=True
            ):
                count = round(sparsity * plan.num_weights / plan.group_size)
                if not low <= count <= high:
                    raise ValueError(
                        f"The allocation gives '{plan.path}' the sparsity {sparsity}, "
                        f"but the caps and pattern '{config.pattern}' allow "
                        f"[{low * plan.group_size / plan.num_weights:g}, "
                        f"{high * plan.group_size / plan.num_weights:g}]."
                    )
            total = sum(s * p.num_weights for s, p in zip(given, plans, strict=True))
            return total / total_weights(plans)
        target = target_weights(config.target_sparsity, plans)
        most = sum(k * p.group_size for k, p in zip(upper, plans, strict=True))
        least = sum(k * p.group_size for k, p in zip(lower, plans, strict=True))
        largest = max(plan.group_size for plan in plans)
        if target - most > largest / 2 or least - target > largest / 2:
            raise ValueError(
                f"The caps and pattern '{config.pattern}' allow a sparsity between "
                f"{least / total_weights(plans):.4f} and "
                f"{most / total_weights(plans):.4f} over all kernels, so the target "
                f"cannot be met. Received: target_sparsity={config.target_sparsity}"
            )
        return config.target_sparsity

    def _warn_about_empty(self, counts):
        empty = [
            plan.path
            for plan, count in zip(
                self._plans, ops.convert_to_numpy(counts), strict=True
            )
            if int(count) * plan.group_size == plan.num_weights
        ]
        if empty:
            logging.log_first_n(
                logging.WARNING,
                "Every weight is pruned in %s: nothing passes through. Lower "
                "`max_sparsity` or `target_sparsity`, or exclude the layer.",
                1,
                ", ".join(empty),
            )

    # Applying masks.

    def apply_masks(self):
        with no_gradients():
            for kernel in self.kernels:
                mask = ops.convert_to_tensor(self.mask_variables[kernel.path])
                weight = ops.convert_to_tensor(kernel.variable)
                kernel.variable.assign(ops.where(mask, weight, ops.zeros_like(weight)))

    def mask_gradients(self, gradients):
        def masked(gradient, mask):
            if gradient is None:
                return None
            return ops.where(mask, gradient, ops.zeros_like(gradient))

        masks = self.masks
        if isinstance(gradients, dict):
            unknown = sorted(set(gradients) - set(masks))
            if unknown:
                raise ValueError(
                    f"Gradients are given for {', '.join(unknown)}, which is not "
                    f"pruned. Kernels: {', '.join(masks)}"
                )
            return {name: masked(g, masks[name]) for name, g in gradients.items()}
        gradients = list(gradients)
        if len(gradients) != len(masks):
            raise ValueError(
                "Gradients given as a list must be one per pruned kernel, in the order "
                f"of `masks`. Received: {len(gradients)} for {len(masks)} kernels"
            )
        return [masked(g, m) for g, m in zip(gradients, masks.values(), strict=True)]

    @property
    def shrink_functions(self):
        """Dict from a kernel's name to its proximal step; empty without a regularizer.

        A step is a function of the kernel's value and the learning rate.
        """
        if self.config.regularizer is None:
            return {}
        return {kernel.path: self._shrink_function(kernel) for kernel in self.kernels}

    def _shrink_function(self, kernel):
        def shrink(value, learning_rate):
            amount = ops.cast(
                learning_rate * self.config.regularizer_strength, value.dtype
            )
            matrix = self.config.regularizer.shrink(
                kernel.layout.to_matrix(value), amount, kernel, self.pattern
            )
            return kernel.layout.from_matrix(matrix)

        return shrink

    def regularize(self, learning_rate):
        """Takes one proximal step of the config's regularizer on the kernels.

        In `fit` this happens inside the training step. A loop of one's own calls it
        between the optimizer's step and `on_after_optimizer_step`.

        Args:
            learning_rate: Float.
        """
        shrink = self.shrink_functions
        with no_gradients():
            for kernel in self.kernels:
                if kernel.path in shrink:
                    value = ops.convert_to_tensor(kernel.variable)
                    kernel.variable.assign(shrink[kernel.path](value, learning_rate))

    def begin(self):
        """Pins what is zero already, if the config asks for that."""
        if self.config.resume_from_pruned_checkpoint and self._updated_at < 0:
            self.update_masks(0.0)

    def on_train_begin(self):
        super().on_train_begin()
        self.begin()


def collect_kernels(modules, config):
    """Finds and selects the kernels of what a user gave as `modules`.

    Args:
        modules: Model, layer, or dict; see `KerasBasePruner`.
        config: `PruningConfig`.

    Returns:
        Tuple of the list of selected `Kernel`s and the list of `Skipped`.
    """
    embeddings = "Embedding" in (config.layer_types or ())
    if isinstance(modules, keras.layers.Layer):
        modules = {None: modules}
    if not isinstance(modules, dict):
        raise TypeError(
            "`modules` must be a dict from a name to a Keras layer, a keras.Variable "
            f"or a Kernel, or a model. Received: {type(modules).__name__}"
        )
    kernels, skipped, seen = [], [], set()
    for name, module in modules.items():
        found = _kernels_of(name, module, embeddings)
        skipped += found.skipped
        for kernel in found.kernels:
            # A shared layer is one layer, whatever names it goes by.
            if id(kernel.variable) in seen:
                continue
            seen.add(id(kernel.variable))
            if kernel.variable.trainable:
                kernels.append(kernel)
            else:
                shape = tuple(kernel.variable.shape)
                reason = "frozen: the layer has trainable=False"
                skipped.append(Skipped(kernel.path, shape, reason))
    chosen = kernels
    if config.layer_types is not None:
        chosen = _of_types(kernels, config.layer_types)
    if config.include is not None:
        included = {id(k) for k in select(kernels, config.include, "include")}
        chosen = [kernel for kernel in chosen if id(kernel) in included]
    excluded = {id(k) for k in select(kernels, config.exclude, "exclude")}
    picked = {id(kernel) for kernel in chosen}
    for kernel in kernels:
        shape = tuple(kernel.variable.shape)
        if id(kernel) in excluded:
            skipped.append(Skipped(kernel.path, shape, "excluded by `exclude`"))
        elif id(kernel) not in picked:
            reason = "not selected by `include` or `layer_types`"
            skipped.append(Skipped(kernel.path, shape, reason))
    return [k for k in chosen if id(k) not in excluded], skipped


def _kernels_of(name, module, embeddings):
    if isinstance(module, Kernel):
        module = dataclasses.replace(module, path=name or module.path)
        return _Found([module], [])
    if isinstance(module, keras.Variable):
        shape = tuple(module.shape)
        if len(shape) < 2:
            raise ValueError(
                f"Module '{name}' is a variable of shape {shape}; a prunable kernel "
                "has two or more axes."
            )
        layout = dense_layout(shape) if len(shape) == 2 else conv_layout(shape)
        return _Found([Kernel(name, module, layout)], [])
    if not isinstance(module, keras.layers.Layer):
        raise TypeError(
            f"Module '{name}' must be a Keras layer, a keras.Variable or a Kernel. "
            f"Received: {module!r} of type {type(module).__name__}"
        )
    if not module.built:
        raise ValueError(
            f"'{module.name}' is not built, so its weights do not exist yet. Call it "
            "on data once, or `build(input_shape)`, before pruning."
        )
    if getattr(module, "quantization_mode", None) is not None and name is not None:
        raise ValueError(
            f"Layer '{module.name}' is quantized ({module.quantization_mode}), so its "
            "kernel is computed. Prune before `quantize`."
        )
    found = find_kernels(module, embeddings=embeddings, name=name)
    if name is not None and len(found.kernels) == 1:
        kernel = dataclasses.replace(found.kernels[0], path=name)
        return _Found([kernel], list(found.skipped))
    return _Found(list(found.kernels), list(found.skipped))


@dataclasses.dataclass
class _Found:
    kernels: list
    skipped: list


def _of_types(kernels, names):
    chosen, matched = [], set()
    for kernel in kernels:
        classes = {cls.__name__ for cls in type(kernel.layer).__mro__}
        if classes & set(names):
            matched |= classes & set(names)
            chosen.append(kernel)
    if not matched:
        present = sorted({type(kernel.layer).__name__ for kernel in kernels})
        raise ValueError(
            f"`layer_types` has {', '.join(names)}, but the prunable layers are of the "
            f"classes: {', '.join(present) or 'none'}."
        )
    return chosen


def fit_pattern(search, config):
    """Splits kernels into those that take the pattern and those that cannot."""
    kernels, skipped = search
    fitting = []
    for kernel in kernels:
        reason = config.pattern.reason_to_skip(kernel.layout)
        if reason is None:
            fitting.append(kernel)
        else:
            shape = tuple(kernel.variable.shape)
            skipped.append(Skipped(kernel.path, shape, reason))
    if not fitting:
        reasons = "\n".join(f"  {s.path} {s.shape}: {s.reason}" for s in skipped)
        raise ValueError(
            "Nothing in the model can be pruned with this config.\n"
            + (reasons or "  It has no weights of two or more axes.")
        )
    return tuple(fitting), tuple(skipped)


def _initial_mask(kernel):
    """Returns a mask that keeps all, or the one that a wrapper layer holds already."""
    if kernel.owner is None:
        value = ops.ones(kernel.variable.shape, dtype="bool")
    else:
        value = ops.convert_to_tensor(kernel.owner.mask_of(kernel.variable))
    return keras.Variable(
        value,
        dtype="bool",
        trainable=False,
        name=f"{kernel.path.replace('/', '_')}_mask",
    )


def _l2_norm(matrix):
    values = ops.reshape(ops.cast(matrix, "float32"), (-1,))
    return ops.maximum(ops.sqrt(ordered_sum(ops.square(values), 0)), 1e-30)
