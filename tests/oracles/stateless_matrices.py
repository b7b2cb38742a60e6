"""Optimizers that keep no moments of most matrices in float64 NumPy: one matrix (in, out), loops only, from the papers.

Nothing here imports jax or the package under test.
"""

import numpy as np


def length(x):
    return np.sqrt(np.sum(np.abs(x) ** 2))


def brought_to(x, target):
    return x * (target / length(x)) if length(x) > 0 else x


def sinkhorn(g, iterations):
    """Algorithm 3 of 2502.06742 on the transposed matrix, (out, in), as PyTorch stores a layer: rows, then columns."""
    x = np.array(g.T)
    m, n = x.shape
    for _ in range(iterations):
        for row in range(m):
            x[row] = brought_to(x[row], np.sqrt(n))
        for column in range(n):
            x[:, column] = brought_to(x[:, column], np.sqrt(m))
    return x.T


def sinkgd(grads, p, learning_rate, iterations=5, weight_decay=0.0):
    path = []
    for g in grads:
        p = p - learning_rate * (sinkhorn(g, iterations) + weight_decay * p)
        path.append(p)
    return np.array(path)


def scale(grads, p, learning_rate, momentum=0.0, eps=1e-8, weight_decay=0.0, rms=True):
    """2506.16659: what an output neuron receives is divided by its length, or by its root mean square."""
    m, path = np.zeros_like(p), []
    for g in grads:
        m = momentum * m + (1 - momentum) * g
        u = np.zeros_like(m)
        for neuron in range(m.shape[1]):
            size = length(m[:, neuron]) / (np.sqrt(m.shape[0]) if rms else 1.0)
            u[:, neuron] = m[:, neuron] / max(size, eps)
        p = p - learning_rate * u - learning_rate * weight_decay * p
        path.append(p)
    return np.array(path)
