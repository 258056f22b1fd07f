"""Keeps masks applied inside the compiled training step, whatever runs it."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_pruner")
class PruningOptimizer(keras.optimizers.Optimizer):
    """Wraps an optimizer so that pruned weights are zero after every step.

    The masks and the step count are variables of this optimizer. So they are part of
    the compiled step on every backend, also where one call runs several steps, and are
    saved and restored with the model. `PruningCallback` puts it in place for `fit` and
    takes it out at the end; the wrapped optimizer and its state are never copied.

    A step: gradients of pruned weights are set to zero, so that they leave no momentum
    and no share in a gradient norm; the inner optimizer steps; pruned weights, and
    their moving averages if the optimizer keeps some, are set to zero; and the step is
    counted if the inner optimizer counted one.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`.
        masked_variables: Indices, among the variables that the optimizer is built
            with, of those that have a mask.
        num_pruners: Number of pruners whose latest mask update is remembered.
        name: Name of the optimizer.
    """

    def __init__(
        self,
        inner_optimizer,
        masked_variables=(),
        num_pruners=1,
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
        self.num_pruners = num_pruners
        self._masks = {}
        self._updates = []
        self._shrink = {}

    def adopt(self, masks, shrink=None):
        """Uses variables that exist already as masks. Call it before `build`.

        Args:
            masks: Dict from index to bool `keras.Variable`.
            shrink: Dict from index to a function of a kernel's value and a learning
                rate, which returns the value after a regularizer's proximal step.
        """
        self._shrink = dict(shrink or {})
        self.masked_variables = tuple(masks)
        for index, mask in masks.items():
            self._masks[str(index)] = mask

    def build(self, variables):
        for index in self.masked_variables:
            if not 0 <= index < len(variables):
                raise ValueError(
                    f"The optimizer was saved with a mask for variable {index}, but "
                    f"the model has {len(variables)} trainable variables."
                )
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        for index in self.masked_variables:
            if str(index) not in self._masks:
                self._masks[str(index)] = self._add_mask(variables[index])
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

    def _add_mask(self, variable):
        """Adds a mask of one byte a weight, laid out as its kernel."""
        return self.add_variable(
            shape=variable.shape,
            dtype="bool",
            initializer="ones",
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_mask",
        )

    @property
    def masks(self):
        """Dict from the index of a trainable variable to its mask variable."""
        return {int(index): mask for index, mask in self._masks.items()}

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

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is None:
            variables = self._trainable_variables
        else:
            variables = list(trainable_variables)
            if not self.built:
                self.build(variables)
        # A sum is a value; the variable itself would change under our hands.
        before = self.inner_optimizer.iterations + 0
        masks = [
            self._masks.get(str(self._get_variable_index(variable)))
            for variable in variables
        ]
        grads = [_masked(g, mask) for g, mask in zip(grads, masks, strict=True)]
        self.inner_optimizer.apply(grads, variables)
        applied = self.inner_optimizer.iterations - before
        self._iterations.assign_add(ops.cast(applied, self._iterations.dtype))
        rate = self._rate_if(applied)
        for index, shrink in self._shrink.items():
            variable = self._trainable_variables[index]
            variable.assign(shrink(ops.convert_to_tensor(variable), rate))
        self.enforce()

    def _rate_if(self, applied):
        """The learning rate, or 0 if gradients were only accumulated or not finite."""
        rate = ops.cast(self.inner_optimizer.learning_rate, "float32")
        return rate * ops.cast(applied, "float32")

    def enforce(self):
        """Sets pruned weights and their moving averages to zero."""
        averages = self._moving_averages()
        for index, mask in self.masks.items():
            for variable in (self._trainable_variables[index], averages.get(index)):
                if variable is not None:
                    variable.assign(_masked(ops.convert_to_tensor(variable), mask))

    def _moving_averages(self):
        """Returns a dict from index to moving average, if the optimizer keeps them."""
        optimizer = self.inner_optimizer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        if not optimizer.use_ema:
            return {}
        return dict(enumerate(optimizer._model_variables_moving_average))

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        own_count = len(self._variables)
        own = list(optimizer_variables[:own_count])
        inner = list(optimizer_variables[own_count:])
        values = {id(v): x for v, x in zip(self._variables, own, strict=True)}
        masks = {index: values[id(mask)] for index, mask in self.masks.items()}

        grads = [_masked(g, masks.get(index)) for index, g in enumerate(grads)]
        before = self._in_scope(inner, lambda: self.inner_optimizer.iterations)
        trainable, inner = self.inner_optimizer.stateless_apply(
            inner, grads, list(trainable_variables)
        )
        trainable, inner = list(trainable), list(inner)
        applied = (
            self._in_scope(inner, lambda: self.inner_optimizer.iterations) - before
        )
        rate = self._in_scope(inner, lambda: self._rate_if(applied))
        for index, shrink in self._shrink.items():
            trainable[index] = shrink(trainable[index], rate)
        trainable = [_masked(v, masks.get(index)) for index, v in enumerate(trainable)]
        positions = {id(v): i for i, v in enumerate(self.inner_optimizer.variables)}
        for index, average in self._moving_averages().items():
            if index in masks and average is not None:
                position = positions[id(average)]
                inner[position] = _masked(inner[position], masks[index])
        step = [id(v) for v in self._variables].index(id(self._iterations))
        own[step] = own[step] + ops.cast(applied, self._iterations.dtype)
        return trainable, own + inner

    def _in_scope(self, inner_values, read):
        """Reads something of the inner optimizer at these values of its variables."""
        mapping = list(zip(self.inner_optimizer.variables, inner_values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return ops.convert_to_tensor(read())

    def finalize_variable_values(self, var_list):
        # The averages that may now become the weights are masked after every step.
        self.inner_optimizer.finalize_variable_values(var_list)

    def save_own_variables(self, store):
        # The inner optimizer is saved as a part of its own.
        for number, variable in enumerate(self._variables):
            store[str(number)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        if len(store.keys()) != len(self._variables):
            raise ValueError(
                f"The saved state of '{self.name}' has {len(store.keys())} variables "
                f"and cannot be loaded into {len(self._variables)}: it was saved with "
                "other pruned kernels."
            )
        for number, variable in enumerate(self._variables):
            variable.assign(store[str(number)])

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "masked_variables": list(self.masked_variables),
            "num_pruners": self.num_pruners,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner, **config)


def _masked(value, mask):
    """Sets the pruned entries of a dense tensor to zero; `True` in a mask keeps."""
    # TensorFlow's sparse gradients (of embeddings) are left: what they change is masked
    # after the step.
    if value is None or mask is None or hasattr(value, "dense_shape"):
        return value
    return ops.where(
        ops.convert_to_tensor(mask), value, ops.zeros_like(ops.convert_to_tensor(value))
    )
