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


def adopt(
    p,
    grads,
    rate,
    b1=0.9,
    b2=0.9999,
    eps=1e-6,
    *,
    clip=lambda t: t**0.25,
    nesterov=False,
    weight_decay=0.0,
    decay="decoupled",
):
    """Algorithm 2 of 2411.02853; with ``clip=None`` algorithm 1.  The first gradient only starts v."""
    m, v, rows = np.zeros_like(p), None, []
    for t, g in enumerate(grads):
        g = _regularized(g, p, weight_decay, decay)
        update = np.zeros_like(p)
        if t == 0:
            v = np.abs(g) ** 2
        else:
            n = g / np.maximum(np.sqrt(v), eps)
            if clip is not None:
                n = np.clip(n, -_at(clip, t), _at(clip, t))
            m = b1 * m + (1 - b1) * n
            update = b1 * m + (1 - b1) * n if nesterov else m
            v = b2 * v + (1 - b2) * np.abs(g) ** 2
        p = _decayed(p, update, _at(rate, t + 1), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def laprop(p, grads, rate, b1=0.9, b2=0.999, eps=1e-15, *, weight_decay=0.0, decay="decoupled"):
    """Algorithm 1 of 2002.04839 and the authors' program: the rate inside of the average, its mean divided out."""
    m, v, mean_rate, rows = np.zeros_like(p), np.zeros(p.shape), 0.0, []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        eta = _at(rate, t)
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m = b1 * m + (1 - b1) * eta * g / (np.sqrt(v / (1 - b2**t)) + eps)
        mean_rate = b1 * mean_rate + (1 - b1) * eta
        step = m / (mean_rate / eta) if eta > 0 else np.zeros_like(p)
        if decay == "after":
            p = (p - step) * (1 - weight_decay)
        elif decay == "independent":
            p = p - step - weight_decay * p
        elif decay == "decoupled":
            p = p - step - eta * weight_decay * p
        else:
            p = p - step
        rows.append(p)
    return np.stack(rows)


def stable_adamw(p, grads, rate, b1=0.9, b2=0.99, eps=1e-6, *, weight_decay=0.0):
    """Algorithm 2 of 2304.13013, with the decays debiased step by step instead of the averages."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        b1_t = b1 * (1 - b1 ** (t - 1)) / (1 - b1**t)
        b2_t = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
        m = b1_t * m + (1 - b1_t) * g
        v = b2_t * v + (1 - b2_t) * np.abs(g) ** 2
        rms = math.sqrt(np.mean(np.abs(g) ** 2 / np.maximum(v, eps**2)))
        eta = _at(rate, t) / max(1.0, rms)
        p = p - eta * weight_decay * p - eta * m / (np.sqrt(v) + eps)
        rows.append(p)
    return np.stack(rows)


def adamw_atan2(p, grads, rate, b1=0.9, b2=0.999, a=4 / math.pi, b=1.0, *, weight_decay=0.0, decay="decoupled"):
    """Section 4.3 of 2407.05872."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        update = a * np.arctan2(m / (1 - b1**t), b * np.sqrt(v / (1 - b2**t)))
        p = _decayed(p, update, _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def adam(p, grads, rate, b1, b2, eps, *, weight_decay=0.0, decay="decoupled", factor=lambda t: 1.0):
    """AdamW whose decay of step t is ``factor(t)`` times as strong."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        p = _decayed(p, update, _at(rate, t), factor(t) * weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def adamc(p, grads, rate, peak, normalized=True, b1=0.9, b2=0.999, eps=1e-8, *, weight_decay=0.0):
    """2506.02285: the decay of normalised layers is eta_t^2 / eta_max * lambda; ``peak(t)`` is eta_max."""
    factor = lambda t: _at(rate, t) / _at(peak, t) if normalized else 1.0
    return adam(p, grads, rate, b1, b2, eps, weight_decay=weight_decay, factor=factor)


def mars_corrected(grads, gamma, b1, max_norm, before_first):
    """Section 3 of 2411.10438, the approximate form: the gradients that the optimizer sees."""
    previous, rows = grads[0] if before_first == "first" else np.zeros_like(grads[0]), []
    for g in grads:
        c = g + gamma * (b1 / (1 - b1)) * (g - previous)
        length = np.sqrt(np.sum(np.abs(c) ** 2))
        rows.append(c * max_norm / length if length > max_norm else c)
        previous = g
    return np.stack(rows)


def mars_adamw(
    p,
    grads,
    rate,
    b1=0.95,
    b2=0.99,
    eps=1e-8,
    gamma=0.025,
    max_norm=1.0,
    *,
    corrected=True,
    b1_plain=0.9,
    b2_plain=0.95,
    before_first="first",
    weight_decay=1e-2,
):
    """Algorithm 2 of 2411.10438; leaves that are not corrected are plain AdamW's."""
    if not corrected:
        return adam(p, grads, rate, b1_plain, b2_plain, eps, weight_decay=weight_decay)
    seen = mars_corrected(grads, gamma, b1, max_norm, before_first)
    return adam(p, seen, rate, b1, b2, eps, weight_decay=weight_decay)


def grams(
    p, grads, rate, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, *, eps_on="nu_hat", weight_decay=0.0, decay="decoupled"
):
    """Algorithm 1 of 2412.17107; with ``eps_on='nu'`` the authors' program."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        root2 = math.sqrt(1 - b2**t)
        if eps_on == "nu":
            length = np.abs(m) * (root2 / (1 - b1**t)) / (np.sqrt(v + eps_root) + eps)
        else:
            length = np.abs(m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        p = _decayed(p, np.where(g >= 0, length, -length) * (g != 0), _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def tiger(p, grads, rate, beta=0.965, *, weight_decay=1e-2, decay="decoupled"):
    """Su 2023."""
    m, rows = np.zeros_like(p), []
    for t, g in enumerate(grads, start=1):
        m = beta * m + (1 - beta) * _regularized(g, p, weight_decay, decay)
        p = _decayed(p, np.sign(m), _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def nadam(
    p,
    grads,
    rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    *,
    form,
    momentum_decay=4e-3,
    weight_decay=0.0,
    decay="decoupled",
):
    """The look-ahead as PyTorch documents it ('torch'), and as AlgoPerf's reference does ('algoperf')."""
    scheduled = lambda t: b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    m, v, product, rows = np.zeros_like(p), np.zeros(p.shape), 1.0, []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        product *= scheduled(t)
        if form == "torch":
            following = scheduled(t + 1)
            m_hat = following * m / (1 - product * following) + (1 - scheduled(t)) * g / (1 - product)
        else:
            m_hat = (b1 * m + (1 - b1) * g) / (1 - b1**t)
        update = m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        p = _decayed(p, update, _at(rate, t), weight_decay, decay)
        rows.append(p)
    return np.stack(rows)
