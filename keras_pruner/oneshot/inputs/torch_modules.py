"""What multiplies the kernels of torch's own modules, by their kind."""

import numpy as np
from keras import ops

from keras_pruner.oneshot.inputs.convolutions import windowed_inputs
from keras_pruner.oneshot.inputs.dense import class_inputs
from keras_pruner.oneshot.inputs.rows import dense_inputs
from keras_pruner.oneshot.inputs.rules import register_module_inputs

# Name of a padding in torch -> in NumPy.
_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@register_module_inputs("linear")
def _linear(module, inputs):
    return {"weight": inputs}


@register_module_inputs("bilinear")
def _bilinear(module, left, right):
    pairs = left[..., :, None] * right[..., None, :]
    return {"weight": ops.reshape(pairs, (*left.shape[:-1], -1))}


@register_module_inputs("conv")
def _conv(module, inputs):
    padding = module.padding
    if padding == "valid":
        padding = (0,) * len(module.kernel_size)
    geometry = (
        module.kernel_size,
        module.stride,
        padding,
        module.dilation,
        module.padding_mode,
    )
    return {"weight": _windowed(module, inputs, _conv_axis, geometry)}


@register_module_inputs("conv_transpose")
def _conv_transpose(module, inputs, output_size=None):
    rank = len(module.kernel_size)
    size = (None,) * rank if output_size is None else tuple(output_size)[-rank:]
    geometry = (
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.output_padding,
        size,
    )
    return {"weight": _windowed(module, inputs, _transpose_axis, geometry)}


@register_module_inputs("recurrent")
def _recurrent(module, inputs):
    return inputs


@register_module_inputs("cell")
def _cell(module, inputs, hx=None):
    if hx is None:
        hx = ops.zeros((*inputs.shape[:-1], module.hidden_size), inputs.dtype)
    state = hx[0] if isinstance(hx, tuple | list) else hx
    return {"weight_ih": inputs, "weight_hh": state}


@register_module_inputs("attention")
def _attention(module, query, key, value, *args, **kwargs):
    names = "q_proj_weight", "k_proj_weight", "v_proj_weight"
    told = _of_equal_length(query, key, value)
    if query is key and key is value:
        return dict(zip(names, told, strict=True)) | {"in_proj_weight": query}
    columns = np.arange(3 * module.embed_dim).reshape(3, 1, -1)
    packed = [
        dense_inputs(each, columns=own) for each, own in zip(told, columns, strict=True)
    ]
    return dict(zip(names, told, strict=True)) | {"in_proj_weight": packed}


@register_module_inputs("embedding")
def _embedding(module, inputs):
    if module.max_norm is not None:
        return {"weight": "`max_norm` changes the table while the data reaches it"}
    return {"weight": class_inputs(inputs, module.num_embeddings)}


def _of_equal_length(*tensors):
    """Returns tensors (n, K): all of the shortest, and as many rows of the others."""
    rows = [ops.reshape(tensor, (-1, tensor.shape[-1])) for tensor in tensors]
    least = min(len(each) for each in rows)
    return [_spread(*pair, least) for pair in zip(tensors, rows, strict=True)]


def _spread(tensor, rows, number):
    if len(rows) == number:
        return tensor
    index = np.linspace(0, len(rows) - 1, number).astype("int32")
    return ops.take(rows, index, axis=0)


def _windowed(module, inputs, axis_map, geometry):
    if len(inputs.shape) == len(module.kernel_size) + 1:
        # A sample without a batch.
        inputs = inputs[None]
    return windowed_inputs(inputs, "channels_first", axis_map, geometry, module.groups)


def _conv_axis(size, window, stride, padding, dilation, mode):
    """Places that a convolution reads along an axis, (positions, window)."""
    extent = (window - 1) * dilation + 1
    before, after = (padding, padding)
    if padding == "same":
        before = (extent - 1) // 2
        after = extent - 1 - before
    if mode == "zeros":
        places = np.pad(np.arange(size), (before, after), constant_values=-1)
    else:
        places = np.pad(np.arange(size), (before, after), _MODES[mode])
    starts = np.arange(0, len(places) - extent + 1, stride)
    return places[starts[:, None] + np.arange(window) * dilation]


def _transpose_axis(size, window, stride, padding, dilation, output_padding, length):
    """Places that a transposed convolution reads along an axis, (positions, window).

    Input i reaches output `i * stride + w * dilation - padding` by window place w.
    """
    extent = (window - 1) * dilation + 1
    if length is None:
        length = (size - 1) * stride + extent - 2 * padding + output_padding
    reached = np.arange(length)[:, None] + padding - np.arange(window) * dilation
    places = reached // stride
    is_read = (reached % stride == 0) & (places >= 0) & (places < size)
    return np.where(is_read, places, -1)
