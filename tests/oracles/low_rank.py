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
