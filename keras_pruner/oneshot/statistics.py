"""Accumulates the moments of the rows that multiply a kernel, batch by batch."""

import copy

import numpy as np
from keras import ops


class Moments:
    """Holds the count, means and centred second moments of rows, without the rows.

    Each batch is centred and multiplied in float32 on the device. The batches are
    merged on the host in float64, by the update of Chan: with the means `a` and `b` of
    `n` and `m` rows, the sums of squares add up, plus `(b - a)(b - a)' n m / (n + m)`.
    So the order and the size of batches do not matter, nor does a large mean.

    With dense rows (the rows of the same samples in the dense model) it also holds
    their mean and the cross moments.

    Args:
        columns: Int array (G, N_g): columns of the kernel's matrix that group g of the
            rows multiplies.

    Attributes:
        num_rows: Rows so far, of each group.
        mean: Float64 array (G, K): mean of the rows.
        dense_mean: Float64 array (G, K): mean of the dense rows, or `None`.

    Example:

    >>> moments = Moments([[0]])
    >>> moments.add(np.array([[[1.0, 10.0], [3.0, 10.0]]]))  # (G, n, K)
    >>> moments.add(np.array([[[5.0, 13.0]]]))
    >>> moments.num_rows, moments.mean.tolist()
    (3, [[3.0, 11.0]])
    >>> (3 * moments.second_moment(is_centred=True)).round(2).tolist()
    [[[8.0, 6.0], [6.0, 6.0]]]

    References:
        [Updating formulae and a pairwise algorithm for computing sample variances,
        Chan et al., 1979](http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf)
    """

    def __init__(self, columns):
        self.columns = np.asarray(columns, "int32")
        if self.columns.ndim != 2:
            raise ValueError(
                "Columns have the shape (groups, columns of a group). Received: shape "
                f"{self.columns.shape}"
            )
        self.num_rows = 0
        self.mean = self.dense_mean = None
        # Sums over rows of centred products, float64 (G, K, K).
        self._squares = self._crosses = None

    @property
    def has_dense_rows(self):
        return self.dense_mean is not None

    @property
    def num_bytes(self):
        arrays = (self._squares, self._crosses)
        return sum(array.nbytes for array in arrays if array is not None)

    def add(self, rows, dense_rows=None):
        """Adds a batch.

        Args:
            rows: Float tensor (G, n, K).
            dense_rows: Float tensor (G, n, K): row i is of the same sample as row i of
                `rows`. All batches have dense rows, or none has.

        Raises:
            ValueError: If the shapes do not fit, if only some batches have dense rows,
                or if a number is NaN, infinite, or too large to be squared. The
                moments then do not change.
        """
        rows = ops.convert_to_tensor(rows)
        self._check(rows, dense_rows)
        num_added = rows.shape[1]
        if not num_added:
            return
        mean, centred = _centre(rows)
        squares = _products(centred, centred)
        dense_mean = crosses = None
        if dense_rows is not None:
            dense_mean, dense_centred = _centre(dense_rows)
            crosses = _products(centred, dense_centred)
        for array in (mean, squares, dense_mean, crosses):
            if array is not None and not np.isfinite(array).all():
                raise ValueError(
                    "The inputs of the kernel hold NaN, infinite values, or values too "
                    "large for float32 when squared. Look at the data and the weights."
                )
        if not self.num_rows:
            self.num_rows, self.mean, self._squares = num_added, mean, squares
            self.dense_mean, self._crosses = dense_mean, crosses
            return
        total = self.num_rows + num_added
        weight = self.num_rows * num_added / total
        step = mean - self.mean
        self._squares += squares
        self._squares += weight * (step[:, :, None] * step[:, None, :])
        if dense_mean is not None:
            dense_step = dense_mean - self.dense_mean
            self._crosses += crosses
            self._crosses += weight * (step[:, :, None] * dense_step[:, None, :])
            self.dense_mean = self.dense_mean + dense_step * (num_added / total)
        self.mean = self.mean + step * (num_added / total)
        self.num_rows = total

    def with_columns(self, columns):
        """Returns the same moments for a kernel whose columns are others.

        Args:
            columns: As of the class. Later rows of either are not seen by the other.
        """
        other = copy.copy(self)
        other.columns = np.asarray(columns, "int32")
        return other

    def second_moment(self, is_centred):
        """Returns `H = X'X / n`, less `mu mu'` if centred, as float64 (G, K, K)."""
        second = self._squares / self.num_rows
        if not is_centred:
            second += self.mean[:, :, None] * self.mean[:, None, :]
        return second

    def cross_moment(self, is_centred):
        """Returns `C = X'Xd / n`, less `mu nu'` if centred, as float64 (G, K, K)."""
        cross = self._crosses / self.num_rows
        if not is_centred:
            cross += self.mean[:, :, None] * self.dense_mean[:, None, :]
        return cross

    def _check(self, rows, dense_rows):
        shape = tuple(rows.shape)
        groups, length = len(self.columns), shape[-1]
        if self.num_rows:
            length = self.mean.shape[1]
        if len(shape) != 3 or (shape[0], shape[2]) != (groups, length):
            raise ValueError(
                f"Rows have the shape (groups, rows, K), here ({groups}, any, "
                f"{length}). Received: {shape}"
            )
        if dense_rows is not None and tuple(dense_rows.shape) != shape:
            raise ValueError(
                "Dense rows have the shape of the rows. Received: "
                f"{tuple(dense_rows.shape)} and {shape}"
            )
        if self.num_rows and self.has_dense_rows != (dense_rows is not None):
            raise ValueError("Either all batches have dense rows, or none has.")


def _centre(rows):
    """Returns the mean of rows as float64 (G, K), and the rows less it as float32."""
    rows = ops.cast(ops.convert_to_tensor(rows), "float32")
    mean = ops.mean(rows, axis=1, keepdims=True)
    centred = rows - mean
    # The mean of many large numbers rounds, so the rest has a mean of its own.
    rest = ops.mean(centred, axis=1, keepdims=True)
    exact = ops.convert_to_numpy(mean).astype("float64") + ops.convert_to_numpy(rest)
    return exact[:, 0], centred - rest


def _products(left, right):
    """Returns the sums over rows of products, as float64 (G, K, K)."""
    products = ops.matmul(ops.transpose(left, (0, 2, 1)), right)
    return ops.convert_to_numpy(products).astype("float64")
