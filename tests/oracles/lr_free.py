"""The methods without a learning rate to tune in float64 NumPy, one loop over the steps each, written from the papers.

Every function takes the parameters ``p`` as one flat array, the gradients of all steps as rows and, if it reads them,
the losses ``values``; it returns the parameters after every step as rows.  Nothing here imports jax or the package
under test.
"""

import math

import numpy as np


def _rates(learning_rate):
    return learning_rate if callable(learning_rate) else lambda t: learning_rate


def dog(p, grads, learning_rate=1.0, init_step=("heuristic", 1e-6), eps=1e-8, weight_decay=0.0):
    """Algorithm 1 of 2302.12022 with its three ways to start."""
    kind, value = init_step
    start, total, rows = p, 0.0, []
    farthest = {"distance": value, "heuristic": value * (1 + np.linalg.norm(p)), "learning_rate": 0.0}[kind]
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        farthest = max(farthest, np.linalg.norm(p - start))
        total += np.sum(np.abs(g) ** 2)
        step = value if kind == "learning_rate" and t == 0 else farthest / math.sqrt(total + eps)
        p = p - _rates(learning_rate)(t) * step * g
        rows.append(p)
    return np.stack(rows)


def dowg(p, grads, learning_rate=1.0, init_estim_sq_dist=None, eps=1e-4, weight_decay=0.0):
    """Algorithm 1 of 2305.16284, with eps beside the root."""
    start, total, rows = p, 0.0, []
    squared = eps if init_estim_sq_dist is None else init_estim_sq_dist
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        squared = max(squared, np.sum(np.abs(p - start) ** 2))
        total += squared * np.sum(np.abs(g) ** 2)
        p = p - _rates(learning_rate)(t) * squared / (math.sqrt(total) + eps) * g
        rows.append(p)
    return np.stack(rows)


def ldog(leaves, grads, reps_rel=1e-6, eps=1e-8, learning_rate=1.0):
    """Layer-wise DoG: `dog` on every leaf by itself; ``leaves`` and ``grads`` are lists."""
    return np.concatenate(
        [dog(p, g, learning_rate, ("heuristic", reps_rel), eps) for p, g in zip(leaves, grads, strict=True)], axis=1
    )


def prodigy(
    p,
    grads,
    learning_rate=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    estim_lr0=1e-6,
    estim_lr_coef=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
    growth_rate=math.inf,
):
    """Algorithm 4 of 2306.06101 with Adam's bias correction; the sums divided by the first estimate."""
    (b1, b2), start, rows = betas, p, []
    beta3 = math.sqrt(b2) if beta3 is None else beta3
    m, v, s, numerator = np.zeros_like(p), np.zeros(p.shape), np.zeros_like(p), 0.0
    d = highest = estim_lr0
    for t, g in enumerate(grads):
        correction = math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        step = d * _rates(learning_rate)(t) * correction
        numerator = beta3 * numerator + d / estim_lr0 * step * np.vdot(g, start - p).real
        s = beta3 * s + d / estim_lr0 * (d if safeguard_warmup else step) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * np.abs(g) ** 2
        length = np.sum(np.abs(s))
        if length > 0:
            estimate = estim_lr_coef * numerator / length
            if d == estim_lr0:
                d = max(d, estimate)
            highest = max(highest, estimate)
            d = min(highest, d * growth_rate)
        below = np.sqrt(v) + d * eps
        p = p - step * (np.divide(m, below, out=np.zeros_like(p), where=below > 0) + weight_decay * p)
        rows.append(p)
    return np.stack(rows)


def dadapt_adamw(p, grads, learning_rate=1.0, betas=(0.9, 0.999), eps=1e-8, estim_lr0=1e-6, weight_decay=0.0):
    """Algorithm 5 of 2301.07733 with Adam's bias correction and decoupled decay."""
    (b1, b2), rows = betas, []
    root = math.sqrt(b2)
    m, v, s, r, d = np.zeros_like(p), np.zeros(p.shape), np.zeros_like(p), 0.0, estim_lr0
    for t, g in enumerate(grads):
        step = d * _rates(learning_rate)(t) * math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
        r = root * r + (1 - root) * step * np.vdot(g, s / (np.sqrt(v) + eps)).real
        m = b1 * m + (1 - b1) * step * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        s = root * s + (1 - root) * step * g
        length = np.sum(np.abs(s))
        if length > 0:
            d = max(d, r / ((1 - root) * length))
        p = p - m / (np.sqrt(v) + eps) - step * weight_decay * p
        rows.append(p)
    return np.stack(rows)


def cocob(p, grads, learning_rate=1.0, alpha=100.0, eps=1e-8, weight_decay=0.0):
    """Algorithm 2 of 1705.07795 on the scaled gradients."""
    start, rows = p, []
    largest, total, reward, theta = np.full(p.shape, eps), np.zeros(p.shape), np.zeros(p.shape), np.zeros_like(p)
    for t, g in enumerate(grads):
        g = _rates(learning_rate)(t) * (g + weight_decay * p)
        largest = np.maximum(largest, np.abs(g))
        total = total + np.abs(g)
        reward = np.maximum(reward - ((p - start) * np.conj(g)).real, 0)
        theta = theta - g
        p = start + theta / (largest * np.maximum(total + largest, alpha * largest)) * (largest + reward)
        rows.append(p)
    return np.stack(rows)


def _decayed(p, step, k, form):
    return (p - step) / k if form == "paper" else p / k - step


def momo(
    p,
    grads,
    values,
    learning_rate=1.0,
    beta=0.9,
    lower_bound=0.0,
    weight_decay=0.0,
    adapt_lower_bound=False,
    form="optax",
):
    """Algorithms 1 and 3 of 2305.07583, the averages started at the first sample."""
    m, f, gamma = grads[0], values[0], np.vdot(grads[0], p).real
    bound, rows = lower_bound, []
    for t, (g, value) in enumerate(zip(grads, values, strict=True)):
        rate = _rates(learning_rate)(t)
        k = 1 + rate * weight_decay
        m, f = beta * m + (1 - beta) * g, beta * f + (1 - beta) * value
        gamma = beta * gamma + (1 - beta) * np.vdot(g, p).real
        square, inner = np.sum(np.abs(m) ** 2), np.vdot(m, p).real
        if adapt_lower_bound and k * (f - gamma) + inner < k * bound:
            bound = max((k * (f - gamma) + inner) / (2 * k), lower_bound)
        tau = min(rate, max(k * (f - bound - gamma) + inner, 0.0) / square) if square > 0 else 0.0
        p = _decayed(p, tau * m, k, form)
        if adapt_lower_bound:
            bound = max(f + inner - gamma - tau * square / 2, lower_bound)
        rows.append(p)
    return np.stack(rows)


def momo_adam(
    p,
    grads,
    values,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    lower_bound=0.0,
    weight_decay=0.0,
    adapt_lower_bound=False,
    form="optax",
):
    """Algorithms 2 and 3 of 2305.07583: averages from zero, with their total weight rho beside the bound."""
    m, v, f, gamma, bound, rows = np.zeros_like(p), np.zeros(p.shape), 0.0, 0.0, lower_bound, []
    for t, (g, value) in enumerate(zip(grads, values, strict=True)):
        rate, rho = _rates(learning_rate)(t), 1 - b1 ** (t + 1)
        k = 1 + rate * weight_decay
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * np.abs(g) ** 2
        f, gamma = b1 * f + (1 - b1) * value, b1 * gamma + (1 - b1) * np.vdot(g, p).real
        diagonal = eps + np.sqrt(v / (1 - b2 ** (t + 1)))
        square, inner = np.sum(np.abs(m) ** 2 / diagonal), np.vdot(m, p).real
        if adapt_lower_bound and k * (f - gamma) + inner < k * rho * bound:
            bound = max((k * (f - gamma) + inner) / (2 * k * rho), lower_bound)
        tau = min(rate / rho, max(k * (f - rho * bound - gamma) + inner, 0.0) / square) if square > 0 else 0.0
        p = _decayed(p, tau * m / diagonal, k, form)
        if adapt_lower_bound:
            bound = max((f + inner - gamma - tau * square / 2) / rho, lower_bound)
        rows.append(p)
    return np.stack(rows)


def polyak_sgd(p, grads, values, max_learning_rate=1.0, scaling=1.0, f_min=0.0, eps=0.0, variant="sps"):
    """2002.10542 with c = 1; 2307.14528 for ``sps+``."""
    rows = []
    for t, (g, value) in enumerate(zip(grads, values, strict=True)):
        gap = max(value - f_min, 0.0) if variant == "sps+" else value - f_min
        step = min(gap / (np.sum(np.abs(g) ** 2) + eps), _rates(max_learning_rate)(t))
        p = p - _rates(scaling)(t) * step * g
        rows.append(p)
    return np.stack(rows)


def mechanic(p, grads, base_updates, weight_decay=1e-2, eps=1e-8, s_init=1e-6, num_betas=6, form="optax"):
    """Algorithm 1 of 2306.00144 around given updates of a base optimizer; ``'optax'`` has the released changes."""
    betas = 1 - 0.1 ** np.arange(1, num_betas + 1)
    start, total, rows = p, np.zeros_like(p), []
    m, v, r = np.zeros(num_betas), np.zeros(num_betas), np.zeros(num_betas)
    s = np.zeros(num_betas) if form == "paper" else np.full(num_betas, s_init)
    for t, (g, u) in enumerate(zip(grads, base_updates, strict=True)):
        if form == "optax":
            total = (p - start) / (s.sum() + eps)
        norm = np.linalg.norm(p) + (eps if form == "optax" else 0.0)
        loss = np.vdot(total, g + weight_decay * s.sum() * np.linalg.norm(g) / norm * p).real if t > 0 else 0.0
        total = total + u
        if form == "paper":
            m = np.maximum(betas * m, abs(loss))
            r = np.maximum(0, betas * r - s * loss)
        else:
            r = betas * r - s * np.clip(loss, -m, m)
            m = np.maximum(betas * m, abs(loss) + eps)
        v = betas**2 * v + loss**2
        s = (s_init / num_betas * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        p = start + s.sum() * total
        rows.append(p)
    return np.stack(rows)


def adgd(p, grads, learning_rate=1.0, initial_step=1e-6):
    """Algorithm 1 of 1910.09529; the second step has no bound by the first."""
    step, growth, p_before, g_before, rows = initial_step, math.inf, p, grads[0], []
    for t, g in enumerate(grads):
        if t > 0:
            moved, bent = np.linalg.norm(p - p_before), np.linalg.norm(g - g_before)
            last, step = step, min(math.sqrt(1 + growth) * step, moved / (2 * bent))
            growth = step / last
        p_before, g_before = p, g
        p = p - _rates(learning_rate)(t) * step * g
        rows.append(p)
    return np.stack(rows)


def barzilai_borwein(p, grads, learning_rate=1.0, form="long", initial_step=1e-6, min_step=1e-10, max_step=1e10):
    """Barzilai and Borwein 1988, equations 5 and 6; a step without positive curvature keeps the last size."""
    step, p_before, g_before, rows = initial_step, p, grads[0], []
    for t, g in enumerate(grads):
        if t > 0:
            s, y = p - p_before, g - g_before
            inner = np.vdot(s, y).real
            if inner > 0:
                size = np.vdot(s, s).real / inner if form == "long" else inner / np.vdot(y, y).real
                step = min(max(size, min_step), max_step)
        p_before, g_before = p, g
        p = p - _rates(learning_rate)(t) * step * g
        rows.append(p)
    return np.stack(rows)


def hypergradient_sgd(p, grads, learning_rate, hyper_learning_rate=1e-3, form="additive"):
    """Algorithms 4 (additive) of 1703.04782 and its normalised multiplicative rule."""
    rate, before, rows = learning_rate, np.zeros_like(p), []
    for g in grads:
        inner = np.vdot(g, before).real
        if form == "additive":
            rate = rate + hyper_learning_rate * inner
        elif np.any(before):
            rate = rate * (1 + hyper_learning_rate * inner / (np.linalg.norm(g) * np.linalg.norm(before)))
        before = g
        p = p - rate * g
        rows.append(p)
    return np.stack(rows)
