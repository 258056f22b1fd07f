"""Keeps masks applied inside the compiled training step, in any training loop."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_pruner.backend import (
    apply_inner,
    count_of,
    index_in,
    innermost,
    layout_for,
    loss_scale_of,
    moving_averages,
    newest_in_average,
    num_replicas,
    variables_trained_by,
)
from keras_pruner.masks import (
    apply_mask,
    as_mask,
    is_packed,
    mask_variable_spec,
    read_mask,
    variable_of,
)
from keras_pruner.pruners import GRADIENT_SUM, TrainedKernel, TrainingStep
from keras_pruner.training.saving.run_state import (
    RunState,
    check_run,
    check_state_size,
    checked_specs,
    load_run,
    save_run,
    take_over,
)
from keras_pruner.training.saving.variable_matching import (
    as_trainables,
    find_again,
    load_what_was_trained,
)
from keras_pruner.training.wrapper_optimizer import WrapperOptimizer


@keras.saving.register_keras_serializable(package="keras_pruner")
class PruningOptimizer(WrapperOptimizer):
    """Wraps an optimizer so that pruned weights are zero after every step.

    The masks and the step count are variables of this optimizer. So they are part of
    the compiled step on every backend, also when one call runs several steps. Keras
    saves and restores them with the model. `PruningCallback` inserts it for `fit` and
    removes it at the end. The wrapped optimizer and its state are never copied.

    A step is a `TrainingStep` around the inner optimizer's. Pruned weights get no
    gradient, so they leave no momentum and have no share in a gradient norm. After the
    step they are zero, and so are their moving averages. The step counts if the inner
    optimizer counted it. An optimizer that was loaded with a model has no rules: it
    masks gradients and weights.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`.
        masked_variables: Indices of the variables that have a mask, among those that
            the optimizer is built with.
        num_pruners: Number of pruners whose latest mask update is saved.
        states: List of `(index, name, shape, dtype)`: further tensors to keep.
        packed_variables: Indices of the variables whose mask has 1 bit a weight.
        run: Dict of a `RunState`.
        name: Name of the optimizer.

    Attributes:
        step: Int variable: applied optimizer updates.
        last_update_steps: List of int variables: for each pruner the step of its
            latest mask update, -1 before the first.
        run_state: `RunState`.
        shows_all: Whether `variables` also has masks, counts and states. During `fit`
            it has not: code that resets an optimizer assigns zeros to all variables,
            and masks of zeros would prune all. JAX needs them in a step.
        has_stepped: Whether a training step has called `apply`.
        reached: Set of the indices of variables that had a gradient in a step.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer of Keras, or another argument
            has a wrong type.
        ValueError: If `num_pruners`, `states` or `run` is invalid.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        masked_variables: Iterable[int] = (),
        num_pruners: int = 1,
        states: Iterable[Any] = (),
        packed_variables: Iterable[int] = (),
        run: dict[str, Any] | None = None,
        name: str = "pruning_optimizer",
    ) -> None:
        super().__init__(inner_optimizer, name=name)
        self.masked_variables = tuple(int(index) for index in masked_variables)
        self.packed_variables = tuple(int(index) for index in packed_variables)
        self.num_pruners, self.state_specs = checked_specs(num_pruners, states)
        self.last_update_steps = []
        self.run_state = RunState() if run is None else RunState.from_dict(run)
        # What the training step has done so far, as Python saw it run or be traced.
        self.has_stepped = False
        self.shows_all = True
        self.reached = set()
        self._masks = {}
        self._states = {}
        self._rules = {}
        self._freezes = False
        self._is_stateless = False

    def adopt(
        self,
        kernels: Mapping[int, Any],
        extra: Iterable[Any] = (),
        trainables: Any = None,
        freezes: bool = False,
    ) -> None:
        """Uses existing variables. Call it before `build`.

        Args:
            kernels: Dict from the index of a variable to its `TrainedKernel`.
            extra: Pairs of an index and a dict of states, for variables without mask.
            trainables: See `RunState`.
            freezes: Whether the inner optimizer never steps.
        """
        self._freezes = freezes
        self.masked_variables = tuple(kernels)
        provenance = {}
        for index, kernel in kernels.items():
            self._masks[str(index)] = variable_of(kernel.mask)
            if is_packed(kernel.mask):
                self.packed_variables += (index,)
            self._rules[index] = kernel.rule
            path = {"path": kernel.variable.path}
            provenance[index] = path | kernel.rule.provenance()
        self.run_state = RunState(trainables=trainables, provenance=provenance)
        # Masks first, as in `build`: files number the variables in this order.
        for index, kernel in kernels.items():
            self._adopt_states(index, kernel.states)
        for index, states in extra:
            self._adopt_states(index, states)

    def _adopt_states(self, index, states):
        for key, variable in states.items():
            self._states[f"{index}/{key}"] = variable
            spec = (index, key, tuple(variable.shape), str(variable.dtype))
            self.state_specs.append(spec)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        trained = variables if self._masks else self._renumber(variables)
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
                check_state_size(key, shape, variables[index])
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
            self.last_update_steps.append(
                self.add_variable(
                    shape=(),
                    dtype="int",
                    initializer=keras.initializers.Constant(-1),
                    aggregation="only_first_replica",
                    name=f"updated_at_{number}",
                )
            )
        super().build(variables)

    def _renumber(self, variables):
        """Renumbers the masks and states of a file by the variables of the model.

        Returns:
            List of the variables that were trained when the file was saved.
        """
        run = self.run_state
        states = [index for index, *_ in self.state_specs]
        indices = [*self.masked_variables, *states, *run.provenance]
        found = find_again(run.trainables, variables, indices)
        self.masked_variables = tuple(found[index] for index in self.masked_variables)
        self.packed_variables = tuple(found[index] for index in self.packed_variables)
        self.state_specs = [(found[i], *spec) for i, *spec in self.state_specs]
        run = run.moved(found)
        if len(found) < len(variables):
            run = dataclasses.replace(run, trainables=as_trainables(variables))
        self.run_state = run
        return [variables[position] for position in found]

    def _plan_sums(self, variables):
        """Adds sums of the true gradients, if the inner optimizer accumulates them."""
        accumulates = innermost(self.inner_optimizer).gradient_accumulation_steps
        if accumulates and not self._freezes:
            for index, rule in self._rules.items():
                if rule.needs_gradients:
                    shape = tuple(variables[index].shape)
                    self.state_specs.append((index, GRADIENT_SUM, shape, "float32"))

    def _add_mask(self, index, variable):
        """Adds a mask with the layout of its kernel."""
        num_bits = 1 if index in self.packed_variables else 8
        spec = mask_variable_spec(variable.shape, num_bits)
        return self.add_variable(
            **spec,
            layout=layout_for(spec["shape"], variable),
            name=f"{variable.path.replace('/', '_')}_mask",
        )

    @property
    def trained_variables(self) -> list[keras.Variable]:
        """List of the variables that the optimizer was built with."""
        return variables_trained_by(self)

    @property
    def masks(self) -> dict[int, Any]:
        """Dict from the index of a trainable variable to its mask."""
        return {int(index): self._mask_of(index) for index in self._masks}

    def _mask_of(self, index):
        shape = self.trained_variables[int(index)].shape
        return as_mask(self._masks[str(index)], shape)

    @property
    def step(self) -> keras.Variable:
        """Applied optimizer updates since the masks were put in place."""
        return count_of(self)

    @property
    def states(self) -> dict[Any, Any]:
        """Dict from (index of a trainable variable, name) to a state variable."""
        return {(i, key): self._states[f"{i}/{key}"] for i, key, *_ in self.state_specs}

    def _trained_kernels(self):
        """Returns a dict from an index to the `TrainedKernel` of a masked variable."""
        states = {index: {} for index in self.masks}
        for (index, key), state in self.states.items():
            # A variable without a mask may also have states.
            states.setdefault(index, {})[key] = state
        variables = self.trained_variables
        return {
            index: TrainedKernel(
                variables[index], mask, self._rules.get(index), states[index]
            )
            for index, mask in self.masks.items()
        }

    @property
    def variables(self) -> list[keras.Variable]:
        if self.shows_all or keras.backend.backend() == "jax":
            return self.all_variables
        return self.inner_optimizer.variables

    @property
    def all_variables(self) -> list[keras.Variable]:
        """List of the inner optimizer's variables, masks, counts and states."""
        return super().variables

    def finalize_variable_values(self, var_list: Any) -> None:
        # Averages that become the weights are masked. A frozen model has none.
        if not self._freezes:
            super().finalize_variable_values(var_list)

    # One step.

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        variables = self.trained_variables
        if trainable_variables is not None:
            variables = list(trainable_variables)
            if not self.built:
                self.build(variables)
        inner = self.inner_optimizer
        self.has_stepped = True
        step = TrainingStep(self._trained_kernels())
        scale = loss_scale_of(inner)
        # Each replica has a share of the loss; the inner optimizer sums the gradients.
        share = scale / num_replicas()
        shaped = []
        for gradient, variable in zip(grads, variables, strict=True):
            index = index_in(self, variable)
            if gradient is not None:
                self.reached.add(index)
            if index in step.kernels:
                gradient = step.before(index, gradient, scale=scale, share=share)
            shaped.append(gradient)
        # Read before the step, which may advance a schedule.
        rate = ops.cast(inner.learning_rate, "float32")
        newest, ticked, applied = newest_in_average(inner), None, None
        if not self._freezes:
            trained = self.trained_variables if self._is_stateless else None
            ticked, applied = apply_inner(
                inner, shaped, variables, trained, as_pairs=self.gets_pairs
            )
        count = 1 if applied is None else ops.cast(applied, self.step.dtype)
        self.step.assign_add(count)
        if applied is not None:
            rate = rate * ops.cast(applied, "float32")
        step.after(
            rate,
            is_frozen=self._freezes,
            averages=self._averages(),
            newest=newest,
            ticked=ticked,
            applied=applied,
            accumulated_steps=innermost(inner).gradient_accumulation_steps,
        )

    def stateless_apply(
        self, optimizer_variables: Any, grads: Any, trainable_variables: Any
    ) -> Any:
        # Keras runs `apply` in a scope that maps variables to these values.
        self._is_stateless = True
        try:
            return super().stateless_apply(
                optimizer_variables, grads, trainable_variables
            )
        finally:
            self._is_stateless = False

    def enforce(self) -> None:
        """Sets the moving averages of pruned weights to zero, after a mask update."""
        averages, masks = self._averages(), self.masks
        for index in set(averages) & set(masks):
            average, mask = averages[index], read_mask(masks[index])
            average.assign(apply_mask(average, mask))

    def _averages(self):
        """Returns a dict from the index of a variable to its moving average."""
        averages = moving_averages(self.inner_optimizer)
        keys = enumerate(map(id, self.trained_variables))
        return {index: averages[key] for index, key in keys if key in averages}

    # Files.

    def save_own_variables(self, store: Any) -> None:
        save_run(self, store)

    def load_own_variables(self, store: Any) -> None:
        self.run_state = load_run(self, store)

    def resume_from(self, restored: Any) -> None:
        """Copies masks, counts and states of an optimizer that was loaded from a file.

        Args:
            restored: Built `PruningOptimizer`.

        Raises:
            ValueError: If it does not fit. Nothing is assigned then.
        """
        self.run_state = take_over(self, restored)

    def take_run(self, run: Any) -> None:
        """Sets the plan of a run whose variables were loaded separately.

        Args:
            run: Dict of a `RunState`, or `None` if the run was not pruned.

        Raises:
            ValueError: If masks or states were made by another config.
        """
        if run is None:
            raise ValueError("The checkpoint was saved without pruning.")
        run = RunState.from_dict(run)
        check_run(self, run)
        self.set_plan(run.plan)

    def set_plan(self, plan: Any) -> None:
        """Sets the steps of the run, as plain values, to be saved with it."""
        self.restore_run(dataclasses.replace(self.run_state, plan=plan))

    def restore_run(self, run_state: Any) -> None:
        """Sets the whole `RunState`, e.g. after a load that failed."""
        self.run_state = run_state

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "masked_variables": list(self.masked_variables),
            "num_pruners": self.num_pruners,
            "states": [list(spec) for spec in self.state_specs],
            "packed_variables": list(self.packed_variables),
            "run": self.run_state.to_dict(),
        }
