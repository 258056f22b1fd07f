import numpy as np
import pytest

from keras_pruner.oneshot.statistics import Moments


def rows_with_mean(mean=3.0, groups=2, num_rows=40, length=5):
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(groups, num_rows, length)) + mean
    dense = rows + generator.normal(size=rows.shape)
    return rows.astype("float32"), dense.astype("float32")


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("is_centred", [False, True])
def test_batches_of_any_size_give_the_moments_of_all_rows(mean, is_centred):
    rows, dense = rows_with_mean(mean)
    moments = Moments([[0], [1]])
    for start, stop in [(0, 1), (1, 1), (1, 17), (17, 40)]:
        moments.add(rows[:, start:stop], dense[:, start:stop])
    x, y = rows.astype("float64"), dense.astype("float64")
    np.testing.assert_allclose(moments.mean, x.mean(1), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(moments.dense_mean, y.mean(1), rtol=1e-7, atol=1e-7)
    assert moments.num_rows == 40
    if is_centred:
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    tolerance = {"rtol": 1e-6, "atol": 1e-5 if mean < 1e3 or is_centred else 1e2}
    if mean > 1e3 and is_centred:
        tolerance["atol"] = 1e-4
    second = np.einsum("gnk,gnl->gkl", x, x) / 40
    cross = np.einsum("gnk,gnl->gkl", x, y) / 40
    np.testing.assert_allclose(moments.second_moment(is_centred), second, **tolerance)
    np.testing.assert_allclose(moments.cross_moment(is_centred), cross, **tolerance)


def test_reading_moments_does_not_change_them():
    rows, dense = rows_with_mean()
    moments = Moments([[0], [1]])
    moments.add(rows, dense)
    for read in (moments.second_moment, moments.cross_moment):
        before = read(True).copy()
        read(False)
        np.testing.assert_array_equal(read(True), before)


def test_half_precision_rows_are_summed_in_float32():
    rows = np.full((1, 4, 1), 300.0, "float16")  # its square is no float16
    moments = Moments([[0]])
    moments.add(rows)
    assert moments.second_moment(False).tolist() == [[[90000.0]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_rows_that_cannot_be_squared_are_refused_and_leave_the_moments(value):
    moments = Moments([[0]])
    moments.add(np.array([[[1.0, 2.0], [2.0, 2.0]]], "float32"))
    bad = np.array([[[1.0, value], [2.0, 2.0]]], "float32")
    with pytest.raises(ValueError, match="NaN, infinite values, or values too"):
        moments.add(bad)
    assert moments.num_rows == 2 and moments.mean.tolist() == [[1.5, 2.0]]
    if not np.isfinite(value):
        with pytest.raises(ValueError, match="NaN, infinite values, or values too"):
            Moments([[0]]).add(np.zeros((1, 2, 2), "float32"), bad)


def test_shapes_that_do_not_fit_are_refused():
    moments = Moments([[0]])
    moments.add(np.ones((1, 3, 2), "float32"))
    for shape in [(2, 3, 2), (1, 3, 4), (3, 2)]:
        with pytest.raises(ValueError, match=r"shape \(groups, rows, K\), here \(1"):
            moments.add(np.ones(shape, "float32"))
    with pytest.raises(ValueError, match="Either all batches have dense rows"):
        moments.add(np.ones((1, 3, 2), "float32"), np.ones((1, 3, 2), "float32"))
    with pytest.raises(ValueError, match="have the shape of the rows"):
        moments.add(np.ones((1, 3, 2), "float32"), np.ones((1, 2, 2), "float32"))
    with pytest.raises(ValueError, match="Columns have the shape"):
        Moments([0, 1])
