"""Retrain-free pruning: the choice of channels, and how `fit` finds it."""

import itertools

import numpy as np
import pytest
from conftest import value_of
from keras import ops
from keras.optimizers import Adam
from linear import PATHS, A, B, gradients, linear_model, lowest, train
from numpy.testing import assert_allclose, assert_array_equal

from keras_pruner.backend import CompiledFunction
from keras_pruner.pruners.methods.gradual.retrain_free import rearrange

pytestmark = pytest.mark.usefixtures("eager_masks")


def lost(marks, fisher):
    """What pruning the marked channels loses."""
    return marks @ fisher.astype("float64") @ marks


def test_rearranging_of_a_literal_matrix():
    # Alone 0 and 1 lose least, but together 4.25; 2 undoes what 0 does: 0.25.
    fisher = [[1, 1, -1.5], [1, 1.25, -1.5], [-1.5, -1.5, 2.25]]
    pruned = ops.convert_to_tensor([True, True, False])
    fisher = ops.convert_to_tensor(fisher, "float32")
    assert_array_equal(value_of(rearrange(pruned, fisher)), [True, False, True])


def test_rearranging_against_all_choices():
    compiled = CompiledFunction(rearrange)
    generator = np.random.default_rng(0)
    num_best = num_better = 0
    for number in range(30):
        factor = generator.normal(size=(7, 4))
        fisher = (factor @ factor.T).astype("float32")
        k = number % 6 + 1
        diagonal = lowest(np.diag(fisher), k)
        tensors = map(ops.convert_to_tensor, (diagonal, fisher))
        found = value_of(compiled(*tensors))
        assert found.sum() == k
        choices = itertools.combinations(range(7), k)
        marks = (np.isin(range(7), choice) for choice in choices)
        best = min(lost(choice, fisher) for choice in marks)
        losses = lost(found, fisher), lost(diagonal, fisher)
        assert best - 1e-5 <= losses[0] <= losses[1] + 1e-5
        num_best += losses[0] < best + 1e-5
        num_better += losses[0] < losses[1] - 1e-3
    assert num_best >= 15 and num_better >= 10


def test_retrain_free_changes_no_weight_until_it_prunes_at_the_end():
    # Of such data, where the lowest diagonal scores of "b" are not the best choice.
    generator = np.random.default_rng(8)
    x = generator.normal(size=(64, 8)).astype("float32")
    y = generator.normal(size=(64, 4)).astype("float32")
    settings = dict(pruning_type="retrain_free", pattern="channelx1")
    settings |= dict(allocation="uniform", target_sparsity=0.5)
    model = linear_model(Adam(0.1), use_bias=True)
    pruning, _, after = train(model, 1, x=x, y=y, **settings)
    assert after.sparsities == [0, 0, 0, 0, 0.5]
    assert pruning.pruners[0].updated_at == 4
    fisher = {path: 0 for path in PATHS}
    for batch in np.split(np.arange(64), 4):
        slopes = gradients(A, B, x[batch], y[batch])
        for path, value, slope in zip(PATHS, (A, B), slopes, strict=True):
            effect = (value * slope).sum(1)
            fisher[path] = fisher[path] + np.outer(effect, effect)
    for path, value in zip(PATHS, (A, B), strict=True):
        for row in after.rows[:4]:
            assert_array_equal(row[path].weight, value)
        last = after.rows[4][path]
        assert_allclose(last.states["memory"], fisher[path], rtol=1e-3, atol=1e-6)
        assert_array_equal(last.weight, value * last.mask)
        pruned = ~last.mask.any(1)
        assert pruned.sum() == 4
        assert_array_equal(last.mask, np.broadcast_to(~pruned[:, None], value.shape))
        diagonal = lowest(np.diag(fisher[path]), 4)
        gain = lost(diagonal, fisher[path]) - lost(pruned, fisher[path])
        assert gain > 1e-3 if path == "b/kernel" else gain == 0
    assert not any(value_of(layer.bias).any() for layer in model.layers)
