"""AdaGrad, AdaDelta, RMSProp, Rprop and delta-bar-delta in float64 NumPy: one array, one plain loop, from the papers.

Arguments and results as in `tests.oracles.sgd_family`.
"""

import numpy as np

from tests.oracles.sgd_family import at


def quotient(g, r, eps, eps_in_sqrt):
    return g / np.sqrt(r + eps) if eps_in_sqrt else g / (np.sqrt(r) + eps)


def adagrad(p, gradient, steps, *, lr, r0, eps, eps_in_sqrt):
    r, path = np.full_like(p, r0), []
    for t in range(steps):
        g = gradient(p, t)
        r = r + g**2
        p = p - at(lr, t) * quotient(g, r, eps, eps_in_sqrt)
        path.append(p)
    return path


def adadelta(p, gradient, steps, *, lr=1.0, rho, eps, weight_decay=0.0):
    e_g, e_x, path = np.zeros_like(p), np.zeros_like(p), []
    for t in range(steps):
        g = gradient(p, t) + weight_decay * p
        e_g = rho * e_g + (1 - rho) * g**2
        step = np.sqrt(e_x + eps) / np.sqrt(e_g + eps) * g
        e_x = rho * e_x + (1 - rho) * step**2
        p = p - at(lr, t) * step
        path.append(p)
    return path


def rmsprop(
    p, gradient, steps, *, lr, rho, eps, r0=0.0, eps_in_sqrt=True, centered=False, momentum=None,
    nesterov=False, bias_correction=False, lr_inside=True,
):  # fmt: skip
    r, m, v, path = np.full_like(p, r0), np.zeros_like(p), np.zeros_like(p), []
    for t in range(steps):
        g = gradient(p, t)
        r = rho * r + (1 - rho) * g**2
        m = rho * m + (1 - rho) * g
        weight = 1 - rho ** (t + 1) if bias_correction else 1.0
        divisor = r / weight - (m / weight) ** 2 if centered else r / weight
        u = quotient(g, divisor, eps, eps_in_sqrt)
        if momentum is None:
            p = p - at(lr, t) * u
        elif lr_inside:
            v = momentum * v - at(lr, t) * u
            p = p + (momentum * v - at(lr, t) * u if nesterov else v)
        else:
            v = momentum * v + u
            p = p - at(lr, t) * (momentum * v + u if nesterov else v)
        path.append(p)
    return path


def rmsprop_nesterov(q, gradient, steps, *, lr, rho, eps, momentum):
    """Algorithm 8.6 of the Deep Learning book with an epsilon: the gradient at ``q + momentum * v``; path of q."""
    r, v, path = np.zeros_like(q), np.zeros_like(q), []
    for t in range(steps):
        g = gradient(q + momentum * v, t)
        r = rho * r + (1 - rho) * g**2
        v = momentum * v - at(lr, t) * g / np.sqrt(r + eps)
        q = q + v
        path.append(q)
    return path


def rprop(p, gradient, steps, *, lr, eta_minus=0.5, eta_plus=1.2, smallest=1e-6, largest=50.0):
    """iRprop-: entry by entry, as its authors' pseudo-code has it."""
    p = np.array(p, dtype=float)
    size, previous, path = np.full_like(p, lr), np.zeros_like(p), []
    for t in range(steps):
        g = np.array(gradient(p, t), dtype=float)
        for index in np.ndindex(p.shape):
            if g[index] * previous[index] > 0:
                size[index] = min(size[index] * eta_plus, largest)
            elif g[index] * previous[index] < 0:
                size[index] = max(size[index] * eta_minus, smallest)
                g[index] = 0.0
            p[index] -= np.sign(g[index]) * size[index]
        previous = g
        path.append(p.copy())
    return path


def delta_bar_delta(p, gradient, steps, *, lr, kappa, phi, theta):
    """Jacobs 1988, entry by entry: the rate meets the average that was made before this gradient."""
    p = np.array(p, dtype=float)
    rate, bar, path = np.full_like(p, lr), np.zeros_like(p), []
    for t in range(steps):
        g = gradient(p, t)
        for index in np.ndindex(p.shape):
            if bar[index] * g[index] > 0:
                rate[index] += kappa
            elif bar[index] * g[index] < 0:
                rate[index] -= phi * rate[index]
        bar = (1 - theta) * g + theta * bar
        p = p - rate * g
        path.append(p.copy())
    return path
