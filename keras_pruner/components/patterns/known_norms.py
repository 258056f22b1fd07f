from keras_pruner.components.patterns.base import Pattern


class KnownNorms(Pattern):
    """Groups of one kernel with norms that are known: those over a whole unit.

    It divides a kernel as another pattern does. It has no name of its own.

    Args:
        pattern: `Pattern` that divides the kernel.
        norms: Float32 tensor with the norm of each group.
    """

    name = "known_norms"

    def __init__(self, pattern, norms):
        self.pattern = pattern
        self.norms = norms

    def num_groups(self, layout):
        return self.pattern.num_groups(layout)

    def group_size(self, layout):
        return self.pattern.group_size(layout)

    def group_scores(self, scores, layout, reduction):
        return self.pattern.group_scores(scores, layout, reduction)

    def spread(self, values, layout):
        return self.pattern.spread(values, layout)

    def group_norms(self, weight, layout):
        return self.norms
