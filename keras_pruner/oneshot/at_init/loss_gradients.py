"""Computes gradients of a model on a few batches, with its weights unchanged."""

import keras
from keras import ops

from keras_pruner.backend import CompiledFunction, derivative
from keras_pruner.oneshot.at_init.synaptic_flow import flow_gradients


class Probe:
    """Computes derivatives of a model's loss, or of its flow, by its kernel matrices.

    The model does not change, because it runs in a `keras.StatelessScope`.

    Args:
        model: Built Keras model.
        kernels: List of its `Kernel`s.
        batches: List of tuples `(x, y)` or `(x, y, sample_weight)`; may be empty if
            only the flow is needed.
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
        """Returns the Hessian times a vector: the derivative of gradient * vector."""

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
        """Returns the mean of `derive(batch)` over all samples."""
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
        """Returns `H g` for each kernel, H and g of the mean loss over all samples.

        H is the Hessian by all kernels that are pruned together, so it includes their
        interactions. One product costs about as much as two gradients.
        """
        values, directions = self._values(), self._mean_gradients()
        products = self._mean(lambda batch: self._products(values, directions, batch))
        return self._matrices(products)

    def flow_gradients(self):
        """Returns `dR/d|w|` of the synaptic flow R; see `flow_gradients`."""
        example = self.batches[0][0] if self.batches else None
        return flow_gradients(self.model, self.kernels, example)


def _num_samples(batch):
    return int(keras.tree.flatten(batch[0])[0].shape[0])
