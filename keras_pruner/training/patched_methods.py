"""Makes methods that a layer gets while a wrapper masks its kernels."""

import functools

from keras_pruner.backend import views_as_stored


def saves_variables(layer):
    """Returns a `save_own_variables` that saves weights under masks, too."""
    save = layer.save_own_variables

    @functools.wraps(save)
    def save_own_variables(store):
        with views_as_stored():
            save(store)

    return save_own_variables


def refusal(layer, method):
    """Returns a method that says why a layer in a wrapper lacks it."""

    def refuse(*args, **kwargs):
        raise ValueError(
            f"Layer '{layer.name}' is in a PrunedLayer, which masks its kernel, so "
            f"`{method}` cannot replace it. Call `plain = keras_pruner.strip(model)`, "
            f"then `{method}` on the plain model."
        )

    return refuse
