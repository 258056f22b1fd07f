"""Finds which groups of channels a smaller model can be made without."""

from keras_pruner.slimming.cutting.cut import cut


def alike(groups):
    """Divides groups into lists of those that play the same part in repeated blocks.

    They have equally many channels, on the same axes of variables of equal names and
    shapes, in layers of the same classes.

    Args:
        groups: Iterable of `ChannelGroup`s.

    Returns:
        List of lists of groups, in the order of their first ones.
    """
    found = {}
    for group in groups:
        members = [
            (type(m.layer), m.variable.name, tuple(m.variable.shape), m.axis)
            for m in group.members
        ]
        found.setdefault((group.kind, group.size, *members), []).append(group)
    return list(found.values())


def refused_groups(model, graph, groups, uniform=False):
    """Cuts half of the channels of groups in trials, to find what cannot be cut.

    Layers of a model may have configs and attributes that cannot say all sizes. If the
    first trial, with all groups, is refused, groups that are alike are added together,
    as long as they are not.

    Args:
        model: Built Keras model.
        graph: Its `ChannelGraph`.
        groups: Iterable of `ChannelGroup`s.
        uniform: See `cut`.

    Returns:
        Dict from the name of a group to the reason for which it is refused.
    """
    ties = alike(groups)

    def reason_against(ties):
        halves = {
            group.name: range(group.size // 2)
            for tie in ties
            for group in tie
            if group.size > 1
        }
        try:
            kept = graph.kept(halves)
            cut(model, graph, kept, uniform=uniform, own_config=uniform)
        except ValueError as error:
            return str(error)
        return None

    if reason_against(ties) is None:
        return {}
    accepted, refused = [], {}
    for tie in ties:
        reason = reason_against([*accepted, tie])
        if reason is None:
            accepted.append(tie)
        else:
            refused |= dict.fromkeys((group.name for group in tie), reason)
    return refused
