"""Orders the channels of a group by the error that their removal makes."""

from typing import Any, NamedTuple

import numpy as np

# Share of the mean diagonal of H that makes it regular.
DAMPING = 0.01
# Share of the remaining channels to remove at a time.
_AT_ONCE = 0.05


class Consumer(NamedTuple):
    """One linear map that reads the channels of a group.

    Args:
        hessian: Float array (K, K): second moments H of its inputs.
        weights: Float array (K, N): its weights W.
        rows: Tuple with an int array for each channel of the group: the rows of W that
            go with it; may be empty.
    """

    hessian: Any
    weights: Any
    rows: tuple


class Elimination(NamedTuple):
    """The order in which channels are removed, and what it costs.

    Args:
        order: Int array (n,): channels, the first to remove first.
        errors: Float array (n + 1,): relative error after so many removals. It never
            falls, and is 0 without a removal.
    """

    order: np.ndarray
    errors: np.ndarray


def eliminate(consumers, num_channels):
    """Removes channels one after the other, each time the one that costs least.

    Each consumer keeps the weights Z on the remaining rows that change its outputs
    least, `min tr((W - Z)' H (W - Z))`. With the inverse `P` of H over the remaining
    rows, removal of the rows g adds the error and changes the rest to

        tr(W_g' P_gg^-1 W_g),    W -= P_:g P_gg^-1 W_g,    P -= P_:g P_gg^-1 P_g:

    The errors of all consumers are added, each relative to `tr(W' H W)`. Of many
    channels, 5 % of the remaining ones go at a time. It computes in float64 NumPy on
    the host, because the shapes change in each step.

    Args:
        consumers: List of `Consumer`s, not empty.
        num_channels: Number of channels n of the group.

    Returns:
        `Elimination` of all n channels.

    Example:

    Channel 0 and 1 are equal, so either replaces the other at no cost. Channel 2 has
    the larger weight:

    >>> inputs = np.array([[1, 1, 0], [1, 1, 1], [-1, -1, 1], [-1, -1, 0.0]])
    >>> weights = np.array([[1.0], [1.0], [3.0]])
    >>> rows = tuple(np.array([i]) for i in range(3))
    >>> consumer = Consumer(inputs.T @ inputs / 4, weights, rows)
    >>> found = eliminate([consumer], 3)
    >>> int(found.order[-1]), float(found.errors[1].round(2))
    (2, 0.0)

    References:
        [ZipLM: Inference-Aware Structured Pruning of Language Models, Kurtic et al.,
        2023](https://arxiv.org/abs/2302.04089)
    """
    states = [_Remaining(consumer) for consumer in consumers]
    left = np.arange(num_channels)
    order, errors = [], [0.0]
    while len(left):
        costs = sum(state.costs(left) for state in states)
        number = max(1, int(_AT_ONCE * len(left)))
        # Equal costs go by the number of the channel.
        chosen = left[np.argsort(costs, kind="stable")[:number]]
        added = sum(state.remove(chosen) for state in states)
        order.extend(chosen)
        errors.extend(errors[-1] + added * np.arange(1, number + 1) / number)
        left = np.setdiff1d(left, chosen)
    return Elimination(np.array(order), np.array(errors))


class _Remaining:
    """The weights of a consumer, and the inverse of H, on the rows that remain."""

    def __init__(self, consumer):
        hessian = np.array(consumer.hessian, "float64")
        diagonal = np.diagonal(hessian)
        # Inputs that never vary carry nothing.
        mean = max(float(diagonal.mean()), np.finfo("float32").tiny)
        hessian[np.diag_indices_from(hessian)] += DAMPING * mean
        self._weights = np.array(consumer.weights, "float64")
        self._inverse = np.linalg.inv(hessian)
        whole = float(np.sum(self._weights * (hessian @ self._weights)))
        self._scale = 1 / whole if whole > 0 else 0.0
        self._rows = consumer.rows

    def costs(self, channels):
        """Returns the error that each channel adds if it alone is removed."""
        costs = np.zeros(len(channels))
        widths = np.array([len(self._rows[channel]) for channel in channels])
        for width in np.unique(widths[widths > 0]):
            places = np.flatnonzero(widths == width)
            rows = np.array([self._rows[channels[place]] for place in places])
            blocks = self._inverse[rows[:, :, None], rows[:, None, :]]
            weights = self._weights[rows]
            costs[places] = np.sum(weights * _solve(blocks, weights), axis=(1, 2))
        return costs * self._scale

    def remove(self, channels):
        """Removes channels; returns the error that it adds."""
        rows = np.concatenate([self._rows[channel] for channel in channels])
        if not len(rows):
            return 0.0
        columns = self._inverse[:, rows]
        weights = self._weights[rows]
        both = np.concatenate([weights, columns.T], axis=1)
        solved = _solve(columns[rows], both)
        outputs = weights.shape[1]
        error = float(np.sum(weights * solved[:, :outputs]))
        self._weights -= columns @ solved[:, :outputs]
        self._inverse -= columns @ solved[:, outputs:]
        self._weights[rows] = 0
        return max(0.0, error * self._scale)


def _solve(blocks, right):
    """Solves systems whose matrices are positive definite, except for rounding."""
    try:
        return np.linalg.solve(blocks, right)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(blocks) @ right
