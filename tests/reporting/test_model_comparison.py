"""Two models side by side: numbers, scores, outputs, and one sentence."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, compile_mlp, set_kernel
from keras import ops

from keras_pruner import ENGINES, Engine, compare, register_engine
from keras_pruner.reporting import (
    Latency,
    Measurement,
    ModelComparison,
    ModelSize,
    Outputs,
    Scores,
    Timing,
)
from keras_pruner.reporting.comparing.labelled_data import LabelledData
from keras_pruner.reporting.comparing.verdict import engines_for_zeros


@pytest.fixture
def pair():
    """A model, and its copy of which half of the first kernel is zero."""
    before, after = build_mlp(), build_mlp()
    after.set_weights(before.get_weights())
    kernel = ops.convert_to_numpy(before.layers[0].kernel).copy()
    kernel[:8] = 0
    set_kernel(after.layers[0], kernel)
    return before, after


def timing(milliseconds):
    seconds = np.full((2, 2), milliseconds / 1e3)
    return Timing(seconds, np.full(2, milliseconds / 1e3))


def latency(before, after, engine="litert", batch_size=1, file_bytes=None):
    timings = timing(before), timing(after)
    return Latency(engine, batch_size, 1, timings, None, None, file_bytes)


class Flops:
    """What a `Measurement` reads of a `FlopsReport`."""

    def __init__(self, flops):
        self.flops = self.effective_flops = flops


def verdict(
    *latencies, nonzero=100, sizes=((400, 400), (400, 400)), flops=(1, 1), scores=None,
    outputs=None, layers=("Dense",),
):  # fmt: skip
    models = [ModelSize(100, 100, *sizes[0]), ModelSize(100, nonzero, *sizes[1])]
    measurement = Measurement(models, list(map(Flops, flops)), latencies, 2)
    scores = scores or Scores(reason="none")
    outputs = outputs or Outputs(reason="none")
    return ModelComparison(measurement, scores, outputs, layers).verdict


def test_verdict_on_time():
    assert verdict(latency(19, 10)) == "1.9x faster at batch 1, no smaller."
    found = verdict(latency(10, 5), latency(10, 10, batch_size=64))
    assert found == "2.0x faster at batch 1 and no faster at batch 64, no smaller."
    found = verdict(latency(10, 5), latency(10, 5, batch_size=64))
    assert found == "2.0x faster at batch 1 and 64, no smaller."
    # Engines with one result share a phrase; the best engine comes first.
    same = [latency(10, 10, engine) for engine in ("tensorflow", "openvino")]
    found = verdict(*same, latency(10, 15, "onnxruntime"), latency(10, 4))
    assert found == (
        "2.5x faster at batch 1 on litert; no faster at batch 1 on tensorflow and "
        "openvino; 1.5x slower at batch 1 on onnxruntime, no smaller."
    )
    failed = Latency("litert", 1, 1, None, None, "fails")
    assert verdict(failed).startswith("Not timed, because no engine runs both models")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ((400, 400), "No smaller."),
        ((400, 100), "4.0x smaller if the file is zipped."),
        ((100, 100), "4.0x smaller."),
        ((200, 100), "2.0x smaller (4.0x zipped)."),
        ((800, 400), "2.0x larger."),
    ],
)
def test_verdict_on_bytes(after, words):
    assert verdict(sizes=((400, 400), after)) == words


def test_verdict_on_exported_bytes():
    found = verdict(latency(10, 5, file_bytes=(900, 100)))
    assert found == "2.0x faster at batch 1, no smaller, 9.0x smaller for litert."


def test_verdict_on_accuracy_and_outputs():
    def of(before, after, name="accuracy"):
        return verdict(scores=Scores({"loss": (1, 2), name: (before, after)}))

    assert of(0.912, 0.910) == "No smaller, 0.2 points less accurate."
    assert of(0.5, 0.625) == "No smaller, 12.5 points more accurate."
    assert of(0.5, 0.5001) == "No smaller, equally accurate."
    assert of(0, 0, "mae") == "No smaller, loss 2 instead of 1."
    outputs = Outputs(0.1, 0.2, 0.03, False)
    found = verdict(outputs=outputs)
    assert found == "No smaller, with outputs that differ by 0.03 of their variance."
    equal = verdict(outputs=Outputs(0.0, 0.0, 0.0, True))
    assert equal == "No smaller, with equal outputs."


def test_verdict_tells_what_makes_zeros_pay():
    advice = (
        "zeros alone make nothing faster here: prune Dense with pattern '1x4' and "
        "export to LiteRT, or remove whole channels (`prune_structured`, `shrink`)."
    )
    assert verdict(latency(10, 10), nonzero=20).endswith(advice)
    convolutions = verdict(latency(10, 10), nonzero=20, layers=("DepthwiseConv2D",))
    assert convolutions.endswith("here: remove whole channels (`prune_structured`, `s"
                                 "hrink`).")  # fmt: skip
    for silent in (
        verdict(latency(10, 5), nonzero=20),
        verdict(latency(10, 10), nonzero=20, flops=(1, 0.5)),
        verdict(latency(10, 10)),
        verdict(nonzero=20),
    ):
        assert "zeros" not in silent
    assert engines_for_zeros(set()) == []


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(ENGINES, "_classes", dict(ENGINES))

    @register_engine("fake")
    class Fake(Engine):
        def load(self, model, inputs, num_threads):
            return lambda: [ops.convert_to_numpy(model(inputs, training=False))]

    return Fake


def test_compare_collects_all_numbers(pair, data, fake):
    before, after = pair
    compile_mlp(before, metrics=["accuracy"])
    weights = before.get_weights()
    found = compare(before, after, data, engines="fake", rounds=2)
    rows = {row["quantity"]: row for row in found.rows()}
    assert list(rows) == [
        *("parameters", "zeros", "FLOPs of a sample", "effective FLOPs"),
        *("bytes of .keras", "bytes, deflated"),
        *("fake, batch 1, ms", "fake, batch 64, ms"),
        *("accuracy", "loss", "output difference", "output error"),
    ]
    # 8 and 3 biases are zero, too.
    assert rows["zeros"]["before"] == pytest.approx(11 / 163)
    assert rows["zeros"]["after"] == pytest.approx(75 / 163)
    assert rows["effective FLOPs"]["ratio"] == pytest.approx(88 / 152)
    low, high = rows["fake, batch 64, ms"]["ratio_quartiles"]
    assert 0 < low <= rows["fake, batch 64, ms"]["ratio"] <= high
    totals = found.totals()
    loss = before.evaluate(*data, verbose=0, return_dict=True)
    assert totals["before"]["metrics"] == pytest.approx(loss)
    predicted = ops.convert_to_numpy(after(data[0])).argmax(-1)
    expected = np.mean(predicted == data[1])
    assert totals["after"]["metrics"]["accuracy"] == pytest.approx(expected)
    y, z = (ops.convert_to_numpy(model(data[0][:64])) for model in pair)
    assert totals["outputs"]["difference"] == pytest.approx(np.abs(y - z).max(), 1e-4)
    assert totals["verdict"] == found.verdict
    # Nothing of the models changes.
    assert not after.compiled
    for value, kept in zip(before.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_outputs_of_other_shapes_or_fewer_bits(pair):
    before, _ = pair
    outputs = keras.layers.Dense(5)(before.layers[0].output)
    found = compare(before, keras.Model(before.inputs, outputs), engines=())
    assert found.outputs.reason == "they have the shapes [(2, 3)] and [(2, 5)]"
    assert "Outputs are not compared: they have the shapes" in str(found)
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    half = keras.models.clone_model(
        before,
        clone_function=lambda x: type(x).from_config(
            x.get_config() | {"dtype": policy}
        ),
    )
    half.set_weights(before.get_weights())
    for models in ((before, half), (half, before)):
        found = compare(*models, engines=()).outputs
        assert 0 < found.relative_difference < 2e-2
    assert found.is_equal


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_comparison_fits_a_terminal(pair, data, fake, width):
    compile_mlp(pair[0], metrics=["accuracy"])
    found = compare(*pair, data, engines="fake", rounds=1)
    lines = found.to_text(width=width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "before" in text and "after" in text and "output error" in text
    assert ("change" in text) == (width > 40)
    # No name is broken within a word.
    assert "accuracy" in text and "deflated" in text
    for word in ("quartiles", "÷1.73"):
        assert (word in text) == (width >= 80 if word == "quartiles" else width > 40)
    assert not any(a == b == "" for a, b in zip(lines, lines[1:], strict=False))


def test_comparison_as_html(pair, data):
    found = compare(*pair, data, engines=(), metrics=["accuracy"])
    html = found._repr_html_()
    assert html == found.to_html() and html.count("<tr>") == len(found.rows()) + 1
    assert "<th" in html and "accuracy" in html and found.verdict[:20] in html


def test_a_model_without_parameters_has_no_zeros():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Flatten()])
    found = compare(model, model, engines=())
    (row,) = [row for row in found.rows() if row["quantity"] == "zeros"]
    assert (row["before"], row["after"]) == (0, 0)


def test_files_are_compared(pair, tmp_path):
    for name, model in zip(("a", "b"), pair, strict=True):
        model.save(tmp_path / f"{name}.keras")
    found = compare(tmp_path / "a.keras", str(tmp_path / "b.keras"), engines=())
    assert found.totals()["before"]["parameters"] == 163
    assert found.scores.reason == "no labels are given"
    with pytest.raises(ValueError, match="none.keras' cannot be loaded"):
        compare(tmp_path / "none.keras", pair[0], engines=())
    with pytest.raises(TypeError):
        compare(3, pair[0])


def test_metrics_that_are_given_win(pair, data):
    x, y = data
    compile_mlp(pair[0], metrics=["accuracy"])
    metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2_acc")
    found = compare(*pair, x, labels=y, metrics=["accuracy", metric], engines=())
    assert list(found.scores.values) == ["accuracy", "top_2_acc"]
    probabilities = ops.convert_to_numpy(pair[0](x))
    best = np.argsort(-probabilities, axis=-1)[:, :2]
    expected = np.mean([label in row for label, row in zip(y, best, strict=True)])
    assert found.scores.values["top_2_acc"][0] == pytest.approx(expected)
    # The metric that was given is not used up.
    assert float(metric.result()) == 0


def test_weighted_labels_and_data_sets(pair, data):
    x, y = data
    weights = np.zeros(96, "float32")
    weights[:10] = 1
    compile_mlp(pair[0], weighted_metrics=["accuracy"])
    found = compare(*pair, (x, y, weights), engines=())
    predicted = ops.convert_to_numpy(pair[0](x[:10])).argmax(-1)
    expected = np.mean(predicted == y[:10])
    assert found.scores.accuracy[0] == pytest.approx(expected)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            part = slice(16 * index, 16 * index + 16)
            return x[part], y[part]

    whole = compare(*pair, (x, y), metrics=["accuracy"], engines=())
    batched = compare(*pair, Batches(), metrics=["accuracy"], engines=())
    assert batched.scores.accuracy == pytest.approx(whole.scores.accuracy)


def test_why_there_is_no_accuracy(pair, data):
    found = compare(*pair, data, engines=())
    assert found.scores.reason == "no model is compiled, and `metrics` names none"
    assert "No accuracy: no model is compiled" in found.to_text(width=200)
    with pytest.raises(ValueError, match="`metrics` needs labels"):
        compare(*pair, data[0], metrics=["accuracy"], engines=())
    with pytest.raises(ValueError, match="`labels` needs `data`"):
        compare(*pair, labels=data[1], engines=())
    with pytest.raises(ValueError, match="With these `metrics`, the models cannot be"):
        compare(*pair, data, metrics=["acuracy"], engines=())
    with pytest.raises(TypeError, match="ends after one pass"):
        compare(*pair, iter([data]), engines=())
    with pytest.raises(TypeError, match="Received: 3 of type int"):
        compare(*pair, 3, engines=())


def test_tuples_of_inputs_are_no_labels():
    inputs = [keras.Input((2,)), keras.Input((3,))]
    outputs = keras.layers.Dense(1)(keras.layers.Concatenate()(inputs))
    model = keras.Model(inputs, outputs)
    parts = np.zeros((4, 2)), np.zeros((4, 3))
    assert LabelledData.of(model, parts).labelled is None
    labelled = LabelledData.of(model, (list(parts), np.zeros((4, 1))))
    assert len(labelled.inputs) == 2 and len(labelled.labelled) == 2
    assert compare(model, model, parts, engines=()).outputs.is_equal


def test_a_fixed_batch_is_the_one_that_is_timed(fake):
    inputs = keras.Input(batch_shape=(4, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    found = compare(model, model, engines="fake", rounds=1)
    assert [row["batch_size"] for row in found.measurement.rows()] == [4]


@pytest.mark.parametrize(
    "rows, labels, message",
    [
        (np.full((4, 16), np.nan), None, "holds NaN"),
        (np.ones((0, 16)), None, "is empty"),
        (np.ones((4, 16)), np.zeros(3), "3 entries for the 4 samples"),
    ],
)
def test_data_that_shows_nothing_is_an_error(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        compare(build_mlp(), build_mlp(), rows, labels=labels, engines=())
