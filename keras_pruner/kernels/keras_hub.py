"""Which variables of KerasHub's own layers are kernels, without importing KerasHub.

Most of KerasHub is made of Keras layers, or of subclasses of them. These are the layers
that hold matrices of their own.
"""

from keras_pruner.kernels.layouts import KernelLayout, dense_layout, stacked_layout


def _channel_window_layout(shape):
    """Layout of `(channels, window)`: each channel sees itself at a few positions."""
    channels, window = shape
    return KernelLayout(
        tuple(shape), (window,), 1, channels, groups=channels, permutation=(1, 0)
    )


def _all(layout, *names):
    return dict.fromkeys(names, layout)


_TWO_MATRICES = _all(
    stacked_layout, "expert_feedforward_gate_dense", "expert_feedforward_output_dense"
)

# Class name -> name of a variable -> layout of its shape.
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
    """Finds the kernels among the variables of a KerasHub layer, or of a subclass.

    Args:
        layer: Any Keras layer.
        variables: Its own variables.

    Returns:
        Dict from the name of a variable to its `KernelLayout`, or `None` if KerasHub
        has no such layer, or one without matrices of its own.
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
