"""Files of each format: inputs, outputs, types, and what zeros bring."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
from absl import logging
from conftest import BACKEND, build_mlp, set_kernel, slow_where_compiled
from keras import layers, ops

from keras_pruner import EXPORTERS, export
from keras_pruner.backend import tensorflow_lite_interpreter

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml", "saved_model": ""}
NO_LITERT = EXPORTERS.get("litert").problem()
LITERT_ON_TENSORFLOW = pytest.mark.skipif(
    BACKEND != "tensorflow" or NO_LITERT is not None, reason=str(NO_LITERT)
)
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")


@pytest.fixture(params=SUFFIXES)
def format(request):
    problem = EXPORTERS.get(request.param).problem()
    if problem is not None:
        pytest.skip(problem)
    if request.param == "saved_model" and BACKEND == "torch":
        pytest.skip("Keras' export from torch to TensorFlow is experimental")
    return request.param


def test_models_are_exported_with_several_inputs_and_outputs(format, tmp_path):
    a, b = keras.Input((4,), name="second"), keras.Input((4,), name="first")
    outputs = {"y": layers.Dense(3)(a - 2 * b), "x": layers.Dense(2)(a)}
    model = keras.Model({"second": a, "first": b}, outputs)
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    assert report.relative_difference < 1e-5
    assert set(report.input_shapes) == {"first", "second"}
    assert report.bytes_after > 100
    assert report.input_shapes["first"] in [(None, 4), (1, 4)]


def test_warnings_are_logged_after_an_export(format, tmp_path, caplog):
    model = build_mlp()
    export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    logging.warning("still told")
    assert "still told" in caplog.text


def test_outputs_have_the_order_of_the_model(format, tmp_path):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, [layers.Dense(2)(x) for _ in range(12)])
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    assert report.relative_difference < 1e-5 and report.notes == ()


@ON_TENSORFLOW
def test_models_of_16_bits_compute_in_float32_in_files(format, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8), layers.Dense(3)])
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    assert 0 < report.relative_difference < 2e-2 or format == "saved_model"
    assert ("float32" in " ".join(report.notes)) == (format != "saved_model")
    assert {layer.compute_dtype for layer in model.layers} == {"float16"}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(8, activation="relu")
        self.second = layers.Dense(3)

    def call(self, x):
        return self.second(self.first(x))


@ON_TENSORFLOW
def test_adapted_statistics_are_constants_of_the_file(format, tmp_path):
    statistics = layers.Normalization()
    statistics.adapt(np.arange(24.0).reshape(6, 4))
    model = keras.Sequential([keras.Input((4,)), statistics, layers.Dense(3)])
    mean = statistics.mean
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    assert list(report.input_shapes.values()) == [(None, 4)]
    assert report.relative_difference < 1e-5 and statistics.mean is mean


def test_subclassed_models_are_exported(format, tmp_path):
    model = Subclassed()
    model(np.zeros((2, 5), "float32"))
    report = export(model, tmp_path / f"model{SUFFIXES[format]}", format)
    assert report.input_shapes == {"input_0": (None, 5)}
    assert report.relative_difference < 1e-5


def sparse_mlp(outputs, inputs, sparsity=0.9):
    """A model of which random blocks are zero: the pattern `outputs x inputs`."""
    model = keras.Sequential(
        [keras.Input((256,)), layers.Dense(256, activation="relu"), layers.Dense(256)]
    )
    generator = np.random.default_rng(0)
    for layer in model.layers:
        blocks = generator.random((256 // inputs, 256 // outputs)) >= sparsity
        mask = np.kron(blocks, np.ones((inputs, outputs)))
        set_kernel(layer, mask * ops.convert_to_numpy(layer.kernel))
    return model


@LITERT_ON_TENSORFLOW
@pytest.mark.parametrize(
    "outputs, inputs, share, rewards",
    [(1, 4, 1 / 7, "size and time"), (4, 1, 1 / 5, "size"), (1, 1, 1 / 5, "size")],
)
def test_litert_stores_zeros_in_its_sparse_encoding(
    tmp_path, outputs, inputs, share, rewards
):
    model = sparse_mlp(outputs, inputs)
    sparse = export(model, tmp_path / "sparse.tflite")
    dense = export(model, tmp_path / "dense.tflite", sparse=False)
    assert sparse.bytes_after < share * dense.bytes_after
    assert sparse.relative_difference < 1e-5
    assert sparse.rewards == rewards
    assert {row["pattern"] for row in sparse.rows()} == {f"{outputs}x{inputs}"}


@LITERT_ON_TENSORFLOW
def test_zeros_in_float16(tmp_path):
    model = sparse_mlp(1, 1)
    dense = export(model, tmp_path / "dense.tflite", weights="float16")
    sparse = export(model, tmp_path / "sparse.tflite", weights="float16", sparse=True)
    assert sparse.bytes_after < dense.bytes_after / 3
    assert (dense.rewards, sparse.rewards) == ("nothing", "size")
    with pytest.raises(ValueError, match="they have NaN or infinity"):
        path = tmp_path / "blocks.tflite"
        export(sparse_mlp(1, 4), path, weights="float16", sparse=True)
    assert not path.exists()


@LITERT_ON_TENSORFLOW
def test_litert_file_runs_with_any_batch_size(tmp_path):
    model = build_mlp()
    export(model, tmp_path / "model.tflite")
    # Its deprecation is a warning.
    with warnings.catch_warnings(action="ignore"):
        interpreter = tensorflow_lite_interpreter()(str(tmp_path / "model.tflite"))
    interpreter.allocate_tensors()
    x = np.random.default_rng(0).random((5, 16)).astype("float32")
    (made,) = interpreter.get_signature_runner()(input_0=x).values()
    np.testing.assert_allclose(made, model(x), atol=1e-6)


@LITERT_ON_TENSORFLOW
def test_litert_in_int8_is_never_sparse(tmp_path):
    model = sparse_mlp(1, 4)
    with pytest.raises(ValueError, match="wrong outputs, or none, for int8 kernels"):
        export(model, tmp_path / "model.tflite", weights="int8", sparse=True)
    report = export(model, tmp_path / "model.tflite", weights="int8")
    assert report.bytes_after < 0.3 * report.bytes_before
    assert 1e-4 < report.relative_difference < 0.1
    assert report.rewards == "nothing" and "int8 kernels" in str(report)
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match='is quantized.*with `weights="int8"`'):
        export(model, tmp_path / "model.tflite")


@LITERT_ON_TENSORFLOW
def test_operations_that_litert_lacks_are_refused(tmp_path):
    """TensorFlow's own interpreter would run them, and LiteRT on a device not."""
    x = keras.Input((4,))
    model = keras.Model(x, ops.erfinv(ops.tanh(x) / 2))
    with pytest.raises(ValueError, match="is not exported.*LiteRT is not written"):
        export(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


@slow_where_compiled
@LITERT_ON_TENSORFLOW
def test_recurrent_models_have_fixed_shapes_in_litert(tmp_path):
    model = keras.Sequential([keras.Input((None, 4)), layers.GRU(3)])
    report = export(
        model,
        tmp_path / "model.tflite",
        sample_inputs=np.random.default_rng(0).random((2, 5, 4)).astype("float32"),
    )
    assert report.input_shapes == {"input_0": (1, 5, 4)}
    assert report.relative_difference < 1e-5


@ON_TENSORFLOW
def test_saved_model_replaces_only_a_saved_model(tmp_path):
    import tensorflow as tf

    model = build_mlp()
    export(model, tmp_path / "model")
    set_kernel(model.layers[0], np.ones((16, 8)))
    report = export(model, tmp_path / "model", format="saved_model")
    files = [f for f in (tmp_path / "model").rglob("*") if f.is_file()]
    assert report.bytes_after == sum(file.stat().st_size for file in files)
    x = np.ones((2, 16), "float32")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    made = loaded.serve(x)
    np.testing.assert_allclose(made, model(x), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@ON_TENSORFLOW
def test_saved_model_has_each_weight_once(tmp_path):
    import tensorflow as tf

    model = build_mlp()
    model.layers[0].trainable = False
    export(model, tmp_path / "model", "saved_model")
    stored = tf.train.list_variables(str(tmp_path / "model" / "variables/variables"))
    sizes = [np.prod(shape, dtype=int) for name, shape in stored if "VALUE" in name]
    assert sum(sizes) == model.count_params()
    program = tmp_path / "model" / "saved_model.pb"
    large = keras.Sequential([keras.Input((16,)), layers.Dense(2000)])
    export(large, tmp_path / "large", "saved_model")
    growth = (tmp_path / "large/saved_model.pb").stat().st_size - program.stat().st_size
    assert growth < large.count_params()
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert [v.shape for v in loaded.trainable_variables] == [(8, 3), (3,)]
    assert [v.shape for v in loaded.non_trainable_variables] == [(16, 8), (8,)]


@slow_where_compiled
@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is missing"
)
@ON_TENSORFLOW
def test_file_that_onnx_runtime_refuses_is_refused(tmp_path):
    if EXPORTERS.get("onnx").problem() is not None:
        pytest.skip(EXPORTERS.get("onnx").problem())
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="gelu")])
    with pytest.raises(ValueError, match="ONNX Runtime does not run.*Erfc"):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
