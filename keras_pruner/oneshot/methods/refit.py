"""Holds the maths that several methods share: damping, and the fit of kept weights."""

from keras import ops


def masked(weights, mask):
    """Returns weights with exact zeros outside the mask."""
    return ops.where(mask, weights, ops.zeros_like(weights))


def mean_diagonal(hessian):
    """Returns the mean of the diagonal of each matrix (G, K, K) as (G,); 1 if it is 0.

    A part of a kernel that sees only zeros so has a Hessian that can be inverted.
    """
    mean = ops.mean(ops.diagonal(hessian, axis1=1, axis2=2), axis=1)
    return ops.where(mean > 0, mean, ops.ones_like(mean))


def add_to_diagonal(matrices, values):
    """Adds values, which broadcast to (..., n, 1), to the diagonals of (..., n, n)."""
    return matrices + values * ops.eye(matrices.shape[-1], dtype=matrices.dtype)


def normalise(hessians, targets, damping):
    """Damps each H by `damping * mean(diag H)`, then scales its diagonal to 1.

    Weights of inputs that are always zero become zero.

    Args:
        hessians: List of float32 tensors (G, K, K).
        targets: List of float32 tensors (G, K, N_g).
        damping: Float tensor ().

    Returns:
        Tuple of three lists: `Hn = H / (D D')`, `Tn = D T`, and `D = sqrt(diag H)` of
        shape (G, K, 1).
    """
    normal, scaled, scales = [], [], []
    for hessian, target in zip(hessians, targets, strict=True):
        alive = ops.diagonal(hessian, axis1=1, axis2=2)[:, :, None] > 0
        added = (damping * mean_diagonal(hessian))[:, None, None]
        hessian = add_to_diagonal(hessian, added)
        scale = ops.sqrt(ops.diagonal(hessian, axis1=1, axis2=2))[:, :, None]
        normal.append(hessian / scale / ops.transpose(scale, (0, 2, 1)))
        scaled.append(ops.where(alive, scale * target, ops.zeros_like(target)))
        scales.append(scale)
    return normal, scaled, scales


def refit(hessians, targets, starts, masks, *, num_steps):
    """Fits the kept weights to the target, with the mask fixed.

    It minimises `tr((T - Z)' H (T - Z))` over the Z in the mask by conjugate gradients
    with Jacobi preconditioning. All columns advance together, and a step costs one
    product of H with a matrix.

    Args:
        hessians: List of float32 tensors (G, K, K).
        targets: List of float32 tensors (G, K, N_g).
        starts: List of the first Z, zero outside the mask.
        masks: List of bool tensors (G, K, N_g); `True` = keep.
        num_steps: Number of steps.

    Returns:
        List of float32 tensors (G, K, N_g).
    """
    return [
        _conjugate_gradients(*part, num_steps)
        for part in zip(hessians, targets, starts, masks, strict=True)
    ]


def _conjugate_gradients(hessian, target, start, mask, num_steps):
    mask = ops.cast(mask, "float32")
    diagonal = ops.diagonal(hessian, axis1=1, axis2=2)[:, :, None]
    inverse = ops.where(diagonal > 0, 1 / ops.where(diagonal > 0, diagonal, 1.0), 0.0)

    def dot(left, right):
        return ops.sum(left * right, axis=1, keepdims=True)

    def ratio(over, under):
        # A column that is solved has a direction of zero.
        return ops.where(under > 0, over / ops.where(under > 0, under, 1.0), 0.0)

    def step(_, state):
        solution, rest, direction, length = state
        product = mask * ops.matmul(hessian, direction)
        size = ratio(length, dot(direction, product))
        solution = solution + size * direction
        rest = rest - size * product
        ready = inverse * rest
        new_length = dot(rest, ready)
        direction = ready + ratio(new_length, length) * direction
        return solution, rest, direction, new_length

    rest = mask * ops.matmul(hessian, target - start)
    ready = inverse * rest
    state = (start, rest, ready, dot(rest, ready))
    return ops.fori_loop(0, num_steps, step, state)[0]
