"""Finds the kernels whose outputs are the outputs of a model."""

import keras

from keras_pruner.backend import producer_of


def output_variables(model, kernels):
    """Finds the kernels that compute the outputs of a model.

    It walks back from each output through operations without kernels, such as an
    activation, a reshape or an addition, up to the first layer with a kernel. Nested
    models are a part of the way. A subclassed model has no graph to walk.

    Args:
        model: Keras model or layer.
        kernels: List of its `Kernel`s.

    Returns:
        Set of the ids of the kernels' variables.

    Example:

    >>> inputs = keras.Input((4,))
    >>> x = keras.layers.Dense(8, activation="relu")(inputs)
    >>> logits = keras.layers.Dense(3, name="logits")(x)
    >>> value = keras.layers.Dense(1, name="value")(x)
    >>> model = keras.Model(inputs, [keras.layers.Softmax()(logits), value])
    >>> kernels = find_kernels(model).kernels
    >>> found = output_variables(model, kernels)
    >>> [kernel.path for kernel in kernels if id(kernel.variable) in found]
    ['logits/kernel', 'value/kernel']
    """
    search = _Search(kernels)
    if isinstance(model, keras.Model):
        search.pass_through(model)
    return search.found


class _Search:
    """Collects the ids of the output kernels' variables in `found`."""

    def __init__(self, kernels):
        self.kernels = kernels
        self.found = set()

    def pass_through(self, operation, shape=None):
        """Adds the kernels that compute the output of an operation.

        Args:
            operation: Keras operation, layer or model.
            shape: Shape of its output, if known.

        Returns:
            Whether an output depends on an input without a kernel in between.
        """
        outputs = getattr(operation, "outputs", None)
        if isinstance(operation, keras.Model) and outputs:
            return self._walk_back(outputs)
        if isinstance(operation, keras.Sequential):
            return all(map(self.pass_through, reversed(operation.layers)))
        variables = {id(v) for v in getattr(operation, "variables", ())}
        own = [k for k in self.kernels if id(k.variable) in variables]
        last = own
        if len(own) > 1 and shape is not None:
            # Of a layer with several kernels the last one computes the output, unless
            # it is recurrent.
            last = [k for k in own if k.layout.outputs in shape]
        if shape is not None or not isinstance(operation, keras.Model):
            self.found |= {id(kernel.variable) for kernel in last[-1:]}
        return not own

    def _walk_back(self, tensors):
        waiting, seen, is_reached = list(tensors), set(), False
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            operation, sources = producer_of(tensor)
            if not sources:
                is_reached = True
            elif self.pass_through(operation, tuple(tensor.shape)):
                waiting += sources
        return is_reached
