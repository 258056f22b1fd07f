"""Finds which indices of a model's tensors are removed together."""

import numpy as np

# Ids that are expanded into more, over several levels, are not unified one by one.
_MOST_LEAVES = 64


class IndexClasses:
    """Divides the indices of tensor axes into classes that are removed together.

    Each index of an axis has an id, a number. An id is in one of three states:

    - free: it belongs to a class of ids that are removed together,
    - pinned: it is never removed, for a reason,
    - expanded: it is removed if any of several other ids is. The index of an axis that
      was merged from two axes is such a case.

    An id is *alive* if a tensor may differ from zero at its index although all weights
    of the index are zero: what a sigmoid computes of it, for example.

    All methods take and return int64 arrays of ids and work on them as a whole.

    Example:

    >>> classes = IndexClasses()
    >>> kernel, bias, rest = classes.fresh(3), classes.fresh(3), classes.fresh(1)
    >>> classes.unify(kernel, bias)
    >>> classes.unify(rest, classes.pinned(1, "output of the model"))
    >>> resolved = classes.resolve()
    >>> resolved.atoms_of(np.concatenate([kernel, bias, rest]))[1].tolist()
    [0, 1, 2, 0, 1, 2]
    >>> resolved.reason_of(rest)
    'output of the model'
    """

    def __init__(self):
        self._size = 0
        self._parent = np.empty(0, np.int64)
        # Number of the reason for which a root is pinned; 0 if it is not.
        self._reason = np.empty(0, np.int64)
        # Row of `_table` with the ids into which a root is expanded, or -1.
        self._row = np.empty(0, np.int64)
        # Number of the call of `fresh` that made an id.
        self._origin = np.empty(0, np.int64)
        self._num_origins = 0
        self._alive = np.empty(0, bool)
        # Shorter rows end in -1.
        self._table = np.empty((0, 2), np.int64)
        self._reasons = [""]
        self._pinned_ids = {}

    def fresh(self, size):
        """Returns new free ids."""
        first, self._size = self._size, self._size + size
        if self._size > len(self._parent):
            more = max(1024, self._size, 2 * len(self._parent)) - len(self._parent)
            self._parent = np.append(self._parent, np.arange(more) + len(self._parent))
            self._reason = np.append(self._reason, np.zeros(more, np.int64))
            self._row = np.append(self._row, np.full(more, -1))
            self._origin = np.append(self._origin, np.zeros(more, np.int64))
            self._alive = np.append(self._alive, np.zeros(more, bool))
        self._num_origins += 1
        self._origin[first : self._size] = self._num_origins
        return np.arange(first, self._size)

    def pinned(self, size, reason):
        """Returns ids of indices that are never removed."""
        if reason not in self._pinned_ids:
            ids = self.fresh(1)
            self._pinned_ids[reason] = ids[0]
            self.pin(ids, reason)
        return np.full(size, self._pinned_ids[reason])

    def expanded(self, columns):
        """Returns new ids, each removed if any of several others is.

        Args:
            columns: List of arrays of equal length.
        """
        rows = np.column_stack(columns)
        ids = self.fresh(len(rows))
        self._widen(rows.shape[1])
        padded = np.full((len(rows), self._table.shape[1]), -1)
        padded[:, : rows.shape[1]] = rows
        self._row[ids] = np.arange(len(rows)) + len(self._table)
        self._table = np.concatenate([self._table, padded])
        return ids

    def _widen(self, width):
        missing = width - self._table.shape[1]
        if missing > 0:
            self._table = np.pad(
                self._table, [(0, 0), (0, missing)], constant_values=-1
            )

    def find(self, ids):
        """Returns the representatives of the classes of ids."""
        roots = self._parent[ids]
        while True:
            upper = self._parent[roots]
            if np.array_equal(upper, roots):
                break
            roots = upper
        self._parent[ids] = roots
        return roots

    def is_pinned(self, ids):
        """Returns whether each id is pinned."""
        return self._reason[self.find(ids)] > 0

    def columns_of(self, ids):
        """Returns the ids into which all of these are expanded, or `None`.

        Returns:
            List of arrays, or `None` unless all ids are expanded into equally many.
        """
        rows = self._row[self.find(ids)]
        if not len(rows) or (rows < 0).any():
            return None
        table = self._table[rows]
        lengths = (table >= 0).sum(axis=1)
        if (lengths != lengths[0]).any():
            return None
        return list(table[:, : lengths[0]].T)

    def leaf_columns_of(self, ids):
        """Returns the same as `columns_of`, with ids in the columns expanded too."""
        columns = self.columns_of(ids)
        while columns is not None and len(columns) < _MOST_LEAVES:
            deeper = [self.columns_of(column) or [column] for column in columns]
            if max(map(len, deeper)) == 1:
                break
            columns = [leaf for inner in deeper for leaf in inner]
        return columns

    def pin(self, ids, reason):
        """Pins ids, and all that would remove them."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        number = self._reasons.index(reason)
        self._pin(self.find(ids), np.full(len(ids), number))

    def _pin(self, roots, numbers):
        while True:
            new = self._reason[roots] == 0
            roots, numbers = roots[new], numbers[new]
            if not len(roots):
                return
            self._reason[roots] = numbers
            rows = self._row[roots]
            has_row = rows >= 0
            elements = self._table[rows[has_row]]
            numbers = np.repeat(numbers[has_row], elements.shape[1])
            elements = elements.ravel()
            roots = self.find(elements[elements >= 0])
            numbers = numbers[elements >= 0]

    def mark_alive(self, ids):
        """Tells that tensors may not be zero at ids whose weights are zero."""
        self._alive[self.find(ids)] = True

    def vanish(self, ids):
        """Whether tensors are zero at all of these ids if their weights are."""
        roots = self.find(ids)
        if (self._row[roots] >= 0).any():
            # Each of several other ids would have to vanish on its own.
            return False
        self._hand_down_life()
        return not self._alive[roots].any()

    def _hand_down_life(self):
        """Marks what alive ids are expanded into."""
        roots = np.flatnonzero(self._alive & (self._row >= 0))
        while len(roots):
            elements = self._table[self._row[roots]].ravel()
            elements = np.unique(self.find(elements[elements >= 0]))
            roots = elements[~self._alive[elements]]
            self._alive[roots] = True
            roots = roots[self._row[roots] >= 0]

    def unify(self, first, second):
        """Lets each id of one array be removed exactly if that of the other is.

        Raises:
            ValueError: If the arrays have different lengths.
        """
        if len(first) != len(second):
            raise ValueError(f"axes of {len(first)} and {len(second)} are no pair")
        if first is second:
            return
        pairs = [(np.asarray(first), np.asarray(second))]
        while pairs:
            pairs += self._unify(*pairs.pop())

    def _unify(self, first, second):
        first, second = self.find(first), self.find(second)
        differ = first != second
        first, second = first[differ], second[differ]
        if not len(first):
            return []
        reasons = self._reason[first], self._reason[second]
        for one, other in ((0, 1), (1, 0)):
            half = (reasons[one] > 0) & (reasons[other] == 0)
            self._pin((first, second)[other][half], reasons[one][half])
        free = (self._reason[first] == 0) & (self._reason[second] == 0)
        first, second = first[free], second[free]
        if not len(first):
            return []
        before = np.unique(np.concatenate([first, second]))
        alive = before[self._alive[before]]
        while True:
            low, high = np.minimum(first, second), np.maximum(first, second)
            differ = low != high
            if not differ.any():
                break
            low, high = low[differ], high[differ]
            np.minimum.at(self._parent, high, low)
            first, second = self.find(low), self.find(high)
        self.mark_alive(alive)
        return self._merge_rows(before[self._row[before] >= 0])

    def _merge_rows(self, expanded):
        """Gives each class one expansion; returns the ids that must be unified.

        Two expansions of equal length are unified position by position. This removes
        freedom at most: if the ids at each position are removed together, so are both.
        """
        if not len(expanded):
            return []
        roots = self.find(expanded)
        classes, chosen, inverse = np.unique(
            roots, return_index=True, return_inverse=True
        )
        rows = self._row[expanded]
        self._row[classes] = rows[chosen]
        kept = rows[chosen][inverse]
        others = rows != kept
        ours, theirs = self._table[kept[others]], self._table[rows[others]]
        equal = ((ours >= 0) == (theirs >= 0)).all(axis=1)
        same = (ours >= 0) & equal[:, None]
        pairs = [(ours[same], theirs[same])] if same.any() else []
        for one, other in zip(ours[~equal], theirs[~equal], strict=True):
            pairs.append(self._match(self._leaves(one), self._leaves(other)))
        return pairs

    def _match(self, one, other):
        """Returns pairs to unify two expansions that may differ in length."""
        if len(one) == len(other):
            return one, other
        every = np.concatenate([one, other])
        return every[1:], np.full(len(every) - 1, every[0])

    def _leaves(self, row):
        """Returns the ids, in order, into which the ids of a row are expanded."""
        pending, leaves = row[row >= 0][::-1].tolist(), []
        for _ in range(_MOST_LEAVES):
            if not pending:
                return np.array(leaves)
            root = int(self.find(np.array([pending.pop()]))[0])
            if self._row[root] >= 0 and not self._reason[root]:
                inner = self._table[self._row[root]]
                pending += inner[inner >= 0][::-1].tolist()
            else:
                leaves.append(root)
        # An expansion into itself.
        return row[row >= 0]

    def resolve(self):
        """Returns the classes as they are now: `ResolvedClasses`."""
        while True:
            levels, rest = self._levels()
            if not len(rest):
                break
            # Ids that are expanded into each other are removed together.
            for root in rest:
                row = self._table[self._row[root]]
                self._row[root] = -1
                self.unify(np.full((row >= 0).sum(), root), row[row >= 0])
        every = np.arange(self._size)
        return ResolvedClasses(
            self.find(every),
            self._reason[: self._size].copy(),
            self._origin[: self._size].copy(),
            levels,
            list(self._reasons),
        )

    def _levels(self):
        """Orders the expanded classes so that each comes after its elements.

        Returns:
            List of pairs of roots and a matrix of their elements' roots, padded by -1;
            and an array of the roots that have no place in the order.
        """
        every = np.arange(self._size)
        roots = every[(self._parent[every] == every) & (self._row[every] >= 0)]
        # The elements of a pinned class are pinned too.
        roots = roots[self._reason[roots] == 0]
        waits = np.zeros(self._size + 1, bool)
        waits[roots] = True
        table = self._table[self._row[roots]]
        table = np.where(table >= 0, self.find(np.maximum(table, 0)), -1)
        levels = []
        while len(roots):
            ready = ~waits[table].any(axis=1)
            if not ready.any():
                break
            levels.append((roots[ready], table[ready]))
            waits[roots[ready]] = False
            roots, table = roots[~ready], table[~ready]
        return levels, roots


class ResolvedClasses:
    """Classes of ids that do not change any more.

    An *atom* is a class that is neither pinned nor expanded. An id is removed if any of
    its atoms is.
    """

    def __init__(self, roots, reasons, origins, levels, texts):
        self._roots = roots
        self._reasons = reasons
        self._origins = origins
        self._texts = texts
        self._levels = levels
        self._atoms = {}
        self._is_expanded = np.zeros(len(roots), bool)
        for level_roots, elements in levels:
            for root, row in zip(level_roots.tolist(), elements.tolist(), strict=True):
                atoms = [self._atoms_of_root(e) for e in row if e >= 0]
                self._atoms[root] = np.unique(np.concatenate(atoms))
            self._is_expanded[level_roots] = True

    def _atoms_of_root(self, root):
        if root in self._atoms:
            return self._atoms[root]
        return np.array([] if self._reasons[root] else [root], np.int64)

    @property
    def size(self):
        """Number of ids."""
        return len(self._roots)

    def atoms_of(self, ids):
        """Returns all pairs of a position in an array of ids, and an atom of the id.

        Returns:
            Two int64 arrays of equal length. A position may come up several times.
        """
        roots = self._roots[ids]
        expanded = self._is_expanded[roots]
        plain = np.flatnonzero(~expanded & (self._reasons[roots] == 0))
        rest = np.flatnonzero(expanded)
        atoms = [self._atoms[root] for root in roots[rest].tolist()]
        positions = np.repeat(rest, [len(found) for found in atoms])
        return (
            np.concatenate([plain, positions]),
            np.concatenate([roots[plain], *atoms]),
        )

    def origins_of(self, atoms):
        """Returns a number for each atom that tells which axis it was made for."""
        return self._origins[atoms]

    def is_joint(self, atoms):
        """Returns whether each atom shares an index with another atom."""
        shared = [a for a in self._atoms.values() if len(a) > 1]
        return np.isin(atoms, np.concatenate([np.empty(0, np.int64), *shared]))

    def reason_of(self, ids):
        """Returns why an array of ids without atoms is pinned."""
        numbers = self._reasons[self._roots[ids]]
        if (numbers == 0).any():
            roots = set(self._roots[ids].tolist())
            elements = [
                e[e >= 0] for r, e in self._levels for e in e[np.isin(r, list(roots))]
            ]
            found = np.concatenate([np.empty(0, np.int64), *elements])
            numbers = np.concatenate([numbers, self._reasons[found]])
        numbers = numbers[numbers > 0]
        return self._texts[numbers[0]] if len(numbers) else ""

    def removed_with(self, atoms):
        """Returns a bool array over all ids: whether it goes with these atoms."""
        removed = np.zeros(len(self._roots) + 1, bool)
        removed[atoms] = True
        for roots, elements in self._levels:
            removed[roots] = removed[elements].any(axis=1)
        return removed[self._roots]
