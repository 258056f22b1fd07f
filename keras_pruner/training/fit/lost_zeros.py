"""Tells when a model has lost the zeros of its masks, or is about to lose them."""

import math
import weakref

from absl import logging

from keras_pruner.backend import all_layers, count_true, has_own_train_step
from keras_pruner.kernels import find_all_kernels, find_wrapped, is_quantized
from keras_pruner.masks import read_mask
from keras_pruner.pruners import count_zeros

# Share of zeros above which a model counts as pruned, though not by this process.
_SHARE = 0.3
_pruned = weakref.WeakSet()
_checked = weakref.WeakSet()
_checked_for_lora = weakref.WeakSet()


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
    if not has_own_train_step(model):
        for wrapper in find_wrapped(model):
            wrapper.check_plain_fit()
    if model in _checked or not model.built:
        return
    _checked.add(model)
    found = find_all_kernels(model).kernels
    kernels = [kernel for kernel in found if kernel.variable.trainable]
    masks = [kernel.wrapper_mask for kernel in kernels]
    masks = [read_mask(mask) for mask in masks if mask is not None]
    # A training step of the user's own may call the hooks of a pruner.
    if masks and not has_own_train_step(model):
        if all(count_true(mask) == math.prod(mask.shape) for mask in masks):
            logging.warning(
                "'%s' has layers that are wrapped for pruning, but this `fit` has no "
                "PruningCallback, so their masks keep all weights: the model trains "
                "dense. Add `PruningCallback(...)` to `callbacks`.",
                model.name,
            )
        return
    _warn_if_sparse(model, [k for k in kernels if k.wrapper_mask is None])


def warn_of_lora(model):
    """Warns once if LoRA is added to kernels that are pruned, so the sum is dense.

    Args:
        model: Keras model, before its `fit`.
    """
    layers = [each for each in all_layers(model) if _has_float_lora(each)]
    if model in _checked_for_lora or not layers:
        return
    _checked_for_lora.add(model)
    kernels = [k for k in find_all_kernels(model).known if _has_float_lora(k.layer)]
    zeros = sum(map(count_zeros, kernels))
    share = zeros / max(1, sum(kernel.layout.size for kernel in kernels))
    if share > _SHARE:
        logging.warning(
            "%.1f %% of the weights in the kernels of '%s' under LoRA are zero, as of "
            "a pruned model. LoRA is added to them, so the layers compute with fewer "
            "zeros, and what is saved has fewer. To have both, train with LoRA first, "
            "save and load the model, which merges LoRA, and prune it then.",
            100 * share,
            model.name,
        )


def warn_of_assigned_weights(group):
    """Warns before a second `fit` if weights were assigned since the first.

    Args:
        group: `PrunerGroup`.
    """
    zeros, pruned = group.count_zeros(), group.num_pruned
    if zeros < pruned:
        logging.warning(
            "Since the last `fit`, weights were assigned with a sparsity of %.4f. The "
            "callback continues with its masks, which have %.4f. To start with new "
            "masks, call `callback.reset()` before `fit`.",
            zeros / group.num_weights,
            pruned / group.num_weights,
        )


def check_zeros_at_end(group, reapply_masks):
    """Warns if the weights have fewer zeros than the masks, or applies the masks.

    Args:
        group: `PrunerGroup`, after `fit`.
        reapply_masks: Whether to apply the masks instead of warning.
    """
    zeros, pruned, weights = group.count_zeros(), group.num_pruned, group.num_weights
    if zeros >= pruned:
        return
    if reapply_masks:
        group.take_over_weights()
        group.apply_masks()
        logging.info(
            "Weights were assigned after the last training step, with a sparsity of "
            "%.4f. The masks were applied again: %.4f.",
            zeros / weights,
            group.count_zeros() / weights,
        )
        return
    logging.warning(
        "The model ends with a sparsity of %.4f, though the masks have %.4f: weights "
        "were assigned after the last training step, e.g. by "
        "`EarlyStopping(restore_best_weights=True)`. To restore the best epoch at the "
        "target sparsity, wrap that callback: "
        "`callbacks=[pruning, pruning.at_target(EarlyStopping(...))]`. Or let "
        "`PruningCallback(reapply_masks=True)` prune the assigned weights.",
        zeros / weights,
        pruned / weights,
    )


def _has_float_lora(layer):
    """Whether LoRA is added to a kernel that is not quantized."""
    return getattr(layer, "lora_enabled", False) and not is_quantized(layer)


def _warn_if_sparse(model, kernels):
    is_known = model in _pruned
    if not kernels or not (is_known or not has_own_train_step(model)):
        return
    zeros = list(map(count_zeros, kernels))
    sizes = [kernel.layout.size for kernel in kernels]
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
