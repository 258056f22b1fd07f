from keras_pruner.components.patterns.base import Pattern, register_pattern


@register_pattern("1x1")
class Unstructured(Pattern):
    """Prunes single weights: every weight is a group of its own."""

    chooses_weights = True
    is_unstructured = True
    keeps_outputs = True
    rows_of_group = 1

    def num_groups(self, layout):
        return layout.size

    def group_size(self, layout):
        return 1

    def group_scores(self, scores, layout, reduction):
        return scores

    def spread(self, values, layout):
        return values
