"""Optimizers in low-rank subspaces in float64 NumPy, one matrix and one loop over the steps each, from the papers.

The random matrices are given, since no other library draws the same.  Nothing here imports jax or the package under
test.
"""

import numpy as np


def orthonormal(columns):
    """Gram and Schmidt's vectors of the columns, twice over for precision; none for a column that depends on others."""
    found = []
    for column in columns.T:
        start = np.sqrt(np.sum(np.abs(column) ** 2))
        for _ in range(2):
            for vector in found:
                column = column - vector * np.vdot(vector, column)
        length = np.sqrt(np.sum(np.abs(column) ** 2))
        found.append(column / length if length > 1e-10 * start else np.zeros_like(column))
    return np.stack(found, axis=1)


def dion(grads, p, q, learning_rate, beta=0.95, eps=1e-8, weight_decay=0.0):
    """Algorithm 1 of 2504.05295 on weights (in, out), whose Q starts at ``q`` (in, r); parameters after each step."""
    weights, path = p.T, []  # the paper's are (out, in)
    outputs, inputs = weights.shape
    m = np.zeros_like(weights)
    for g in grads:
        m = m + g.T
        left = orthonormal(m @ q)
        right = m.conj().T @ left
        m = m - (1 - beta) * left @ right.conj().T
        q = np.stack([column / (np.sqrt(np.sum(np.abs(column) ** 2)) + eps) for column in right.T], axis=1)
        step = np.sqrt(outputs / inputs) * left @ q.conj().T
        weights = weights - learning_rate * weight_decay * weights - learning_rate * step
        path.append(weights.T)
    return np.array(path)


def length(x, axis=None):
    return np.sqrt(np.sum(np.abs(x) ** 2, axis=axis))


def uncorrected_adam(low, m, v, b1, b2, eps):
    m = b1 * m + (1 - b1) * low
    v = b2 * v + (1 - b2) * np.abs(low) ** 2
    return m / (np.sqrt(v) + eps), m, v


def limited(u, last, growth):
    """Fira's limiter: no more than ``growth`` times the last length, which is None at first."""
    if last is None or length(u) <= growth * last:
        return u, length(u)
    return u * (growth * last / length(u)), growth * last


def apollo(
    grads, p, projections, learning_rate, channels=True, b1=0.9, b2=0.999, eps=1e-6, scale=1.0, growth=1.01, wd=0.0
):
    """Algorithm 1 of 2412.05270 as its program runs, with the projection (r, shorter side) of every step."""
    if p.shape[0] > p.shape[1]:
        turned = [g.T for g in grads]
        path = apollo(turned, p.T, projections, learning_rate, channels, b1, b2, eps, scale, growth, wd)
        return path.swapaxes(1, 2)
    m, v, last, path = 0.0, 0.0, None, []
    for count, (g, projection) in enumerate(zip(grads, projections, strict=True), start=1):
        low = projection @ g
        d, m, v = uncorrected_adam(low, m, v, b1, b2, eps)
        if channels:
            u = np.stack([length(d[:, j]) / length(low[:, j]) * g[:, j] for j in range(g.shape[1])], axis=1)
        else:
            u = length(d) / length(low) * g
        u, last = limited(u, last, growth)
        step_size = learning_rate * np.sqrt(1 - b2**count) / (1 - b1**count)
        p = p - step_size * np.sqrt(scale) * u - learning_rate * wd * p
        path.append(p)
    return np.array(path)


def aligned(vectors, old):
    """The vectors with the phases in which they point along the old ones."""
    if old is None:
        return vectors
    along = np.array([np.vdot(new, one) for new, one in zip(vectors.T, old.T, strict=True)])
    return vectors * along / np.abs(along)


def fira(grads, p, rank, gap, learning_rate, b1=0.9, b2=0.999, eps=1e-6, scale=1.0, growth=1.01, wd=0.0):
    """Algorithm 1 of 2410.01623 as its program runs, with signs of singular vectors that do not jump."""
    if p.shape[0] > p.shape[1]:
        turned = [g.T for g in grads]
        return fira(turned, p.T, rank, gap, learning_rate, b1, b2, eps, scale, growth, wd).swapaxes(1, 2)
    m, v, last, vectors, path = 0.0, 0.0, None, None, []
    for count, g in enumerate(grads, start=1):
        if (count - 1) % gap == 0:
            vectors = aligned(np.linalg.svd(g, full_matrices=False)[0][:, :rank], vectors)
        low = vectors.conj().T @ g
        d, m, v = uncorrected_adam(low, m, v, b1, b2, eps)
        missed = g - scale * vectors @ low
        scaled = [length(d[:, j]) / length(low[:, j]) * missed[:, j] for j in range(g.shape[1])]
        outside, last = limited(np.stack(scaled, axis=1), last, growth)
        step_size = learning_rate * np.sqrt(1 - b2**count) / (1 - b1**count)
        p = p - step_size * (scale * vectors @ d + outside) - learning_rate * wd * p
        path.append(p)
    return np.array(path)
