"""Runs a model as a server of the backend would: compiled, without training."""

import contextlib

import keras

from keras_pruner.backend.gradients import no_gradients
from keras_pruner.backend.keras_private import all_layers, called_for_inference
from keras_pruner.backend.patch import Patch


def compiled_forward(model, inputs, *, use_xla=False):
    """Returns a function that computes the outputs of a model on a fixed batch.

    TensorFlow compiles the model with `tf.function`, and JAX with `jax.jit`. torch runs
    it eagerly, without gradients. The model runs with `training=False`.

    Args:
        model: Built Keras model.
        inputs: A batch of inputs, as the model takes it. It moves to the device once.
        use_xla: Whether TensorFlow compiles with XLA, as Keras' `predict` does.

    Returns:
        Function without arguments that returns the outputs as a list of NumPy arrays.
        So the device has finished when it returns.
    """
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    forward = _forward(model, use_xla)

    def run():
        with no_gradients():
            outputs = keras.tree.flatten(forward(inputs))
        return [keras.ops.convert_to_numpy(x) for x in outputs if x is not None]

    return run


def _forward(model, use_xla):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: model(x, training=False), jit_compile=use_xla)
    if backend == "jax":
        import jax

        # As arguments, because constants would be folded and copied into the code.
        states = [
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        forward = jax.jit(lambda *a: model.stateless_call(*a, training=False)[0])
        return lambda x: forward(*states, x)
    return lambda x: model(x, training=False)


@contextlib.contextmanager
def threads_of_backend(number):
    """Context in which operations use a number of threads; torch can change it only."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def unchanged_by_export(model):
    """Context in which `model.export` may run, and writes what inference computes.

    Keras' exporters call `eval()` on torch, for all modules of the model; their flags
    of training are restored. On TensorFlow, tensors that layers keep, such as those of
    an adapted `Normalization`, are NumPy arrays meanwhile: the converter to ONNX takes
    tensors for inputs of the model.
    """
    backend = keras.backend.backend()
    modules = list(model.modules()) if backend == "torch" else []
    flags = [module.training for module in modules]
    try:
        with contextlib.ExitStack() as patches:
            patches.enter_context(called_for_inference())
            if backend == "tensorflow":
                for layer in all_layers(model):
                    patches.enter_context(Patch(layer, **_kept_tensors(layer)))
            yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


@contextlib.contextmanager
def each_variable_stored_once():
    """Context in which Keras' export to a SavedModel stores each variable once.

    On TensorFlow, Keras lists its own variables and those of TensorFlow that the
    function reads, which are different objects, so a file has each value twice:
    https://github.com/keras-team/keras/issues/23553.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    archive_class = type(keras.export.ExportArchive())
    track = archive_class.track

    def values(variables):
        return [v.value if isinstance(v, keras.Variable) else v for v in variables]

    def track_once(archive, resource):
        track(archive, resource)
        lists = archive._tf_trackable
        lists.variables = values(lists.variables)
        lists.trainable_variables = values(lists.trainable_variables)
        lists.non_trainable_variables = values(lists.non_trainable_variables)

    with Patch(archive_class, track=track_once):
        yield


def _kept_tensors(layer):
    """Returns a dict from attributes of a layer that are tensors to their arrays.

    Variables are none: a file would have their values as constants, too.
    """
    import tensorflow as tf

    return {
        name: value.numpy()
        for name, value in vars(layer).items()
        if isinstance(value, tf.Tensor) and hasattr(value, "numpy")
    }


def tensorflow_lite_interpreter():
    """Returns the class of TensorFlow's own interpreter of LiteRT files.

    Raises:
        ImportError: If TensorFlow is missing, or a version without it.
    """
    import tensorflow as tf

    try:
        return tf.lite.Interpreter
    except AttributeError as error:
        raise ImportError("This version of TensorFlow has no `tf.lite`.") from error


def tensorflow_lite_settings(*, sparse, weights="float32"):
    """Returns arguments of `model.export` for TensorFlow's converter to LiteRT.

    The converter fails instead of writing operations that LiteRT itself does not have.

    Args:
        sparse: Whether zeros of kernels are stored in the sparse encoding.
        weights: Type of the stored weights: `"float32"`, `"float16"` or `"int8"`.
    """
    import tensorflow as tf

    optimizations = []
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if weights != "float32":
        optimizations.append(tf.lite.Optimize.DEFAULT)
    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    if weights == "float16":
        target["supported_types"] = [tf.float16]
    return {"optimizations": optimizations, "target_spec": target}


def run_saved_model(path, arguments):
    """Returns the outputs of a SavedModel that Keras wrote, as a list of arrays.

    Args:
        path: Path of the folder.
        arguments: Positional arguments, of NumPy arrays.
    """
    import tensorflow as tf

    arguments = keras.tree.map_structure(tf.convert_to_tensor, tuple(arguments))
    # Its functions hold the variables only as long as it exists.
    loaded = tf.saved_model.load(str(path))
    outputs = loaded.serve(*arguments)
    return [x.numpy() for x in keras.tree.flatten(outputs) if x is not None]
