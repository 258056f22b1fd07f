from collections.abc import Sequence

from keras_pruner.components.patterns.axis import AxisGroups
from keras_pruner.components.patterns.base import Pattern, register_pattern
from keras_pruner.kernels import Kernel

_ROLES = ("query", "key", "value", "attention_output")


@register_pattern("mha")
class Heads(Pattern):
    """Whole attention heads.

    A head is its columns of the query, key and value kernels and its rows of the
    output kernel, pruned together. Its score is the sum of the scores of its four
    parts. In grouped-query attention a head is one key and value head with all query
    heads that share it. Kernels outside of attention layers stay dense.
    """

    coupling_kind = "heads"
    prunes_channels = True

    def refusal(self, kernel: Kernel) -> str | None:
        if kernel.coupling(self.coupling_kind) is None:
            return (
                "pattern 'mha' takes the kernels of MultiHeadAttention and "
                "GroupQueryAttention only"
            )
        return None

    def groups_of(self, kernel: Kernel) -> Pattern:
        heads = kernel.coupling(self.coupling_kind)
        return AxisGroups(heads.axis, heads.num_groups, heads.index_map)

    def unit_name(self, kernels: Sequence[Kernel]) -> str:
        return kernels[0].coupling(self.coupling_kind).unit

    def couple(self, kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
        units = {}
        for index, kernel in enumerate(kernels):
            heads = kernel.coupling(self.coupling_kind)
            units.setdefault(heads.unit, {})[index] = heads.role
        for unit, roles in units.items():
            missing = [role for role in _ROLES if role not in roles.values()]
            if missing:
                raise ValueError(
                    f"Pattern 'mha' prunes whole heads, but of attention layer '{unit}'"
                    f" the kernels of {', '.join(missing)} are not selected. Select "
                    "the layer as a whole, or exclude it as a whole."
                )
        return [tuple(roles) for roles in units.values()]
