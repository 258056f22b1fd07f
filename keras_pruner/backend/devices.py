"""Several devices: where what belongs to a kernel lives, and what Keras cannot do.

On TensorFlow a kernel made under a `tf.distribute` strategy has a copy on each replica.
On JAX a kernel made under a `keras.distribution` is laid out over a mesh. Masks and
states are made alike, beside their kernel.
"""

import contextlib

import keras

from keras_pruner.backend.keras_private import layout_of

# Classes of `tf.distribute` whose replicas meet in every optimizer step.
_MIRRORED = {"MirroredStrategy", "CollectiveAllReduceStrategy"}


def beside(variable):
    """Context in which new variables live on the replicas that a variable lives on."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def layout_for(shape, variable):
    """Returns how a tensor that belongs to a variable is laid out over devices.

    Args:
        shape: The tensor's shape.
        variable: `keras.Variable`.

    Returns:
        The variable's layout if the tensor is as large; else one by which each device
        holds all of it. `None` if the variable is not laid out over devices.
    """
    layout = layout_of(variable)
    if layout is None or tuple(shape) == tuple(variable.shape):
        return layout
    # Said outright, for the name of a state may match a pattern of a `LayoutMap`.
    mesh = getattr(layout, "device_mesh", None)
    if mesh is None:
        return None
    return keras.distribution.TensorLayout([None] * len(shape), mesh)


def is_divided(variable):
    """Whether a variable is laid out so that no device holds all of it."""
    layout = layout_of(variable)
    # Keras' own layouts name axes of the mesh, JAX's shardings have a `spec`.
    axes = getattr(layout, "axes", None) or getattr(layout, "spec", None) or ()
    return any(axis is not None for axis in axes)


def check_strategy(model, optimizer):
    """Raises if Keras cannot train a model under its `tf.distribute` strategy.

    Args:
        model: Compiled `keras.Model`.
        optimizer: The optimizer inside all wrappers.

    Raises:
        ValueError: If it would end in an error from the depths of TensorFlow, with
            pruning or without: `MirroredStrategy` with several replicas under
            `jit_compile=True` or `steps_per_execution` > 1, or with an optimizer
            that accumulates gradients or overwrites weights by averages.
    """
    strategy = getattr(model, "distribute_strategy", None)
    if not _MIRRORED & {base.__name__ for base in type(strategy).__mro__}:
        return
    settings = {
        "gradient_accumulation_steps": optimizer.gradient_accumulation_steps,
        "ema_overwrite_frequency": optimizer.use_ema
        and optimizer.ema_overwrite_frequency,
    }
    if strategy.num_replicas_in_sync > 1:
        settings["jit_compile"] = model.jit_compile is True
        settings["steps_per_execution"] = (
            model.steps_per_execution > 1 and model.steps_per_execution
        )
    found = [f"{name}={value}" for name, value in settings.items() if value]
    if found:
        raise ValueError(
            f"Keras cannot train a model under {type(strategy).__name__}, with "
            f"pruning or without, if {' and '.join(found)}. Leave "
            f"{'it' if len(found) == 1 else 'them'} at the default in `compile` or in "
            f"the optimizer. Received: {strategy.num_replicas_in_sync} replicas"
        )


def num_replicas():
    """Returns how many replicas share the training step that runs or is traced.

    More than one only inside `strategy.run` of a `tf.distribute` strategy: on JAX one
    program runs on all devices, and its values are whole.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(tensors):
    """Sums a list of tensors of a training step over the replicas that share it."""
    if num_replicas() == 1 or not tensors:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
