"""Averages of the weights in float64 NumPy, every sequence stored, written from the papers.

Parameters, gradients and results are laid out as in `tests.oracles.adam_family`.  Nothing here imports jax or the
package under test.
"""

import math

import numpy as np

from tests.oracles.adam_family import rho


def gradients(t, g):
    """The direction of SGD."""
    return g


class RootMeanSquare:
    """The direction of Adam without momentum; with ``rectified``, that of RAdam after the first four steps."""

    def __init__(self, b2=0.999, eps=1e-8, rectified=False):
        self.b2, self.eps, self.rectified, self.v = b2, eps, rectified, 0.0

    def __call__(self, t, g):
        self.v = self.b2 * self.v + (1 - self.b2) * np.abs(g) ** 2
        if self.rectified and rho(t, self.b2) <= 4:
            return g
        return g / (np.sqrt(self.v / (1 - self.b2**t)) + self.eps)


def rectification(t, b2, early):
    """Section 3.2 of 1908.03265, and ``early`` where the variance is not defined."""
    length, longest = rho(t, b2), 2 / (1 - b2) - 1
    if length <= 4:
        return early
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def three_sequences(p, grads, direction, rates, factors, b1s, weight_decay=0.0):
    """Section 2 of 2405.15682 with given factors ``c`` of the average; the rows of y and of x."""
    z, x, y, rows, means = p.copy(), p.copy(), p.copy(), [], []
    for t, g in enumerate(grads, start=1):
        z = z - rates[t - 1] * (direction(t, g) + weight_decay * y)
        x = (1 - factors[t - 1]) * x + factors[t - 1] * z
        y = (1 - b1s[t - 1]) * z + b1s[t - 1] * x
        rows.append(y)
        means.append(x)
    return np.stack(rows), np.stack(means)


def factors_of(rates, power=2.0, b1=None, constant=None):
    """The weight of each new iterate: its ``max_lr^power`` over the sum so far, or 2507.09846's."""
    weights = np.maximum.accumulate(rates) ** power
    sums = np.cumsum(weights)
    factors = np.divide(weights, sums, out=np.zeros_like(sums), where=sums > 0)
    return factors if constant is None else np.minimum(1.0, constant * (1 - b1) * factors)


def schedule_free_plus(
    p, grads, values, lr=1.0, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, start=0.9, end=0.965, anneal_steps=0,
    averaging_warmup=0, norm_decay=0.0, weight_power=0.0, weight_lr_power=2.0,
):  # fmt: skip
    """Algorithm of 2605.19095 with x, y and z stored, its average of norms corrected when used, not when stored."""
    z, x, y, m, v = p.copy(), p.copy(), p.copy(), np.zeros_like(p), np.zeros_like(p)
    norm, largest, weight_sum, rows, means = 0.0, 0.0, 0.0, [], []
    for t, (g, value) in enumerate(zip(grads, values, strict=True), start=1):
        s = min((t - 1) / anneal_steps, 1.0) if anneal_steps else 0.0
        b = 1 - (1 - start) ** (1 - s) * (1 - end) ** s
        norm = norm_decay * norm + (1 - norm_decay) * math.sqrt(math.pi / 2) * np.sum(np.abs(g))
        alpha = lr * max(0.0, value + b * np.dot(g, z - x)) / (norm / (1 - norm_decay**t))
        largest = max(largest, alpha)
        c = 1.0
        if t > averaging_warmup:
            weight = t**weight_power * largest**weight_lr_power
            weight_sum += weight
            c = weight / weight_sum
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        z = z - alpha**2 * weight_decay * y
        z = z - alpha * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - c) * x + c * z
        y = b * x + (1 - b) * z
        rows.append(y)
        means.append(x)
    return np.stack(rows), np.stack(means)
