"""The one-shot methods in NumPy float64, column by column, without shared code.

Each takes a `Case` and its `KernelProblem`, and returns weights and mask.
"""

import numpy as np
from problems import lowest_mask


def parts_of(case, damping):
    """Yields the columns, the damped H and the T of each group of columns."""
    for (own, hessian), (_, target) in zip(case.hessians, case.targets, strict=True):
        alive = np.diag(hessian) > 0
        damped = hessian + damping * np.trace(hessian) / len(hessian) * np.eye(
            len(hessian)
        )
        yield own, damped, np.where(alive[:, None], target, 0)


def magnitude(case, problem):
    mask = lowest_mask(np.abs(case.weights), problem)
    return case.weights * mask, mask


def wanda_scores(case):
    scores = np.zeros(case.weights.shape)
    for (own, hessian), (_, target) in zip(case.hessians, case.targets, strict=True):
        scores[:, own] = np.abs(target) * np.sqrt(np.diag(hessian))[:, None]
    return scores


def wanda(case, problem, per_output=True, refit_steps=0):
    scores, pattern = wanda_scores(case), str(problem.pattern)
    if not per_output or "channel" in pattern:
        mask = lowest_mask(scores, problem)
    else:
        mask = np.ones(scores.shape, bool)
        wide = 1 if ":" in pattern else int(pattern.split("x")[0])
        for place in range(0, scores.shape[1], wide):
            # The first outputs lose one more, if the groups do not divide evenly.
            number = scores.shape[1] // wide
            count = problem.count // number + (place // wide < problem.count % number)
            own = slice(place, place + wide)
            mask[:, own] = lowest_mask(scores[:, own], problem, count)
    weights = case.target() * mask
    for own, hessian, target in parts_of(case, 0.0) if refit_steps else ():
        start = weights[:, own]
        weights[:, own] = fit_kept(hessian, target, mask[:, own], start, refit_steps)
    return weights, mask


def fit_kept(hessian, target, mask, start, num_steps):
    """Conjugate gradients on the kept weights of each column by itself."""
    fitted = np.zeros(target.shape)
    for column in range(target.shape[1]):
        kept = mask[:, column]
        inner = hessian[np.ix_(kept, kept)]
        z = start[kept, column].copy()
        rest = (hessian @ target[:, column])[kept] - inner @ z
        inverse = 1 / np.diag(inner)
        ready = inverse * rest
        direction, length = ready.copy(), rest @ ready
        for _ in range(num_steps):
            if length <= 1e-25:
                break
            size = length / (direction @ inner @ direction)
            z, rest = z + size * direction, rest - size * (inner @ direction)
            ready = inverse * rest
            direction, length = (
                ready + (rest @ ready) / length * direction,
                rest @ ready,
            )
        fitted[kept, column] = z
    return fitted


class Alternation:
    """The state that ADMM and ALPS share: X, Z and V in the normalised problem."""

    def __init__(self, case, problem, mask=None):
        self.problem, self.fixed = problem, mask
        self.parts = []
        for own, hessian, target in parts_of(case, 0.01):
            scale = np.sqrt(np.diag(hessian))
            normal = hessian / np.outer(scale, scale)
            self.parts.append((own, normal, scale[:, None] * target, scale))
        shape = case.weights.shape
        self.z, self.v, self.mask = np.zeros(shape), np.zeros(shape), None
        for own, _, target, _ in self.parts:
            self.z[:, own] = target

    def step(self, rho):
        x = np.zeros(self.z.shape)
        for own, normal, target, _ in self.parts:
            right = normal @ target - self.v[:, own] + rho * self.z[:, own]
            x[:, own] = np.linalg.solve(normal + rho * np.eye(len(normal)), right)
        moved = x + self.v / rho
        self.mask = self.fixed
        if self.fixed is None:
            self.mask = lowest_mask(np.abs(moved), self.problem)
        self.z = moved * self.mask
        self.v = self.v + rho * (x - self.z)

    def refit(self, num_steps=10):
        weights = np.zeros(self.z.shape)
        for own, normal, target, scale in self.parts:
            start = self.z[:, own]
            fitted = fit_kept(normal, target, self.mask[:, own], start, num_steps)
            weights[:, own] = fitted / scale[:, None]
        return weights, self.mask


def admm(case, problem, mask=None):
    state = Alternation(case, problem, mask)
    for rho in 0.03 * 100 ** (np.arange(6) / 5):
        for _ in range(5):
            state.step(rho)
    return state.refit()


def alps(case, problem, mask=None):
    state = Alternation(case, problem, mask)
    rho, before = 0.1, None
    for number in range(1, 301):
        state.step(rho)
        if number % 3 == 0:
            if before is not None:
                changed = np.count_nonzero(before != state.mask) / 2
                if changed == 0:
                    break
                kept = np.count_nonzero(state.mask)
                rho *= 1.3 if changed >= kept / 10 else 1.2
                if changed < kept / 200:
                    rho *= 1.1 / 1.2
            before = state.mask
    return state.refit()


def sparsegpt(case, problem, mask=None, block_size=128):
    """Prunes row by row with the inverse of the trailing H, computed each time."""
    parts = [(o, h, t.copy()) for o, h, t in parts_of(case, 0.01)]
    for _, hessian, _ in parts:
        dead = np.flatnonzero(np.all(hessian - np.diag(np.diag(hessian)) == 0, axis=1))
        hessian[dead, dead] += 1
    length = case.weights.shape[0]
    pattern = str(problem.pattern)
    unit = 1
    if "channel" not in pattern:
        unit = int(pattern.replace(":", "x").split("x")[1])
    height = max(1, block_size // unit) * unit
    groups_of_all = problem.pattern.num_groups(problem.layout)
    in_place = ":" in pattern and problem.count == groups_of_all

    def whole(values):
        matrix = np.zeros(case.weights.shape)
        for (own, _, _), value in zip(parts, values, strict=True):
            matrix[:, own] = value
        return matrix

    if mask is None and "channel" in pattern:
        saliency = whole(
            [
                np.abs(t) / np.sqrt(np.diag(np.linalg.inv(h)))[:, None]
                for _, h, t in parts
            ]
        )
        mask = lowest_mask(saliency, problem)
    chosen = np.ones(case.weights.shape, bool)
    pruned = 0
    for row in range(length):
        # The inverse of H over this and all later rows.
        inverses = [np.linalg.inv(h[row:, row:]) for _, h, _ in parts]
        if mask is not None:
            chosen[row] = mask[row]
        elif row % (unit if in_place else height) == 0:
            stop = min(length, row + (unit if in_place else height))
            count = problem.count * stop // length - pruned
            pruned += count
            pivots = [
                np.array([np.linalg.inv(h[i:, i:])[0, 0] for i in range(row, stop)])
                for _, h, _ in parts
            ]
            scores = np.zeros((stop - row, case.weights.shape[1]))
            for (own, _, t), pivot in zip(parts, pivots, strict=True):
                scores[:, own] = np.abs(t[row:stop]) / np.sqrt(pivot)[:, None]
            chosen[row:stop] = lowest_mask(scores, problem, count)
        for (own, _, t), inverse in zip(parts, inverses, strict=True):
            lost = np.where(chosen[row, own], 0, t[row])
            t[row:] -= np.outer(inverse[:, 0] / inverse[0, 0], lost)
    return whole([t for _, _, t in parts]) * chosen, chosen


def dsnot(case, problem, max_cycles=50, threshold=0.1):
    _, mask = wanda(case, problem)
    target, scores = case.target(), wanda_scores(case)
    pattern = str(problem.pattern)
    if case.centre or not (pattern == "1x1" or ":" in pattern):
        return target * mask, mask
    m = int(pattern.split(":")[1]) if ":" in pattern else len(target)
    for (own, hessian), (_, mean) in zip(case.hessians, case.means, strict=True):
        variance = np.diag(hessian) - mean**2
        for column in own:
            w, kept = target[:, column], mask[:, column]
            for _ in range(max_cycles):
                lost = np.sum((w * mean)[~kept])
                if abs(lost) <= threshold:
                    break
                rivals = {
                    group: [
                        k
                        for k in range(group * m, group * m + m)
                        if kept[k] and lost * w[k] * mean[k] < 0
                    ]
                    for group in range(len(w) // m)
                }
                pruned = [k for k in np.flatnonzero(~kept) if rivals[k // m]]
                if not pruned:
                    break
                gain = np.sign(lost) * w * mean / variance
                grow = max(pruned, key=lambda k: gain[k])
                drop = min(rivals[grow // m], key=lambda k: scores[k, column])
                after = lost - w[grow] * mean[grow] + w[drop] * mean[drop]
                if abs(after) >= abs(lost):
                    break
                kept[grow], kept[drop] = True, False
    return target * mask, mask
