"""Size and latency of two models, side by side."""

import importlib
import importlib.util

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, set_kernel
from keras import layers, ops

from keras_pruner import ENGINES, Engine, measure, register_engine, wrap
from keras_pruner.reporting import (
    Latency,
    Measurement,
    ModelSize,
    Timing,
    engines_of,
    interleave,
    size_of_model,
)
from keras_pruner.reporting.cost.verdict import verdict_of


@pytest.fixture
def fake(monkeypatch):
    """An engine that runs the Keras model, and can fail in several ways."""
    monkeypatch.setattr(ENGINES, "_classes", dict(ENGINES))

    @register_engine("fake")
    class Fake(Engine):
        takes_threads = True
        error = 0.0
        states = ()
        loaded = []
        calls = []

        def load(self, model, inputs, num_threads):
            self.loaded.append((model.name, inputs, num_threads))
            if model.name == "unsupported":
                raise NotImplementedError("no kernel for this operation")

            def run():
                self.calls.append(model.name)
                y = ops.convert_to_numpy(model(inputs, training=False))
                return [y * (1 + self.error), *self.states]

            return run

    Fake.loaded, Fake.calls = [], []
    return Fake


def named(name, units=8):
    model = build_mlp(units=units)
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def test_two_models_take_turns():
    calls = []
    timings = interleave([lambda: calls.append("A"), lambda: calls.append("B")], 2)
    turns = [x for x, y in zip(calls, ["", *calls], strict=False) if x != y]
    # A and B find out how many calls a visit has; then A B B A, A B B A.
    assert "".join(turns) == "AB" + "ABA" + "BA"
    assert [timing.calls.shape[0] for timing in timings] == [2, 2]
    assert all((timing.calls > 0).all() for timing in timings)
    assert [timing.cpu.shape for timing in timings] == [(2,), (2,)]


def timing(milliseconds, cpu=None):
    """Two rounds of two calls, each of so many milliseconds."""
    seconds = np.full((2, 2), milliseconds / 1e3)
    return Timing(seconds, np.full(2, (cpu or milliseconds) / 1e3))


def test_timing_in_milliseconds_and_as_ratios():
    slow = Timing(np.array([[0.001, 0.003], [0.004, 0.008]]), np.array([0.002, 0.004]))
    fast = Timing(np.array([[0.001, 0.001], [0.002, 0.002]]), np.array([0.001, 0.001]))
    assert slow.milliseconds == pytest.approx((2.5, 3.5, 5.0))
    assert slow.cpu_milliseconds == pytest.approx(3.0)
    # 2 / 1 and 6 / 2 in the two rounds.
    assert slow.ratio_to(fast) == pytest.approx((2.25, 2.5, 2.75))
    assert slow.cpu_ratio_to(fast) == pytest.approx((2.5, 3.0, 3.5))


def latency(model, other, engine="fake", batch_size=1, **settings):
    timings = timing(model), timing(other, **settings)
    return Latency(engine, batch_size, 1, timings)


def test_verdicts():
    fast, same, slow = latency(10, 5), latency(10, 9.9, "b"), latency(10, 12, "c", 16)
    faster = "Faster: the other model takes 0.50 of the model's time."
    assert verdict_of([fast], 0.5, False) == faster
    assert verdict_of([fast, latency(10, 6)], 0.5, False) == (
        "Faster: the other model takes 0.50 to 0.60 of the model's time."
    )
    assert verdict_of([fast, same, slow], 0.5, False) == (
        "Faster on fake at batch size 1 (0.50); not faster on b at batch size 1 "
        "(0.99); slower on c at batch size 16 (1.20)."
    )
    assert verdict_of([same], 1.0, True) == (
        "Not faster: the other model takes 0.99 of the model's time. It has more "
        "zeros, but these engines compute with zeros too. Remove whole channels, units "
        "or heads to make it faster."
    )
    assert verdict_of([slow], 0.5, False) == (
        "Slower: the other model takes 1.20 of the model's time. It has 0.50 of the "
        "FLOPs, so other costs outweigh them, such as the overhead of each call."
    )
    assert verdict_of([same], 1.0, False).endswith("It has 1.00 of the FLOPs.")
    untimed = Latency("fake", 1, 1, None, None, "fails")
    assert "no engine could run both" in verdict_of([untimed], 1.0, False)


def test_busy_machine_is_told_and_cpu_times_decide():
    busy = latency(10, 20, cpu=5)
    assert busy.wait == pytest.approx(4)
    assert busy.decisive_ratio == busy.cpu_ratio == pytest.approx((0.5, 0.5, 0.5))
    size = ModelSize(4, 4, 100, 50)
    found = Measurement([size] * 2, ["unknown"] * 2, [busy], 2)
    assert found.verdict.startswith("Faster")
    assert "up to 4.0 times their CPU time" in " ".join(str(found).split())
    on_all = Latency("fake", 1, None, busy.timings)
    assert on_all.decisive_ratio == on_all.ratio == pytest.approx((2, 2, 2))


def test_measurement_of_two_models_on_an_engine(fake):
    model, other = named("large"), named("small", 4)
    found = measure(
        model, other, engines="fake", batch_size=(1, 3), num_threads=2, rounds=2
    )
    assert [row["batch_size"] for row in found.rows()] == [1, 3]
    row = found.rows()[0]
    assert (row["engine"], row["num_threads"], row["reason"]) == ("fake", 2, None)
    assert row["difference"] < 1e-6
    low, high = row["ratio_quartiles"]
    assert 0 < low <= row["ratio"] <= high
    assert row["other_ms_quartiles"][0] <= row["other_ms"]
    assert min(row["model_ms"], row["model_cpu_ms"], row["cpu_ratio"]) > 0
    totals = found.totals()
    assert totals["model"]["parameters"] == 163
    assert totals["ratio"]["parameters"] == pytest.approx((68 + 15) / 163)
    assert (totals["model"]["flops"], totals["other"]["flops"]) == (304, 152)
    assert totals["ratio"]["flops"] == 0.5
    # The second batch repeats the samples.
    shapes = [inputs.shape for _, inputs, _ in fake.loaded]
    assert shapes == [(1, 16), (1, 16), (3, 16), (3, 16)]
    np.testing.assert_array_equal(fake.loaded[2][1][0], fake.loaded[2][1][2])
    assert fake.calls.count("large") > 2 * 2 * 2 * 3


def test_table_has_a_line_a_quantity():
    size, other = ModelSize(100, 90, 4000, 3000), ModelSize(50, 50, 2000, 1000)
    untimed = Latency("b", 1, 1, None, 0.5, "the model has other outputs there")
    found = Measurement(
        [size, other], ["no", "no"], [latency(10, 5), untimed], rounds=3
    )
    text = found.to_text(width=100)
    assert text.startswith("Faster: the other model takes 0.50 of the model's time.")
    assert "over the calls of 3 rounds" in text and "Threads: fake 1." in text
    lines = [line.split() for line in text.split("\n")]
    assert ["parameters", "100", "50", "0.50", "-", "-"] in lines
    assert ["fake,", "batch", "1,", "ms", "10.0", "5.00", "0.50"] == [
        word for line in lines if line[:1] == ["fake,"] for word in line
    ][:7]
    assert ["b,", "batch", "1,", "ms", "-", "-", "-", "-", "-", "[2]"] in lines
    assert text.endswith("[1] no\n[2] the model has other outputs there")
    assert "total" not in text and "total" not in found.to_html()


def test_one_model_alone_has_no_ratio(fake):
    found = measure(named("alone"), engines=["fake"], rounds=1)
    assert found.verdict is None
    assert "ratio" not in found.rows()[0] and "ratio" not in found.totals()
    assert "take turns" not in str(found)
    assert set(found.totals()) == {"model"}


def test_engine_with_other_outputs_is_not_timed(fake, monkeypatch):
    monkeypatch.setattr(fake, "error", 0.01)
    (row,) = measure(named("model"), engines="fake").rows()
    assert row["difference"] == pytest.approx(0.01, rel=1e-3)
    assert row["reason"].startswith("the model has other outputs there: they differ by")
    assert "model_ms" not in row
    assert fake.calls == ["model"]


def test_states_behind_the_outputs_are_no_outputs(fake, monkeypatch):
    monkeypatch.setattr(fake, "states", (np.zeros(2, "uint32"),))
    (row,) = measure(named("model"), engines="fake", rounds=1).rows()
    assert row["reason"] is None and row["difference"] < 1e-6


def test_engine_that_fails_is_listed_with_the_reason(fake):
    found = measure(named("model"), named("unsupported"), engines="fake")
    assert found.rows()[0]["reason"] == (
        "the other model does not run on it: NotImplementedError: no kernel for this "
        "operation"
    )
    assert found.verdict == (
        "Neither faster nor slower: no engine could run both models."
    )
    assert "no kernel for this operation" in " ".join(str(found).split())


def test_a_model_that_amplifies_rounding_may_differ_more(fake, monkeypatch):
    """Outputs are 1e4 times the difference of two equal sums of the inputs."""
    monkeypatch.setattr(fake, "error", 0.01)
    x = keras.Input((16,))
    y = layers.Dense(1, use_bias=False, kernel_initializer="ones")(x)
    model = keras.Model(x, y)
    alternating = np.array([1000.0, -1000.0] * 8, "float32")
    alternating[0] += 0.5
    (row,) = measure(model, engines="fake", data=alternating[None], rounds=1).rows()
    assert row["reason"] is None and row["difference"] > 0.009


def test_engines_are_chosen_by_name_or_installed(fake, monkeypatch):
    assert [type(e) for e in engines_of("fake")] == [fake]
    assert "fake" in [engine.name for engine in engines_of()]
    assert BACKEND in [engine.name for engine in engines_of()]
    assert "tensorflow_xla" not in [engine.name for engine in engines_of()]
    monkeypatch.setattr(fake, "problem", lambda self: "run `pip install fake`.")
    assert "fake" not in [engine.name for engine in engines_of()]
    with pytest.raises(ImportError, match="'fake' cannot run here: run `pip install"):
        measure(named("model"), engines=["fake"])
    with pytest.raises(ValueError, match="Unknown engine 'fakes'"):
        measure(named("model"), engines="fakes")
    with pytest.raises(ValueError, match="given twice"):
        engines_of([BACKEND, BACKEND])
    other = "jax" if BACKEND != "jax" else "torch"
    with pytest.raises(ImportError, match=f"Set KERAS_BACKEND={other}"):
        engines_of(other)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_missing_packages_are_named(name, monkeypatch):
    if (name, BACKEND) == ("openvino", "jax"):
        pytest.skip("OpenVINO reads nothing that Keras exports from JAX")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: None if m == name else found(m)
    )
    with pytest.raises(ImportError, match=rf"pip install .*{name}.*keras-pruner\[eng"):
        engines_of(name)


def test_the_backend_runs_models_with_its_outputs(data):
    model = compile_mlp()
    optimizer = model.optimizer
    found = measure(model, build_mlp(units=4), data=data[0], engines=BACKEND, rounds=2)
    (row,) = found.rows()
    assert row["engine"] == BACKEND and row["reason"] is None
    assert row["difference"] < 1e-5
    assert row["num_threads"] == (1 if BACKEND == "torch" else None)
    assert model.compiled and model.optimizer is optimizer


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("name", ["litert", "tensorflow_xla"])
def test_compilers_of_tensorflow_run_models_with_several_inputs(name):
    if ENGINES.get(name).problem() is not None:
        pytest.skip(ENGINES.get(name).problem())
    a, b = keras.Input((4,), name="second"), keras.Input((3,), name="first")
    y = layers.Concatenate()([a, b])
    outputs = {"y": layers.Dense(2)(y), "x": layers.Dense(3)(y)}
    model = keras.Model({"second": a, "first": b}, outputs)
    (row,) = measure(model, engines=name, batch_size=2, rounds=1).rows()
    assert row["reason"] is None and row["difference"] < 1e-5
    assert row["num_threads"] == (1 if name == "litert" else None)


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "openvino"])
def test_installed_engines_run_a_convolutional_model(name):
    if ENGINES.get(name).problem() is not None:
        pytest.skip("its packages are not installed")
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, activation="relu")(x)
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(y))
    model = keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))
    flags = [m.training for m in model.modules()] if BACKEND == "torch" else []
    (row,) = measure(model, engines=name, rounds=1).rows()
    assert row["reason"] is None and row["difference"] < 1e-5
    if BACKEND == "torch":
        assert [m.training for m in model.modules()] == flags


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_threads_of_torch_are_put_back():
    import torch

    before = torch.get_num_threads()
    with ENGINES.get("torch").running(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_size_counts_weights_and_bytes_without_the_optimizer():
    plain, trained = build_mlp(units=64), build_mlp(units=64)
    trained.compile("adam")
    trained.optimizer.build(trained.trainable_variables)
    sizes = [size_of_model(model) for model in (plain, trained)]
    assert abs(sizes[0].file_bytes - sizes[1].file_bytes) < 300
    assert trained.compiled and trained.optimizer is not None
    set_kernel(plain.layers[0], np.eye(16, 64))
    sparse = size_of_model(plain)
    assert sparse.parameters == 16 * 64 + 64 + 64 * 3 + 3
    assert sparse.nonzero_parameters == 16 + np.count_nonzero(plain.layers[1].kernel)
    assert sparse.zipped_bytes < sizes[0].zipped_bytes < sizes[0].file_bytes


def test_size_counts_masked_weights_as_zeros():
    model = wrap(build_mlp(), include="hidden")
    dense = size_of_model(model)
    (mask,) = model.layers[0].masks.values()
    mask.assign(np.arange(128).reshape(16, 8) % 2)
    assert size_of_model(model).parameters == dense.parameters == 163
    assert dense.nonzero_parameters - size_of_model(model).nonzero_parameters == 64


def test_model_that_cannot_be_saved_is_measured_otherwise():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            raise RuntimeError("has no config")

    model = Own()
    model(np.zeros((1, 3), "float32"))
    found = measure(model, data=np.zeros((1, 3), "float32"), engines=())
    assert found.totals()["model"]["file_bytes"] is None
    assert found.totals()["model"]["flops"] == 12
    assert "cannot be saved: RuntimeError: has no config" in str(found)


def test_operations_that_cannot_be_counted_have_a_reason(monkeypatch):
    def fails(*arguments):
        raise ValueError("cannot be followed")

    # The module has the name of its function.
    module = importlib.import_module("keras_pruner.reporting.cost.measure")
    monkeypatch.setattr(module, "count_flops", fails)
    found = measure(build_mlp(), engines=())
    assert found.totals()["model"]["flops"] is None
    assert "cannot be counted: ValueError: cannot be followed" in str(found)


def test_a_fixed_batch_size_must_be_asked_for(fake):
    x = keras.Input(batch_shape=(4, 16))
    model = keras.Model(x, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="Set `batch_size=4`. Received: 1"):
        measure(model, engines="fake")
    (row,) = measure(model, engines="fake", batch_size=4, rounds=1).rows()
    assert row["reason"] is None


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be >= 1"),
        ({"batch_size": (1, "2")}, TypeError, "`batch_size` must be an integer"),
        ({"rounds": 0}, ValueError, "`rounds` must be >= 1"),
        ({"num_threads": 0}, ValueError, "`num_threads` must be >= 1"),
        ({"verbose": "no"}, TypeError, "`verbose` must be True or False"),
        ({"other": "model"}, TypeError, "Expected a Keras model"),
        ({"data": np.zeros((0, 16))}, ValueError, "at least one sample"),
        ({"data": np.zeros((2, 5))}, ValueError, "cannot run on the inputs"),
        ({"engines": [3]}, TypeError, "An engine is given by name"),
    ],
)
def test_wrong_arguments_raise(settings, error, message):
    with pytest.raises(error, match=message):
        measure(build_mlp(), **{"engines": (), **settings})


def test_models_of_several_arguments_are_refused_by_name():
    class Two(keras.Model):
        def build(self, first_shape, second_shape):
            """Lets Keras save the shapes by name."""

        def call(self, first, second):
            return first + second

    model = Two(name="two")
    model(np.zeros((1, 3), "float32"), np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match="take one argument.*'two' takes first, secon"):
        measure(model, engines=())
