"""Removes what a model's zeros make useless."""

import keras

from keras_pruner.channels import ChannelGraph
from keras_pruner.slimming.check_model import check_can_be_cut
from keras_pruner.slimming.cutting import cut, refused_groups
from keras_pruner.slimming.shrink_report import ShrinkReport, rows_of
from keras_pruner.slimming.shrinking import ONE_STAYS, find_removable
from keras_pruner.slimming.verify import verify
from keras_pruner.training import plain_copy
from keras_pruner.types import Data

# Each pass may make rows zero that a channel of the pass before it was read by.
_MAX_PASSES = 20


def shrink(
    model: keras.Model, data: Data = None, *, check: bool = True
) -> tuple[keras.Model, ShrinkReport]:
    """Returns a smaller plain model with the same outputs, and a report.

    Zeros in weights, and masks of wrapper layers, make channels useless: units,
    filters and heads that nothing reads, or that are constant. They are removed from
    all layers at once. What constant channels give to the layers that read them is
    added to the biases of these. A residual branch that adds only zeros is left out.
    Then both models run on the same inputs, with `training=False`; where float32
    cannot tell whether they are equal, in float64.

    The smaller model has no wrapper layers, loads without this package and is not
    compiled. Names of layers, policies of dtypes, and which layers are frozen stay. A
    group of channels keeps at least one, unless its branch is left out. A group stays
    whole if one of its layers cannot be created with fewer channels: the report says
    which. A model from which nothing can be removed is copied.

    Args:
        model: Built Keras model. It is not changed.
        data: A batch of inputs, as the model takes them, on which the models run. By
            default samples are made from the shapes and types of its inputs.
        check: Whether to compare the outputs of both models.

    Returns:
        Tuple of the smaller Keras model and a `ShrinkReport`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built, is quantized or cannot be copied, or the
            smaller model computes other outputs.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1, name="head"),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[1.0, 0.0, 2.0], [3.0, 0.0, 4.0]])
    >>> _ = model.layers[0].bias.assign([0.0, 5.0, 0.0])
    >>> _ = model.layers[1].kernel.assign([[1.0], [2.0], [3.0]])
    >>> smaller, report = shrink(model)
    >>> smaller.layers[0].units, report.parameters_before, report.parameters_after
    (2, 13, 9)
    >>> ops.convert_to_numpy(smaller.layers[1].bias).tolist()
    [10.0]
    """
    check_can_be_cut(model)
    smaller = plain_copy(model)
    before, reasons, refused = rows_of(smaller), {}, {}
    for _ in range(_MAX_PASSES):
        graph = ChannelGraph(smaller)
        found = find_removable(smaller, graph, data, refused)
        # A group of one channel may be none in the next graph.
        kept_one = {k: r for k, r in reasons.items() if r == ONE_STAYS}
        reasons = kept_one | found.reasons
        if found.is_empty:
            break
        kept = graph.kept(found.channels)
        try:
            smaller = cut(
                smaller, graph, kept, constants=found.constants, passes=found.passes
            )
        except ValueError:
            groups = [group for group in graph.groups if group.name in found.channels]
            if not (now_refused := refused_groups(smaller, graph, groups)):
                raise
            refused |= now_refused
    verification = verify(model, smaller, data) if check else None
    report = ShrinkReport.of(model, before, smaller, graph, reasons, verification)
    return smaller, report
