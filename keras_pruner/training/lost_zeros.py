"""Warns before a `fit` that would lose the zeros of a pruned model."""

import weakref

from absl import logging
from keras import ops

from keras_pruner.backend import count_true, has_own_train_step
from keras_pruner.kernels import find_all_kernels
from keras_pruner.masks import read_mask

# Share of zeros above which a model counts as pruned, though not by this process.
_SHARE = 0.3
_pruned = weakref.WeakSet()
_checked = weakref.WeakSet()


def remember_pruned(model):
    """Records that a model has pruned weights that a plain `fit` would change."""
    _pruned.add(model)
    _checked.discard(model)


def warn_of_plain_fit(model, callbacks):
    """Warns once if a model is pruned or wrapped, and no callback keeps it sparse.

    Args:
        model: Keras model, before its `fit`.
        callbacks: List of the callbacks of `fit`.
    """
    if any(getattr(one, "prunes_in_fit", False) for one in callbacks):
        _checked.discard(model)
        return
    if model in _checked or not model.built:
        return
    _checked.add(model)
    found = find_all_kernels(model).kernels
    kernels = [kernel for kernel in found if kernel.variable.trainable]
    masks = [kernel.wrapper_mask for kernel in kernels]
    masks = [read_mask(mask) for mask in masks if mask is not None]
    # A training step of the user's own may call the hooks of a pruner.
    if masks and not has_own_train_step(model):
        if all(count_true(mask) == _size(mask) for mask in masks):
            logging.warning(
                "'%s' has layers that are wrapped for pruning, but this `fit` has no "
                "PruningCallback, so their masks keep all weights: the model trains "
                "dense. Add `PruningCallback(...)` to `callbacks`.",
                model.name,
            )
        return
    _warn_if_sparse(model, [kernel for kernel in kernels if not kernel.wrapper_mask])


def _warn_if_sparse(model, kernels):
    is_known = model in _pruned
    if not kernels or not (is_known or not has_own_train_step(model)):
        return
    values = [ops.convert_to_tensor(kernel.variable) for kernel in kernels]
    zeros = [count_true(ops.equal(value, 0)) for value in values]
    sizes = list(map(_size, values))
    if not is_known:
        # A kernel of zeros alone was initialized so.
        parts = [(z, s) for z, s in zip(zeros, sizes, strict=True) if z < s]
        zeros, sizes = [z for z, _ in parts], [s for _, s in parts]
    share = sum(zeros) / max(1, sum(sizes))
    if share > (0 if is_known else _SHARE):
        logging.warning(
            "%.1f %% of the weights in the kernels of '%s' are zero, as of a pruned "
            "model, and this `fit` has no PruningCallback: its optimizer will change "
            "them, so the zeros get lost. To keep them, add "
            '`PruningCallback(pruning_type="pattern_lock")` to `callbacks`, or the '
            "PruningCallback that pruned the model.",
            100 * share,
            model.name,
        )


def _size(tensor):
    size = 1
    for length in tensor.shape:
        size *= int(length)
    return size
