"""The demo that the command line runs."""

import pytest
from conftest import slow_where_compiled

from keras_pruner.demo import run_demo


@slow_where_compiled
@pytest.mark.long
def test_demo_prunes_reloads_and_shrinks(capsys):
    result = run_demo(target_sparsity=0.9, epochs=6)
    weights = 288 + 18432 + 36864 + 131072 + 1280
    assert result["sparsity"] == round(0.9 * weights) / weights
    assert result["reloaded_accuracy"] == pytest.approx(
        result["pruned_accuracy"], abs=1e-6
    )
    assert result["pruned_accuracy"] > result["dense_accuracy"] - 0.05 > 0.8
    assert result["pruned_bytes"] == result["dense_bytes"]
    assert result["dense_zipped_bytes"] > 4 * result["pruned_zipped_bytes"]
    printed = capsys.readouterr().out
    assert "PruningCallback: 1x1 pattern, 5 kernels (0 skipped)" in printed
    assert "test accuracy" in printed and "90.00%" in printed
