"""Files are run before they get their name, and refused if they differ."""

import importlib.util
import os
import zipfile

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, set_kernel, value_of
from keras import layers, ops

from keras_pruner import EXPORTERS, Exporter, export, register_exporter, wrap
from keras_pruner.comparison import outputs_of


@pytest.fixture
def fake(monkeypatch):
    """A format whose files can be wrong in several ways."""
    monkeypatch.setattr(EXPORTERS, "_classes", dict(EXPORTERS))

    @register_exporter("fake")
    class Fake(Exporter):
        title = "a fake"
        suffix = ".fake"
        engine = "onnxruntime"
        error = 0.0
        fails = ()
        closed_only = False
        runs = []

        def write(self, model, path, samples):
            if "write" in self.fails:
                path.write_text("half a fi")
                raise RuntimeError("disk of the fake is full")
            path.write_text("the file")
            path.with_suffix(".beside").write_text("beside it")

        def run(self, model, path, samples):
            assert path.read_text() == "the file"
            self.runs.append(samples)
            if self.closed_only and samples.is_open:
                raise RuntimeError("no open axes")
            made = outputs_of(model, (samples.arguments, {}))
            return [y * (1 + self.error) for y in made]

    Fake.runs = []
    return Fake


def test_file_that_computes_the_same_gets_its_name(fake, tmp_path):
    report = export(build_mlp(), tmp_path / "model.fake")
    assert sorted(os.listdir(tmp_path)) == ["model.beside", "model.fake"]
    assert report.bytes_after == len("the file") + len("beside it")
    assert report.format == "fake" and report.difference == 0
    # Two made samples, and one more since the batch is open.
    assert [run.num_samples for run in fake.runs] == [2, 3]
    assert report.input_shapes == {"input_0": (None, 16)}


def test_file_that_differs_is_refused_with_both_numbers(fake, tmp_path, monkeypatch):
    (tmp_path / "model.fake").write_text("of yesterday")
    monkeypatch.setattr(fake, "error", 0.5)
    with pytest.raises(ValueError) as error:
        export(build_mlp(), tmp_path / "model.fake")
    text = str(error.value)
    assert "is not exported, because the file for a fake computes other" in text
    assert "which is 0.5 of the largest output, and 0.001 counts as rounding" in text
    assert os.listdir(tmp_path) == ["model.fake"]
    assert (tmp_path / "model.fake").read_text() == "of yesterday"


def test_tolerance_is_a_share_of_the_largest_output(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "error", 0.01)
    model = build_mlp()
    report = export(model, tmp_path / "model.fake", tolerance=0.02)
    assert report.relative_difference == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ValueError, match=r"and 0.005 counts as rounding"):
        export(model, tmp_path / "model.fake", tolerance=0.005)


@pytest.mark.parametrize("path", ["", "."])
def test_the_working_folder_is_not_replaced(tmp_path, monkeypatch, path):
    if not has("tensorflow"):
        pytest.skip("needs TensorFlow")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="ends in a name"):
        export(build_mlp(), path, "saved_model")
    assert os.path.samefile(os.getcwd(), tmp_path) and os.listdir(tmp_path) == []


def test_outputs_of_nan_are_told(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "error", np.nan)
    with pytest.raises(ValueError, match="other outputs: they have NaN or infinity"):
        export(build_mlp(), tmp_path / "model.fake")


def test_errors_do_not_name_the_folder_that_is_gone(fake, tmp_path, monkeypatch):
    def fails(self, model, path, samples):
        raise RuntimeError(f"cannot read {path}: it is full")

    monkeypatch.setattr(fake, "run", fails)
    with pytest.raises(ValueError, match="cannot read model.fake: it is full"):
        export(build_mlp(), tmp_path / "model.fake")


def test_failed_write_leaves_nothing(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "fails", ("write",))
    with pytest.raises(ValueError, match="is not written: RuntimeError: disk of the"):
        export(build_mlp(), tmp_path / "model.fake")
    assert os.listdir(tmp_path) == []


def test_file_without_open_axes_takes_one_sample(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "closed_only", True)
    report = export(build_mlp(), tmp_path / "model.fake")
    assert report.input_shapes == {"input_0": (1, 16)}
    assert "takes inputs of shape (1, 16) only, because with open axes it does not" in (
        " ".join(report.notes)
    )
    # With each sample alone, because one of them may say nothing.
    assert [run.num_samples for run in fake.runs] == [2, 1, 1]


def test_given_samples_are_used_and_must_fit(fake, tmp_path):
    x = np.ones((4, 16), "float32")
    x[0] = 0
    export(build_mlp(), tmp_path / "model.fake", sample_inputs=x)
    np.testing.assert_array_equal(fake.runs[0].feeds["input_0"], x)
    with pytest.raises(ValueError, match="cannot run on the given `inputs`"):
        export(build_mlp(), tmp_path / "model.fake", sample_inputs=x[:, :3])


def test_samples_on_which_outputs_are_equal_say_little(fake, tmp_path):
    x = np.ones((4, 16), "float32")
    report = export(build_mlp(), tmp_path / "model.fake", sample_inputs=x)
    assert "so the comparison says little" in " ".join(report.notes)


def test_model_without_known_inputs_needs_samples(fake, tmp_path):
    class Table(keras.Model):
        """Nothing says that it takes integers."""

        def build(self, input_shape):
            self.table = self.add_weight(shape=(9, 2))

        def call(self, x):
            if "int" not in keras.backend.standardize_dtype(x.dtype):
                raise TypeError("integers only")
            return ops.take(self.table, x, axis=0)

    model = Table(name="table")
    x = np.arange(6).reshape(2, 3)
    model(x)
    with pytest.raises(ValueError, match="'table' cannot be export.*`sample_inputs`"):
        export(model, tmp_path / "model.fake", strip=False)
    report = export(model, tmp_path / "model.fake", strip=False, sample_inputs=x)
    assert report.input_shapes == {"input_0": (None, 3)}


def test_names_and_shapes_of_inputs_are_those_of_the_model(fake, tmp_path):
    a, b = keras.Input((None, 4), name="tokens"), keras.Input((4,), name="mask")
    model = keras.Model([a, b], ops.sum(a, axis=1) * b)
    report = export(model, tmp_path / "model.fake")
    assert report.input_shapes == {"tokens": (None, None, 4), "mask": (None, 4)}
    x = keras.Input(batch_shape=(3, 4), name="x")
    report = export(keras.Model(x, 2 * x), tmp_path / "model.fake")
    assert report.input_shapes == {"x": (3, 4)}
    assert fake.runs[-1].num_samples == 3


@pytest.mark.parametrize("compression", ["deflate", "lzma"])
def test_compressed_keras_file_is_read_by_keras(tmp_path, compression):
    model = compile_mlp(build_mlp(units=256))
    set_kernel(model.layers[0], np.eye(16, 256))
    path = tmp_path / "model.keras"
    report = export(model, path, compression=compression)
    stored = export(model, tmp_path / "stored.keras", compression="stored")
    loaded = keras.saving.load_model(path)
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(value_of(before), value_of(after))
    assert not loaded.compiled and model.compiled
    assert path.stat().st_size == report.bytes_after < 0.8 * stored.bytes_after
    assert report.bytes_before == pytest.approx(stored.bytes_after, abs=300)
    assert (report.difference, report.rewards) == (0, "size")
    with zipfile.ZipFile(path) as archive:
        kinds = {entry.compress_type for entry in archive.infolist()}
    assert kinds == {getattr(zipfile, f"ZIP_{compression.upper()}D", 14)}


def masked_mlp():
    model = wrap(build_mlp())
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for mask in layer.masks.values():
            mask.assign(generator.random(mask.shape) < 0.25)
    return model


def test_wrappers_are_stripped_or_kept(tmp_path):
    model = masked_mlp()
    plain = export(model, tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    assert type(loaded.layers[0]) is layers.Dense
    assert np.mean(value_of(loaded.layers[0].kernel) == 0) > 0.6
    kept = export(model, tmp_path / "kept.keras", strip=False)
    assert "keeps the wrapper layers" in " ".join(kept.notes)
    loaded = keras.saving.load_model(tmp_path / "kept.keras")
    assert type(loaded.layers[0]).__name__ == "PrunedLayer"
    smaller = export(model, tmp_path / "smaller.keras", shrink=True)
    assert smaller.bytes_before == pytest.approx(plain.bytes_before, rel=0.01)
    assert kept.bytes_before > 1.2 * plain.bytes_before
    zeros = [row["zeros"] for row in plain.rows()]
    assert zeros == [row["zeros"] for row in kept.rows()] and min(zeros) > 0


def test_shrink_removes_channels_first(tmp_path):
    model = build_mlp()
    kernel = value_of(model.layers[0].kernel)
    kernel[:, :6] = 0
    model.layers[0].kernel.assign(kernel)
    report = export(model, tmp_path / "model.keras", shrink=True)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].units == 2
    assert report.relative_difference < 1e-5
    assert model.layers[0].units == 8


def test_quantized_keras_models_keep_their_zeros(tmp_path):
    model = build_mlp()
    kernel = value_of(model.layers[0].kernel)
    kernel[::2] = 0
    model.layers[0].kernel.assign(kernel)
    for layer in model.layers:
        layer.quantize("int8")
    report = export(model, tmp_path / "model.keras", compression="lzma")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].quantization_mode == "int8"
    assert report.rows()[0]["zeros"] >= 64 and report.difference == 0


def test_parts_that_are_not_registered_are_named(tmp_path):
    class Own(layers.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Own(3)])
    report = export(model, tmp_path / "model.keras")
    assert "`custom_objects` with Own" in " ".join(report.notes)
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Own": Own}
    )
    assert type(loaded.layers[0]) is Own


@pytest.mark.parametrize(
    "path, settings, error, message",
    [
        ("a.pb", {}, ValueError, r"end in '.pb'. Known: .*\.tflite \(litert\)"),
        ("a.tflit", {}, ValueError, r"Did you mean '.tflite'\?"),
        ("a.onnx", {"format": "keras"}, ValueError, "'keras' ends in '.keras'"),
        ("a.keras", {"format": "kears"}, ValueError, "Did you mean 'keras'"),
        ("a.keras", {"compression": "zip"}, ValueError, "`compression` must be one of"),
        ("a.keras", {"compress": "lzma"}, ValueError, "Its arguments: compression"),
        ("no/a.keras", {}, ValueError, "folder '.*no' does not exist"),
        ("old.keras", {"overwrite": False}, ValueError, "exists. Set `overwrite=True`"),
        ("folder.keras", {}, ValueError, "is a folder, so no keras can be written"),
        ("folder.keras", {"format": "saved_model"}, ValueError, "holds 'letter.txt'"),
        ("old.keras/..", {"format": "saved_model"}, ValueError, "ends in a name"),
        ("a.keras", {"tolerance": -1}, ValueError, "`tolerance` must be finite"),
        ("a.keras", {"strip": "no"}, TypeError, "`strip` must be True or False"),
        ("a.keras", {"format": 3}, TypeError, "given by name"),
    ],
)
def test_wrong_arguments_change_nothing(tmp_path, path, settings, error, message):
    if settings.get("format") == "saved_model" and not has("tensorflow"):
        pytest.skip("needs TensorFlow")
    (tmp_path / "old.keras").write_text("old")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "folder.keras" / "letter.txt").write_text("dear")
    with pytest.raises(error, match=message):
        export(build_mlp(), tmp_path / path, **settings)
    assert sorted(os.listdir(tmp_path)) == ["folder.keras", "old.keras"]
    assert (tmp_path / "old.keras").read_text() == "old"
    assert os.listdir(tmp_path / "folder.keras") == ["letter.txt"]


def has(module):
    return importlib.util.find_spec(module) is not None


def test_only_built_keras_models_are_exported(tmp_path):
    with pytest.raises(ValueError, match="is not built"):
        export(keras.Sequential([layers.Dense(2)]), tmp_path / "a.keras")
    with pytest.raises(TypeError, match="Expected a Keras model"):
        export("model", tmp_path / "a.keras")


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_modules_are_refused(tmp_path):
    import torch

    with pytest.raises(TypeError, match="For torch modules use `torch.onnx.export`"):
        export(torch.nn.Linear(2, 2), tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "suffix, module", [("onnx", "onnxruntime"), ("xml", "openvino")]
)
def test_missing_packages_are_named(tmp_path, monkeypatch, suffix, module):
    if (module, BACKEND) == ("openvino", "jax"):
        pytest.skip("OpenVINO reads nothing that Keras exports from JAX")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: None if m == module else found(m)
    )
    with pytest.raises(ImportError, match=rf"pip install .*{module}.*\[engines\]"):
        export(build_mlp(), tmp_path / f"a.{suffix}")


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_saved_models_of_torch_need_another_package(tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: m == "tensorflow" or None
    )
    with pytest.raises(ImportError, match="pip install torch_xla"):
        export(build_mlp(), tmp_path / "a", "saved_model")


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_backend_that_does_not_export_says_what_to_do(tmp_path):
    with pytest.raises(ImportError, match="Set KERAS_BACKEND to tensorflow or torch"):
        export(build_mlp(), tmp_path / "a.tflite")


def test_keras_that_does_not_export_says_which_does(tmp_path, monkeypatch):
    monkeypatch.setattr(keras, "__version__", "3.12.1")
    with pytest.raises(ImportError, match="Run `pip install 'keras>=3.13'`"):
        export(build_mlp(), tmp_path / "a.tflite")


SAMPLES = np.ones((2, 16), "float32")


class Noise(layers.Layer):
    """Is random also in inference."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


def test_random_models_are_no_files_of_one_draw(fake, tmp_path):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(4), Noise()])
    with pytest.raises(ValueError, match="draws random numbers in inference"):
        export(model, tmp_path / "model.fake", sample_inputs=SAMPLES)
    quiet = keras.Sequential([keras.Input((16,)), layers.Dropout(0.5, seed=1)])
    export(quiet, tmp_path / "model.fake", sample_inputs=SAMPLES)
