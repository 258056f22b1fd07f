"""Gradients of a model on a few batches, while its weights stay as they are."""

import keras
import numpy as np
from keras import ops

from keras_pruner.compiled import CompiledFunction, derivative
from keras_pruner.flow import flow_gradients


class Probe:
    """Derivatives of a model's loss, or of its flow, by the matrices of its kernels.

    Nothing of the model changes: it is run in a `keras.StatelessScope`.

    Args:
        model: Built Keras model.
        kernels: List of its `Kernel`s.
        batches: List of tuples `(x, y)` or `(x, y, sample_weight)`; may be empty if
            only the flow is asked for.
        loss: Function from `(x, y, outputs, sample_weight)` to a scalar tensor.
        on_batch: Function called after each batch, e.g. to move a progress bar.
    """

    def __init__(self, model, kernels, batches, loss, on_batch=lambda: None):
        self.model = model
        self.kernels = list(kernels)
        self.batches = batches
        self.loss = loss
        self.on_batch = on_batch
        self._gradients = CompiledFunction(self._derive_loss, use_xla=False)
        self._products = CompiledFunction(self._derive_norm, use_xla=False)

    def _values(self):
        return [ops.convert_to_tensor(kernel.variable) for kernel in self.kernels]

    def _loss_at(self, values, batch):
        mapping = [
            (kernel.variable, value)
            for kernel, value in zip(self.kernels, values, strict=True)
        ]
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(batch))
        with keras.StatelessScope(state_mapping=mapping):
            outputs = self.model(x, training=True)
            return self.loss(x, y, outputs, sample_weight)

    def _derive_loss(self, values, batch):
        return derivative(lambda at: self._loss_at(at, batch))(values)

    def _derive_norm(self, values, directions, batch):
        """The Hessian times a vector: the derivative of gradient * vector."""

        def projection(at):
            gradients = derivative(lambda inner: self._loss_at(inner, batch))(at)
            return sum(
                ops.sum(g * ops.stop_gradient(d))
                for g, d in zip(gradients, directions, strict=True)
            )

        return derivative(projection)(values)

    def _matrices(self, tensors):
        return [
            kernel.layout.to_matrix(ops.cast(ops.stop_gradient(tensor), "float32"))
            for kernel, tensor in zip(self.kernels, tensors, strict=True)
        ]

    def batch_gradients(self):
        """Yields, for each batch, a list of the kernels' gradients, (K, N) float32."""
        for batch in self.batches:
            yield self._matrices(self._gradients(self._values(), batch))
            self.on_batch()

    def _mean(self, derive):
        """Returns the mean over all samples of what `derive` gives for a batch."""
        total, num_samples = None, 0
        for batch in self.batches:
            size = _num_samples(batch)
            part = [ops.stop_gradient(d) * float(size) for d in derive(batch)]
            if total is None:
                total = part
            else:
                total = [a + b for a, b in zip(total, part, strict=True)]
            num_samples += size
            self.on_batch()
        return [tensor / float(num_samples) for tensor in total]

    def _mean_gradients(self):
        values = self._values()
        return self._mean(lambda batch: self._gradients(values, batch))

    def mean_gradients(self):
        """Returns the gradients of the mean loss over all samples, (K, N) float32."""
        return self._matrices(self._mean_gradients())

    def hessian_gradient_products(self):
        """Returns `H g` by kernel, H and g of the mean loss over all samples.

        H is the Hessian by the kernels that are pruned together, so it takes their
        interactions in; one product costs about two gradients.
        """
        values, directions = self._values(), self._mean_gradients()
        products = self._mean(lambda batch: self._products(values, directions, batch))
        return self._matrices(products)

    def flow_gradients(self):
        """Returns `dR/d|w|` of the synaptic flow R, see `flow.flow_gradients`."""
        example = self.batches[0][0] if self.batches else None
        return flow_gradients(self.model, self.kernels, example)


def _num_samples(batch):
    return int(keras.tree.flatten(batch[0])[0].shape[0])


def as_batches(data, batch_size, model):
    """Turns what a user gives as data into a list of batches of tensors.

    Args:
        data: Tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays (or nested
            ones) with samples along the first axis; or an iterable of such batches,
            e.g. a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch `DataLoader`.
        batch_size: Samples in a batch, for arrays.
        model: The model that shall be called on them.

    Raises:
        ValueError: If the data is empty, or its shapes do not fit together or to the
            model.
        TypeError: If it is neither.
    """
    # A list of tuples is a list of batches; `[x, y]` is meant as `(x, y)`.
    is_batches = isinstance(data, list) and all(
        isinstance(part, list | tuple) for part in data
    )
    if isinstance(data, tuple | list) and not is_batches and _is_array(data[0]):
        batches = _cut(data, batch_size)
    elif hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        batches = [_as_tuple(batch) for batch in _iterate(data)]
    else:
        raise TypeError(
            "`data` must be a tuple (x, y) of arrays or an iterable of batches. "
            f"Received: {data!r} of type {type(data).__name__}"
        )
    if not batches:
        raise ValueError("`data` is empty: give at least one batch of samples.")
    batches = keras.tree.map_structure(_as_tensor, batches)
    _check_inputs(batches[0][0], model)
    return batches


def _is_array(value):
    leaves = keras.tree.flatten(value)
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def _cut(data, batch_size):
    lengths = {len(leaf) for leaf in keras.tree.flatten(tuple(data))}
    if len(lengths) > 1:
        raise ValueError(
            "The arrays of `data` hold different numbers of samples: "
            f"{', '.join(map(str, sorted(lengths)))}."
        )
    starts = range(0, lengths.pop(), batch_size)
    parts = [slice(start, start + batch_size) for start in starts]
    return [_part_of(tuple(data), part) for part in parts]


def _part_of(data, part):
    return keras.tree.map_structure(lambda array: array[part], data)


def _iterate(data):
    if isinstance(data, keras.utils.PyDataset):
        return [data[index] for index in range(len(data))]
    return data


def _as_tuple(batch):
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def _as_tensor(array):
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    array = np.asarray(array)
    if array.dtype == "float64":
        array = array.astype("float32")
    return ops.convert_to_tensor(array)


def _check_inputs(x, model):
    expected = getattr(model, "inputs", None)
    received = keras.tree.flatten(x)
    if not expected:
        return
    shapes = [tuple(tensor.shape) for tensor in expected]
    fits = len(shapes) == len(received) and all(
        len(shape) == len(tensor.shape)
        and all(a in (None, b) for a, b in zip(shape, tensor.shape, strict=True))
        for shape, tensor in zip(shapes, received, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`data` does not fit '{model.name}': it takes inputs of shape "
            f"{', '.join(map(str, shapes))}, but the first batch has "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in received)}."
        )
