"""Finds the kernels of KerasHub's own layers, without importing KerasHub.

Most of KerasHub consists of Keras layers or their subclasses. This file covers the
layers that hold matrices of their own.
"""

from keras_pruner.kernels.layouts import KernelLayout, dense_layout, stacked_layout


def _channel_window_layout(shape):
    """Returns the layout of `(channels, window)`; a channel sees itself in a window."""
    channels, window = shape
    return KernelLayout(
        tuple(shape), (window,), 1, channels, groups=channels, permutation=(1, 0)
    )


def _all(layout, *names):
    return dict.fromkeys(names, layout)


_TWO_MATRICES = _all(
    stacked_layout, "expert_feedforward_gate_dense", "expert_feedforward_output_dense"
)

# Maps a class name and a variable name to the function that returns a layout.
_LAYOUTS = {
    "Gemma4AudioRelativePositionEmbedding": _all(dense_layout, "pos_proj"),
    "Gemma4MoEBlock": _all(stacked_layout, "gate_proj", "up_proj", "down_proj"),
    "GptOssExperts": _all(stacked_layout, "gate_up_proj", "down_proj"),
    "MaskedLMHead": _all(dense_layout, "output_kernel"),
    "MixtralMoeExperts": _TWO_MATRICES
    | _all(stacked_layout, "expert_feedforward_intermediate_dense"),
    "Qwen3MoeExperts": _TWO_MATRICES,
    "Qwen3_5GatedDeltaNet": _all(_channel_window_layout, "conv1d_kernel"),
    "Qwen3_5MoeExperts": _TWO_MATRICES,
    "QwenMoeExperts": _TWO_MATRICES,
    "RWKV7TimeMix": _all(dense_layout, "w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"),
}


def hub_layouts(layer, variables):
    """Finds the kernels among the variables of a KerasHub layer or its subclass.

    Args:
        layer: Any Keras layer.
        variables: The layer's own variables.

    Returns:
        Dict from the name of a variable to its `KernelLayout`, or `None` if the layer
        is not KerasHub's or has no matrices of its own.
    """
    for layer_class in type(layer).__mro__:
        if layer_class.__module__.partition(".")[0] == "keras_hub":
            layouts = _LAYOUTS.get(layer_class.__name__)
            if layouts is not None:
                return {
                    variable.name: layouts[variable.name](variable.shape)
                    for variable in variables
                    if variable.name in layouts
                }
    return None
