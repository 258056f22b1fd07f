"""Gathers the statistics of what multiplies kernels, batch by batch."""

from keras import ops

from keras_pruner.comparison import output_error
from keras_pruner.oneshot.influence import is_real, output_weights
from keras_pruner.oneshot.inputs import InputCollector, watch_calls
from keras_pruner.oneshot.passage import Passage
from keras_pruner.oneshot.statistics import Moments
from keras_pruner.pytorch import as_array

# A batch gives this many rows for each row of a kernel's matrix, and at least `_LEAST`.
_ROWS_EACH, _LEAST = 4, 4096


class Calibration:
    """Gathers the statistics of what multiplies kernels, while a model runs on data.

    Args:
        model: Built Keras model, or `OneShotModule`, which is pruned stage by stage.
        kernels: Its `Kernel`s that may be pruned.
        batches: List of batches of inputs, all of one shape.
        max_memory: Most bytes of activations to keep in memory; see `Passage`.
        seed: Integer that decides which rows of large batches are left out.

    Attributes:
        order: `CallOrder` of the kernels, by the first batch.
        peak_memory: Most bytes of activations and statistics at a time.
    """

    def __init__(self, model, kernels, batches, max_memory, seed=0):
        self._batches = batches
        self._passage = Passage(model, batches, max_memory)
        self._dense_passage = None
        self._model, self._seed = model, seed
        # Outputs of the dense model on the first batch, as soon as they are needed.
        self._outputs = None
        self.peak_memory = 0
        self._collector = InputCollector(model, kernels, max_rows=_most_rows, seed=seed)
        self.order = self._collector.order(batches[0])
        self._leader = {k: group[0] for group in self.order.shared for k in group}

    @property
    def peak_disk(self):
        """Most bytes of activations in files at a time."""
        return self._passage.peak_disk

    def restart(self):
        """Frees all activations, because weights changed anywhere."""
        for passage in (self._passage, self._dense_passage):
            if passage is not None:
                passage.forget()
        self._dense_passage = None

    def moments(self, kernels, dense_values=None):
        """Returns the statistics of kernels, as the model is now.

        Since the last call, only weights of the kernels of that call may have changed,
        unless you call `restart`.

        Args:
            kernels: List of `Kernel`s.
            dense_values: List of `(variable, value)` of the dense model, whose rows are
                gathered beside the model's. `None` gathers the model's alone.

        Returns:
            Dict from each kernel to a list of `Moments`, one for each part of its
            columns. Kernels with equal rows share the arrays.
        """
        if dense_values and self._dense_passage is None:
            # Up to here the dense model is the same.
            self._dense_passage = self._passage.fork()
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
        num_bytes = sum(own.num_bytes for parts in moments.values() for own in parts)
        self.peak_memory = max(self.peak_memory, self._passage.peak_memory + num_bytes)
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

    def output_error(self, kernel, state_mapping):
        """Returns the relative error of the model's outputs under other values.

        It is the `output_error` on the first batch. D are the outputs of the model as
        it is.

        Args:
            kernel: The `Kernel` of the first layer that computes with other values.
            state_mapping: List of `(variable, value)` to use in place of the model's.

        Returns:
            Float, or `None` if the outputs do not vary, or none is a real number.
        """
        first = self._passage.first_step([kernel.variable])
        outputs = self._dense_outputs(first)
        return output_error(outputs, self._run(first, state_mapping))

    def output_weights(self, kernels, on_pass=lambda: None):
        """Returns how much each output of kernels shall count; see `output_weights`.

        Args:
            kernels: List of `Kernel`s.
            on_pass: Function called after each of `NUM_PASSES` passes.
        """
        outputs = self._dense_outputs(0)
        return output_weights(
            self._model, kernels, self._batches, outputs, self._seed, on_pass
        )

    def _dense_outputs(self, first):
        if self._outputs is None:
            self._outputs = self._run(first)
        return self._outputs

    def _run(self, first, state_mapping=None):
        """Returns the real outputs on the first batch as a list of float64 arrays."""
        found = []

        def forward():
            found.extend(self._passage.run(0, keep_at=first))

        watch_calls(self._model, [], None).run(forward, state_mapping)
        return [_as_array(x) for x in found if is_real(x)]

    def _collect(self, batch, number, into, kernels, state_mapping=None):
        passage = self._passage if state_mapping is None else self._dense_passage
        first = passage.first_step([kernel.variable for kernel in kernels])
        self._collector.collect(
            batch, into.__setitem__, kernels, state_mapping=state_mapping,
            number=number, forward=lambda: passage.run(number, keep_at=first),
        )  # fmt: skip


def _most_rows(kernel):
    return max(_ROWS_EACH * kernel.layout.rows, _LEAST)


def _as_array(output):
    if hasattr(output, "detach"):
        return as_array(output).astype("float64")
    return ops.convert_to_numpy(ops.cast(output, "float32")).astype("float64")
