"""Wrapper layers that compute with masked kernels; `wrap` and `strip`."""

import contextlib
import dataclasses
import re

import keras
from keras import ops

from keras_pruner.collect import collect_kernels, fit_pattern
from keras_pruner.config import PruningConfig, as_config
from keras_pruner.kernels import find_kernels
from keras_pruner.pruners.create import partition_kernels
from keras_pruner.pytorch import is_torch_module, strip_module


@keras.saving.register_keras_serializable(package="keras_pruner")
class PrunedLayer(keras.layers.Wrapper):
    """Computes a layer with `kernel * mask` in place of its kernels.

    The masks are non-trainable weights of the wrapper, so they are saved with the
    model. `PruningCallback`, or a pruner in a training loop, updates them; without
    either they stay as they are. Gradients pass through the product, so a pruned weight
    gets none.

    Args:
        layer: Any Keras layer with prunable kernels, also nested ones, e.g. `Dense`,
            `Conv2D`, `LSTM`, `MultiHeadAttention`, `Bidirectional`.
        config: `PruningConfig` or dict for this layer. `None` leaves it to the
            callback's config.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `layer` is no Keras layer.
        ValueError: At build, if nothing in the layer can be pruned.
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
        # Whether gradients pass by the mask, for a pruner that looks at all of them.
        self.straight_through = False
        # Pairs of names and shapes cannot tell two equal variables apart; ids can.
        self._mask_names = {}
        if layer.built:
            self._add_masks()

    def __call__(self, inputs, *args, **kwargs):
        if not self.layer.built:
            # The layer may take several inputs, whose shapes only its own `call`
            # knows how to turn into those of its weights.
            self.layer(
                *keras.tree.map_structure(_symbolic, (inputs, *args)),
                **keras.tree.map_structure(_symbolic, kwargs),
            )
        return super().__call__(inputs, *args, **kwargs)

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
        kernels, _ = fit_pattern(collect_kernels(self.layer, config), config)
        for kernel in kernels:
            # The layer's own name stands in the path already.
            name = f"{kernel.path.removeprefix(self.layer.name + '/')}/mask"
            mask = self.add_weight(
                shape=kernel.variable.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
                name=name.replace("/", "_"),
            )
            self._mask_names[_key(kernel.variable)] = mask.name

    def mask_of(self, variable):
        """Returns the mask of one of the layer's kernels, or `None`."""
        name = self._mask_names.get(_key(variable))
        if name is None:
            return None
        own = self._non_trainable_variables
        return next(mask for mask in own if mask.name == name)

    @property
    def masks(self):
        """Dict from the path of a kernel in the layer to its mask variable."""
        found = find_kernels(self.layer, embeddings=True).kernels
        masks = {kernel.path: self.mask_of(kernel.variable) for kernel in found}
        return {path: mask for path, mask in masks.items() if mask is not None}

    def call(self, inputs, *args, **kwargs):
        # Inside a scope that maps every variable of the layer to its present value,
        # and a masked kernel to the product, the layer computes as if it were so.
        variables = self.layer.variables
        values = {}
        for variable in variables:
            value = ops.convert_to_tensor(variable)
            mask = self.mask_of(variable)
            if mask is not None:
                masked = value * ops.cast(ops.convert_to_tensor(mask), value.dtype)
                if self.straight_through:
                    # The same values, but the gradient of the sum is one.
                    masked = value + ops.stop_gradient(masked - value)
                value = masked
            values[_key(variable)] = value
        mapping = [(variable, values[_key(variable)]) for variable in variables]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = self.layer(inputs, *args, **kwargs)
        # What the layer assigned, e.g. the state of a random generator, is kept.
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
    """Stands in for a tensor with one of the same shape and dtype, but no values."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(value.shape, dtype=dtype)


def _key(variable):
    return str(id(variable))


def wrap(model, config=None):
    """Returns a copy of a model whose prunable layers are wrapped for pruning.

    The copy has the same weights and is not compiled; the model given is not changed.

    Args:
        model: Built Sequential or Functional model; nested ones and shared layers are
            copied as such.
        config: `PruningConfig`, dict, or `None` for the defaults.

    Returns:
        Keras model with a `PrunedLayer` around each layer that has a kernel to prune.

    Raises:
        ValueError: If the model cannot be cloned (a subclassed one: prune it in place
            by `PruningCallback`), is wrapped already, or nothing can be pruned.
    """
    check_built(model)
    if find_wrapped(model):
        raise ValueError("The model has wrapped layers already. Call `strip` first.")
    config_of = {}
    for part, kernels in partition_kernels(config, model):
        fitting, _ = fit_pattern((kernels, []), part)
        config_of |= {id(kernel.variable): part for kernel in fitting}

    def wrap_layer(layer):
        copy = _copy_of(layer)
        found = find_kernels(layer, embeddings=True).kernels
        taken = [kernel for kernel in found if id(kernel.variable) in config_of]
        if not taken:
            return copy
        chosen = config_of[id(taken[0].variable)]
        for kernel in taken:
            if config_of[id(kernel.variable)] is not chosen:
                raise ValueError(
                    f"Layer '{layer.name}' has kernels under different local configs; "
                    "a wrapper has one config. Prune it by PruningCallback."
                )
        # The paths in a wrapper begin at its layer, so a selection is made anew.
        include = None
        if len(taken) < len(found):
            include = tuple(re.escape(kernel.path) for kernel in taken)
        return PrunedLayer(
            copy, dataclasses.replace(chosen, include=include, exclude=())
        )

    return _clone(model, wrap_layer)


def strip(model):
    """Returns a plain copy of a model: no wrapper layers, pruned weights exactly zero.

    The copy loads without this package and is not compiled. The model given is not
    changed. A model that was pruned by the callback alone is plain already; its copy
    differs only in being uncompiled.

    Args:
        model: Built Keras model; or, with Keras on torch, a `torch.nn.Module` that
            `PytorchBasePruner` has pruned, whose copy is not compiled and has no hooks.

    Returns:
        Keras model, or torch module, with the same outputs.

    Raises:
        ValueError: If the model cannot be copied.
    """
    if is_torch_module(model):
        return strip_module(model)
    check_built(model)
    return _clone(model, _copy_of)


def find_wrapped(model):
    """Returns the `PrunedLayer`s of a model, through all nesting."""
    layers = model._flatten_layers(include_self=True, recursive=True)
    return [layer for layer in layers if isinstance(layer, PrunedLayer)]


def masks_of(layer):
    """Returns a dict from the id of each wrapped variable in a layer to its mask."""
    found = {}
    for wrapper in find_wrapped(layer):
        for variable in wrapper.layer.variables:
            mask = wrapper.mask_of(variable)
            if mask is not None:
                found[id(variable)] = mask
    return found


def check_built(model):
    """Raises if `model` is no Keras model, or has no weights yet."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"'{model.name}' is not built, so its weights do not exist yet. Begin it "
            "with `keras.Input`, call it on data once, or `build(input_shape)`."
        )


def _clone(model, copy_layer):
    """Clones a model layer by layer and copies the weights, pruned ones as zeros."""
    pairs = []

    def copy(layer):
        new = copy_layer(layer)
        pairs.append((layer, new))
        return new

    if isinstance(model, keras.Sequential) or _is_functional(model):
        with _as_uncompiled(model):
            new_model = keras.models.clone_model(
                model, clone_function=copy, recursive=True
            )
        if not new_model.built:
            new_model.build(model.input_shape)
    elif copy_layer is _copy_of:
        new_model = _copy_subclassed(model)
        pairs.append((model, new_model))
    else:
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), whose "
            "layers cannot be exchanged in a copy. Prune it in place by "
            "PruningCallback, or build it from PrunedLayers."
        )
    for old, new in pairs:
        _copy_weights(old, new)
    return new_model


@contextlib.contextmanager
def _as_uncompiled(model):
    """Keeps `clone_model` from compiling the copy, which would save an optimizer."""
    layers = model._flatten_layers(include_self=True, recursive=True)
    compiled = [layer for layer in layers if getattr(layer, "compiled", False)]
    for layer in compiled:
        layer.compiled = False
    try:
        yield
    finally:
        for layer in compiled:
            layer.compiled = True


def _is_functional(model):
    return isinstance(model, keras.Model) and hasattr(model, "operations")


def _copy_subclassed(model):
    try:
        new_model = type(model).from_config(_unwrapped(model.get_config()))
        new_model.build_from_config(model.get_build_config())
    except Exception as error:
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}) that "
            f"cannot be copied from its config: {error}. Give it `get_config`; or, as "
            "it holds no wrapped layers, use it as it is."
            if not find_wrapped(model)
            else f"'{model.name}' is a subclassed model ({type(model).__name__}) with "
            f"wrapped layers that cannot be copied from its config: {error}. Give it "
            "`get_config`."
        ) from error
    return new_model


def _copy_of(layer):
    """Makes an unbuilt copy of a layer, without wrappers at any depth."""
    return keras.saving.deserialize_keras_object(
        _unwrapped(keras.saving.serialize_keras_object(layer))
    )


def _unwrapped(config):
    """Replaces the config of every wrapper in a config by that of its layer."""
    if isinstance(config, dict):
        if config.get("registered_name") == "keras_pruner>PrunedLayer":
            return _unwrapped(config["config"]["layer"])
        return {key: _unwrapped(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_unwrapped(value) for value in config)
    return config


def _copy_weights(old, new):
    masks = masks_of(old)
    own_masks = {id(mask) for mask in masks.values()}
    sources = [v for v in old.variables if id(v) not in own_masks]
    targets = (new.layer if isinstance(new, PrunedLayer) else new).variables
    shapes = [tuple(v.shape) for v in sources], [tuple(v.shape) for v in targets]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The copy of '{old.name}' has other weights than the layer: "
            f"{shapes[1]} for {shapes[0]}. Does its `get_config` return all that "
            "its constructor was given?"
        )
    for source, target in zip(sources, targets, strict=True):
        # A copy, since JAX may donate the buffer of either to a training step.
        value = ops.copy(source)
        mask = masks.get(id(source))
        if mask is not None:
            value = ops.where(ops.convert_to_tensor(mask), value, ops.zeros_like(value))
        target.assign(value)
