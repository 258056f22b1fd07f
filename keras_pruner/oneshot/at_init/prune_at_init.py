"""Prunes in one shot from a few batches, at initialisation or after training."""

import dataclasses
import typing
from collections.abc import Callable

import keras
from keras import ops

from keras_pruner.comparison import check_copy
from keras_pruner.config import (
    AnyConfig,
    Settings,
    merged_config,
    refuse_overlaps,
    takes_settings,
)
from keras_pruner.kernels import check_built, refuse_quantized
from keras_pruner.oneshot.at_init.calibration_data import as_batches
from keras_pruner.oneshot.at_init.loss_gradients import Probe
from keras_pruner.pruners import PrunerGroup
from keras_pruner.reporting import progress_bar
from keras_pruner.training import plain_copy
from keras_pruner.types import Data, Tensor


@takes_settings
def prune_at_init(
    model: keras.Model,
    data: Data = None,
    *,
    config: AnyConfig = None,
    loss: str | Callable[..., Tensor] | None = None,
    batch_size: int = 32,
    in_place: bool = False,
    check: bool = True,
    verbose: bool = True,
    **settings: typing.Unpack[Settings],
) -> keras.Model:
    """Prunes a model in one shot, from a few batches of data.

    The criteria for untrained models are `"snip"` (default), `"grasp"` and `"synflow"`.
    As published, they rank all kernels together unless you set `allocation`. Every
    other criterion works too. Gradient criteria see each batch once, with the weights
    unchanged. `pruning_type="retrain_free"` prunes the channels of a trained model.

    To train the pruned model, lock its zeros:

    ```python
    sparse = prune_at_init(model, (x, y), criterion="snip", target_sparsity=0.9)
    sparse.compile("adam", "sparse_categorical_crossentropy")
    sparse.fit(x, y, callbacks=[PruningCallback(pruning_type="pattern_lock")])
    ```

    Args:
        model: Built Keras model.
        data: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays; or an iterable of
            such batches, all of which are used. `None` for criteria without data:
            `"synflow"`, `"magnitude"`, `"random"`, `"lamp"`.
        config: `PruningConfig` or dict. Its steps and schedule have no meaning here.
        loss: Function from `(y_true, y_pred)` to a loss. The default is the loss that
            the model was compiled with.
        batch_size: Samples in a batch, if `data` holds arrays.
        in_place: Whether to prune the model itself. By default it does not change.
        check: Whether to compare the copy with the model before it is pruned, on the
            first batch of the data, or on made inputs; see `strip`.
        verbose: Whether to show a progress bar and a line on the result.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Returns:
        The model, pruned; a plain uncompiled copy unless `in_place`.

    Raises:
        ValueError: If the data is missing, empty, or does not fit; if the model has
            no loss; if nothing can be pruned; or if the copy computes other outputs.
            The weights then do not change.
    """
    check_built(model)
    config = _with_defaults(merged_config(config, settings))
    refuse_overlaps(config, "prune_at_init")
    pruned = model if in_place else plain_copy(model)
    group = PrunerGroup(config, pruned)
    refuse_quantized(group.kernels, "prune_at_init")
    needs = {p.config.criterion.needs: p.config.criterion for p in group.pruners}
    if "activations" in needs:
        raise ValueError(
            f"Criterion '{needs['activations'].name}' needs activations, which "
            "`prune_at_init` does not collect. Use 'snip' or another criterion."
        )
    if "second_moment" in needs:
        raise ValueError(
            f"Criterion '{needs['second_moment'].name}' reads the optimizer of a "
            "training run, and `prune_at_init` has none. Use 'fisher', which computes "
            "the same from batches."
        )
    batches = []
    if data is not None:
        batches = as_batches(data, batch_size, model)
    elif "gradients" in needs:
        raise ValueError(
            f"Criterion '{needs['gradients'].name}' needs data: "
            "`prune_at_init(model, (x, y))`, or a data set of batches. Without data "
            "use 'synflow', 'magnitude' or 'random'."
        )
    loss_of = None
    if "gradients" in needs:
        loss_of = _loss_function(model, loss)
        _try_loss(pruned, batches[0], loss_of)
    if check and not in_place:
        check_copy(model, pruned, _first_inputs(batches))
    before = [ops.copy(v) for v in pruned.weights]
    try:
        for pruner in group.pruners:
            _prune(pruner, pruned, batches, loss_of, verbose)
    except BaseException:
        for variable, value in zip(pruned.weights, before, strict=True):
            variable.assign(value)
        raise
    if verbose:
        print(
            f"prune_at_init: {len(group.kernels)} kernels, {group.num_pruned:,} of "
            f"{group.num_weights:,} weights pruned ({group.current_sparsity_ratio:.2%})"
        )
    return pruned


def _with_defaults(config):
    """Sets the defaults: SNIP, and one ranking of all kernels for gradient criteria."""
    if config.criterion is None and config.pruning_type == "basic":
        config = dataclasses.replace(config, criterion="snip")
    learns = config.criterion is not None and config.criterion.has_memory
    if config.allocation is None and learns:
        config = dataclasses.replace(config, allocation="global")
    if config.criterion is not None and config.criterion.num_rounds > 1:
        # Later rounds keep pruned weights pruned, also when others score zero too.
        config = dataclasses.replace(config, resume_from_pruned_checkpoint=True)
    if config.local_configs:
        local = tuple(map(_with_defaults, config.local_configs))
        config = dataclasses.replace(config, local_configs=local)
    return config


def _first_inputs(batches):
    """Returns the inputs of the first batch, or `None` without data."""
    return keras.utils.unpack_x_y_sample_weight(batches[0])[0] if batches else None


def _loss_function(model, loss):
    if loss is not None:
        function = keras.losses.get(loss)

        def given(x, y, outputs, sample_weight):
            values = function(y, outputs)
            if sample_weight is not None:
                values = values * sample_weight
            return ops.mean(values)

        return given
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"'{model.name}' is not compiled, so its loss is not known. Compile it "
            "with a loss, or give `loss`."
        )

    def compiled(x, y, outputs, sample_weight):
        return model.compute_loss(
            x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True
        )

    return compiled


def _try_loss(model, batch, loss):
    """Runs the loss once, to find data that does not fit before pruning."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    if y is None:
        raise ValueError(
            "The loss needs targets: give `data` as (x, y), or batches of that form."
        )
    try:
        with keras.StatelessScope():
            value = loss(x, y, model(x, training=True), sample_weight)
    except Exception as error:
        raise ValueError(
            f"The loss of '{model.name}' cannot be computed on `data`: {error}"
        ) from error
    if not bool(ops.all(ops.isfinite(value))):
        raise ValueError(
            f"The loss of '{model.name}' on `data` is NaN or infinite, so no gradient "
            "says what to prune. Look at the data and the weights."
        )


def _prune(pruner, model, batches, loss, verbose):
    """Approaches the target in the number of rounds that the criterion asks for."""
    criterion, target = pruner.config.criterion, pruner.target_sparsity_ratio
    rounds = criterion.num_rounds
    with progress_bar(verbose) as progress:
        bar = progress.add_task(f"{criterion.name}", total=rounds)
        probe = Probe(model, pruner.kernels, batches, loss)
        for number in range(1, rounds + 1):
            if criterion.has_memory:
                _calibrate(pruner, probe)
            # Every round prunes the same share of the remaining weights.
            pruner.update_masks(1 - (1 - target) ** (number / rounds))
            progress.advance(bar)


def _calibrate(pruner, probe):
    """Fills the criterion states of a pruner from the batches of a probe."""
    criterion = pruner.config.criterion
    rules = list(pruner.rules.values())
    states = [pruner.state_variables[kernel.path] for kernel in pruner.kernels]
    memories = criterion.calibrate(
        [
            rule.memory_matrix(ops.zeros(state["memory"].shape, "float32"))
            for rule, state in zip(rules, states, strict=True)
        ],
        [
            kernel.layout.to_matrix(ops.cast(pruner.source_value(kernel), "float32"))
            for kernel in pruner.kernels
        ],
        [rule.pool for rule in rules],
        probe,
    )
    for rule, state, memory in zip(rules, states, memories, strict=True):
        state["memory"].assign(rule.kept_memory(memory, state["memory"]))
    pruner.note_gradients()
