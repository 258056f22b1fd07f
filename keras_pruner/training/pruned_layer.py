import inspect

import keras
from keras import ops

from keras_pruner.backend import own_non_trainables_of, set_call_signature, sublayers_of
from keras_pruner.config import PruningConfig, as_config
from keras_pruner.kernels import find_all_kernels, select_kernels
from keras_pruner.masks import (
    as_mask,
    check_variables,
    mask_variable_spec,
    read_mask,
    read_state,
    write_state,
)


@keras.saving.register_keras_serializable(package="keras_pruner")
class PrunedLayer(keras.layers.Wrapper):
    """Computes a layer with `kernel * mask` in place of its kernels.

    The masks are non-trainable weights of the wrapper, so Keras saves them with the
    model. `PruningCallback`, or a pruner in a custom training loop, updates them;
    without either they stay unchanged. Gradients pass through the product, so those of
    pruned weights are zero.

    Args:
        layer: Any Keras layer with prunable kernels, also nested ones, e.g. `Dense`,
            `Conv2D`, `LSTM`, `MultiHeadAttention`, `Bidirectional`.
        config: `PruningConfig` or dict for this layer. `None` uses the callback's
            config.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `layer` is no Keras layer.
        ValueError: At build, if nothing in the layer can be pruned.

    Example:

    >>> layer = PrunedLayer(keras.layers.Dense(2, name="dense"))
    >>> layer.build((None, 2))
    >>> _ = layer.layer.kernel.assign([[1.0, 2.0], [3.0, 4.0]])
    >>> _ = layer.masks["dense/kernel"].assign([[True, False], [True, True]])
    >>> ops.convert_to_numpy(layer(ops.ones((1, 2)))).tolist()
    [[4.0, 4.0]]
    """

    def __init__(self, layer, config=None, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                f"PrunedLayer wraps a Keras layer. Received: {layer!r} of type "
                f"{type(layer).__name__}"
            )
        if isinstance(layer, PrunedLayer):
            raise ValueError(f"'{layer.name}' is wrapped for pruning already.")
        kwargs.setdefault("name", f"pruned_{layer.name}")
        super().__init__(layer, **kwargs)
        self.pruning_config = None if config is None else as_config(config)
        self.supports_masking = layer.supports_masking
        # Keras sorts arguments by the names of `call`. With only `**kwargs`, it would
        # reject tensors beside other values.
        set_call_signature(self, inspect.signature(layer.call))
        # Whether gradients bypass the mask, for a pruner that needs all of them.
        self.straight_through = False
        # Keyed by id, because two variables may have equal names and shapes.
        self._mask_names = {}
        self._has_run = False
        if layer.built and find_all_kernels(layer).kernels:
            self._add_masks()

    def __call__(self, *args, **kwargs):
        if not args:
            # The caller passes the layer's first input by name.
            first = next(iter(inspect.signature(self.layer.call).parameters))
            args = (kwargs.pop(first, None),)
        if not self._has_run:
            self._run_symbolically(args, kwargs)
        return super().__call__(*args, **kwargs)

    def _run_symbolically(self, args, kwargs):
        """Lets the layer create all its weights, and adds their masks."""
        self._has_run = True
        if self.layer.built and not sublayers_of(self.layer):
            return
        # A layer with several inputs may derive the shapes of its weights in `call`
        # only. It may also create the weights of its parts there.
        self.layer(
            *keras.tree.map_structure(_symbolic, args),
            **keras.tree.map_structure(_symbolic, kwargs),
        )
        if self._mask_names:
            self._add_masks()

    def build(self, input_shape=None):
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        if not self._mask_names:
            self._add_masks()
        self.built = True

    def get_build_config(self):
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        if not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
        if not self._mask_names:
            self._add_masks()
        self.built = True

    def _add_masks(self):
        config = self.pruning_config or PruningConfig()
        selections = select_kernels(self.layer, config)
        for selection in selections:
            selection.check_not_empty()
        for kernel in [k for selection in selections for k in selection.kernels]:
            if self.mask_of(kernel.variable) is not None:
                continue
            # The wrapper's path already includes the layer's name.
            name = f"{kernel.path.removeprefix(self.layer.name + '/')}/mask"
            mask = self.add_weight(
                **mask_variable_spec(kernel.variable.shape, config.mask_bits),
                trainable=False,
                name=name.replace("/", "_"),
            )
            self._mask_names[_key(kernel.variable)] = mask.name

    def mask_of(self, variable):
        """Returns the mask of one of the layer's kernels, or `None`."""
        name = self._mask_names.get(_key(variable))
        if name is None:
            return None
        own = own_non_trainables_of(self)
        mask = next(mask for mask in own if mask.name == name)
        return as_mask(mask, variable.shape)

    @property
    def masks(self):
        """Dict from the path of a kernel in the layer to its mask variable."""
        found = find_all_kernels(self.layer).kernels
        masks = {kernel.path: self.mask_of(kernel.variable) for kernel in found}
        return {path: mask for path, mask in masks.items() if mask is not None}

    def _own_masks(self):
        """Returns a dict from a name, equal in all copies, to a mask and its words."""
        return {
            f"mask_{number}": (mask, f"mask of '{path}'")
            for number, (path, mask) in enumerate(self.masks.items())
        }

    def save_own_variables(self, store):
        # The wrapped layer saves its own variables.
        masks = {name: mask for name, (mask, _) in self._own_masks().items()}
        write_state(store, list(self.masks), masks, {})

    def load_own_variables(self, store):
        owner = f"layer '{self.name}'"
        _, masks, _ = read_state(store, owner)
        check_variables(masks, self._own_masks(), owner)
        for name, (mask, _) in self._own_masks().items():
            mask.assign(masks[name])

    def call(self, inputs, *args, **kwargs):
        # The layer computes in a scope that maps each of its variables to the current
        # value, and each masked kernel to the product.
        variables = self.layer.variables
        values = {}
        for variable in variables:
            value = ops.convert_to_tensor(variable)
            mask = self.mask_of(variable)
            if mask is not None:
                masked = value * ops.cast(read_mask(mask), value.dtype)
                if self.straight_through:
                    # The values are equal, but the gradient of the sum is one.
                    masked = value + ops.stop_gradient(masked - value)
                value = masked
            values[_key(variable)] = value
        mapping = [(variable, values[_key(variable)]) for variable in variables]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = self.layer(inputs, *args, **kwargs)
        # Values that the layer assigned, e.g. states of random generators, are kept.
        for variable in variables:
            new = scope.get_current_value(variable)
            if new is not None and new is not values[_key(variable)]:
                variable.assign(new)
        return outputs

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, *args, **kwargs):
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self):
        config = super().get_config()
        if self.pruning_config is not None:
            config["config"] = self.pruning_config.to_dict()
        return config


def _symbolic(value):
    """Replaces a tensor by a symbolic one of the same shape and dtype."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(value.shape, dtype=dtype)


def _key(variable):
    return str(id(variable))
