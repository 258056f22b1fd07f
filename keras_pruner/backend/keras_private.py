"""Keras' private names, each behind a function that says what it is for.

Keras has no public way to do these things. If a new release of Keras renames one, this
is the file to change.
"""

import contextlib

import keras
import numpy as np
from keras.src.backend.common import global_state, masking
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional, operation_fn

from keras_pruner.backend.patch import Patch

# Where optimizers keep the running mean of squared gradients: a class, the list of its
# slots, and the name of its decay; `None` if the mean has no bias to correct. Sums that
# begin above zero, as Adagrad's, and maxima, as Adamax's, are no such means.
_SECOND_MOMENTS = (
    ("Adam", "_velocities", "beta_2"),
    ("Nadam", "_velocities", "beta_2"),
    ("Lamb", "_velocities", "beta_2"),
    ("ScheduleFreeAdamW", "_velocities", "beta_2"),
    ("Muon", "adam_velocities", "adam_beta_2"),
    ("RMSprop", "_velocities", "rho"),
    ("Adadelta", "_accumulated_grads", "rho"),
    ("Adafactor", "_v", None),
)


def all_layers(model, include_self=True):
    """Returns a list of the layers of a model, through all nesting, each once."""
    return list(model._flatten_layers(include_self=include_self, recursive=True))


def sublayers_of(layer):
    """Returns a list of the layers that a layer holds itself."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def producer_of(tensor):
    """Returns the operation that made a symbolic tensor, and its symbolic inputs."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def trainables_in(layer):
    """Returns a layer's own variables that can be trained, also if it is frozen."""
    return layer._trainable_variables


def own_non_trainables_of(layer):
    """Returns the non-trainable variables that a layer itself added."""
    return layer._non_trainable_variables


def call_like(wrapper, layer):
    """Lets Keras treat the arguments of a wrapper's call as those of its layer's call.

    Keras sorts and converts arguments by the signature of `call`, and passes `training`
    and `mask` to a layer whose signature has them. A Sequential model asks its first
    layer for `input_shape`.
    """
    names = (
        "_allow_non_tensor_positional_args",
        "_call_context_args",
        "_call_has_context_arg",
        "_call_has_mask_arg",
        "_call_has_training_arg",
        "_call_signature",
        "_convert_input_args",
        "_input_shape_arg",
        "call_signature_parameters",
    )
    # Older versions of Keras lack some.
    known = [name for name in names if hasattr(layer, name)]
    Patch(wrapper, **{name: getattr(layer, name) for name in known})


def is_called_to_train(layer):
    """Whether the call in which a layer runs has `training=True`.

    Args:
        layer: Keras layer whose `call` runs now.
    """
    return layer._get_call_context().get_value("training") is True


def track_for_tensorflow(layer, variable, name):
    """Lets TensorFlow's checkpoints and SavedModels hold a weight of a layer.

    Without it, they only hold weights that are attributes.

    Args:
        layer: Keras layer.
        variable: One of its weights.
        name: The weight's name in files, equal in all copies of the layer.
    """
    if hasattr(layer, "_track_trackable"):
        layer._track_trackable(variable, name=name, overwrite=True)


def recomputes(layer):
    """Returns whether a layer was made in a `keras.RematScope`."""
    return getattr(layer, "_remat_mode", None) is not None


def without_recomputation(layer):
    """Returns a context in which a layer runs as if made in no `keras.RematScope`."""
    return Patch(layer, _remat_mode=None)


def keras_mask_of(tensor):
    """Returns the mask of its steps that Keras attached to a tensor, or `None`."""
    return masking.get_keras_mask(tensor)


def set_keras_mask(tensor, mask):
    """Attaches the mask of its steps to a tensor; `None` removes it."""
    masking.set_keras_mask(tensor, mask)


def resize(variable, shape):
    """Gives a variable another shape, and zeros as values."""
    variable._shape = tuple(shape)
    variable._initialize(keras.ops.zeros(shape, variable.dtype))


def forget_calls(layer):
    """Removes the symbolic calls of a layer, and torch's lists of its old values."""
    layer._inbound_nodes.clear()
    layer._outbound_nodes.clear()
    for each in all_layers(layer):
        if hasattr(each, "_torch_params"):
            each._track_variables()


@contextlib.contextmanager
def called_for_inference():
    """Context in which layers that are not told otherwise run with `training=False`.

    Some layers, such as those that augment images, train by default.
    """
    before = global_state.get_global_attribute("current_call_ctx")
    context = CallContext(entry_layer=None)
    context.training = False
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


def functional_of(operation):
    """Returns the graph of operations that a model consists of, or `None`.

    A model with a `call` of its own has none, and neither has another operation.
    """
    if "call" in vars(operation):
        return None
    own_call = getattr(type(operation), "call", None)
    if own_call is keras.Sequential.call:
        return operation._functional
    return operation if own_call is Functional.call else None


def links_of(graph):
    """Returns the pairs of an operation and one that reads its outputs.

    Args:
        graph: Graph of operations, as `functional_of` returns it.
    """
    return [
        (producer_of(tensor)[0], node.operation)
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
        for tensor in node.input_tensors
    ]


def in_inference_mode(operation):
    """Returns a function that calls an operation as a model in inference mode does."""
    return operation_fn(operation, training=False)


def run_in_inference_mode(function, arrays):
    """Returns the outputs of a `keras.Function`, as in a model in inference mode."""
    return function._run_through_graph(arrays, operation_fn=in_inference_mode)


@contextlib.contextmanager
def unlocked(layer):
    """Lets a layer that is built add weights."""
    was_locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            # Without a message, Keras keeps that of the first lock.
            layer._tracker.lock()


def layout_of(variable):
    """Returns how a variable is laid out over devices, or `None`."""
    return getattr(variable, "_layout", None)


def inputs_structure_of(model):
    """Returns a model's symbolic inputs, nested as it takes them, or `None`."""
    return getattr(model, "_inputs_struct", None)


def build_by_batch(model, batch):
    """Lets a model make its metrics by the shapes of a batch, without training."""
    model._symbolic_build(data_batch=batch)


def set_initial_epoch(model, epoch):
    """Lets the `fit` that runs begin at another epoch; `None` for its own."""
    model._initial_epoch = epoch


def variables_trained_by(optimizer):
    """Returns the variables that an optimizer was built for, in its order."""
    return optimizer._trainable_variables


def index_in(optimizer, variable):
    """Returns the number of a variable among those that an optimizer trains."""
    return optimizer._get_variable_index(variable)


def count_of(optimizer):
    """Returns the variable in which an optimizer counts the calls of its `apply`.

    Its public `iterations` counts accumulated batches only when they are applied.
    """
    return optimizer._iterations


def second_moment_slots(optimizer):
    """Returns the slots in which an optimizer averages squared gradients.

    Returns:
        Tuple of a list with one variable, or `None`, for each variable that it trains,
        and of the decay of the means, `None` if they have no bias. The list is empty if
        the class of the optimizer keeps no such means, and `None` if it keeps some, but
        the optimizer is not built yet.
    """
    for name, slots, decay in _SECOND_MOMENTS:
        # Older versions of Keras lack some.
        known = getattr(keras.optimizers, name, None)
        if known is not None and isinstance(optimizer, known):
            if not optimizer.built:
                return None, None
            decay = None if decay is None else getattr(optimizer, decay)
            return slots_in_order(optimizer, getattr(optimizer, slots)), decay
    return [], None


def slots_in_order(optimizer, slots):
    """Returns slots as a list with one variable, or `None`, for each trained one.

    The Muon of Keras 3.12 keeps a dict from the paths of its variables to slots.
    """
    if isinstance(slots, dict):
        return [slots.get(variable.path) for variable in optimizer._trainable_variables]
    return slots


def rate_schedule_of(optimizer):
    """Returns an optimizer's `LearningRateSchedule`, or `None` if it has none."""
    rate = getattr(optimizer, "_learning_rate", None)
    is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    return rate if is_schedule else None


def moving_averages_of(optimizer):
    """Returns the moving averages of the variables that an optimizer trains."""
    return optimizer._model_variables_moving_average


def remember_what_to_skip():
    """Fills Keras' cache of attributes to skip when it saves an optimizer.

    Keras 3.15 looks the cache up under a wrong name, so it builds a new optimizer for
    every save. TensorFlow keeps 35 kB for each variable with a new name, for ever, and
    an optimizer has two.
    """
    try:
        from keras.src.backend.common import global_state
        from keras.src.saving.saving_lib import get_attr_skipset
    except ImportError:
        # Another version, which may not need it.
        return
    key = "saving_attr_skiplist_Optimizer"
    if global_state.get_global_attribute(key) is None:
        global_state.set_global_attribute(key, get_attr_skipset("Optimizer"))


def of_session(name, make):
    """Returns an object that lives until `keras.backend.clear_session()`.

    Args:
        name: Name of the object; each thread has its own.
        make: Function that makes it.
    """
    from keras.src.backend.common import global_state

    value = global_state.get_global_attribute(name)
    if value is None:
        value = make()
        global_state.set_global_attribute(name, value)
    return value


def summary_writer_of(callback):
    """Returns the writer of a `keras.callbacks.TensorBoard` for its training run."""
    return callback._train_writer


def class_with_fit():
    """Returns the base of `keras.Model` that defines `fit`: its backend's trainer."""
    return next(base for base in keras.Model.__mro__ if "fit" in vars(base))


def has_own_train_step(model):
    """Returns whether a model's class replaces the training step of Keras."""
    return type(model).train_step is not class_with_fit().train_step


@contextlib.contextmanager
def without_initial_values():
    """Context in which layers create weights of zeros.

    Random initial values take most of the time to create a model on JAX, which
    compiles a function for each shape.
    """
    original = keras.layers.Layer.add_weight

    def add_weight(self, *args, **kwargs):
        kwargs |= dict(zip(("shape", "initializer", "dtype"), args, strict=False))
        dtype = kwargs.get("dtype") or self.variable_dtype
        if keras.backend.is_float_dtype(dtype):
            kwargs["initializer"] = _zeros
        return original(self, **kwargs)

    with Patch(keras.layers.Layer, add_weight=add_weight):
        yield


def _zeros(shape, dtype=None):
    return keras.ops.convert_to_tensor(np.zeros(shape), dtype=dtype)


def in_float64(*models):
    """Context in which layers compute in float64; their variables stay."""
    return in_dtype("float64", *models)


@contextlib.contextmanager
def in_dtype(dtype, *models):
    """Context in which layers of a float type compute in another one.

    Variables stay, and so do quantized layers.
    """
    with contextlib.ExitStack() as patches:
        for layer in {id(x): x for model in models for x in all_layers(model)}.values():
            is_float = keras.backend.is_float_dtype(layer.compute_dtype or "")
            if is_float and getattr(layer, "quantization_mode", None) is None:
                policy = keras.dtype_policies.DTypePolicy(dtype)
                patches.enter_context(Patch(layer, _dtype_policy=policy))
        yield


def scope_with(values):
    """Returns a `keras.StatelessScope` in which variables have other values.

    Args:
        values: List of pairs of a variable and its value, which may have a wider type.
    """
    scope = keras.StatelessScope()
    for variable, value in values:
        scope.add_update((variable, keras.ops.convert_to_tensor(value)))
    return scope


def class_of_keras_operation(operation):
    """Returns the name of the class of an operation, e.g. `"Matmul"`.

    Returns:
        A string; `None` for layers, and for classes that Keras does not define.
    """
    cls = type(operation)
    is_own = cls.__module__.startswith(("keras.src.ops.", "keras.src.activations."))
    return cls.__name__ if is_own else None
