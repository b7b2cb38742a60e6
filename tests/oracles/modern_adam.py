"""Descendants of Adam in float64 NumPy, one loop over the steps each, written from the papers.

Every function takes one leaf ``p`` (any shape) and its gradients of all steps along the first axis, and returns the
leaf after every step.  ``rate(t)`` is the learning rate of step t = 1, 2, ...; a number is a constant one.  Nothing
here imports jax or the package under test.
"""

import math

import numpy as np


def _at(value, t):
    return value(t) if callable(value) else value


def _decayed(p, update, rate, weight_decay, decay):
    """``p`` after a step along ``update``, with the decay beside it."""
    if decay == "decoupled":
        return p - rate * (update + weight_decay * p)
    if decay == "independent":
        return p - rate * update - weight_decay * p
    return p - rate * update


def _regularized(g, p, weight_decay, decay):
    return g + weight_decay * p if decay == "coupled" else g


def half_life(b):
    """The f of 2409.03137, without its guard against b = 0."""
    return math.log(0.5) / math.log(b) - 1


def from_half_life(h):
    return 0.5 ** (1 / (h + 1))


def ademamix_alpha(t, alpha, steps):
    return min(t * alpha / steps, alpha)


def ademamix_b3(t, b1, b3, steps):
    """Section 3 of 2409.03137: a line between the half-lives."""
    mu = t / steps
    return min(from_half_life((1 - mu) * half_life(b1) + mu * half_life(b3)), b3) if mu < 1 else b3


def ademamix_b3_closed_form(t, b1, b3, steps):
    """The same as the paper's appendix writes it."""
    if t >= steps:
        return b3
    mu = t / steps
    return math.exp(math.log(b1) * math.log(b3) / ((1 - mu) * math.log(b3) + mu * math.log(b1)))


def ademamix(
    p,
    grads,
    rate,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=5.0,
    eps=1e-8,
    eps_root=0.0,
    *,
    weight_decay=0.0,
    decay="decoupled",
):
    """Algorithm 1 of 2409.03137; ``b3`` and ``alpha`` may be functions of t = 1, 2, ..."""
    fast, slow, v, rows = np.zeros_like(p), np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        b3_t, alpha_t = _at(b3, t), _at(alpha, t)
        fast = b1 * fast + (1 - b1) * g
        slow = b3_t * slow + (1 - b3_t) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        update = (fast / (1 - b1**t) + alpha_t * slow) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        p = _decayed(p, update, _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def simplified_ademamix(
    p, grads, rate, b1=0.99, b2=0.95, alpha=0.0, eps=1e-8, eps_root=0.0, *, weight_decay=0.0, decay="decoupled"
):
    """Section 5 of 2502.02431, with Adam's correction of the second moment."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        update = (m + _at(alpha, t) * g) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        p = _decayed(p, update, _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)
