"""Quantizes a pruned model, and keeps its zeros."""

import copy
import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import all_layers
from keras_pruner.checks import shown
from keras_pruner.comparison import output_error, outputs_of, runnable_inputs
from keras_pruner.kernels import (
    check_built,
    find_all_kernels,
    integers_of,
)
from keras_pruner.pytorch import is_torch_module
from keras_pruner.reporting import weights_of
from keras_pruner.slimming.quantize_report import QuantizeReport, QuantizeRow
from keras_pruner.training import plain_copy
from keras_pruner.types import Data

_STRUCTURE = "quantization_layer_structure"


def quantize(
    model: keras.Model,
    mode: str | None = None,
    data: Data = None,
    *,
    config: Any = None,
    filters: Any = None,
) -> tuple[keras.Model, QuantizeReport]:
    """Returns a quantized plain copy of a model that has all its zeros, and a report.

    Keras' `model.quantize` quantizes the copy. Then every weight that was zero is
    compared. Where the quantizer moved it, as GPTQ may when it corrects errors, it is
    set to zero again: to the zero point, if the integers have one.

    ```python
    model.fit(x, y, epochs=20, callbacks=[PruningCallback(target_sparsity=0.9)])
    small, report = quantize(model, "int8")
    ```

    Args:
        model: Built Keras model: pruned by the callback or in one shot, or wrapped. It
            does not change.
        mode: `"int8"`, `"int4"`, `"float8"`, `"gptq"`, `"awq"`, or what else this Keras
            knows. `None` if `config` says it.
        data: A batch of inputs on which the outputs of both models are compared. By
            default samples are made from the shapes and types of the model's inputs.
        config: Config of `keras.quantizers`, e.g. a `GPTQConfig`. Layers in its
            `quantization_layer_structure` are those of the given model.
        filters: Which layers are quantized, as `model.quantize` takes it in new
            versions of Keras.

    Returns:
        Tuple of the quantized Keras model, not compiled, and a `QuantizeReport`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, Keras refuses mode or config, nothing can be
            quantized, or zeros that are lost cannot be set again.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> _ = model.layers[0].kernel.assign(np.eye(4, 2))
    >>> small, report = quantize(model, "int8")
    >>> report.zeros_before, report.zeros, small.layers[0].quantization_mode
    (6, 6, 'int8')
    """
    if is_torch_module(model):
        raise TypeError(
            "`quantize` takes Keras models. Quantize a torch module by torchao, after "
            "`strip` made it plain."
        )
    check_built(model)
    plain = plain_copy(model)
    bytes_before = _bytes_of(plain)
    before = {k.path: weights_of(k, {}) == 0 for k in _kernels_of(plain)}
    arguments, dense, _ = runnable_inputs(plain, data)
    _quantize(plain, mode, _of_copy(config, model, plain), filters)
    rows = [_keep_zeros(plain, path, zero) for path, zero in before.items()]
    modes = {row.mode for row in rows} - {None}
    if not modes:
        raise ValueError(
            f"Keras quantized no kernel of '{model.name}': no layer that `filters` "
            f"selects takes the mode. Received: mode={shown(mode)}"
        )
    error = None
    if arguments is not None:
        error = output_error(dense, outputs_of(plain, arguments))
    name = ", ".join(sorted(modes))
    return plain, QuantizeReport(name, rows, bytes_before, _bytes_of(plain), error)


def _kernels_of(model):
    """Returns a list of the kernels whose weights can be read."""
    kernels = find_all_kernels(model).matrices
    return [kernel for kernel in kernels if weights_of(kernel, {}) is not None]


def _quantize(model, mode, config, filters):
    given = {"config": config, "filters": filters}
    with warnings.catch_warnings():
        # The report lists the layers that stay as they were.
        for text in (
            "Layer .* does not have a `quantize`",
            "Invalid quantization mode",
        ):
            warnings.filterwarnings("ignore", f".*{text}")
        model.quantize(mode, **{k: v for k, v in given.items() if v is not None})


def _of_copy(config, model, copied):
    """Returns a config that names the layers of a copy in place of the model's."""
    structure = getattr(config, _STRUCTURE, None)
    if structure is None:
        return config
    originals = [x for x in all_layers(model) if not hasattr(x, "mask_of")]
    copies = dict(zip(map(id, originals), all_layers(copied), strict=True))

    def copy_of(layer):
        layer = layer.layer if hasattr(layer, "mask_of") else layer
        if id(layer) not in copies:
            raise ValueError(
                f"`{_STRUCTURE}` of the config has {layer!r}, which is no layer of "
                f"'{model.name}'. Name layers of the given model."
            )
        return copies[id(layer)]

    config = copy.copy(config)
    parts = {key: [copy_of(x) for x in value] for key, value in structure.items()}
    config.quantization_layer_structure = parts
    return config


def _keep_zeros(model, path, was_zero):
    """Sets weights to zero again; returns the `QuantizeRow` of their kernel."""
    # GPTQ keeps the kernel of a layer that it did not calibrate, under the same path.
    kernel = next(
        k
        for k in _kernels_of(model)
        if k.path == path and weights_of(k, {}).shape == was_zero.shape
    )
    layer, variable = kernel.layer, kernel.variable
    lost = was_zero & (weights_of(kernel, {}) != 0)
    stored = ops.convert_to_numpy(variable)
    is_integer = np.issubdtype(stored.dtype, np.integer)
    if lost.any():
        if is_integer:
            variable.assign(integers_of(layer, variable.name, stored).stored(lost))
        else:
            variable.assign(np.where(lost, 0, stored))
        if (was_zero & (weights_of(kernel, {}) != 0)).any():
            raise ValueError(
                f"{lost.sum():,} zeros of '{path}' were lost by quantization, and "
                "cannot be set again. Exclude the layer by `filters`, or choose "
                "another mode."
            )
    mode = getattr(layer, "quantization_mode", None)
    is_quantized = mode is not None and (is_integer or mode == "float8")
    return QuantizeRow(
        path,
        was_zero.shape,
        was_zero.size,
        int(was_zero.sum()),
        int((weights_of(kernel, {}) == 0).sum()),
        int(lost.sum()),
        mode if is_quantized else None,
        None if is_quantized else _reason(layer, mode),
    )


def _reason(layer, mode):
    if mode is not None:
        return f"it was not calibrated for {mode}"
    return f"Keras did not quantize this {type(layer).__name__}"


def _bytes_of(model):
    """Returns the bytes of all weights of a model."""
    return sum(
        math.prod(weight.shape) * ops.convert_to_numpy(weight).itemsize
        for weight in model.weights
    )
