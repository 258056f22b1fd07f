"""Plots of weights, masks, sensitivity and trade-offs, of few and of many layers."""

import importlib
import sys

import keras
import matplotlib
import numpy as np
import pytest
from conftest import build_mlp, set_kernel
from keras import ops

from keras_pruner import (
    Report,
    plot_masks,
    plot_report,
    plot_sensitivity,
    plot_tradeoff,
    plot_weights,
    wrap,
)
from keras_pruner.oneshot import OneShotReport
from keras_pruner.reporting import (
    Measurement,
    ModelComparison,
    ModelSize,
    Outputs,
    Scores,
    axes_of_rows,
    plot_error_curves,
)
from keras_pruner.reporting.rows import ReportRow

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _closed():
    yield
    importlib.import_module("matplotlib.pyplot").close("all")


@pytest.fixture
def model():
    """16 x 8 and 8 x 3; half of the first kernel is zero, in its upper rows."""
    model = build_mlp()
    kernel = np.linspace(0.1, 1, 128).reshape(16, 8)
    kernel[:8] = 0
    set_kernel(model.layers[0], kernel)
    return model


def test_weights_are_drawn_without_zeros(model):
    axes = plot_weights(model)
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        *("head/kernel", "hidden/kernel")
    ]
    assert [t.get_text() for t in axes.texts] == [" 0% zeros", " 50% zeros"]
    hidden = axes.patches[1].get_data()
    # Positive weights only: the left half of the bins is empty.
    assert (hidden.values[:50] == 0.55).all() and hidden.values[-1] > 0.55


def test_weights_that_are_not_finite_are_left_out(model):
    kernel = ops.convert_to_numpy(model.get_layer("hidden").kernel).copy()
    kernel[-1, :2] = np.inf, np.nan
    set_kernel(model.get_layer("hidden"), kernel)
    hidden = plot_weights(model).patches[1].get_data()
    assert hidden.values[-1] > 0.55


def test_weights_of_a_wrapped_model_are_masked(model):
    wrapped = wrap(model, target_sparsity=0.75)
    layer = wrapped.layers[0]
    mask = np.zeros((16, 8), bool)
    mask[0] = True
    layer.masks["hidden/kernel"].assign(mask)
    assert plot_weights(wrapped).texts[-1].get_text() == " 100% zeros"


def test_masks_are_pictures_of_the_matrices(model):
    axes = plot_masks(model)
    assert len(axes) == 2
    assert axes[0].get_title() == "hidden/kernel\n16 x 8, 50% zeros"
    picture = axes[0].images[0].get_array()
    assert picture.shape == (16, 8)
    assert (picture[:8] == 0).all() and (picture[8:] == 1).all()
    (only,) = plot_masks(model, "head/kernel")
    assert only.get_title().startswith("head/kernel")
    with pytest.raises(ValueError, match="no kernel 'tail'. It has: hidden/kernel, h"):
        plot_masks(model, ["tail"])
    with pytest.raises(ValueError, match="names no kernel"):
        plot_masks(model, [])


def test_large_masks_are_drawn_as_shares():
    inputs = keras.Input((400,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="d")(inputs))
    kernel = np.ones((400, 3))
    kernel[::2] = 0
    set_kernel(model.get_layer("d"), kernel)
    picture = plot_masks(model)[0].images[0].get_array()
    assert picture.shape == (128, 3)
    # Cells of three or four rows.
    assert set(np.round(np.unique(picture), 3)) <= {0.333, 0.5, 0.667}


def test_convolutions_are_drawn_and_models_without_kernels_are_not():
    inputs = keras.Input((8, 8, 2))
    outputs = keras.layers.Conv2D(5, 3, name="conv")(inputs)
    model = keras.Model(inputs, outputs)
    assert plot_masks(model)[0].images[0].get_array().shape == (18, 5)
    empty = keras.Sequential([keras.Input((4,)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="no kernel whose weights can be plotted"):
        plot_weights(empty)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_kernels_are_drawn(model, mode):
    layer = model.get_layer("hidden")
    layer.quantize(mode)
    axes = {ax.get_title().split("\n")[0]: ax for ax in plot_masks(model)}
    assert set(axes) == {"hidden/kernel", "head/kernel"}
    picture = axes["hidden/kernel"].images[0].get_array()
    assert picture.shape == (16, 8) and (picture[:8] == 0).all()
    assert len(plot_weights(model).patches) == 2


def curves(number):
    shares = np.linspace(0.1, 0.9, 5)
    return {
        f"block_{i}/kernel": [(s, 10 ** (4 * s - 4 - i % 3)) for s in shares]
        for i in range(number)
    }


def test_sensitivity_is_a_picture_with_a_row_for_each_kernel():
    axes = plot_sensitivity(curves(3), {"block_1/kernel": 0.3})
    cells = axes.images[0].get_array()
    # Rows run from the bottom up: blocks 2, 1, 0.
    np.testing.assert_allclose(cells[:, 0], [-5.6, -4.6, -3.6])
    (dot,) = axes.lines
    assert dot.get_xdata()[0] == pytest.approx(1) and dot.get_ydata()[0] == 1
    with pytest.raises(ValueError, match="no error curves"):
        plot_sensitivity({})


def test_a_kernel_without_a_curve_has_an_empty_row():
    cells = plot_sensitivity(curves(1) | {"none/kernel": []}).images[0].get_array()
    assert np.isnan(np.ma.filled(cells[0], np.nan)).all()
    assert np.isfinite(cells[1]).all()


def test_many_error_curves_become_a_picture():
    settings = {"xlabel": "sparsity", "ylabel": "error"}
    lines = plot_error_curves(curves(20), dict.fromkeys(curves(20), 0.5), **settings)
    assert len(lines.lines) == 40 and lines.get_legend() is not None
    many = curves(200)
    axes = plot_error_curves(many, dict.fromkeys(many, 0.5), **settings)
    assert axes.images[0].get_array().shape == (200, 5)
    assert axes.figure.get_figheight() > 40
    # Curves at shares of their own meet on at most 20.
    own = {f"{n}": [(i / n, 1.0) for i in range(1, n)] for n in range(30, 60)}
    picture = plot_sensitivity(own).images[0].get_array()
    assert picture.shape == (30, 20)


@pytest.mark.parametrize("number", [1, 200])
def test_rows_have_names_that_do_not_overlap(number):
    axes, points = axes_of_rows(
        None, [f"block_{i}/dense/kernel" for i in range(number)]
    )
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert points == 9 and len(boxes) == number
    for box, above in zip(boxes, boxes[1:], strict=False):
        assert box.y1 <= above.y0 + 1


def test_bars_of_shares_are_equally_long():
    rows = [
        ReportRow("small", (9,), "1x1", 10, 5),
        ReportRow("large", (1000,), "1x1", 20_000, 5000),
    ]
    found = Report(rows, parameters=20_010, raw_bytes=0, zipped_bytes=8)
    axes = plot_report(found, shares=True)
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.5, 0.25, 0.5]
    assert [t.get_text() for t in axes.texts] == [" 25% of 20k", " 50% of 10"]


def comparison(zipped, accuracy):
    sizes = [ModelSize(100, 100, 400, 400), ModelSize(100, 50, 400, zipped)]
    scores = Scores({"loss": (1.0, 2.0), "accuracy": (0.9, accuracy)})
    measurement = Measurement(sizes, ["unknown"] * 2, [], 1)
    return ModelComparison(measurement, scores, Outputs(reason="none"))


def test_tradeoff_has_a_point_for_each_model():
    found = {"50 %": comparison(200, 0.9), "80 %": comparison(100, 0.8)}
    axes = plot_tradeoff(found)
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
    assert points == [(400, 0.9), (200, 0.9), (100, 0.8)]
    assert [text.get_text() for text in axes.texts] == ["before", "50 %", "80 %"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("bytes, deflated", "accuracy")
    axes = plot_tradeoff(found, against="parameters", metric="loss")
    # Both have equal losses and parameters.
    assert [text.get_text() for text in axes.texts] == ["before", "50 %, 80 %"]
    with pytest.raises(ValueError, match="no 'bytes'. It has: 'parameters', 'zeros'"):
        plot_tradeoff(found, against="bytes")
    with pytest.raises(ValueError, match="no comparisons"):
        plot_tradeoff({})
    unlabelled = comparison(100, 0.9)
    unlabelled.scores = Scores()
    with pytest.raises(ValueError, match="Give `compare` labelled data"):
        plot_tradeoff({"a": unlabelled})


def test_without_matplotlib_an_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (plot_weights, plot_masks):
        with pytest.raises(ImportError, match=r"Install it, or keras-pruner\[plots\]"):
            draw(model)


def test_one_shot_reports_grow():
    from keras_pruner.oneshot.one_shot_report import OneShotRow

    rows = [OneShotRow(f"block_{i}/kernel", (4,), 4, 2, 0.1) for i in range(100)]
    axes = OneShotReport(rows, None, 8).plot()
    assert axes.figure.get_figheight() > 25
    assert axes.get_yticklabels()[-1].get_text() == "block_0/kernel"
