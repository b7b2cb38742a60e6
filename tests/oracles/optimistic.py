"""Optimistic descent in float64 NumPy, one loop over the steps, from the papers.

Arguments and results as in `tests.oracles.adam_family`.
"""

import numpy as np


def extrapolated(p, directions, rate, optimism):
    """Equation 1.2 of 1711.00141 with a factor of its own for the difference from the direction before."""
    rows, before = [], None
    for u in directions:
        before = u if before is None else before
        p = p - (rate + optimism) * u + optimism * before
        before = u
        rows.append(p)
    return np.stack(rows)


def nadam_directions(grads, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, *, nesterov=True):
    """The directions of Adam (1412.6980, algorithm 1), with Dozat's look-ahead."""
    m, v = np.zeros_like(grads[0]), np.zeros(grads[0].shape)
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        yield m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
