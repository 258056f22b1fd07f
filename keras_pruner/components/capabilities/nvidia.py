"""What GPUs of NVIDIA make of zeros."""

from keras_pruner.components.capabilities.base import (
    EngineCapability,
    register_capability,
)
from keras_pruner.components.patterns import NOfM
from keras_pruner.components.patterns.base import Pattern


@register_capability("nvidia", "tensorrt", "cusparselt")
class Nvidia(EngineCapability):
    """Sparse tensor cores multiply kernels with 2 zeros in every 4 inputs.

    TensorRT and cuSPARSELt use them. Keras' own layers do not.
    """

    title = "NVIDIA's sparse tensor cores"
    settings = {"pattern": "2:4"}  # noqa: RUF012
    layer_types = (
        *("Dense", "EinsumDense", "Linear"),
        *("Conv1D", "Conv2D", "Conv3D", "Conv1d", "Conv2d", "Conv3d"),
    )
    axes_multiple_of = 16
    min_sparsity = 0.5
    needs = ("sparse_tensor_cores",)

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        others = set(layer_types or ()) - set(self.layer_types)
        if others or not (
            isinstance(pattern, NOfM) and 2 * pattern.n >= pattern.m == 4
        ):
            return "nothing", (
                "Sparse tensor cores skip only 2 of every 4 inputs, pattern '2:4', of "
                "dense layers and convolutions."
            )
        return "size and time", (
            "TensorRT or cuSPARSELt skip 2 of every 4 inputs in float16, bfloat16 or "
            "int8; only large matrix products get faster, and Keras' own layers do not."
        )
