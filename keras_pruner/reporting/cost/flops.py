"""Counts the floating point operations of each layer of a model."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_pruner.channels import ChannelGraph
from keras_pruner.kernels import check_built, find_all_kernels, is_quantized, masks_of
from keras_pruner.reporting.kernel_values import masked_value, weights_of
from keras_pruner.reporting.lines import lines_of
from keras_pruner.reporting.render import Column, Shown, View
from keras_pruner.reporting.rows import sum_of
from keras_pruner.types import Data, Rows

_NO_PRODUCT = "not counted: no product with this kernel was found"


@dataclasses.dataclass(frozen=True)
class FlopsRow:
    """Operations of one layer.

    Args:
        path: Path of the layer, or `"(model)"` for products in the model's own `call`.
        layer: Name of the layer's class.
        flops: Number of operations: 2 for each multiply-add.
        effective_flops: The same without products by a weight that is zero.
        skipped: Why the operations of a kernel are not counted, or `None`.
    """

    path: str
    layer: str
    flops: int
    effective_flops: int
    skipped: str | None = None


class FlopsReport(Shown):
    """Holds the operations of a model, layer by layer and in total.

    It prints as a table, shows as HTML in notebooks, and `rows()` returns plain dicts.

    Args:
        layers: Tuple of `FlopsRow`.
        input_shapes: List of the shapes of the model's inputs that were counted.

    Attributes:
        flops: All operations.
        effective_flops: All operations without products by a weight that is zero.
    """

    def __init__(self, layers: Sequence[Any], input_shapes: Sequence[Any]) -> None:
        self.layers = tuple(layers)
        self.input_shapes = list(input_shapes)
        self.flops = sum_of(self.layers, "flops")
        self.effective_flops = sum_of(self.layers, "effective_flops")

    def rows(self) -> Rows:
        """Returns one dict per layer, with the fields of `FlopsRow`."""
        return [dataclasses.asdict(row) for row in self.layers]

    def totals(self) -> dict[str, Any]:
        """Returns the totals as a dict of numbers."""
        return {"flops": self.flops, "effective_flops": self.effective_flops}

    def summary_lines(self) -> list[str]:
        """Returns the sentences above the table, as a list."""
        shapes = ", ".join(map(str, self.input_shapes))
        lines = [
            f"{self.flops:,} FLOPs for inputs of shape {shapes}, 2 for each "
            "multiply-add of matrix products, convolutions and attention. Biases, "
            "activations, normalization, pooling and other element-wise operations are "
            "not counted."
        ]
        if self.effective_flops < self.flops:
            lines.append(
                f"{self.effective_flops:,} of them are products by a weight that is "
                "not zero. Dense kernels compute the others too."
            )
        return lines

    def view(self, expand: bool = False) -> View:
        """Returns what the table shows.

        Args:
            expand: As in `to_text`.
        """

        def share(rows):
            return sum_of(rows, "flops") / self.flops if self.flops else None

        columns = [
            Column("class", _class_of, False, rank=3),
            Column.of_sum("FLOPs", "flops"),
            Column.of_share("share", share, rank=1),
        ]
        if self.effective_flops < self.flops:
            columns.append(Column.of_sum("effective FLOPs", "effective_flops", rank=2))
        lines = lines_of(self.layers, lambda row: row.layer, expand)
        return View(self.summary_lines(), columns, lines, self.layers, "layer")


def _class_of(rows):
    names = {row.layer for row in rows}
    return names.pop() if len(names) == 1 else ""


def count_flops(model: keras.Model, inputs: Data = None) -> FlopsReport:
    """Counts the floating point operations of each layer of a model.

    `FLOPs = 2 * multiply-adds`, of one forward pass. The multiply-adds are those of all
    sums of products: a dense layer has `inputs * units` at each position, a convolution
    `window * input channels / groups * filters` at each position of its outputs. With
    padding, the products by zeros at the borders are counted too. A recurrent layer
    counts all its steps. Element-wise operations are not counted.

    Args:
        model: Built Keras model of any kind. It does not run, and does not change.
        inputs: Arrays as the model takes them. Only the shapes and types are used. By
            default one sample of the shape that the model says; axes that it leaves
            open, such as the length of sequences, get a size that the report states.

    Returns:
        `FlopsReport`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built, or its inputs are not known.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.Flatten(),
    ...     keras.layers.Dense(10, name="head"),
    ... ])
    >>> [(row["path"], row["flops"]) for row in count_flops(model).rows()]
    [('conv', 7776), ('head', 2880)]
    """
    check_built(model)
    graph = ChannelGraph(model, inputs)
    masks = masks_of(model)
    search = find_all_kernels(model)
    quantized = {id(k.layer): k for k in search.known if is_quantized(k.layer)}
    densities = {}
    counts = collections.defaultdict(lambda: [0, 0])
    classes = {}
    for contraction in graph.contractions:
        number, effective = 2 * contraction.multiply_adds, 1.0
        kernel = quantized.get(id(contraction.layer))
        operands = graph.operands(contraction)
        for variable in operands if kernel is None else [kernel.variable]:
            if id(variable) not in densities:
                densities[id(variable)] = _density(variable, masks, kernel)
            effective *= densities[id(variable)]
        path = contraction.path or "(model)"
        classes[path] = type(contraction.layer or model).__name__
        counts[path][0] += number
        counts[path][1] += number * effective
    rows = [
        FlopsRow(path, classes[path], number, round(effective))
        for path, (number, effective) in counts.items()
    ]
    kernels = {id(k.variable): k for k in (*search.kernels, *quantized.values())}
    rows += [
        FlopsRow(kernel.path, type(kernel.layer).__name__, 0, 0, _NO_PRODUCT)
        for key, kernel in kernels.items()
        if not kernel.on_request and key not in densities
    ]
    return FlopsReport(rows, graph.input_shapes)


def _density(variable, masks, quantized=None):
    """Returns the share of a variable's elements that are not zero, as masked.

    Args:
        variable: `keras.Variable`.
        masks: Dict from the id of a variable to its mask.
        quantized: `Kernel` of the variable if its layer is quantized. If its weights
            cannot be read, none counts as zero.
    """
    if quantized is None:
        values = masked_value(variable, masks)
    else:
        values = weights_of(quantized, masks)
    if values is None:
        return 1.0
    return np.count_nonzero(values) / max(1, values.size)
