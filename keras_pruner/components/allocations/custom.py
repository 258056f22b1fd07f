from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_pruner.checks import check_in_range, shown
from keras_pruner.components.allocations.base import (
    Allocation,
    KernelPlan,
    register_allocation,
)
from keras_pruner.kernels import check_regex, matches_path


@register_allocation("custom")
class Custom(Allocation):
    """Prunes each kernel to a sparsity of its own, from a dict or a function.

    These sparsities set the target over all kernels. While the schedule climbs, each
    kernel has the same share of its own sparsity.

    Args:
        sparsities: Function from a `KernelPlan` to a sparsity, or dict from regular
            expressions to sparsities in [0, 1]. The first expression that matches
            whole names of a kernel's path counts. Kernels without a match get
            `target_sparsity`.
    """

    is_absolute = True

    def __init__(self, sparsities: Mapping[str, float] | Callable[..., float]) -> None:
        if isinstance(sparsities, dict):
            for key in sparsities:
                check_regex(key, "allocation")
            sparsities = {k: _check_sparsity(v, k) for k, v in sparsities.items()}
        elif not callable(sparsities) or isinstance(
            sparsities, keras.layers.Layer | type
        ):
            raise TypeError(
                "An `allocation` is a name, a dict from regular expressions to "
                "sparsities, or a function from a `KernelPlan` to a sparsity. "
                f"Received: {shown(sparsities)}"
            )
        self.sparsities = sparsities

    def kernel_sparsities(
        self, target: float, plans: Sequence[KernelPlan]
    ) -> Sequence[float]:
        """Returns one sparsity per kernel.

        Args:
            target: Sparsity of kernels that a dict does not mention.
            plans: List of `KernelPlan`.

        Raises:
            ValueError: If an entry of a dict matches no kernel.
        """
        if callable(self.sparsities):
            return [_check_sparsity(self.sparsities(p), p.path) for p in plans]
        for pattern in self.sparsities:
            if not any(matches_path(pattern, plan.path) for plan in plans):
                raise ValueError(
                    f"The allocation names '{pattern}', which matches no pruned kernel."
                    f" Kernels: {', '.join(plan.path for plan in plans)}"
                )
        return [
            next(
                (s for key, s in self.sparsities.items() if matches_path(key, p.path)),
                target,
            )
            for p in plans
        ]

    def get_config(self) -> dict[str, Any]:
        if callable(self.sparsities):
            raise ValueError(
                "An allocation made of a function cannot be saved. Give the sparsities "
                f"as a dict. Received: {self.sparsities!r}"
            )
        return {"sparsities": dict(self.sparsities)}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.sparsities == other.sparsities

    def __hash__(self) -> int:
        return hash(Custom)

    def __repr__(self) -> str:
        return f"Custom({self.sparsities!r})"


def _check_sparsity(value, path):
    return check_in_range(value, f"The sparsity of '{path}' in `allocation`", 0, 1)
