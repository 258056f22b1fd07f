"""Says what the zeros of each kernel bring on an engine."""

import dataclasses

import numpy as np
from keras import ops

from keras_pruner.components import CAPABILITIES, PATTERNS, Block, capability_of
from keras_pruner.kernels import find_all_kernels, masks_of
from keras_pruner.reporting import weights_of

# So many of the zeros must lie in whole groups of a pattern.
_IN_GROUPS = 0.9
# Other patterns that are looked for.
_BLOCKS = ("1x4", "4x1")
_NO_ZEROS = "no weight is zero"


@dataclasses.dataclass(frozen=True)
class GainRow:
    """What the zeros of one kernel bring.

    Args:
        path: The kernel's path.
        shape: Its shape.
        parameters: Number of its weights.
        zeros: Number of its weights that are zero.
        pattern: The pattern of its zeros: the one that the engine rewards most, if they
            have it; else `"1x4"`, `"4x1"` or `"1x1"`; or `"-"` without zeros.
        rewards: What they bring: `"nothing"`, `"size"`, `"time"` or `"size and time"`.
        reason: Why.
    """

    path: str
    shape: tuple
    parameters: int
    zeros: int
    pattern: str
    rewards: str
    reason: str

    @property
    def skipped(self):
        """The reason why the kernel does not gain, or `None`."""
        return self.reason if self.rewards == "nothing" else None


def gains_of(model, exporter, hardware=None):
    """Returns a tuple with a `GainRow` for each kernel of a model.

    Args:
        model: Built Keras model. Masks of its wrapper layers count as zeros.
        exporter: `Exporter` of the file.
        hardware: As in `capability_of`.
    """
    capability = CAPABILITIES.get(exporter.engine)
    names = (capability.settings.get("pattern", "1x1"), *_BLOCKS)
    patterns = [PATTERNS.get(name) for name in names]
    masks = masks_of(model)
    rows = []
    for kernel in find_all_kernels(model).matrices:
        weights = weights_of(kernel, masks)
        if weights is None:
            continue
        zeros = int(weights.size - np.count_nonzero(weights))
        found = (p for p in patterns if has_pattern(weights, kernel.layout, p))
        pattern = next(found, "1x1")
        if zeros == 0:
            pattern, rewards, reason = "-", "nothing", _NO_ZEROS
        else:
            judged = capability_of(
                exporter.engine,
                pattern,
                sparsity=zeros / weights.size,
                layer_types=_layer_type(kernel.layer, capability.layer_types),
                hardware=hardware,
                dtype=exporter.dtype,
            )
            rewards, reason = judged.rewards, judged.reason
            refusal = exporter.unrewarded(zeros / weights.size)
            if refusal is not None and rewards != "nothing":
                rewards, reason = "nothing", refusal
        shape = tuple(kernel.variable.shape)
        rows.append(
            GainRow(
                kernel.path, shape, weights.size, zeros, str(pattern), rewards, reason
            )
        )
    return tuple(rows)


def has_pattern(weights, layout, pattern):
    """Whether nine of ten zeros of a kernel lie in groups of a block pattern.

    Args:
        weights: Array of the kernel's shape.
        layout: `KernelLayout`.
        pattern: `Pattern`. Patterns other than blocks are not looked for.

    Example:

    >>> from keras_pruner.kernels import dense_layout
    >>> layout = dense_layout((4, 2))
    >>> weights = np.array([[0, 1], [0, 2], [0, 3], [0, 4]])
    >>> has_pattern(weights, layout, Block(outputs=1, inputs=4))
    True
    >>> has_pattern(weights, layout, Block(outputs=2, inputs=1))
    False
    """
    zeros = weights.size - np.count_nonzero(weights)
    # No layout tells how integers of a quantized kernel are stored.
    has_blocks = layout is not None and tuple(layout.shape) == weights.shape
    if not (zeros and has_blocks and isinstance(pattern, Block)):
        return False
    if pattern.reason_to_skip(layout) is not None:
        return False
    matrix = ops.convert_to_numpy(layout.to_matrix(weights != 0))
    blocks = matrix.reshape(
        layout.rows // pattern.inputs,
        pattern.inputs,
        layout.outputs // pattern.outputs,
        pattern.outputs,
    )
    empty = np.count_nonzero(~blocks.any(axis=(1, 3)))
    return bool(empty * pattern.inputs * pattern.outputs >= _IN_GROUPS * zeros)


def _layer_type(layer, known):
    """Returns the name of a layer's class, or of the base class that is known."""
    names = [cls.__name__ for cls in type(layer).__mro__]
    return next((name for name in names if name in (known or ())), names[0])
