from typing import Any

from keras_pruner.checks import check_choice
from keras_pruner.components.allocations.base import Allocation, register_allocation


@register_allocation("global")
class Global(Allocation):
    """Ranks the groups of all kernels together and prunes the lowest.

    Args:
        normalize: `None`, or `"l2"` to divide a kernel's scores by the L2 norm of its
            weights first, which makes kernels of different scale comparable.
    """

    ranks_jointly = True

    def __init__(self, normalize: str | None = None) -> None:
        check_choice(normalize, "`normalize`", (None, "l2"))
        self.normalize = normalize

    def get_config(self) -> dict[str, Any]:
        return {"normalize": self.normalize}


@register_allocation("global_l2")
class GlobalL2(Global):
    """Ranks as `Global(normalize="l2")` does, under a name of its own."""

    def __init__(self) -> None:
        super().__init__(normalize="l2")

    def get_config(self) -> dict[str, Any]:
        return {}
