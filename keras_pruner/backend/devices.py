"""Places masks and states on several devices, next to their kernels.

On TensorFlow a kernel made under a `tf.distribute` strategy has a copy on each replica.
On JAX a kernel made under a `keras.distribution` is laid out over a mesh. Masks and
states use the same placement.
"""

import contextlib

import keras

from keras_pruner.backend.keras_private import layout_of

# Replicas of these `tf.distribute` classes synchronize in every optimizer step.
_MIRRORED = {"MirroredStrategy", "CollectiveAllReduceStrategy"}


def on_devices_of(variable):
    """Returns a context that creates variables on the replicas of `variable`."""
    strategy = getattr(variable.value, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def layout_for(shape, variable):
    """Returns the device layout of a tensor that belongs to a variable.

    Args:
        shape: The tensor's shape.
        variable: `keras.Variable`.

    Returns:
        The variable's layout if the shapes are equal, else a replicated layout. `None`
        if the variable has no layout.
    """
    layout = layout_of(variable)
    if layout is None or tuple(shape) == tuple(variable.shape):
        return layout
    # Explicit, because a pattern of a `LayoutMap` may match the state's name.
    mesh = getattr(layout, "device_mesh", None)
    if mesh is None:
        return None
    return keras.distribution.TensorLayout([None] * len(shape), mesh)


def is_divided(variable):
    """Returns whether a variable is sharded, so that no device holds all of it."""
    layout = layout_of(variable)
    # Keras' layouts have `axes` of the mesh, and JAX's shardings have a `spec`.
    axes = getattr(layout, "axes", None) or getattr(layout, "spec", None) or ()
    return any(axis is not None for axis in axes)


def check_strategy(model, optimizer):
    """Raises an error if Keras cannot train a model under its `tf.distribute` strategy.

    Args:
        model: Compiled `keras.Model`.
        optimizer: The innermost optimizer.

    Raises:
        ValueError: If `MirroredStrategy` has several replicas with `jit_compile=True`
            or `steps_per_execution` > 1, or an optimizer that accumulates gradients or
            overwrites weights with averages. TensorFlow would fail deep inside
            training, with or without pruning.
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
    """Returns the number of replicas that share the current training step.

    It exceeds one only inside `strategy.run` of a `tf.distribute` strategy. On JAX one
    program runs on all devices and sees whole values.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(tensors):
    """Sums each tensor of a list over the replicas that share the training step."""
    if num_replicas() == 1 or not tensors:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def trains_eagerly(model):
    """Returns whether Python runs every training step of a compiled model."""
    return keras.backend.backend() == "torch" or model.run_eagerly
