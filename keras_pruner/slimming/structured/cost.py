"""Counts parameters and FLOPs of a model that loses channels, without building it."""

import numpy as np

# A multiply-add is two floating-point operations.
FLOPS_PER_MULTIPLY_ADD = 2


class ChannelCost:
    """Computes the cost of a model from the numbers of channels that groups lose.

    A cost is a sum over products of axis lengths: of the axes of variables for
    `"parameters"`, of the loop over multiply-adds for `"flops"`. An axis loses the
    share of its indices that belong to removed channels. An index that belongs to
    several groups, e.g. to a head and to a unit of it, is kept if all keep it.

    Args:
        graph: `ChannelGraph`.
        kind: `"parameters"` or `"flops"`.
    """

    def __init__(self, graph, kind):
        if kind == "parameters":
            products = [graph.labels_of(v).axes for v in graph.variables.values()]
            self._factor = 1
        else:
            products = [contraction.axes for contraction in graph.contractions]
            self._factor = FLOPS_PER_MULTIPLY_ADD
        self._sizes = np.array([1.0, *(group.size for group in graph.groups)])
        self._place = {g.name: i + 1 for i, g in enumerate(graph.groups)}
        axes = [ids for product in products for ids in product]
        starts = np.cumsum([0, *(len(product) for product in products)])
        self._starts = starts[:-1][np.diff(starts) > 0]
        self._num_scalars = int(np.sum(np.diff(starts) == 0))
        self._num_axes = len(axes)
        known, terms = {}, []
        for number, ids in enumerate(axes):
            if id(ids) not in known:
                known[id(ids)] = _terms_of(graph, ids)
            terms += [(number, count, groups) for groups, count in known[id(ids)]]
        width = max((len(groups) for _, _, groups in terms), default=0)
        self._axis = np.array([number for number, _, _ in terms], int)
        self._count = np.array([count for _, count, _ in terms], float)
        # Group 0 stands for none.
        self._groups = np.array(
            [[*groups, *[0] * (width - len(groups))] for _, _, groups in terms], int
        ).reshape(len(terms), width)

    def __call__(self, counts):
        """Returns the cost as a float.

        Args:
            counts: Dict from names of groups to the number of channels they lose.
        """
        kept = np.ones(len(self._sizes))
        for name, count in counts.items():
            kept[self._place[name]] -= count / self._sizes[self._place[name]]
        lengths = np.bincount(
            self._axis,
            self._count * kept[self._groups].prod(axis=1),
            minlength=self._num_axes,
        )
        total = np.multiply.reduceat(lengths, self._starts).sum()
        return float(self._factor * (total + self._num_scalars))


def _terms_of(graph, ids):
    """Returns a list of pairs: the groups of some indices of an axis, and how many."""
    positions, groups = graph.groups_along(ids)
    pairs = np.unique(np.stack([positions, groups]), axis=1)
    places, starts = np.unique(pairs[0], return_index=True)
    found = {}
    for own in np.split(pairs[1], starts[1:]) if len(places) else ():
        key = tuple(sorted(own + 1))
        found[key] = found.get(key, 0) + 1
    found[()] = len(ids) - len(places)
    return [(key, count) for key, count in found.items() if count]
