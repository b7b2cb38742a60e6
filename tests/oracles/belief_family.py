"""AdaBelief, ACProp, Yogi and Adan in float64 NumPy, one loop over the steps each, written from the papers.

Arguments and results as in `tests.oracles.adam_family`.
"""

import numpy as np


def _decayed(p, u, learning_rate, weight_decay, decay):
    if decay == "independent":
        return p - learning_rate * u - weight_decay * p
    if decay == "proximal":
        return (p - learning_rate * u) / (1 + learning_rate * weight_decay)
    return p - learning_rate * (u + (weight_decay * p if decay == "decoupled" else 0.0))


def adabelief(
    p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, *,
    nesterov=False, weight_decay=0.0, decay="decoupled",
):  # fmt: skip
    """Algorithm 2 of 2010.07468, its two epsilons apart, with Dozat's look-ahead."""
    m, s, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * np.abs(g - m) ** 2 + eps_root
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        p = _decayed(p, m_hat / (np.sqrt(s / (1 - b2**t)) + eps), learning_rate, weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def acprop(
    p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, *,
    form="paper", weight_decay=0.0, decay="decoupled",
):  # fmt: skip
    """2110.05454: the step comes before its own gradient is counted; the first is divided by one."""
    m, s, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * p
        s_hat = np.ones(p.shape) if t == 1 else s / (1 - b2 ** (t - 1))
        before, m = m, b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * np.abs(g - (m if form == "paper" else before)) ** 2 + eps_root
        p = _decayed(p, g / (np.sqrt(s_hat) + eps), learning_rate, weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def yogi(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-3, *, eps_root=0.0, start=1e-6):
    """Algorithm 2 of Zaheer et al. 2018, with the start and the bias correction of its published programs."""
    m, v, rows = np.full_like(p, start), np.full(p.shape, start), []
    for t, g in enumerate(grads, start=1):
        square = np.abs(g) ** 2
        m = b1 * m + (1 - b1) * g
        v = np.where(v > square, v - (1 - b2) * square, v + (1 - b2) * square)
        p = p - learning_rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        rows.append(p)
    return np.stack(rows)


def adan(
    p, grads, learning_rate, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, *,
    form="paper", weight_decay=0.0, decay="decoupled",
):  # fmt: skip
    """Algorithm 1 of 2208.06677 in its own betas, one minus those given; a weight of the difference apart for Optax."""
    beta1, beta2, beta3 = 1 - b1, 1 - b2, 1 - b3
    weight = 1 - beta2 if form == "paper" else beta2
    m, v, n, previous, rows = np.zeros_like(p), np.zeros_like(p), np.zeros(p.shape), None, []
    for t, g in enumerate(grads, start=1):
        if decay == "coupled":
            g = g + weight_decay * p
        difference = np.zeros_like(g) if previous is None else g - previous
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * np.abs(g + weight * difference) ** 2
        u = m / (1 - (1 - beta1) ** t) + weight * v / (1 - (1 - beta2) ** t)
        u = u / (np.sqrt(n / (1 - (1 - beta3) ** t) + eps_root) + eps)
        p = _decayed(p, u, learning_rate, weight_decay, decay)
        previous = g
        rows.append(p)
    return np.stack(rows)
