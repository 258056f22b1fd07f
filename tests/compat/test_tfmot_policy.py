"""`PruneForLatencyOnXNNPack` chooses 1x1 convolutions, and checks the model."""

import keras
import pytest
from keras import layers

from keras_pruner.compat import tfmot
from keras_pruner.compat.tfmot.pruning_wrapper import collect_prunable_layers

tk = tfmot.sparsity.keras


def prune(model):
    return tk.prune_low_magnitude(
        model,
        tk.ConstantSparsity(0.5, 0),
        pruning_policy=tk.PruneForLatencyOnXNNPack(),
    )


def num_pruned(model):
    return len(collect_prunable_layers(prune(model)))


def begin(filters=16, size=8):
    x = keras.Input((size, size, 3))
    padded = layers.ZeroPadding2D(1)(x)
    return x, layers.Conv2D(filters, 3, strides=2, padding="valid")(padded)


def one_by_one(filters=16):
    return layers.Conv2D(filters, [1, 1])


def end(x, y, **kwargs):
    return keras.Model(x, layers.GlobalAveragePooling2D(**kwargs)(y))


def test_a_model_without_the_first_convolution_is_refused():
    x = keras.Input((8, 8, 3))
    y = one_by_one()(layers.Conv2D(16, 3, strides=2, padding="same")(x))
    with pytest.raises(ValueError, match=r"Could not find a `Conv2D`"):
        prune(end(x, y))


def test_a_model_without_the_last_pooling_is_refused():
    x, y = begin()
    with pytest.raises(ValueError, match=r"Could not find a `GlobalAveragePooling2D`"):
        prune(keras.Model(x, layers.AveragePooling2D(2)(one_by_one()(y))))


def test_an_unsupported_layer_between_them_is_named():
    x, y = begin()
    y = layers.MaxPooling2D(name="pool")(one_by_one()(y))
    with pytest.raises(ValueError, match=r"'pool' \(MaxPooling2D\) is not supported"):
        prune(end(x, y))


def sequential(*first):
    return keras.Sequential(
        [
            *first,
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, strides=2, padding="valid"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            one_by_one(8),
            layers.GlobalAveragePooling2D(),
        ]
    )


def test_a_sequential_model_has_to_be_built():
    with pytest.raises(ValueError, match="Unbuilt"):
        prune(sequential())
    assert num_pruned(sequential(keras.Input((8, 8, 3)))) == 1


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="Subclassed"):
        tk.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(Own())


def test_nested_models_are_followed():
    inner = keras.Sequential([one_by_one(8), one_by_one(16)])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(4, 3, strides=2, padding="valid"),
            inner,
            layers.GlobalAveragePooling2D(),
        ]
    )
    assert num_pruned(model) == 2


def test_an_unsupported_layer_in_a_nested_model_is_found():
    inner = keras.Sequential([one_by_one(8), layers.AveragePooling2D(2)])
    x, y = begin()
    with pytest.raises(ValueError, match="AveragePooling2D"):
        prune(end(x, inner(y)))


def test_a_shared_layer_is_pruned_once():
    x, y = begin()
    shared = one_by_one()
    assert num_pruned(end(x, shared(shared(y)))) == 1


def test_a_model_may_have_nothing_to_prune():
    x, y = begin()
    y = layers.Activation("relu")(layers.DepthwiseConv2D(3, padding="same")(y))
    assert num_pruned(end(x, y)) == 0


def test_two_branches_with_all_kinds_of_layers():
    x1, y1 = begin(16, 16)
    y1 = layers.Add()([layers.DepthwiseConv2D(3, padding="same")(y1), one_by_one()(y1)])
    x2, y2 = begin(8, 16)
    y2 = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(1)(y2))
    gate = one_by_one(32)(layers.GlobalAveragePooling2D(keepdims=True)(y2))
    gate = layers.Activation("sigmoid")(gate)
    y2 = layers.UpSampling2D(interpolation="bilinear")(one_by_one(32)(y2))
    y2 = one_by_one(16)(layers.Multiply()([gate, y2]))
    y = layers.GlobalAveragePooling2D(keepdims=True)(layers.Add()([y1, y2]))
    model = keras.Model([x1, x2], [one_by_one(7)(y), one_by_one(3)(y)])
    assert num_pruned(model) == 6


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "zeros", "is_taken"),
    [
        (3, 1, "same", None, True),
        (5, 1, "same", None, True),
        (3, 2, "valid", 1, True),
        (5, 2, "valid", 2, True),
        (3, 2, "same", None, False),
        (5, 2, "valid", 1, False),
        (7, 1, "same", None, False),
    ],
)
def test_depthwise_convolutions(kernel, strides, padding, zeros, is_taken):
    x, y = begin(4, 16)
    if zeros:
        y = layers.ZeroPadding2D(zeros)(y)
    y = layers.DepthwiseConv2D(kernel, strides=strides, padding=padding)(y)
    model = end(x, one_by_one()(y))
    if is_taken:
        assert num_pruned(model) == 1
    else:
        with pytest.raises(ValueError, match="DepthwiseConv2D"):
            prune(model)


def test_operators_are_followed():
    x, y = begin()
    residual = one_by_one()(y)
    assert num_pruned(end(x, (y + residual - residual) * residual)) == 1


def test_a_clone_is_pruned():
    x, y = begin()
    model = end(x, one_by_one()(y))
    assert num_pruned(keras.models.clone_model(model, clone_function=lambda x: x)) == 1


def test_a_pruned_model_is_pruned_again():
    x, y = begin()
    pruned = prune(end(x, one_by_one()(y)))
    assert num_pruned(pruned) == 1


def test_a_policy_of_ones_own():
    class Wide(tk.PruningPolicy):
        def allow_pruning(self, layer):
            return getattr(layer, "units", 0) > 4

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 3:
                raise ValueError("too deep")

    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    pruned = tk.prune_low_magnitude(model, pruning_policy=Wide())
    assert [type(m).__name__ for m in pruned.layers] == ["PruneLowMagnitude", "Dense"]
    with pytest.raises(TypeError):
        tk.PruningPolicy()
