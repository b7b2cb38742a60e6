"""The Adam family and the sign methods in float64 NumPy, one loop over the steps each, written from the papers.

Every function takes the parameters ``p`` as one flat array and the gradients of all steps as rows, and returns the
parameters after every step as rows.  Nothing here imports jax or the package under test.
"""

import math
from fractions import Fraction

import numpy as np


def _decayed(p, update, learning_rate, weight_decay, decay):
    """``p`` after a step along ``update``, with the decay beside it."""
    if decay == "decoupled":
        return p - learning_rate * (update + weight_decay * p)
    if decay == "independent":
        return p - learning_rate * update - weight_decay * p
    return p - learning_rate * update


def _regularized(g, p, weight_decay, decay):
    return g + weight_decay * p if decay == "coupled" else g


def adam(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    *,
    nesterov=False,
    bias_correction=True,
    eps_on="nu_hat",
    weight_decay=0.0,
    decay="decoupled",
):
    """Algorithm 1 of 1412.6980 with the three decays of 1711.05101, and Dozat's look-ahead."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        sum1, sum1_next, sum2 = 1 - b1**t, 1 - b1 ** (t + 1), 1 - b2**t
        if not bias_correction:
            sum1 = sum1_next = sum2 = 1.0
        m_hat = b1 * m / sum1_next + (1 - b1) * g / sum1 if nesterov else m / sum1
        if eps_on == "nu":
            update = m_hat * math.sqrt(sum2) / (np.sqrt(v + eps_root) + eps)
        else:
            update = m_hat / (np.sqrt(v / sum2 + eps_root) + eps)
        p = _decayed(p, update, learning_rate, weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def amsgrad(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    *,
    bias_correction_mu=True,
    bias_correction_nu=True,
    max_of="nu_hat",
):
    """Algorithm 2 of 1904.09237 without correction; Optax's and PyTorch's with it."""
    m, v, largest, rows = np.zeros_like(p), np.zeros(p.shape), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        sum1 = 1 - b1**t if bias_correction_mu else 1.0
        sum2 = 1 - b2**t if bias_correction_nu else 1.0
        if max_of == "nu":
            largest = np.maximum(largest, v)
            v_hat = largest / sum2
        else:
            largest = np.maximum(largest, v / sum2)
            v_hat = largest
        p = p - learning_rate * (m / sum1) / (np.sqrt(v_hat + eps_root) + eps)
        rows.append(p)
    return np.stack(rows)


def adamax(p, grads, learning_rate, b1=0.9, b2=0.999, eps=1e-8, *, weight_decay=0.0, decay="decoupled"):
    """Algorithm 2 of 1412.6980, with eps inside of the maximum."""
    m, largest, rows = np.zeros_like(p), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        largest = np.maximum(b2 * largest, np.abs(g) + eps)
        p = _decayed(p, m / (1 - b1**t) / largest, learning_rate, weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def rho(t, b2):
    """The length of the simple average that RAdam compares with, in exact rational arithmetic."""
    power = Fraction(b2) ** t
    return float(2 / (1 - Fraction(b2)) - 1 - 2 * t * power / (1 - power))


def radam(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    threshold=5.0,
    *,
    nesterov=False,
    eps_on="nu_hat",
    unrectified="momentum",
):
    """Algorithm 2 of 1908.03265."""
    m, v, rows = np.zeros_like(p), np.zeros(p.shape), []
    longest = 2 / (1 - b2) - 1
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        length = rho(t, b2)
        if length >= threshold:
            r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            if eps_on == "nu":
                update = r * m_hat * math.sqrt(1 - b2**t) / (np.sqrt(v + eps_root) + eps)
            else:
                update = r * m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        elif unrectified == "momentum":
            update = m_hat
        else:
            update = np.zeros_like(p)
        p = p - learning_rate * update
        rows.append(p)
    return np.stack(rows)


def softplus(x, beta, linear_from=math.inf):
    """log(1 + exp(beta x)) / beta; x itself where beta x exceeds ``linear_from``."""
    return np.where(beta * x > linear_from, x, np.logaddexp(0.0, beta * x) / beta)


def sadam(
    p,
    grads,
    learning_rate=0.1,
    b1=0.9,
    b2=0.999,
    beta=50.0,
    eps_root=0.0,
    *,
    amsgrad=False,
    convention="official",
    weight_decay=0.0,
    decay="coupled",
):
    """Algorithms 2 and 3 of 1908.00700 ('paper'), or their authors' program ('official')."""
    m, v, largest, rows = np.zeros_like(p), np.zeros(p.shape), np.zeros(p.shape), []
    for t, g in enumerate(grads, start=1):
        g = _regularized(g, p, weight_decay, decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) + eps_root)
        if convention == "paper":
            update = m / softplus(root, beta)
        else:
            update = m * math.sqrt(1 - b2**t) / (1 - b1**t) / softplus(root, beta, linear_from=20.0)
        p = _decayed(p, update, learning_rate, weight_decay, decay)
        rows.append(p)
    return np.stack(rows)


def sign_sgd(p, grads, learning_rate):
    """1802.04434, algorithm 1."""
    rows = []
    for g in grads:
        p = p - learning_rate * np.sign(g)
        rows.append(p)
    return np.stack(rows)


def signum(p, grads, learning_rate, beta=0.9):
    """1802.04434, algorithm 2, with the average started at zero."""
    m, rows = np.zeros_like(p), []
    for g in grads:
        m = beta * m + (1 - beta) * g
        p = p - learning_rate * np.sign(m)
        rows.append(p)
    return np.stack(rows)


def lion(
    p,
    grads,
    learning_rate,
    b1=0.9,
    b2=0.99,
    *,
    weight_decay=0.0,
    decay="decoupled",
    mode="hard",
    smooth_beta=1.0,
):
    """Program 1 of 2302.06675, with Optax's two soft signs."""
    m, rows = np.zeros_like(p), []
    for g in grads:
        g = _regularized(g, p, weight_decay, decay)
        c = b1 * m + (1 - b1) * g
        if mode == "smooth":
            update = np.tanh(smooth_beta * c)
        elif mode == "refined":
            update = np.where(np.abs(c) < 1, c, np.sign(c))
        else:
            update = np.sign(c)
        p = _decayed(p, update, learning_rate, weight_decay, decay)
        m = b2 * m + (1 - b2) * g
        rows.append(p)
    return np.stack(rows)
