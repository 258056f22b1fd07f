"""Two reports side by side."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, set_kernel
from keras import layers

from keras_pruner import PrunedLayer, report, strip
from keras_pruner.reporting import Report, ReportRow

HALF = np.arange(128).reshape(16, 8) % 2


def test_kernels_before_and_after_stand_in_one_row():
    model = build_mlp()
    before = report(model)
    set_kernel(model.layers[0], HALF)
    found = report(model, exclude="head").compare(before)
    assert found.rows()[0] == {
        "path": "hidden/kernel",
        "sparsity_before": 0.0,
        "sparsity_after": 0.5,
        "parameters_before": 128,
        "parameters_after": 128,
        "zeros_before": 0,
        "zeros_after": 64,
        "raw_bytes_before": 512,
        "raw_bytes_after": 512,
    }
    totals = found.totals()
    assert totals == {"before": before.totals(), "after": found.after.totals()}
    assert [kernel.skipped for kernel in found.kernels] == [
        None,
        "excluded by `exclude`",
    ]
    text = str(found)
    assert "Sparsity of all kernels 0.00% before, 42.11% after" in text
    assert "zipped before" in text and "times smaller)" in text
    lines = [line.split() for line in text.split("\n")]
    assert ["kernel", "before", "after", "parameters", "bytes", "note"] in lines
    assert ["hidden/kernel", "0.00%", "50.00%", "128", "512"] in lines
    assert ["head/kernel", "0.00%", "0.00%", "24", "96", "[1]"] in lines
    assert ["total", "0.00%", "42.11%", "152", "608"] in lines


def test_a_model_is_compared_as_its_report():
    dense, sparse = build_mlp(), build_mlp()
    set_kernel(sparse.layers[0], HALF)
    found = report(sparse).compare(dense)
    assert found.rows() == report(sparse).compare(report(dense)).rows()
    with pytest.raises(TypeError, match="Expected a Keras model"):
        report(sparse).compare({"hidden": 0.5})


def test_kernels_of_one_side_only_are_told():
    def model(*names):
        parts = [layers.Dense(4, use_bias=False, name=name) for name in names]
        return keras.Sequential([layers.Input((4,)), *parts])

    found = report(model("a", "new")).compare(model("a", "old"))
    assert [(row.path, row.skipped) for row in found.kernels] == [
        ("a/kernel", None),
        ("new/kernel", "only after"),
        ("old/kernel", "only before"),
    ]
    new, old = found.rows()[1:]
    assert (new["zeros_before"], new["zeros_after"]) == (None, 0)
    assert (old["parameters_before"], old["parameters_after"]) == (16, None)
    lines = [line.split() for line in found.to_text(width=100).split("\n")]
    assert ["new/kernel", "-", "0.00%", "-", "16", "-", "64", "[1]"] in lines
    assert ["old/kernel", "0.00%", "-", "16", "-", "64", "-", "[2]"] in lines
    assert ["[1]", "only", "after"] in lines and ["[2]", "only", "before"] in lines
    assert "only before" in found._repr_html_()


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_wrapped_stripped_and_quantized_models_have_the_same_rows():
    wrapped = keras.Sequential(
        [
            layers.Input((16,)),
            PrunedLayer(layers.Dense(8, name="hidden")),
            layers.Dense(3, name="head"),
        ]
    )
    # The integers of ones are not zero.
    set_kernel(wrapped.layers[0].layer, np.ones((16, 8)))
    before = report(wrapped)
    wrapped.layers[0].masks["hidden/kernel"].assign(HALF.astype(bool))
    plain = strip(wrapped)
    assert (
        report(wrapped).compare(before).rows() == report(plain).compare(before).rows()
    )
    plain.quantize("int8")
    hidden, head = report(plain).compare(before).rows()
    assert (hidden["zeros_before"], hidden["zeros_after"]) == (0, 64)
    assert (hidden["raw_bytes_before"], hidden["raw_bytes_after"]) == (512, 128)
    lines = [line.split() for line in str(report(plain).compare(before)).split("\n")]
    assert ["hidden/kernel", "0.00%", "50.00%", "128", "512", "128", "[1]"] in lines


def test_lines_are_grouped_as_those_of_a_report():
    def of(zeros):
        rows = [
            ReportRow(f"block_{i}/kernel", (10,), "1x1", 10, zeros) for i in range(50)
        ]
        rows += [
            ReportRow(name, (9,), "-", 9, 0, f"has {len(rows) + number} outputs")
            for number, name in enumerate("abcd")
        ]
        return Report(rows, parameters=536, raw_bytes=1, zipped_bytes=1)

    found = of(5).compare(of(0))
    lines = [line.split() for line in found.to_text(width=90).split("\n")]
    assert ["block_*/kernel", "(50)", "0.00%", "50.00%", "500", "0"] in lines
    assert ["4", "kernels", "0.00%", "0.00%", "36", "0", "[1]"] in lines
    assert len(found.to_text(expand=True).split("\n")) > 54
    assert ["[1]", "has", "N", "outputs"] in lines
    assert found._repr_html_().count("<details>") == 2
