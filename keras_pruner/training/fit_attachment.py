"""What is put into a model for the time that it is pruned in `fit`."""

import keras

from keras_pruner.backend import beside, innermost
from keras_pruner.kernels import check_built, find_kernels, find_wrapped
from keras_pruner.pruners import create_pruners
from keras_pruner.training.pruning_optimizer import PruningOptimizer
from keras_pruner.training.saving.atomic_files import (
    load_weights,
    save_model,
    save_weights,
)
from keras_pruner.training.saving.variable_matching import built_for, trainables_of


def build_optimizer(model, user_optimizer, pruners):
    """Returns a built `PruningOptimizer` that holds the variables of pruners."""
    variables = model.trainable_variables
    index_of = {id(variable): index for index, variable in enumerate(variables)}
    kernels = {
        index_of[id(kernel.variable)]: (
            pruner.mask_variables[kernel.path],
            pruner.rules[kernel.path],
            pruner.state_variables[kernel.path],
        )
        for pruner in pruners
        for kernel in pruner.kernels
    }
    extra = [
        (index_of[id(variable)], states)
        for pruner in pruners
        for variable, states in pruner.extra_states()
    ]
    freezes = any(pruner.freezes_weights for pruner in pruners)
    with beside(variables[0]):
        optimizer = PruningOptimizer(user_optimizer, num_pruners=len(pruners))
        optimizer.trainables = trainables_of(model)
        optimizer.adopt(kernels, extra, freezes)
        optimizer.build(variables)
    return optimizer


def inside(restored, model):
    """Returns the optimizer inside one that was loaded with a model.

    If layers were frozen or not after loading, it is one built for what is trained now.
    """
    optimizer, variables = restored.inner_optimizer, model.trainable_variables
    if not restored.built or _Same(restored._trainable_variables) == variables:
        return optimizer
    with beside(variables[0]):
        return built_for(optimizer, variables)


class _Same(list):
    """Objects that are kept, and equal only to the very same ones."""

    def __eq__(self, other):
        return list(map(id, self)) == list(map(id, other))

    def __ne__(self, other):
        return not self == other


def signature(model, optimizer):
    """Returns what a training step is compiled for; `compile` makes new metrics."""
    settings = model.run_eagerly, model.jit_compile, model.steps_per_execution
    return settings, _Same([optimizer, *model.metrics, *model.trainable_variables])


def accumulation(model):
    """Returns how many batches make one optimizer update."""
    return innermost(model.optimizer).gradient_accumulation_steps or 1


def pruners_for(model, config):
    """Returns the pruners of a model: by a config, or by its wrapped layers' own."""
    check_built(model)
    if not find_wrapped(model):
        return create_pruners(config, model)
    groups = []
    for kernel in find_kernels(model, embeddings=True).kernels:
        if kernel.wrapper_mask is None:
            continue
        own_config = kernel.owner.pruning_config or config
        # Layers of equal configs share one pruner, and so one global ranking.
        for known, kernels in groups:
            if known == own_config:
                kernels[kernel.path] = kernel
                break
        else:
            groups.append((own_config, {kernel.path: kernel}))
    if not groups:
        raise ValueError("Nothing in the model's wrapped layers can be pruned.")
    return [
        pruner
        for own_config, kernels in groups
        for pruner in create_pruners(own_config, kernels)
    ]


def compile_config(model):
    """Returns a model's compile config, with the optimizer that it has now."""
    config = type(model).get_compile_config(model)
    if not config:
        return config
    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    # The optimizer inside has its loss scaling already.
    return config | {"optimizer": optimizer, "auto_scale_loss": False}


# What a model does otherwise for the time that it is pruned in `fit`.
IN_FIT = {
    "get_compile_config": compile_config,
    "save": save_model,
    "save_weights": save_weights,
    "load_weights": load_weights,
}
