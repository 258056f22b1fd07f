"""Pattern "mha": whole attention heads, in all kernels of a layer together."""

import inspect

import keras
import numpy as np
import pytest
from conftest import build_mlp, value_of
from keras import layers, ops

from keras_pruner import KerasBasePruner

pytestmark = pytest.mark.usefixtures("eager_masks")

FEATURES, SIZE = 6, 3
PARTS = ("query", "key", "value", "attention_output")


def multi_head(name="attention"):
    """Four heads."""
    return layers.MultiHeadAttention(4, SIZE, name=name)


def group_query(name="attention", **kwargs):
    """Two key and value heads, each shared by two query heads."""
    return layers.GroupQueryAttention(SIZE, 4, 2, name=name, **kwargs)


def built(*attention_layers, scale=1.0):
    """A model of attention layers with random weights, and a Dense head."""
    x = inputs = layers.Input((5, FEATURES))
    for layer in attention_layers:
        x = layer(x, x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    generator = np.random.default_rng(4)
    for number, variable in enumerate(model.trainable_variables):
        value = generator.normal(size=variable.shape) * scale**number
        variable.assign(value.astype("float32"))
    return model


def pruner_of(model, **settings):
    config = {"pattern": "mha", "begin_step": 0, "end_step": 0, "target_sparsity": 0.5}
    return KerasBasePruner(config | settings, model)


def heads_first(name, value):
    """A kernel, or what has its shape, as (heads, ...)."""
    return value if name == "attention_output" else value.transpose(1, 0, 2)


def weights_of(layer):
    """Dict from a part's name to its kernel and bias."""
    parts = [part for part in layer._flatten_layers() if part.weights]
    return {
        part.name: [value_of(weight).astype("float64") for weight in part.weights]
        for part in parts
        if part is not layer
    }


def parts_of(layer):
    """Dict from a part's name to its kernel, heads first."""
    return {n: heads_first(n, kernel) for n, (kernel, _) in weights_of(layer).items()}


def head_scores(values, heads):
    """Sum over the kernels of the mean of what they hold of a head, in NumPy."""
    return sum(v.reshape(heads, -1).mean(axis=1) for v in values.values())


def kept_heads(pruner, layer, heads, parts=PARTS):
    """Which heads the masks of a layer keep; fails if they do not agree."""
    kept = set()
    for name in parts:
        mask = heads_first(name, value_of(pruner.masks[f"{layer}/{name}/kernel"]))
        rows = mask.reshape(heads, -1)
        np.testing.assert_array_equal(rows.all(axis=1), rows.any(axis=1))
        kept.add(tuple(rows.all(axis=1).tolist()))
    (agreed,) = kept
    return list(agreed)


def attend(layer, x, query_heads):
    """The layer's output, computed in NumPy by some of its query heads only."""
    weights = weights_of(layer)
    output_kernel, output_bias = weights["attention_output"]
    output = np.zeros(x.shape) + output_bias
    shared = weights["query"][0].shape[1] // weights["key"][0].shape[1]
    for head in query_heads:
        query, key, value = (
            x @ weights[name][0][:, number] + weights[name][1][number]
            for name, number in (
                ("query", head),
                ("key", head // shared),
                ("value", head // shared),
            )
        )
        logits = query @ key.transpose(0, 2, 1) / SIZE**0.5
        attention = np.exp(logits - logits.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        output += attention @ value @ output_kernel[head]
    return output


@pytest.mark.parametrize("make, heads", [(multi_head, 4), (group_query, 2)])
def test_pruned_heads_leave_all_kernels_and_the_output(make, heads):
    layer = make()
    model = built(layer)
    expected = head_scores({n: abs(v) for n, v in parts_of(layer).items()}, heads)
    lowest = np.isin(np.arange(heads), np.argsort(expected)[: heads // 2])
    x = np.random.default_rng(5).normal(size=(2, 5, FEATURES)).astype("float32")
    before = value_of(layer(x, x))
    np.testing.assert_allclose(before, attend(layer, x, range(4)), rtol=1e-4)
    pruner = pruner_of(model)
    pruner.update_masks()
    kept = kept_heads(pruner, "attention", heads)
    np.testing.assert_array_equal(kept, ~lowest)
    assert pruner.current_sparsity_ratio == 0.5
    after = value_of(layer(x, x))
    query_heads = np.flatnonzero(np.repeat(kept, 4 // heads))
    np.testing.assert_allclose(after, attend(layer, x, query_heads), rtol=1e-4)
    assert abs(after - before).max() > 0.1


@pytest.mark.parametrize(
    "criterion, make, heads",
    [
        ("taylor", multi_head, 4),
        ("taylor", group_query, 2),
        ("block_mask", multi_head, 4),
        ("retrain_free", group_query, 2),
    ],
)
def test_pooled_scores_of_heads_equal_numpy(criterion, make, heads):
    layer = make()
    pruner = pruner_of(built(layer), criterion=criterion, allocation="uniform")
    generator = np.random.default_rng(6)
    shapes = {kernel.path: kernel.variable.shape for kernel in pruner.kernels}
    weights = parts_of(layer)
    expected = {name: np.zeros(heads) for name in PARTS}
    for _ in range(2):
        gradients = {p: generator.normal(size=s) for p, s in shapes.items()}
        pruner.on_before_optimizer_step(
            {p: ops.convert_to_tensor(g, "float32") for p, g in gradients.items()}
        )
        pruner.on_after_optimizer_step()
        for path, gradient in gradients.items():
            name = path.split("/")[1]
            product = weights[name] * heads_first(name, gradient)
            effect = product.reshape(heads, -1).sum(axis=1)
            old = expected[name]
            expected[name] = {
                "taylor": 0.9 * old + 0.1 * effect**2,
                "block_mask": 0.9 * old + abs(effect),
                "retrain_free": old + effect**2,
            }[criterion]
    for path, scores in pruner.scores.items():
        name = path.split("/")[1]
        found = heads_first(name, value_of(scores)).reshape(heads, -1)
        np.testing.assert_allclose(found, found[:, :1] + 0 * found)
        np.testing.assert_allclose(found[:, 0], expected[name], rtol=1e-4)
    pruner.update_masks()
    lowest = np.argsort(sum(expected.values()))[: heads // 2]
    pruned = np.flatnonzero(~np.array(kept_heads(pruner, "attention", heads)))
    assert sorted(pruned) == sorted(lowest)


@pytest.mark.skipif(
    "use_gate" not in inspect.signature(layers.GroupQueryAttention).parameters,
    reason="the attention of this version of Keras has no gate",
)
def test_gate_of_a_head_is_pruned_with_it():
    layer = group_query(use_gate=True)
    pruner = pruner_of(built(layer))
    pruner.update_masks()
    assert len(pruner.kernels) == 5
    kept = kept_heads(pruner, "attention", 2, parts=(*PARTS, "gate"))
    assert sum(kept) == 1


@pytest.mark.parametrize(
    "allocation, kept", [("uniform", [2, 2]), ("erk", [2, 2]), ("global", [1, 3])]
)
def test_heads_of_two_layers_by_allocation(allocation, kept):
    # The second layer's weights are larger, so a joint ranking takes all of the first
    # except for the head that each layer keeps.
    model = built(multi_head("first"), multi_head("second"), scale=1.5)
    pruner = pruner_of(model, allocation=allocation)
    pruner.update_masks()
    counts = [sum(kept_heads(pruner, name, 4)) for name in ("first", "second")]
    assert counts == kept
    assert pruner.current_sparsity_ratio == 0.5
    assert [plan.path for plan in pruner.plan.kernels] == ["first", "second"]


def test_attention_layers_of_one_name_are_pruned_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = multi_head("twin"), multi_head("twin")

        def call(self, x):
            return self.second(self.first(x, x), x)

    model = Twins()
    model(np.zeros((1, 5, FEATURES), "float32"))
    pruner = pruner_of(model)
    assert [plan.path for plan in pruner.plan.kernels] == ["twin", "twin#2"]
    assert {kernel.coupling("heads").unit for kernel in pruner.kernels} == {
        "twin",
        "twin#2",
    }
    pruner.update_masks()
    assert pruner.current_sparsity_ratio == 0.5


def test_ten_percent_of_four_heads_is_no_head():
    pruner = pruner_of(built(multi_head()), target_sparsity=0.1)
    pruner.update_masks()
    assert sum(kept_heads(pruner, "attention", 4)) == 4


def test_excluding_one_of_the_four_kernels_is_an_error():
    model = built(multi_head())
    message = "of attention layer 'attention' the kernels of key are not selected"
    with pytest.raises(ValueError, match=message):
        pruner_of(model, exclude="attention/key/kernel")
    with pytest.raises(ValueError, match="the kernels of key, value, attention_outp"):
        pruner_of(model, include="attention/query/.*")
    other = built(multi_head("first"), multi_head("second"))
    assert len(pruner_of(other, exclude="first/.*").kernels) == 4


def test_a_model_without_attention_is_an_error_with_the_reason():
    message = r"hidden/kernel \(16, 8\): pattern 'mha' takes the kernels of MultiHead"
    with pytest.raises(ValueError, match=message):
        pruner_of(build_mlp())
