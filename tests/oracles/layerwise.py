"""LAMB, LARS, Fromage and NovoGrad in float64 NumPy: one tensor, one plain loop, from the papers.

Every function takes the parameter ``p`` and the gradients of all steps, stacked along a first axis, and returns the
parameters after every step, stacked likewise.
"""

import numpy as np


def size(x):
    return float(np.sqrt(np.sum(np.abs(x) ** 2)))


def trust(p_norm, denominator_norm, eps=0.0):
    return 1.0 if p_norm == 0 or denominator_norm == 0 else p_norm / (denominator_norm + eps)


def lamb(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    """Algorithm 2 of 1904.00962 with phi the identity."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps) + weight_decay * p
        p = p - learning_rate * trust(size(p), size(r)) * r
        rows.append(p)
    return np.stack(rows)


def lars(
    p, grads, learning_rate, weight_decay=0.0, trust_coefficient=0.001, eps=0.0, momentum=0.9, *,
    nesterov=False, denominator="norm_of_sum", has_ratio=True,
):  # fmt: skip
    """Algorithm 1 of 1708.03888, with Optax's denominator or its own."""
    v, rows = np.zeros_like(p), []
    for g in grads:
        r = g + weight_decay * p
        local = 1.0
        if has_ratio:
            below = size(r) if denominator == "norm_of_sum" else size(g) + weight_decay * size(p)
            local = trust(trust_coefficient * size(p), below, eps)
        step = learning_rate * local * r
        v = momentum * v + step
        p = p - (step + momentum * v if nesterov else v)
        rows.append(p)
    return np.stack(rows)


def fromage(p, grads, learning_rate, min_norm=1e-6):
    """Algorithm 1 of 2002.03432, with a least norm in place of its exception for zero."""
    rows = []
    for g in grads:
        p = p - learning_rate * trust(max(size(p), min_norm), max(size(g), min_norm)) * g
        p = p / np.sqrt(1 + learning_rate**2)
        rows.append(p)
    return np.stack(rows)


def novograd(p, grads, learning_rate, b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    """Algorithm 1 of 1905.11286: v starts at the first squared norm, m at the first normalised gradient."""
    m, v, rows = np.zeros_like(p), None, []
    for g in grads:
        v = size(g) ** 2 if v is None else b2 * v + (1 - b2) * size(g) ** 2
        m = b1 * m + g / (np.sqrt(v + eps_root) + eps) + weight_decay * p
        p = p - learning_rate * m
        rows.append(p)
    return np.stack(rows)
