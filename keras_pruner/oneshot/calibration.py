"""Gathers the statistics of what multiplies kernels, batch by batch."""

from keras_pruner.oneshot.inputs import InputCollector
from keras_pruner.oneshot.statistics import Moments

# A batch gives this many rows for each row of a kernel's matrix, and at least `_LEAST`.
_ROWS_EACH, _LEAST = 4, 4096


class Calibration:
    """Gathers the statistics of what multiplies kernels, while a model runs on data.

    Args:
        model: Built Keras model, or `OneShotModule`, which is pruned stage by stage.
        kernels: Its `Kernel`s that may be pruned.
        batches: List of batches of inputs, all of one shape.
        seed: Integer that decides which rows of large batches are left out.

    Attributes:
        order: `CallOrder` of the kernels, by the first batch.
    """

    def __init__(self, model, kernels, batches, seed=0):
        self._batches = batches
        self._collector = InputCollector(model, kernels, max_rows=_most_rows, seed=seed)
        self.order = self._collector.order(batches[0])
        self._leader = {k: group[0] for group in self.order.shared for k in group}

    def moments(self, kernels, dense_values=None):
        """Returns the statistics of kernels, as the model is now.

        Args:
            kernels: List of `Kernel`s.
            dense_values: List of `(variable, value)` of the dense model, whose rows are
                gathered beside the model's. `None` gathers the model's alone.

        Returns:
            Dict from each kernel to a list of `Moments`, one for each part of its
            columns. Kernels with equal rows share the arrays.
        """
        leaders = {self._leader.get(kernel, kernel) for kernel in kernels}
        moments, columns = {}, {}
        for number, batch in enumerate(self._batches):
            rows, dense_rows = {}, {}
            self._collect(batch, number, rows, kernels)
            if dense_values:
                self._collect(batch, number, dense_rows, leaders, dense_values)
            for kernel, parts in rows.items():
                columns[kernel] = [part.columns for part in parts]
                if kernel not in leaders:
                    continue
                known = moments.setdefault(kernel, [Moments(p.columns) for p in parts])
                pairs = dense_rows.get(kernel, [None] * len(parts))
                for own, part, dense in zip(known, parts, pairs, strict=True):
                    own.add(part.values, None if dense is None else dense.values)
        return {
            kernel: [
                own.with_columns(each)
                for own, each in zip(
                    moments[self._leader.get(kernel, kernel)],
                    columns[kernel],
                    strict=True,
                )
            ]
            for kernel in kernels
        }

    def _collect(self, batch, number, into, kernels, state_mapping=None):
        self._collector.collect(
            batch, into.__setitem__, kernels, state_mapping=state_mapping, number=number
        )


def _most_rows(kernel):
    return max(_ROWS_EACH * kernel.layout.rows, _LEAST)
