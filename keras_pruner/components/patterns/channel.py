from keras import ops

from keras_pruner.backend import reduce_groups
from keras_pruner.components.patterns.base import Pattern, register_pattern
from keras_pruner.kernels import KernelLayout
from keras_pruner.types import Tensor


@register_pattern("channelx1")
class InputChannel(Pattern):
    """Prunes whole input channels: all window positions and outputs that see them.

    A group of a dense kernel is one row of the matrix. In a grouped or depthwise
    convolution only the outputs of its own group see a channel.
    """

    prunes_channels = True

    def num_groups(self, layout: KernelLayout) -> int:
        return layout.inputs * layout.groups

    def group_size(self, layout: KernelLayout) -> int:
        return layout.size // self.num_groups(layout)

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        # (window, inputs, groups, outputs of a group)
        channels = ops.reshape(
            scores,
            (
                layout.window_size,
                layout.inputs,
                layout.groups,
                layout.outputs // layout.groups,
            ),
        )
        return reduce_groups(channels, (0, 3), reduction)

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        outputs = ops.repeat(values, layout.outputs // layout.groups, axis=1)
        return ops.tile(outputs, (layout.window_size, 1))


@register_pattern("1xchannel")
class OutputChannel(Pattern):
    """Prunes whole output units or filters: columns of the matrix.

    The kernels that compute the outputs of a model stay dense, unless a config names
    them in `include`.
    """

    prunes_channels = True
    removes_outputs = True

    def num_groups(self, layout: KernelLayout) -> int:
        return layout.outputs

    def group_size(self, layout: KernelLayout) -> int:
        return layout.rows

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        return reduce_groups(scores, (0,), reduction)

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        return ops.tile(ops.expand_dims(values, 0), (layout.rows, 1))
