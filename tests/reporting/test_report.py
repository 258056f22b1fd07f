"""What a report counts, says and looks like; the plots."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, set_kernel
from keras import layers

from keras_pruner import (
    PrunedLayer,
    plot_history,
    plot_report,
    plot_schedule,
    report,
)


def half_pruned():
    """hidden: 64 of 128 zeros; head: dense, 24 weights; 11 biases."""
    model = build_mlp()
    set_kernel(model.layers[0], np.arange(128).reshape(16, 8) % 2)
    set_kernel(model.layers[1], np.ones((8, 3)))
    return model


def test_report_counts_each_kernel_and_the_totals():
    found = report(half_pruned())
    assert found.rows() == [
        {
            "path": "hidden/kernel",
            "shape": (16, 8),
            "pattern": "",
            "parameters": 128,
            "zeros": 64,
            "skipped": None,
            "sparsity": 0.5,
        },
        {
            "path": "head/kernel",
            "shape": (8, 3),
            "pattern": "",
            "parameters": 24,
            "zeros": 0,
            "skipped": None,
            "sparsity": 0.0,
        },
    ]
    totals = found.totals()
    assert totals["pruned_sparsity"] == 64 / 152
    assert totals["model_sparsity"] == 64 / 163
    assert totals["parameters"] == 163
    assert totals["raw_bytes"] == 163 * 4
    assert 0 < totals["zipped_bytes"] < 163 * 4


def test_report_with_config_tells_pattern_and_skipped_from_pruned():
    found = report(half_pruned(), {"pattern": "2:4", "exclude": "head"})
    hidden, head = found.kernels
    assert (hidden.pattern, hidden.skipped) == ("2:4", None)
    assert (head.pattern, head.skipped) == ("-", "excluded by `exclude`")
    assert found.pruned_sparsity == 0.5
    assert found.prunable_sparsity == 64 / 152


def test_report_names_a_kernel_that_does_not_fit_the_pattern():
    found = report(half_pruned(), {"pattern": "5x1"})
    assert [row.skipped is None for row in found.kernels] == [False, False]
    assert "output axis divisible by 5" in found.kernels[0].skipped


def test_report_lists_what_no_rule_knows():
    model = keras.Sequential(
        [layers.Input((4,)), layers.Embedding(6, 4, name="words"), layers.Flatten()]
    )
    model.add(layers.Dense(2, name="head"))
    head, words = report(model).kernels
    assert head.path == "head/kernel"
    assert words.path == "words/embeddings"
    assert "only when asked for" in words.skipped
    asked = report(model, {"layer_types": ["Embedding", "Dense"]})
    assert all(row.skipped is None for row in asked.kernels)


def test_report_counts_masks_of_wrapped_layers():
    model = keras.Sequential(
        [
            layers.Input((4,)),
            PrunedLayer(layers.Dense(4, name="a"), {"pattern": "1xchannel"}),
            layers.Dense(2, name="b"),
        ]
    )
    model.layers[0].masks["a/kernel"].assign(np.eye(4, dtype=bool))
    a, b = report(model).kernels
    assert (a.pattern, a.zeros, a.skipped) == ("1xchannel", 12, None)
    assert (b.pattern, b.zeros, b.skipped) == ("-", 0, "not wrapped")
    assert report(model).parameters == 4 * 4 + 4 + 4 * 2 + 2


def test_report_prints_a_table_and_escapes_html():
    model = half_pruned()
    set_kernel(model.layers[1], np.zeros((8, 3)))
    found = report(model)
    text = str(found)
    assert "Sparsity 57.89% of the pruned kernels" in text
    assert "hidden/kernel   16 x 8" in text and "50.00%" in text
    assert "inference is not faster by zeros alone" in text
    assert "Nothing is left of: head/kernel." in text
    page = found._repr_html_()
    assert "<td>hidden/kernel</td>" in page and "<th>sparsity</th>" in page
    with pytest.raises(ValueError, match="not built"):
        report(keras.Sequential([layers.Dense(2)]))


def test_plots_draw_what_they_are_given():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    config = {"target_sparsity": 0.6, "schedule": "linear", "frequency": 10}
    axes = plot_schedule(config, total_steps=40)
    np.testing.assert_allclose(
        axes.lines[0].get_ydata(), [0, 0.2, 0.4, 0.6, 0.6], atol=1e-12
    )
    history = {"accuracy": [0.5, 0.75], "val_accuracy": [0.4, 0.7], "sparsity": [0, 1]}
    axes = plot_history(history)
    assert [line.get_label() for line in axes.lines] == ["accuracy", "val_accuracy"]
    axes = plot_report(report(half_pruned()))
    assert [t.get_text() for t in axes.texts] == [" 0%", " 50%"]
    with pytest.raises(ValueError, match="no 'sparsity'"):
        plot_history({"accuracy": [1.0]})
    pyplot.close("all")
