"""Groups, pins, calls and contractions of models that a reader can follow."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pruner import ChannelGraph, plot_graph, register_channel_rule, wrap
from keras_pruner.channels import Labels
from keras_pruner.channels.rules import registry


@pytest.fixture
def own_rules(monkeypatch):
    monkeypatch.setattr(registry, "_LAYERS", list(registry._LAYERS))


def members_of(graph, name):
    group = next(group for group in graph.groups if group.name == name)
    return {
        f"{m.path}[{m.axis}]": [indices.tolist() for indices in m.indices]
        for m in group.members
    }


def reasons_of(graph):
    return {f"{pin.path}[{pin.axis}]": pin.reason for pin in graph.pins}


def mlp():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", name="one"),
            layers.Dense(2, name="two"),
        ]
    )


def test_units_of_an_mlp():
    graph = ChannelGraph(mlp())
    each = [[0], [1], [2], [3]]
    assert members_of(graph, "one") == {
        "one/kernel[1]": each,
        "one/bias[0]": each,
        "two/kernel[0]": each,
    }
    assert reasons_of(graph) == {
        "one/kernel[0]": "input of the model",
        "two/kernel[1]": "output of the model",
        "two/bias[0]": "output of the model",
    }


def test_channels_through_flatten_have_an_index_for_each_position():
    inputs = keras.Input((2, 1, 3))
    x = layers.Conv2D(2, 1, use_bias=False, name="conv")(inputs)
    graph = ChannelGraph(
        keras.Model(inputs, layers.Dense(1, name="head")(layers.Flatten()(x)))
    )
    assert members_of(graph, "conv") == {
        "conv/kernel[3]": [[0], [1]],
        "head/kernel[0]": [[0, 2], [1, 3]],
    }


def test_residual_branches_lose_channels_together():
    inputs = keras.Input((3,))
    x = layers.Dense(2, use_bias=False, name="one")(inputs)
    y = layers.Dense(2, use_bias=False, name="two")(x)
    x = layers.Dense(1, name="head")(layers.Add()([x, y]))
    assert set(members_of(ChannelGraph(keras.Model(inputs, x)), "one")) == {
        "one/kernel[1]",
        "two/kernel[0]",
        "two/kernel[1]",
        "head/kernel[0]",
    }


def test_concatenated_channels_are_groups_of_their_own():
    inputs = keras.Input((3,))
    parts = [layers.Dense(n, use_bias=False, name=f"of_{n}")(inputs) for n in (2, 3)]
    x = layers.Dense(1, name="head")(layers.Concatenate()(parts))
    graph = ChannelGraph(keras.Model(inputs, x))
    assert members_of(graph, "of_2")["head/kernel[0]"] == [[0], [1]]
    assert members_of(graph, "of_3")["head/kernel[0]"] == [[2], [3], [4]]


def test_groups_and_their_channels_of_a_grouped_convolution():
    inputs = keras.Input((4, 3))
    x = layers.Dense(4, use_bias=False, name="before")(inputs)
    x = layers.Conv1D(6, 1, groups=2, use_bias=False, name="grouped")(x)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(1, name="after")(x)))
    assert members_of(graph, "before") == {
        "before/kernel[1]": [[0, 1], [2, 3]],
        "grouped/kernel[2]": [[0, 1, 2], [3, 4, 5]],
        "after/kernel[0]": [[0, 1, 2], [3, 4, 5]],
    }
    assert members_of(graph, "before#2") == {
        "before/kernel[1]": [[0, 2], [1, 3]],
        "grouped/kernel[1]": [[0], [1]],
    }
    assert members_of(graph, "grouped") == {
        "grouped/kernel[2]": [[0, 3], [1, 4], [2, 5]],
        "after/kernel[0]": [[0, 3], [1, 4], [2, 5]],
    }


def test_heads_and_dimensions_of_attention():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, value_dim=4, name="mha")(inputs, inputs)
    graph = ChannelGraph(keras.Model(inputs, x))
    assert [(g.name, g.kind, g.size) for g in graph.groups] == [
        ("mha/query", "heads", 2),
        ("mha/query#2", "channels", 3),
        ("mha/value", "channels", 4),
    ]
    assert "mha/attention_output/kernel[0]" in members_of(graph, "mha/query")


def test_dimensions_of_keys_and_values_go_together_only_on_jax():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)
    graph = ChannelGraph(keras.Model(inputs, x))
    is_jax = keras.backend.backend() == "jax"
    members = members_of(graph, "mha/query#2")
    assert ("mha/value/kernel[2]" in members) == is_jax
    assert len(graph.groups) == (2 if is_jax else 3)


def test_query_heads_of_shared_keys_go_with_their_key_or_place_by_place():
    inputs = keras.Input((5, 6))
    x = layers.GroupQueryAttention(3, 4, 2, name="gqa")(inputs, inputs)
    graph = ChannelGraph(keras.Model(inputs, x))
    whole, part = members_of(graph, "gqa/query"), members_of(graph, "gqa/query#2")
    assert whole["gqa/key/kernel[1]"] == [[0], [1]]
    assert whole["gqa/query/kernel[1]"] == [[0, 1], [2, 3]]
    assert part["gqa/query/kernel[1]"] == [[0, 2], [1, 3]]
    assert "gqa/key/kernel[1]" not in part


def test_gates_of_an_lstm_lose_units_together():
    inputs = keras.Input((5, 3))
    x = layers.LSTM(2, name="lstm")(inputs)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(1, name="head")(x)))
    each = [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert members_of(graph, "lstm/lstm_cell") == {
        "lstm/lstm_cell/kernel[1]": each,
        "lstm/lstm_cell/recurrent_kernel[0]": [[0], [1]],
        "lstm/lstm_cell/recurrent_kernel[1]": each,
        "lstm/lstm_cell/bias[0]": each,
        "head/kernel[0]": [[0], [1]],
    }


def test_tied_embedding_loses_its_width():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(7, 4, name="embedding")
            self.hidden = layers.Dense(4, name="hidden")

        def call(self, tokens):
            x = self.hidden(self.embedding(tokens))
            return ops.matmul(x, ops.transpose(self.embedding.embeddings))

    model = Tied()
    model(np.zeros((1, 3), "int32"))
    graph = ChannelGraph(model)
    assert set(members_of(graph, "hidden")) == {
        "embedding/embeddings[1]",
        "hidden/kernel[0]",
        "hidden/kernel[1]",
        "hidden/bias[0]",
    }
    assert reasons_of(graph) == {
        "embedding/embeddings[0]": "embedding: its indices are looked up"
    }


def test_shared_layer_loses_channels_in_all_its_calls():
    inputs = keras.Input((3,))
    shared = layers.Dense(3, name="shared")
    x = shared(shared(layers.Dense(3, name="first")(inputs)))
    x = layers.Dense(1, name="last")(x)
    graph = ChannelGraph(keras.Model(inputs, x))
    assert len(graph.groups) == 1
    assert set(members_of(graph, "first")) >= {"shared/kernel[0]", "shared/kernel[1]"}


def test_stateful_layer_loses_units():
    inputs = keras.Input((5, 3), batch_size=2)
    x = layers.GRU(4, stateful=True, name="gru")(inputs)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(1)(x)))
    assert [(g.name, g.size) for g in graph.groups] == [("gru/gru_cell", 4)]


def test_kernels_under_masks_lose_channels():
    graph = ChannelGraph(wrap(mlp()))
    assert set(members_of(graph, "pruned_one/one")) == {
        "pruned_one/one/kernel[1]",
        "pruned_one/one/bias[0]",
        "pruned_two/two/kernel[0]",
    }


def test_variable_belongs_to_the_innermost_layer():
    inputs = keras.Input((4, 3))
    inner = layers.Conv1D(4, 1, name="inner")
    x = layers.SpectralNormalization(inner, name="outer")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    member = ChannelGraph(model).groups[0].members[0]
    assert member.path == "outer/inner/kernel" and member.layer is inner


def test_single_channel_must_stay():
    inputs = keras.Input((3,))
    x = layers.Dense(2, name="head")(layers.Dense(1, name="one")(inputs))
    graph = ChannelGraph(keras.Model(inputs, x))
    assert graph.groups == ()
    reason = "a channel that is alone on its axes must stay"
    assert reasons_of(graph)["one/kernel[1]"] == reason
    assert reasons_of(graph)["head/kernel[0]"] == reason


def test_halves_of_an_axis_with_other_readers_are_two_groups():
    inputs = keras.Input((3,))
    x = layers.Dense(8, use_bias=False, name="both")(inputs)
    x = layers.Dense(2)(x[:, :3]) + layers.Dense(2)(x[:, 3:])
    graph = ChannelGraph(keras.Model(inputs, x))
    assert [(g.name, g.size) for g in graph.groups] == [("both", 3), ("both#2", 5)]


def test_names_of_inputs_and_outputs_do_not_matter():
    one, other = keras.Input((3,), name="one"), keras.Input((4,), name="other")
    x = layers.Concatenate()([layers.Dense(5)(one), layers.Dense(6)(other)])
    outputs = {"p": layers.Dense(2)(x), "q": layers.Dense(1)(x)}
    graph = ChannelGraph(keras.Model({"one": one, "other": other}, outputs))
    assert [group.size for group in graph.groups] == [5, 6]


def test_own_layer_is_opened():
    class Gated(layers.Layer):
        def build(self, shape):
            self.weights_of = {"a": self.add_weight(shape=(shape[-1], 4), name="a")}
            self.both = [self.add_weight(shape=(shape[-1], 4), name="b")]
            self.scale = self.add_weight(shape=(4,), name="scale")

        def call(self, x):
            a = ops.matmul(x, self.weights_of["a"] * self.scale.value)
            return a * ops.sigmoid(x @ self.both[0])

    inputs = keras.Input((3,))
    x = layers.Dense(2, name="head")(Gated(name="gated")(inputs))
    graph = ChannelGraph(keras.Model(inputs, x))
    assert set(members_of(graph, "gated")) == {
        "gated/a[1]",
        "gated/b[1]",
        "gated/scale[0]",
        "head/kernel[0]",
    }


class Shy(layers.Layer):
    """Computes in a way that symbolic tensors do not allow."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("It needs numbers. Not symbols.")
        return x * self.factor

    def compute_output_shape(self, shape):
        return shape


def model_with(layer):
    inputs = keras.Input((3,))
    x = layer(layers.Dense(4, name="before")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="after")(x))


def test_layer_that_cannot_be_opened_pins_all_that_it_touches():
    graph = ChannelGraph(model_with(Shy(name="shy")))
    assert graph.groups == ()
    reasons = reasons_of(graph)
    for place in ("before/kernel[1]", "shy/factor[0]", "after/kernel[0]"):
        assert reasons[place] == "shy: its `call` cannot be followed: It needs numbers"


def test_variable_that_is_read_outside_of_operations_is_pinned():
    class Reads(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")
            variable = self.factor
            self.read = lambda: ops.abs(variable)

        def call(self, x):
            return x * ops.max(self.read()) * self.factor

    reasons = reasons_of(ChannelGraph(model_with(Reads(name="reads"))))
    words = "reads: its values are read outside of operations"
    assert reasons["before/kernel[1]"] == reasons["reads/factor[0]"] == words


def test_comparison_of_tensors_is_followed():
    class Equal(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return ops.where(x == 0.0, 1 * self.factor, 0 * self.factor)

    graph = ChannelGraph(model_with(Equal(name="equal")))
    assert set(members_of(graph, "before")) == {
        "before/kernel[1]",
        "before/bias[0]",
        "equal/factor[0]",
        "after/kernel[0]",
    }


def test_operation_without_a_rule_pins():
    class Twice(keras.Operation):
        def call(self, x):
            return 2 * x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    reasons = reasons_of(ChannelGraph(model_with(lambda x: Twice()(x))))
    words = "operation Twice: no rule tells how it moves channels"
    assert reasons["before/kernel[1]"] == reasons["after/kernel[0]"] == words


def test_rule_for_an_own_layer(own_rules):
    @register_channel_rule(Shy)
    def rule(trace, layer, x):
        trace.unify(x.axes[-1], trace.labels_of(layer.factor).axes[0])
        return Labels(x.axes)

    graph = ChannelGraph(model_with(Shy(name="shy")))
    assert "shy/factor[0]" in members_of(graph, "before")


def test_subclass_with_another_call_does_not_use_the_rule_of_its_base():
    class Normalized(layers.Dense):
        def call(self, inputs):
            return ops.softmax(super().call(inputs), axis=-1)

    model = model_with(Normalized(4, name="normalized"))
    reason = reasons_of(ChannelGraph(model))["normalized/kernel[1]"]
    assert reason == "normalized: softmax along the axis"


def test_model_is_not_changed():
    class Remembers(layers.Layer):
        def __init__(self):
            super().__init__(name="remembers")
            self.last = None

        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            self.last = x
            self.add_loss(ops.sum(x))
            self.factor.assign(ops.ones((4,)))
            return x

    inputs = keras.Input((3,))
    x = layers.Dense(4, name="before")(inputs)
    remembers = Remembers()
    model = keras.Model(inputs, layers.Dense(2)(remembers(x)))
    last = remembers.last
    values = model.get_weights()
    attributes = [dict(vars(layer)) for layer in model.layers]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    ChannelGraph(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert remembers.last is last
    for layer, before in zip(model.layers, attributes, strict=True):
        assert {k: id(v) for k, v in vars(layer).items() if k != "_called"} == {
            k: id(v) for k, v in before.items() if k != "_called"
        }
    assert not any(isinstance(loss, keras.KerasTensor) for loss in model.losses[1:])
    for before, now in zip(values, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, now)


def test_failed_graph_leaves_the_model_as_it_was():
    class Fails(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                raise RuntimeError("no symbols here")
            return self.dense(x)

        def compute_output_spec(self, x):
            raise RuntimeError("nor here")

    model = Fails()
    model(np.zeros((1, 3)))
    with pytest.raises(RuntimeError, match="nor here"):
        ChannelGraph(model)
    assert isinstance(model.dense.kernel, keras.Variable)
    assert model(np.zeros((1, 3))).shape == (1, 2)


def test_models_without_variables_are_refused():
    model = keras.Sequential([layers.Dense(2)], name="empty")
    with pytest.raises(ValueError, match="Model 'empty' is not built"):
        ChannelGraph(model)


def test_kept_indices_and_shapes():
    model = mlp()
    graph = ChannelGraph(model)
    kept = graph.kept({"one": [3, 1]})
    one, two = model.layers
    assert kept.indices(one.kernel)[0] is None
    assert kept.indices(one.kernel)[1].tolist() == [0, 2]
    assert kept.indices(two.kernel)[0].tolist() == [0, 2]
    assert kept.indices(two.bias) == (None,)
    assert kept.shape(two.kernel) == (2, 2)
    call = next(call for call in graph.calls if call.operation is one)
    assert kept.shape_of(call.outputs) == (1, 2)
    assert kept.indices_of(call.args[0]) == (None, None)


@pytest.mark.parametrize(
    "removed, message",
    [
        ({"on": [0]}, "Unknown group 'on'. The model has: one."),
        ({"one": [4]}, "Group 'one' has the channels 0 to 3. Received: .4."),
        ({"one": [-1]}, "Group 'one' has the channels 0 to 3"),
        ({"one": range(4)}, "Group 'one' must keep at least one of its 4 channels."),
    ],
)
def test_removals_that_are_refused(removed, message):
    with pytest.raises(ValueError, match=message):
        ChannelGraph(mlp()).kept(removed)


def test_contractions_count_multiply_adds():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, groups=1, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Dense(5, name="dense")(layers.Flatten()(x))
    graph = ChannelGraph(keras.Model(inputs, x))
    kept = graph.kept({"conv": [0]})

    def counts(kept):
        return {
            c.path: int(np.prod([kept.size_of(ids) for ids in c.axes]))
            for c in graph.contractions
        }

    assert counts(graph.kept({})) == {
        "conv": 6 * 6 * 3 * 3 * 3 * 4,
        "depthwise": 4 * 4 * 3 * 3 * 4,
        "dense": 4 * 4 * 4 * 5,
    }
    assert counts(kept) == {
        "conv": 6 * 6 * 3 * 3 * 3 * 3,
        "depthwise": 4 * 4 * 3 * 3 * 3,
        "dense": 4 * 4 * 3 * 5,
    }
    assert graph.multiply_adds() == sum(counts(graph.kept({})).values())
    assert graph.multiply_adds({"conv": [0]}) == sum(counts(kept).values())
    assert sum(c.multiply_adds for c in graph.contractions) == graph.multiply_adds()


def test_contractions_of_recurrent_layers_count_their_steps():
    inputs = keras.Input((5, 3))
    graph = ChannelGraph(keras.Model(inputs, layers.SimpleRNN(2)(inputs)))
    sizes = [[len(ids) for ids in c.axes] for c in graph.contractions]
    assert sorted(np.prod(s) for s in sizes) == [5 * 2 * 2, 5 * 3 * 2]


def test_graph_is_shown_as_a_table():
    text = str(ChannelGraph(mlp()))
    assert "group  kind      size  removed from" in text
    assert "one    channels  4     one/kernel[1], one/bias[0], two/kernel[0]" in text
    assert "output of the model  two/kernel[1], two/bias[0]" in text


def test_graph_is_plotted():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ax = plot_graph(ChannelGraph(mlp()))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one (4 channels)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["one", "two"]
    pyplot.close("all")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inputs), name="single")
    with pytest.raises(ValueError, match="graph of model 'single' has no groups"):
        plot_graph(ChannelGraph(model))


class Gated(layers.Layer):
    """Its inner layers are not built when the model is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.gate, self.multiply = layers.Dense(4, name="gate"), layers.Multiply()

    def build(self, shape):
        self.gate.build(shape)

    def call(self, x):
        return self.multiply([x, self.gate(x)])


def test_merging_layer_that_is_not_built_is_followed():
    inputs = keras.Input((3,))
    x = Gated(name="gated")(layers.Dense(4, name="one")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="two")(x))
    # As in a layer that is built by its shapes only.
    multiply = model.get_layer("gated").multiply
    multiply.built = False
    vars(multiply).pop("_reshape_required", None)
    (group,) = ChannelGraph(model).groups
    assert {member.path for member in group.members} == {
        "one/kernel", "one/bias", "gated/gate/kernel", "gated/gate/bias", "two/kernel"
    }  # fmt: skip


def test_merging_of_tensors_of_other_ranks_is_opened():
    inputs = keras.Input((3,))
    one, two = layers.Dense(4, name="one")(inputs), layers.Dense(4, name="two")(inputs)
    x = layers.Add(name="add")([layers.Reshape((1, 4))(one), two])
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    calls = [call for call in ChannelGraph(model).calls if call.path == "add"]
    assert len(calls) > 1


class Opaque(layers.Layer):
    """Cannot be followed, and leaves open the size of an axis."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise TypeError("It needs numbers")
        return x[:, ::2]

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, None, x.shape[-1]), x.dtype)


def test_layer_that_leaves_sizes_open_is_run():
    inputs = keras.Input((6, 3))
    x = Opaque(name="opaque")(layers.Dense(4, name="one")(inputs))
    x = layers.Dense(4, name="two")(x)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(2, name="three")(x)))
    assert [group.name for group in graph.groups] == ["two"]
    assert "It needs numbers" in reasons_of(graph)["one/kernel[1]"]


def test_calls_know_the_types_of_their_tensors():
    inputs = keras.Input((3,), dtype="int32")
    x = layers.Embedding(5, 4, name="embedding")(inputs)
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    types = {call.path: call.dtypes for call in graph.calls if call.path}
    assert types == {"embedding": ("int32",), "head": ("float32",)}
