import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_pruner.backend import (
    Patch,
    VariableView,
    all_layers,
    call_like,
    computed_once,
    holders_of,
    is_view,
    recomputes,
    show_view,
    track_for_tensorflow,
    unlocked,
)
from keras_pruner.config import (
    AnyConfig,
    LayerSettings,
    PruningConfig,
    as_config,
    merged_config,
    takes_settings,
)
from keras_pruner.kernels import find_all_kernels, refuse_quantized, select_kernels
from keras_pruner.masks import (
    apply_mask,
    as_mask,
    check_variables,
    mask_variable_spec,
    read_mask,
    read_state,
    write_state,
)
from keras_pruner.training.patched_methods import refusal, saves_variables

_LAYER_ARGUMENTS = {
    "activity_regularizer",
    "autocast",
    "dtype",
    "input_dim",
    "input_shape",
    "name",
    "trainable",
}
# Methods that replace a kernel, or add to it.
_REFUSED = ("quantize", "enable_lora")


@keras.saving.register_keras_serializable(package="keras_pruner")
class PrunedLayer(keras.layers.Wrapper):
    """Computes a layer with its pruned weights as zeros.

    `kernel = where(mask, weights, 0)`

    Where the layer reads a kernel, e.g. as `self.kernel`, it gets a view of the
    variable with this value. The layer's own `call` runs unchanged, so its losses,
    metrics, states, masks and random seeds are those of the layer without a wrapper.
    The variable itself is still what the optimizer trains and what files hold: you
    find it in `layer.weights`. Its gradient is zero where the mask is `False`. A
    `kernel_regularizer` also sees the masked kernel.

    The masks are non-trainable weights of the wrapper, of the kernels' shapes and of
    dtype bool, or uint8 with `mask_bits=1`. Keras and TensorFlow save them with the
    model. `PruningCallback`, or a pruner in a custom training loop, updates them;
    without either they stay unchanged.

    Attributes and methods of the layer are also those of the wrapper, e.g. `units` or
    `reset_states()`. `quantize` and `enable_lora` raise an error: call `strip` before.

    Args:
        layer: Any Keras layer with prunable kernels, also nested ones, e.g. `Dense`,
            `Conv2D`, `LSTM`, `MultiHeadAttention`, `Bidirectional`. A kernel must be an
            attribute of the layer or of a sublayer, or in a list, tuple or dict that
            is one.
        config: `PruningConfig` or dict for this layer. `None`, without settings, uses
            the callback's config.
        kernels: Paths of the kernels to mask, as in `masks`. `None` masks all kernels
            that the config selects.
        **settings: Fields of `PruningConfig`, e.g. `target_sparsity=0.5`, which win
            over `config`; and arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `layer` is no Keras layer.
        ValueError: If a setting is unknown. At build, if nothing in the layer can be
            pruned, or a kernel is no attribute.

    Example:

    >>> layer = PrunedLayer(keras.layers.Dense(2, name="dense"))
    >>> layer.build((None, 2))
    >>> _ = layer.kernel.assign([[1.0, 2.0], [3.0, 4.0]])
    >>> _ = layer.masks["dense/kernel"].assign([[True, False], [True, True]])
    >>> ops.convert_to_numpy(layer.kernel).tolist()
    [[1.0, 0.0], [3.0, 4.0]]
    >>> ops.convert_to_numpy(layer(ops.ones((1, 2)))).tolist()
    [[4.0, 4.0]]
    >>> ops.convert_to_numpy(layer.trainable_weights[0]).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """

    @takes_settings
    def __init__(
        self,
        layer: keras.layers.Layer,
        config: AnyConfig = None,
        *,
        kernels: Sequence[str] | None = None,
        **settings: Unpack[LayerSettings],
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                f"PrunedLayer wraps a Keras layer. Received: {layer!r} of type "
                f"{type(layer).__name__}"
            )
        if isinstance(layer, PrunedLayer):
            raise ValueError(f"'{layer.name}' is wrapped for pruning already.")
        given: dict[str, Any] = dict(settings)
        kwargs = {name: given.pop(name) for name in _LAYER_ARGUMENTS & set(given)}
        if given:
            config = merged_config(config, given)
        kwargs.setdefault("name", f"pruned_{layer.name}")
        kwargs.setdefault("dtype", layer.dtype_policy)
        # The layer casts its inputs itself.
        super().__init__(layer, **kwargs | {"autocast": False})
        self.pruning_config = None if config is None else as_config(config)
        self.kernels = None if kernels is None else tuple(kernels)
        call_like(self, layer)
        # Whether gradients bypass the mask, for a pruner that needs all of them.
        self.straight_through = False
        self._masked = _MaskedKernels()
        self._has_run = False
        if not kwargs.get("trainable", True):
            self.trainable = False
        if layer.built and find_all_kernels(layer).kernels:
            self._add_masks()

    def __getattr__(self, name: str) -> Any:
        try:
            # torch modules find their layers here.
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer" or name.startswith("_"):
                raise AttributeError(
                    f"'{type(self).__name__}' object has no attribute '{name}'"
                ) from None
        return getattr(self.layer, name)

    @property
    def trainable(self) -> bool:
        """Whether the layer is trainable. Setting it sets it for the layer."""
        return self.layer.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)

    @property
    def supports_masking(self) -> bool:
        """Whether the layer supports computing a mask using `compute_mask`."""
        return self.layer.supports_masking

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._has_run:
            return super().__call__(*args, **kwargs)
        self._has_run = True
        self._create_weights(args, kwargs)
        is_complete = self._is_complete()
        outputs = super().__call__(*args, **kwargs)
        if not is_complete:
            # The call created parts of the layer.
            with unlocked(self):
                self._add_masks()
        return outputs

    def _is_complete(self):
        return all(layer.built for layer in all_layers(self.layer))

    def _create_weights(self, args, kwargs):
        """Lets the layer create its weights, and adds their masks."""
        if self._is_complete():
            return
        values = keras.tree.flatten((args, kwargs))
        # A layer with several inputs may derive the shapes of its weights in `call`
        # only. It may also create the weights of its parts there.
        try:
            self.layer(
                *keras.tree.map_structure(_symbolic, args),
                **keras.tree.map_structure(_symbolic, kwargs),
            )
        except Exception:
            if any(isinstance(value, keras.KerasTensor) for value in values):
                raise
            # The layer runs only on data, so the call that follows creates them.
            return
        if self._masked.views:
            self._add_masks()

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        if not self._masked.views:
            self._add_masks()
        self.built = True

    def get_build_config(self) -> Any:
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        if not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
        if not self._masked.views:
            self._add_masks()
        self.built = True

    def _add_masks(self):
        new = [k for k in self._chosen() if self.mask_of(k.variable) is None]
        refuse_quantized(new, "PrunedLayer")
        places = [holders_of(kernel.variable, self.layer) for kernel in new]
        for kernel, holders in zip(new, places, strict=True):
            if not holders:
                raise ValueError(
                    f"Layer '{kernel.layer.name}' ({type(kernel.layer).__name__}) has "
                    f"the kernel '{kernel.path}' in no attribute, so PrunedLayer "
                    "cannot mask it. Assign the variable to an attribute of the "
                    "layer, or to a list, tuple or dict that is one. Or prune the "
                    "model by PruningCallback without a wrapper."
                )
        for kernel, holders in zip(new, places, strict=True):
            self._mask_kernel(kernel, holders)

    def _chosen(self):
        """Returns the kernels in the layer that get a mask."""
        if self.kernels is None:
            selections = select_kernels(
                self.layer, self.pruning_config or PruningConfig()
            )
            for selection in selections:
                selection.check_not_empty()
            return [k for selection in selections for k in selection.kernels]
        found = {kernel.path: kernel for kernel in find_all_kernels(self.layer).kernels}
        missing = [path for path in self.kernels if path not in found]
        if missing:
            raise ValueError(
                f"`kernels` has {missing}, but layer '{self.layer.name}' has these "
                f"kernels: {', '.join(found) or 'none'}."
            )
        return [found[path] for path in self.kernels]

    def _mask_kernel(self, kernel, holders):
        variable = kernel.variable
        config = self.pruning_config or PruningConfig()
        # The wrapper's path already includes the layer's name.
        name = f"{kernel.path.removeprefix(self.layer.name + '/')}/mask"
        mask = self.add_weight(
            **mask_variable_spec(variable.shape, config.mask_bits),
            trainable=False,
            name=name.replace("/", "_"),
        )
        track_for_tensorflow(self, mask, f"mask_{len(self._masked.views)}")
        view = VariableView(variable, functools.partial(self._masked_value, mask))
        owners = {id(owner) for owner, _ in holders}
        self._masked.views.append((view, mask, owners))
        show_view(view, holders)
        regularizer = variable.regularizer
        if regularizer is not None:
            variable.regularizer = lambda value: regularizer(view.function(value))
        for owner in {id(owner): owner for owner, _ in holders}.values():
            if "save_own_variables" not in vars(owner):
                Patch(owner, save_own_variables=saves_variables(owner))
                refused = [name for name in _REFUSED if hasattr(owner, name)]
                Patch(owner, **{name: refusal(owner, name) for name in refused})

    def _masked_value(self, mask, value):
        """Returns the kernel that the layer computes with, of a variable's value."""
        kept = read_mask(as_mask(mask, value.shape))
        masked = apply_mask(value, kept)
        if not self.straight_through:
            return masked
        # Zeros whose gradient is one. An infinite weight has none.
        pruned = ops.logical_and(ops.logical_not(kept), ops.isfinite(value))
        pruned = apply_mask(value, pruned)
        return masked + (pruned - ops.stop_gradient(pruned))

    def mask_of(self, variable: keras.Variable) -> Any:
        """Returns the mask of one of the layer's kernels, or `None`."""
        variable = variable.variable if is_view(variable) else variable
        for view, mask, _ in self._masked.views:
            if view.variable is variable:
                return as_mask(mask, variable.shape)
        return None

    @property
    def masks(self) -> Any:
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

    def save_own_variables(self, store: Any) -> None:
        # The wrapped layer saves its own variables.
        masks = {name: mask for name, (mask, _) in self._own_masks().items()}
        write_state(store, list(self.masks), masks, {})

    def load_own_variables(self, store: Any) -> None:
        owner = f"layer '{self.name}'"
        _, masks, _ = read_state(store, owner)
        check_variables(masks, self._own_masks(), owner)
        for name, (mask, _) in self._own_masks().items():
            mask.assign(masks[name])

    def call(self, *args: Any, **kwargs: Any) -> Any:
        with computed_once(self._views_in_loops()):
            return self.layer(*args, **kwargs)

    def _views_in_loops(self):
        """Returns the views that cells of recurrent layers read in every step."""
        layers = all_layers(self.layer)
        rnns = [layer for layer in layers if isinstance(layer, keras.layers.RNN)]
        if any(recomputes(part) or part.compute_dtype != part.dtype for part in layers):
            # A recomputed layer has to read its variables itself. With mixed precision
            # a plain layer, too, casts its kernels in every step.
            return []
        looped = {id(part) for rnn in rnns for part in all_layers(rnn)}
        return [view for view, _, owners in self._masked.views if owners & looped]

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        """Returns the call unchanged: the layer recomputes itself in a `RematScope`."""
        return layer_call

    def check_plain_fit(self) -> None:
        """Raises an error if it cannot train in a `fit` without a pruning callback."""

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        # The wrapped layer says what to do instead.
        return self.layer.quantize(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.pruning_config is not None:
            config["config"] = self.pruning_config.to_dict()
        if self.kernels is not None:
            config["kernels"] = list(self.kernels)
        return config


class _MaskedKernels:
    """Holds the views of a wrapper where Keras and TensorFlow do not track them.

    Attributes:
        views: List of tuples of a `VariableView`, the variable of its mask, and the set
            of the ids of the layers that read it.
    """

    def __init__(self):
        self.views = []


def _symbolic(value):
    """Replaces a tensor by a symbolic one of the same shape and dtype."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(value.shape, dtype=dtype)
