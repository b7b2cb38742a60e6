"""L-BFGS, BFGS and conjugate gradients with exact line searches on a quadratic, in float64 NumPy, from the textbooks.

Every function takes the matrix and the vector of ``x A x / 2 - b x`` and a start, and returns the points as rows.
"""

import numpy as np


def _with_pair(inverse, s, y):
    """``(I - rho s y^T) H (I - rho y s^T) + rho s s^T``."""
    rho = 1 / (y @ s)
    left = np.eye(len(s)) - rho * np.outer(s, y)
    return left @ inverse @ left.T + rho * np.outer(s, s)


def _walk(matrix, vector, x, steps, direction):
    rows, pairs = [], []
    for _ in range(steps):
        g = matrix @ x - vector
        d = -direction(g, pairs)
        x_new = x - (g @ d) / (d @ matrix @ d) * d
        pairs.append((x_new - x, matrix @ (x_new - x)))
        x = x_new
        rows.append(x)
    return np.stack(rows)


def lbfgs(matrix, vector, x, steps, memory_size, scale=True):
    def direction(g, pairs):
        if not pairs:
            return g
        s, y = pairs[-1]
        inverse = np.eye(len(g)) * ((s @ y) / (y @ y) if scale else 1.0)
        for pair in pairs[-memory_size:]:
            inverse = _with_pair(inverse, *pair)
        return inverse @ g

    return _walk(matrix, vector, x, steps, direction)


def bfgs(matrix, vector, x, steps, scale=True):
    def direction(g, pairs):
        if not pairs:
            return g
        s, y = pairs[0]
        inverse = np.eye(len(g)) * ((s @ y) / (y @ y) if scale else 1.0)
        for pair in pairs:
            inverse = _with_pair(inverse, *pair)
        return inverse @ g

    return _walk(matrix, vector, x, steps, direction)


def conjugate_gradients(matrix, vector, x, steps, form, fraction=1.0):
    """Steps of that fraction of the exact ones; never restarted."""
    rows, last, d = [], None, None
    for _ in range(steps):
        g = matrix @ x - vector
        if last is None:
            d = -g
        else:
            y = g - last
            beta = {
                "fr": (g @ g) / (last @ last),
                "pr+": max(0.0, (g @ y) / (last @ last)),
                "hs": (g @ y) / (d @ y),
                "dy": (g @ g) / (d @ y),
            }[form]
            d = -g + beta * d
        x = x - fraction * (g @ d) / (d @ matrix @ d) * d
        last = g
        rows.append(x)
    return np.stack(rows)
