"""Keeps masks applied inside the compiled training step, whatever runs it."""

import keras
from keras import ops

from keras_pruner.backend import (
    innermost,
    layout_for,
    loss_scale_of,
    may_skip,
    num_replicas,
    sum_over_replicas,
)
from keras_pruner.masks import (
    as_mask,
    assign_mask,
    finite_or,
    is_packed,
    keep_if_dense,
    read_mask,
    stored,
    variable_of,
)
from keras_pruner.training.saving.run_state import (
    describe,
    load_run,
    save_run,
    take_description,
    take_run,
)
from keras_pruner.training.saving.variable_matching import (
    load_what_was_trained,
    renumber,
)

# Name of the state that sums a kernel's true gradients while they accumulate.
_SUM = "gradient_sum"


@keras.saving.register_keras_serializable(package="keras_pruner")
class PruningOptimizer(keras.optimizers.Optimizer):
    """Wraps an optimizer so that pruned weights are zero after every step.

    The masks and the step count are variables of this optimizer. So they are part of
    the compiled step on every backend, also where one call runs several steps, and are
    saved and restored with the model. `PruningCallback` puts it in place for `fit` and
    takes it out at the end; the wrapped optimizer and its state are never copied.

    A step: the kernel's `TrainingRule` makes the gradient that the inner optimizer gets
    (pruned weights get none, so that they leave no momentum and no share in a gradient
    norm); the inner optimizer steps; the rule takes in the true gradient if it wants
    to, draws weights towards zero if it shall, and masks them; so are their moving
    averages, if the optimizer keeps some; and the step is counted if the inner
    optimizer counted one. An optimizer that was loaded with a model has no rules: it
    masks gradients and weights.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`.
        masked_variables: Indices, among the variables that the optimizer is built
            with, of those that have a mask.
        packed_variables: Those of them whose mask takes 1 bit a weight, not 8.
        num_pruners: Number of pruners whose latest mask update is remembered.
        states: List of `(index, name, shape, dtype)`: further tensors to keep.
        run: Dict of what is known of the run, as `describe` returns it; by
            it the variables are found again where fewer are frozen.
        name: Name of the optimizer.
    """

    def __init__(
        self,
        inner_optimizer,
        masked_variables=(),
        num_pruners=1,
        states=(),
        packed_variables=(),
        run=None,
        name="pruning_optimizer",
    ):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`inner_optimizer` must be a keras.optimizers.Optimizer. "
                f"Received: {inner_optimizer!r}"
            )
        # As in Keras' own wrapper, the learning rate is the inner optimizer's.
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.masked_variables = tuple(int(index) for index in masked_variables)
        self.packed_variables = tuple(int(index) for index in packed_variables)
        self.num_pruners = num_pruners
        self.state_specs = [
            (int(index), key, tuple(shape), dtype)
            for index, key, shape, dtype in states
        ]
        self._masks = {}
        self._states = {}
        self._updates = []
        self._rules = {}
        self._freezes = False
        self._is_stateless = False
        # How the run was laid out, as plain values; `None` while not known.
        self.plan = None
        # What of the model can be trained, as plain values; `None` if not known.
        self.trainables = None
        # Dict from a masked variable's index to what its mask was made by.
        self.meanings = {}
        if run is not None:
            take_description(self, run)

    def adopt(self, kernels, extra=(), freezes=False):
        """Uses variables that exist already. Call it before `build`.

        Args:
            kernels: Dict from the index of a variable to the tuple of its mask (a bool
                `keras.Variable` or a `PackedMask`), its `TrainingRule`, and a dict of
                its states.
            extra: Pairs of an index and a dict of states, for variables without mask.
            freezes: Whether the inner optimizer never steps.
        """
        self._freezes = freezes
        self.masked_variables = tuple(kernels)
        for index, (mask, rule, _) in kernels.items():
            self._masks[str(index)] = variable_of(mask)
            if is_packed(mask):
                self.packed_variables += (index,)
            self._rules[index] = rule
            self.meanings[index] = rule.provenance()
        # Masks first, as in `build`: what is saved is numbered in this order.
        for index, (_, _, states) in kernels.items():
            self._adopt_states(index, states)
        for index, states in extra:
            self._adopt_states(index, states)

    def _adopt_states(self, index, states):
        for key, variable in states.items():
            self._states[f"{index}/{key}"] = variable
            spec = (index, key, tuple(variable.shape), str(variable.dtype))
            self.state_specs.append(spec)

    def build(self, variables):
        trained = variables if self._masks else renumber(self, variables)
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
            if len(trained) < len(variables):
                load_what_was_trained(self.inner_optimizer, trained)
        for index in self.masked_variables:
            if str(index) not in self._masks:
                self._masks[str(index)] = self._add_mask(index, variables[index])
        self._plan_sums(variables)
        for index, key, shape, dtype in self.state_specs:
            if f"{index}/{key}" not in self._states:
                self._states[f"{index}/{key}"] = self.add_variable(
                    shape=shape,
                    dtype=dtype,
                    initializer="zeros",
                    layout=layout_for(shape, variables[index]),
                    name=f"{variables[index].path.replace('/', '_')}_{key}",
                )
        if self.num_pruners > max(1, len(self.masked_variables)):
            raise ValueError(f"{self.num_pruners} pruners have too few masks.")
        for number in range(self.num_pruners):
            self._updates.append(
                self.add_variable(
                    shape=(),
                    dtype="int",
                    initializer=keras.initializers.Constant(-1),
                    aggregation="only_first_replica",
                    name=f"updated_at_{number}",
                )
            )
        super().build(variables)

    def _plan_sums(self, variables):
        """Asks for sums of the true gradients, if the inner optimizer accumulates."""
        accumulates = innermost(self.inner_optimizer).gradient_accumulation_steps
        if accumulates and not self._freezes:
            for index, rule in self._rules.items():
                if rule.needs_gradients:
                    shape = tuple(variables[index].shape)
                    self.state_specs.append((index, _SUM, shape, "float32"))

    def _add_mask(self, index, variable):
        """Adds a mask, laid out as its kernel."""
        num_bits = 1 if index in self.packed_variables else 8
        spec = stored(variable.shape, num_bits)
        return self.add_variable(
            **spec,
            layout=layout_for(spec["shape"], variable),
            name=f"{variable.path.replace('/', '_')}_mask",
        )

    @property
    def masks(self):
        """Dict from the index of a trainable variable to its mask."""
        return {int(index): self._mask_of(index) for index in self._masks}

    def _mask_of(self, index):
        shape = self._trainable_variables[int(index)].shape
        return as_mask(self._masks[str(index)], shape)

    def _mask_value(self, index):
        """Returns the mask of a variable as a bool tensor, or `None` if it has none."""
        has_mask = str(index) in self._masks
        return read_mask(self._mask_of(index)) if has_mask else None

    @property
    def step(self):
        """Int variable: updates that the inner optimizer applied since the start."""
        return self._iterations

    @property
    def updates(self):
        """List of int variables: the step of each pruner's latest mask update."""
        return list(self._updates)

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    @property
    def states(self):
        """Dict from (index of a trainable variable, name) to a state variable."""
        return {(i, key): self._states[f"{i}/{key}"] for i, key, *_ in self.state_specs}

    def _states_of(self, index):
        keys = [key for i, key, *_ in self.state_specs if i == index]
        return {key: self._states[f"{index}/{key}"] for key in keys}

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is None:
            variables = self._trainable_variables
        else:
            variables = list(trainable_variables)
            if not self.built:
                self.build(variables)
        scale = loss_scale_of(self.inner_optimizer)
        # Each replica has a share of the loss; the inner optimizer sums the gradients.
        share = scale / num_replicas()
        before, shaped = {}, []
        for gradient, variable in zip(grads, variables, strict=True):
            index = self._get_variable_index(variable)
            rule = self._rules.get(index)
            if rule is None or gradient is None:
                shaped.append(keep_if_dense(gradient, self._mask_value(index)))
                continue
            states = self._states_of(index)
            dense = states.get("dense")
            weight = ops.convert_to_tensor(variable if dense is None else dense)
            if rule.needs_gradients:
                # Also TensorFlow's sparse gradients, of embeddings.
                gradient = ops.convert_to_tensor(gradient)
                # A copy, for the tensor may be the variable, which the step changes.
                seen = ops.copy(weight) if dense is None else weight
                before[index] = seen, ops.cast(gradient, "float32") / scale
            if rule.keeps_dense:
                variable.assign(weight)
            if hasattr(gradient, "dense_shape"):
                # What it changes is masked after the step.
                shaped.append(gradient)
                continue
            mask = self._mask_value(index)
            shaped.append(rule.shape_gradient(gradient, weight, mask, states, share))
        # Read now: the step may move a schedule on.
        rate = ops.cast(self.inner_optimizer.learning_rate, "float32")
        ticked, applied = self._step_inner(shaped, variables)
        self._observe(before, ticked, applied)
        if applied is None:
            self._iterations.assign_add(1)
        else:
            self._iterations.assign_add(ops.cast(applied, self._iterations.dtype))
            rate = rate * ops.cast(applied, "float32")
        self._mask_weights(rate)

    def _step_inner(self, gradients, variables):
        """Lets the inner optimizer step.

        Returns:
            Tuple of whether it took the gradients in, and whether it applied a step, as
            bool tensors; both `None` if it always does.
        """
        if self._freezes:
            return None, None
        inner, counter = self.inner_optimizer, innermost(self.inner_optimizer)
        # A sum is a value; the variable itself would change under our hands.
        ticks, iterations = counter._iterations + 0, inner.iterations + 0
        if self._is_stateless:
            values, state = inner.stateless_apply(
                [ops.convert_to_tensor(v) for v in inner.variables],
                gradients,
                [ops.convert_to_tensor(v) for v in self._trainable_variables],
            )
            new = zip(self._trainable_variables, values, strict=True)
            for variable, value in (*new, *zip(inner.variables, state, strict=True)):
                variable.assign(value)
        else:
            inner.apply(gradients, variables)
        if not may_skip(inner):
            return None, None
        return counter._iterations + 0 > ticks, inner.iterations + 0 > iterations

    def _observe(self, before, ticked, applied):
        """Shows the rules the true gradients of an applied step."""
        steps = innermost(self.inner_optimizer).gradient_accumulation_steps
        totals = sum_over_replicas([gradient for _, gradient in before.values()])
        for index, gradient in zip(before, totals, strict=True):
            weight, states = before[index][0], self._states_of(index)
            if _SUM in states:
                sums = states[_SUM]
                old = ops.convert_to_tensor(sums)
                total = old + gradient
                # A batch that was not finite is skipped, not summed.
                kept = ops.where(ticked, total, old)
                sums.assign(ops.where(applied, ops.zeros_like(old), kept))
                gradient = total / steps
            changed = self._rules[index].observe(states, weight, gradient)
            for key, value in changed.items():
                state = states[key]
                value = finite_or(value, state)
                if applied is not None:
                    value = ops.where(applied, value, ops.convert_to_tensor(state))
                state.assign(value)

    def _mask_weights(self, rate):
        """Draws weights to zero where a rule does so, and masks them.

        Args:
            rate: Float tensor: the learning rate, 0 where no step was applied.
        """
        averages = self._moving_averages()
        for index, kept in self.masks.items():
            variable, mask = self._trainable_variables[index], read_mask(kept)
            rule, average = self._rules.get(index), averages.get(index)
            weight = ops.convert_to_tensor(variable)
            if rule is None:
                variable.assign(keep_if_dense(weight, mask))
            else:
                states = self._states_of(index)
                if not self._freezes:
                    weight = rule.regularize(weight, mask, states, rate)
                    if rule.keeps_dense:
                        states["dense"].assign(weight)
                elif rule.keeps_dense:
                    weight = ops.convert_to_tensor(states["dense"])
                value, new_mask = rule.effective(weight, mask, states)
                variable.assign(value)
                if new_mask is not None:
                    mask = new_mask
                    assign_mask(kept, mask)
            if average is not None:
                average.assign(keep_if_dense(ops.convert_to_tensor(average), mask))

    def enforce(self):
        """Sets the moving averages of pruned weights to zero, after a mask update."""
        averages = self._moving_averages()
        for index, mask in self.masks.items():
            if averages.get(index) is not None:
                average = ops.convert_to_tensor(averages[index])
                averages[index].assign(keep_if_dense(average, read_mask(mask)))

    def _moving_averages(self):
        """Returns a dict from index to moving average, if the optimizer keeps them."""
        optimizer = innermost(self.inner_optimizer)
        if not optimizer.use_ema:
            return {}
        return dict(enumerate(optimizer._model_variables_moving_average))

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        # Keras runs `apply` in a scope that maps variables to these values.
        self._is_stateless = True
        try:
            return super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
        finally:
            self._is_stateless = False

    def finalize_variable_values(self, var_list):
        # Averages that become the weights are masked; of a frozen model none were made.
        if not self._freezes:
            self.inner_optimizer.finalize_variable_values(var_list)

    def save_own_variables(self, store):
        save_run(self, store)

    def load_own_variables(self, store):
        load_run(self, store)

    take_run = take_run

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "masked_variables": list(self.masked_variables),
            "num_pruners": self.num_pruners,
            "states": [list(spec) for spec in self.state_specs],
            "packed_variables": list(self.packed_variables),
            "run": describe(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner, **config)
