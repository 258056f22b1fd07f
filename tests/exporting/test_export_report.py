"""What zeros bring, kernel by kernel, and how the report shows it."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, set_kernel
from keras import layers

from keras_pruner.comparison import Comparison
from keras_pruner.exporting import EXPORTERS, ExportReport, GainRow, gains_of

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="LiteRT's sparse encoding is of TensorFlow"
)


def model_with_zeros():
    x = keras.Input((4, 4, 4))
    y = layers.Flatten()(layers.Conv2D(4, 1, name="conv")(x))
    y = layers.Dense(4, name="blocks")(y)
    model = keras.Model(x, layers.Dense(3, name="single")(y))
    kernel = np.ones((1, 1, 4, 4))
    kernel[..., :2] = 0
    set_kernel(model.get_layer("conv"), kernel)
    kernel = np.ones((64, 4))
    kernel[4:, :3] = 0
    kernel[32:, 3] = 0
    set_kernel(model.get_layer("blocks"), kernel)
    set_kernel(model.get_layer("single"), [[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0]])
    return model


def words(name, hardware=None, **options):
    exporter = EXPORTERS[name](**options)
    rows = gains_of(model_with_zeros(), exporter, hardware)
    return {row.path: (row.zeros, row.pattern, row.rewards) for row in rows}


def test_gain_depends_on_engine_pattern_and_layer():
    assert words("litert") == {
        "conv/kernel": (8, "1x4", "size"),
        "blocks/kernel": (212, "1x4", "size and time"),
        "single/kernel": (3, "1x1", "nothing"),
    }
    assert rewards("onnx") == {"nothing"}
    assert rewards("keras") == {"size"}
    assert words("onnx")["blocks/kernel"][1] == "1x4"


def test_gain_depends_on_how_the_file_is_written():
    assert rewards("litert", sparse=False) == {"nothing"}
    assert rewards("litert", weights="int8") == {"nothing"}
    assert rewards("keras", compression="stored") == {"nothing"}
    (*_, few) = gains_of(model_with_zeros(), EXPORTERS.get("litert"))
    assert few.reason.endswith("dense of which less than about a third is zero.")


def rewards(name, **options):
    return {row[2] for row in words(name, **options).values()}


def test_gain_depends_on_the_hardware():
    openvino = EXPORTERS.get("openvino")
    openvino.dtype = "int8"
    with_amx = gains_of(model_with_zeros(), openvino, {"x86_64", "amx_int8"})
    assert with_amx[1].rewards == "time"
    without = gains_of(model_with_zeros(), openvino, {"x86_64"})
    assert {row.rewards for row in without} == {"nothing"}
    assert "The hardware has no AMX" in without[1].reason


def test_kernel_without_zeros_gains_nothing():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    set_kernel(model.layers[0], np.ones((4, 4)))
    (row,) = gains_of(model, EXPORTERS.get("litert"))
    assert (row.pattern, row.rewards, row.zeros) == ("-", "nothing", 0)
    assert row.skipped == "no weight is zero"


@pytest.fixture
def report():
    model = model_with_zeros()
    return ExportReport(
        name="net",
        path="net.tflite",
        format="litert",
        engine="litert",
        bytes_before=2000,
        bytes_after=500,
        comparison=Comparison(2e-6, 1e-6, 1e-3),
        input_shapes={"x": (None, 4)},
        kernels=gains_of(model, EXPORTERS.get("litert")),
        notes=("A note.",),
    )


def test_report_says_what_was_gained_and_why(report):
    assert report.ratio == 0.25 and report.rewards == "size and time"
    text = " ".join(report.to_text(width=100).split())
    assert text.startswith(
        "export: 'net.tflite' (litert) has 500 bytes, 25.00% of the 2,000 of the plain "
        ".keras file. The file was run: its outputs differ from the model's by at most "
        "2e-06, 1e-06 of the largest; 0.001 counts as rounding."
    )
    assert (
        "Zeros bring size and time in 1 of 3 kernels, which have 90.1% of the" in text
    )
    assert "but LiteRT makes them dense when it loads the file." in text
    assert (
        text.index("size and time in 1") < text.index("size in 1") < text.index("A n")
    )
    assert repr(report) == str(report)


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_report_fits_any_terminal(report, width):
    lines = report.to_text(width=width).split("\n")
    assert max(map(len, lines)) <= width
    assert "82.81%" in report.to_text(width=width)
    assert "<table" in report.to_html() and "net.tflite" in report._repr_html_()


def test_report_has_plain_values(report):
    assert report.rows()[1] == {
        "path": "blocks/kernel",
        "shape": (64, 4),
        "parameters": 256,
        "zeros": 212,
        "pattern": "1x4",
        "rewards": "size and time",
        "reason": report.kernels[1].reason,
    }
    totals = report.totals()
    assert (totals["bytes_before"], totals["bytes_after"]) == (2000, 500)
    assert (totals["relative_difference"], totals["rewards"]) == (1e-6, "size and time")


def test_report_of_a_model_that_keras_cannot_save():
    row = GainRow("a/kernel", (2, 2), 4, 0, "-", "nothing", "no weight is zero")
    report = ExportReport(
        "net",
        "a.onnx",
        "onnx",
        "onnxruntime",
        None,
        10,
        Comparison(0.0, 0.0),
        {},
        (row,),
    )
    assert report.ratio is None
    assert "'a.onnx' (onnx) has 10 bytes." in str(report)
    assert "No weight is zero, so zeros bring nothing." in str(report)
