"""Makes a smaller model of the channels that stay."""

from keras_pruner.backend import functional_of
from keras_pruner.slimming.cutting.in_place import copies_of, cut_in_place
from keras_pruner.slimming.cutting.own_config import from_own_config
from keras_pruner.slimming.cutting.part import Part
from keras_pruner.slimming.cutting.rebuild import rebuild
from keras_pruner.training import is_plain


def cut(
    model, graph, kept, *, constants=(), passes=None, uniform=False, own_config=True
):
    """Returns a plain smaller model, in which only some channels are left.

    It tries these ways, and takes the first that computes what it should:

    1. Functional and Sequential models are rebuilt layer by layer, from the configs of
       the layers. A layer whose config cannot say its smaller size is replaced by its
       sublayers. The result loads without this package.
    2. A model whose class has a `get_config` is created from its own config, if that
       says the sizes: each number of channels is the same in all repeated blocks.
    3. Layers that remain are taken from a copy of the model, and their variables and
       sublayers made smaller. So are those of a model with a `call` of its own. The
       result saves and loads weights, but its config has the old sizes.

    Args:
        model: Built Keras model without wrapper layers. It is not changed.
        graph: Its `ChannelGraph`.
        kept: `Kept`, from `graph.kept(removed)`.
        constants: Tuples of a `Consumer` and an array: what is added to the outputs of
            the layer that it watches, by its bias.
        passes: Dict from the id of an operation of a Functional model that only passes
            one of its inputs on, e.g. an `Add` of zeros, to the number of this input.
        uniform: Whether a model whose class has a `get_config` must be created from its
            own config, so that it keeps its class.
        own_config: Whether such a model may be created from its own config. The search
            for what the config says builds the model many times.

    Returns:
        Keras model, not compiled.

    Raises:
        ValueError: If a layer cannot be created with fewer channels. The message
            names it.
    """
    part = Part(kept, graph.calls, constants)
    if functional_of(model) is None:
        return cut_in_place(model, part)
    may_have_config = own_config and not (constants or passes or is_plain(model))
    if not (uniform and may_have_config):
        try:
            return rebuild(model, part, passes)
        except ValueError:
            part = Part(kept, graph.calls, constants)
    smaller = from_own_config(model, part) if may_have_config else None
    if smaller is not None:
        return smaller
    if uniform and may_have_config:
        raise ValueError(
            f"The config of '{model.name}' ({type(model).__name__}) does not say how "
            "many of these channels stay."
        )
    return rebuild(model, part, passes, copies_of(model, part))
