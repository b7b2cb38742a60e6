"""Sophia in float64 NumPy: one vector, one plain loop.

Both take the start ``p``, ``gradient(p)`` and ``diagonal(p, t)``, the estimate at step t, and return the iterates.
"""

import numpy as np


def sophia_h(p, gradient, diagonal, steps, *, lr, b1, b2, eps, gamma, threshold, every, weight_decay):
    """Algorithm 3 of 2305.14342 with the momentum corrected and the estimate taken after the step."""
    m, h, path = np.zeros_like(p), np.zeros_like(p), []
    for t in range(steps):
        m = b1 * m + (1 - b1) * gradient(p)
        u = m / (1 - b1 ** (t + 1)) / np.maximum(gamma * h, eps)
        if t % every == 0:
            h = b2 * h + (1 - b2) * diagonal(p, t)
        p = p - lr * (np.clip(u, -threshold, threshold) + weight_decay * p)
        path.append(p)
    return np.stack(path)


def sophia_g(p, gradient, sampled_gradient, steps, *, lr, b1, b2, rho, batch_size, every, weight_decay):
    """The step of the authors' program: decay first, then the sign of m times a clipped ratio of sizes."""
    m, h, path = np.zeros_like(p), np.zeros_like(p), []
    for t in range(steps):
        g, start = gradient(p), p
        m = b1 * m + (1 - b1) * g
        ratio = np.minimum(np.abs(m) / (rho * batch_size * h + 1e-15), 1.0)
        p = p * (1 - lr * weight_decay) - lr * np.sign(m) * ratio
        if t % every == 0:
            h = b2 * h + (1 - b2) * sampled_gradient(start, t) ** 2
        path.append(p)
    return np.stack(path)
