from keras import ops

from keras_pruner.backend import reduce_groups
from keras_pruner.components.patterns.base import Pattern, register_pattern

_ROLES = ("query", "key", "value", "attention_output")


@register_pattern("mha")
class Heads(Pattern):
    """Prunes whole attention heads.

    A head has columns of the query, key and value kernels and rows of the output
    kernel, which are pruned together. Its score is the sum of the scores of these four
    parts. In grouped-query attention a head is one key and value head with all query
    heads that share it. Kernels outside attention layers stay dense.
    """

    def reason_to_skip(self, layout):
        if not layout.heads:
            return (
                "pattern 'mha' takes the kernels of MultiHeadAttention and "
                "GroupQueryAttention only"
            )
        return None

    def couple(self, kernels):
        layers = {}
        for index, kernel in enumerate(kernels):
            layers.setdefault(kernel.attention, []).append(index)
        for path, members in layers.items():
            present = {kernels[index].layer.name for index in members}
            missing = [role for role in _ROLES if role not in present]
            if missing:
                raise ValueError(
                    f"Pattern 'mha' prunes whole heads, but of attention layer '{path}'"
                    f" the kernels of {', '.join(missing)} are not selected. Select "
                    "the layer as a whole, or exclude it as a whole."
                )
        return [tuple(members) for members in layers.values()]

    def num_groups(self, layout):
        return layout.heads

    def group_size(self, layout):
        return layout.size // layout.heads

    def group_scores(self, scores, layout, reduction):
        rows, columns = layout.rows, layout.outputs
        if layout.head_axis == 0:
            heads = ops.reshape(scores, (layout.heads, rows // layout.heads, columns))
            return reduce_groups(heads, (1, 2), reduction)
        heads = ops.reshape(scores, (rows, layout.heads, columns // layout.heads))
        return reduce_groups(heads, (0, 2), reduction)

    def spread(self, values, layout):
        if layout.head_axis == 0:
            rows = ops.repeat(values, layout.rows // layout.heads)
            return ops.tile(ops.expand_dims(rows, 1), (1, layout.outputs))
        columns = ops.repeat(values, layout.outputs // layout.heads)
        return ops.tile(ops.expand_dims(columns, 0), (layout.rows, 1))
