"""What OpenVINO makes of zeros."""

from keras_pruner.components.capabilities.base import (
    EngineCapability,
    register_capability,
)
from keras_pruner.components.patterns.base import Pattern


@register_capability("openvino")
class OpenVino(EngineCapability):
    """Its int8 matrix product on AMX reads kernels from a compressed copy.

    The setting `CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE` switches it on.
    """

    title = "OpenVINO"
    settings = {"pattern": "1x1"}  # noqa: RUF012
    layer_types = ("Dense", "EinsumDense", "Linear")
    dtype = "int8"
    axes_multiple_of = 64
    # The lowest that was measured.
    min_sparsity = 0.8
    needs = ("amx_int8",)

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        if dtype != "int8":
            return "nothing", (
                "OpenVINO stores zeros of float32 kernels, and computes with them; "
                "only int8 kernels gain."
            )
        if set(layer_types or ()) - set(self.layer_types):
            return "nothing", "OpenVINO skips no zeros of layers other than dense ones."
        return "time", (
            "With CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE set, OpenVINO reads int8 "
            f"kernels whose axes are multiples of {self.axes_multiple_of} from a "
            "compressed copy; its files hold all zeros."
        )
