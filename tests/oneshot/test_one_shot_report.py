"""A report of one-shot pruning adds up, and shows what it knows."""

import pytest

from keras_pruner.oneshot import METHODS, OneShotReport, OneShotRow

ROWS = [
    OneShotRow("conv/kernel", (3, 3, 2, 8), 144, zeros=72, error=0.25, seconds=1.5),
    OneShotRow("head/kernel", (8, 7), 56, zeros=48, error=0.004, seconds=0.5),
    OneShotRow("idle/kernel", (8, 7), 56),
    OneShotRow("table/embeddings", (9, 8), 72, skipped="not asked for"),
]


def make(rows=ROWS, **kwargs):
    return OneShotReport(rows, METHODS.get("wanda"), 512, **kwargs)


def test_totals_leave_out_skipped_kernels():
    report = make()
    assert report.sparsity == (72 + 48) / (144 + 56 + 56)
    assert report.seconds == 2.0
    assert make(allocation_seconds=3.0).seconds == 5.0
    assert report.headline == (
        "prune_one_shot: 46.88% of 256 weights in 3 kernels pruned by 'wanda', from "
        "512 samples, in 2.0 s."
    )


def test_rows_are_plain_values():
    first, *_, last = make().rows()
    assert first == {
        "path": "conv/kernel",
        "shape": (3, 3, 2, 8),
        "parameters": 144,
        "zeros": 72,
        "error": 0.25,
        "seconds": 1.5,
        "num_inputs": 0,
        "num_rows": 0,
        "skipped": None,
        "sparsity": 0.5,
    }
    assert last["skipped"] == "not asked for" and last["sparsity"] == 0


def test_the_table_has_a_line_for_each_kernel_and_the_largest_error_in_all():
    text = make().to_text(width=100)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "50.00%" in lines["conv/kernel"] and "0.25" in lines["conv/kernel"]
    assert "85.71%" in lines["head/kernel"] and "0.004" in lines["head/kernel"]
    assert "not asked for" in text
    for line in text.splitlines():
        if "idle" in line:
            assert " - " in line
    total = [line for line in text.splitlines() if "328" in line or "total" in line]
    assert total and "0.25" in total[-1]


def test_costs_are_told():
    text = make(allocation_seconds=0.5, memory=7_000_000).to_text(width=100)
    assert "0.5 s of them to divide the sparsity; 7 MB of activations" in text
    assert "on disk" not in text
    assert "9 MB on disk" in make(disk=9_000_000).to_text(width=100)


def test_lines_of_recoveries_follow_the_headline():
    report = make(recoveries=["distill: 200 steps"])
    first, second = str(report).splitlines()[:2]
    assert first == report.headline[: len(first)]
    assert "distill: 200 steps" in str(report)
    assert "distill: 200 steps" in report._repr_html_()
    assert report.recoveries == ("distill: 200 steps",)


def test_nothing_pruned_is_no_division_by_zero():
    report = make([])
    assert report.sparsity == 0 and report.seconds == 0
    assert "0.00%" in report.headline
    assert OneShotRow("empty/kernel", (0, 3), 0).sparsity == 0


def test_the_plot_has_two_bars_for_each_pruned_kernel():
    pytest.importorskip("matplotlib")
    axes = make().plot()
    assert len(axes.patches) == 6
    assert [label.get_text() for label in axes.get_yticklabels()][:3] == [
        "idle/kernel", "head/kernel", "conv/kernel",
    ]  # fmt: skip
    given = make().plot(ax=axes)
    assert given is axes and len(axes.patches) == 12
