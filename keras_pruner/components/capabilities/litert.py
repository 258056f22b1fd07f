"""What LiteRT makes of zeros."""

from keras_pruner.components.capabilities.base import (
    EngineCapability,
    register_capability,
)
from keras_pruner.components.patterns import Block
from keras_pruner.components.patterns.base import Pattern
from keras_pruner.kernels import Kernel

# Its sparse kernel multiplies blocks of so many inputs of one output.
_INPUTS = 4
# Layers whose products become `FULLY_CONNECTED`.
_LAYER_TYPES = (
    *("Dense", "EinsumDense", "MultiHeadAttention", "GroupQueryAttention", "Linear"),
    *("LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell"),
)


@register_capability("litert", "tflite")
class LiteRT(EngineCapability):
    """Its sparse `FULLY_CONNECTED` multiplies blocks of 4 inputs by one output.

    Blocks of a multiple of 4 inputs consist of such blocks. All other zeros are left
    out of the file, and are filled in again when the interpreter loads it.
    """

    title = "LiteRT"
    settings = {"pattern": "1x4"}  # noqa: RUF012
    layer_types = _LAYER_TYPES
    # Measured at batch size 1. Batches of 4 to 64 need 90 % and more.
    min_sparsity = 0.8

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        if dtype == "int8":
            return "nothing", (
                "LiteRT returns wrong outputs, or none, for int8 kernels in its sparse "
                "encoding, so they are stored dense."
            )
        others = set(layer_types or ()) - set(self.layer_types)
        if others:
            return "size", (
                f"The file stores zeros of {', '.join(sorted(others))} layers in a "
                "sparse encoding, but LiteRT makes them dense when it loads the file."
            )
        if isinstance(pattern, Block) and pattern.inputs % _INPUTS == 0:
            return "size and time", (
                "LiteRT neither stores nor multiplies blocks of 4 inputs of one output "
                "that are zero, in layers that become fully connected ones; batches of "
                "several samples or steps gain less."
            )
        return "size", (
            "The file stores zeros in a sparse encoding, but LiteRT is not faster: it "
            f"skips only blocks of {_INPUTS} inputs of one output, pattern "
            f"'1x{_INPUTS}'."
        )

    def refuses(self, kernel: Kernel) -> str | None:
        reason = super().refuses(kernel)
        if reason is None and kernel.layout.rows % _INPUTS:
            reason = (
                f"{self.title} skips blocks of {_INPUTS} inputs of one output, but the "
                f"kernel has {kernel.layout.rows} inputs"
            )
        return reason
