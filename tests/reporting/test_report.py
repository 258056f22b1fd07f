"""What a report counts, says and looks like; the plots."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, first_where_compiled, set_kernel
from keras import layers

from keras_pruner import (
    PrunedLayer,
    PruningCallback,
    plot_history,
    plot_report,
    plot_schedule,
    report,
)
from keras_pruner.reporting import Report, ReportRow


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
            "raw_bytes": 512,
            "sparsity": 0.5,
        },
        {
            "path": "head/kernel",
            "shape": (8, 3),
            "pattern": "",
            "parameters": 24,
            "zeros": 0,
            "skipped": None,
            "raw_bytes": 96,
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


def test_report_prints_sentences_and_a_table():
    model = half_pruned()
    set_kernel(model.layers[1], np.zeros((8, 3)))
    found = report(model)
    text = str(found)
    assert "Sparsity 57.89% of the pruned kernels" in text
    assert "hidden/kernel   16 x 8" in text and "50.00%" in text
    assert "inference is not faster by zeros alone" in " ".join(text.split())
    assert "Nothing is left of: head/kernel." in text
    with pytest.raises(ValueError, match="not built"):
        report(keras.Sequential([layers.Dense(2)]))


def test_zeros_of_frozen_and_unknown_kernels_are_counted():
    class Mixer(layers.Layer):
        def build(self, input_shape):
            self.mix = self.add_weight(shape=(3, 4), initializer="zeros", name="mix")

        def call(self, inputs):
            return inputs @ self.mix

    model = half_pruned()
    model.layers[0].trainable = False
    model.add(Mixer(name="mixer"))
    hidden, head, mixer = sorted(report(model).kernels, key=lambda row: -row.parameters)
    assert (hidden.zeros, hidden.skipped) == (
        64,
        "frozen: the layer has trainable=False",
    )
    assert (head.zeros, head.skipped) == (0, None)
    assert (mixer.zeros, mixer.skipped[:23]) == (12, "no rule for layer class")
    assert report(model).prunable_sparsity == 76 / 164
    assert report(model).model_sparsity == 76 / 175


def test_variables_that_are_no_matrix_are_not_counted():
    model = keras.Sequential(
        [
            layers.Input((3, 2)),
            layers.Dense(2, use_bias=False, name="dense"),
            layers.PReLU(name="slopes"),
        ]
    )
    set_kernel(model.layers[0], np.eye(2))
    found = report(model)
    dense, slopes = found.kernels
    assert (dense.zeros, slopes.zeros, slopes.sparsity) == (2, None, None)
    assert found.prunable_sparsity == found.model_sparsity == 0.5
    assert "Nothing is left" not in str(found)


def test_kernel_without_weights_has_no_share():
    model = keras.Sequential([layers.Input((0,)), layers.Dense(2, name="dense")])
    found = report(model)
    (row,) = found.kernels
    assert (row.parameters, row.zeros, row.sparsity) == (0, 0, None)
    assert (found.pruned_sparsity, found.model_sparsity) == (None, 0.0)
    assert "of all kernels" in str(found) and "Nothing is left" not in str(found)


def test_model_without_kernels():
    found = report(keras.Sequential([layers.Input((3,)), layers.Flatten()]))
    assert found.rows() == [] and found.model_sparsity is None
    assert str(found) == "The model has 0 parameters, and no kernel."
    assert found._repr_html_() == f"<p>{found}</p>"


def test_settings_win_over_the_config():
    model = half_pruned()
    config = {"pattern": "2:4", "exclude": "head"}
    patterns = [row.pattern for row in report(model, config, exclude=()).kernels]
    assert patterns == ["2:4", "2:4"]
    patterns = [row.pattern for row in report(model, include="head").kernels]
    assert patterns == ["-", "1x1"]
    with pytest.raises(ValueError, match="patern"):
        report(model, patern="2:4")


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
@pytest.mark.parametrize("key", ["include", "exclude"])
@pytest.mark.parametrize("by", ["name", "layer"])
def test_filters_may_name_what_is_quantized_or_frozen_by_now(key, by):
    model = half_pruned()
    config = {key: "head" if by == "name" else model.layers[1]}
    model.layers[1].trainable = False
    assert "frozen" in report(model, config).kernels[1].skipped
    model.layers[1].trainable = True
    model.quantize("int8")
    found = report(model, config)
    assert [row.zeros for row in found.kernels] == [64, 0]
    with pytest.raises(ValueError, match="'tail', which matches no prunable kernel"):
        report(model, {key: "tail"})


def drawn(config, total_steps):
    """Returns the steps and sparsities of a plotted schedule, as two lists."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (line, end) = plot_schedule(config, total_steps).lines
    pyplot.close("all")
    assert end.get_xdata()[0] == line.get_xdata()[-2]
    return list(line.get_xdata()), list(line.get_ydata())


class Updates(keras.callbacks.Callback):
    """Records the sparsity that a run has after each step, the first at step 0."""

    def __init__(self, pruning):
        super().__init__()
        self.pruning = pruning
        self.sparsities = []

    def on_epoch_begin(self, epoch, logs=None):
        self._record()

    def on_train_batch_end(self, batch, logs=None):
        self._record()

    def _record(self):
        self.sparsities.append(self.pruning.sparsity)


@pytest.mark.parametrize(
    "config",
    first_where_compiled(
        [
            {},
            {"begin_step": 4, "initial_sparsity": 0.25, "frequency": 3},
            {"begin_step": 4, "end_step": 4},
            {"pruning_type": "acdc"},
            {"pruning_type": "acdc", "schedule": "linear", "frequency": 3},
            {"pruning_type": "sr_ste"},
            {"pruning_type": "sr_ste", "pattern": "2:4", "target_sparsity": 0.5},
            {"pruning_type": "lottery_ticket"},
            {"pruning_type": "lottery_ticket", "pruner_options": {"num_rounds": 2}},
            {
                "pruning_type": "progressive",
                "pattern": "1xchannel",
                "schedule": "linear",
                "frequency": 6,
                "pruner_options": {"num_sub_steps": 2},
            },
            {"pruning_type": "retrain_free", "pattern": "1xchannel"},
            {"pruning_type": "rigl"},
            {"criterion": "snip"},
            {"pruning_type": "snip_momentum"},
        ]
    ),
    ids=lambda config: "-".join(map(str, config.values())) or "defaults",
)
def test_plotted_schedule_is_that_of_a_run(config):
    total = 24
    settings = {"target_sparsity": 0.75, "allocation": "uniform", "include": ".*"}
    settings |= config
    model = keras.Sequential([layers.Input((16,)), layers.Dense(16, use_bias=False)])
    # XLA would take longer to compile so small a model than to train it.
    model.compile("sgd", "mse", jit_compile=False)
    pruning = PruningCallback(verbose=False, **settings)
    run = Updates(pruning)
    x = np.random.default_rng(0).normal(size=(total, 16))
    model.fit(x, x, batch_size=1, verbose=0, callbacks=[pruning, run])
    (pruner,) = pruning.pruners
    scheduler = pruner.scheduler
    updates = list(range(scheduler.begin, scheduler.end + 1, scheduler.frequency))

    steps, sparsities = drawn(settings, total)
    before = [0] if scheduler.begin else []
    assert steps == [*before, *updates, total]
    # A channel is a sixteenth of the weights, which the schedule may miss by half.
    coarse = str(pruner.pattern) == "1xchannel"
    np.testing.assert_allclose(
        sparsities,
        [run.sparsities[step] for step in steps],
        atol=1 / 32 + 1e-9 if coarse else 1 / 256,
    )


def test_plotted_phases_of_acdc():
    config = {"pruning_type": "acdc", "target_sparsity": 0.75, "frequency": 10}
    config["schedule"] = "constant"
    steps, sparsities = drawn(config, 80)
    assert steps == [0, 10, 20, 30, 40, 50, 60, 80]
    assert sparsities == [0, 0, 0.75, 0, 0.75, 0, 0.75, 0.75]


def test_plotted_updates_of_sr_ste_are_at_most_ten_steps_apart():
    steps, sparsities = drawn({"pruning_type": "sr_ste", "pattern": "2:4"}, 8000)
    assert steps == [*range(0, 6001, 10), 8000]
    assert set(sparsities) == {0.5}


def test_plotted_rounds_of_a_lottery_ticket():
    config = {"pruning_type": "lottery_ticket", "target_sparsity": 0.96}
    config["pruner_options"] = {"num_rounds": 2}
    steps, sparsities = drawn(config, 900)
    assert steps == [0, 300, 600, 900]
    np.testing.assert_allclose(sparsities, [0, 0.8, 0.96, 0.96])


def test_plotted_schedule_of_a_gradient_criterion_begins_with_a_gradient():
    config = {"criterion": "snip", "schedule": "constant", "frequency": 300}
    steps, sparsities = drawn(config, 1001)
    assert steps == [0, 1, 301, 601, 1001]
    assert sparsities == [0, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pruning_type": "pattern_lock"}, "'pattern_lock' keeps the zeros that a mo"),
        ({"pruning_type": "basik"}, "Unknown pruner 'basik'"),
        ({"criterion": "synflow"}, "scores an untrained model, once"),
        ({"pruning_type": "progressive"}, "pattern '1x1' has none"),
    ],
)
def test_schedule_that_no_run_has_is_not_plotted(config, message):
    with pytest.raises(ValueError, match=message):
        plot_schedule(config)


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
    # One epoch is a point.
    assert plot_history({"accuracy": [0.5], "sparsity": [0.2]}).lines[0].get_marker()
    pyplot.close("all")


def report_of(number, name="backbone/block_{}/dense/kernel"):
    rows = [
        ReportRow(name.format(i), (9,), "1x1", 9 * 1000 ** (i % 3), 9, None)
        for i in range(number)
    ]
    return Report(rows, parameters=10**9, raw_bytes=0, zipped_bytes=8)


@pytest.mark.parametrize("number", [0, 1, 3, 30, 150])
@pytest.mark.parametrize("own_axes", [True, False])
def test_names_of_a_plotted_report_do_not_overlap(number, own_axes):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    given = pyplot.subplots(figsize=(8, 6), layout="constrained")[1]
    axes = plot_report(report_of(number), ax=None if own_axes else given)
    figure = axes.figure
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == number
    whole = figure.get_window_extent()
    for box, above in zip(boxes, boxes[1:], strict=False):
        # 150 names do not fit 6 inches; they are 3 points high then.
        assert box.y1 <= above.y0 + 1 or (number == 150 and not own_axes)
    for box in boxes:
        assert whole.x0 <= box.x0 and box.height >= 3
    if own_axes and number:
        assert axes.get_yticklabels()[0].get_fontsize() == 9
    pyplot.close("all")


def test_plotted_report_tells_what_is_not_counted():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [
        ReportRow("a", (9,), "-", 9, None, "packed"),
        ReportRow("b", (1000,), "-", 1000, 999, "frozen"),
    ]
    found = Report(rows, parameters=1009, raw_bytes=0, zipped_bytes=8)
    axes = plot_report(found)
    assert [t.get_text() for t in axes.texts] == [" >99%", " -"]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["kept", "zero", "not counted"]
    pyplot.close("all")
