"""Optimizers of little memory in float64 NumPy, one array and one loop over the steps each, written from the papers.

Every function takes the parameters ``p`` of one leaf and the gradients of all steps stacked along the first axis, and
returns the parameters after every step stacked likewise.  Nothing here imports jax or the package under test.
"""

import math

import numpy as np


def rms(x):
    return math.sqrt(np.mean(np.abs(x) ** 2))


def rank_one(squares, rows_axis, cols_axis):
    """The product of row and column sums over the total, of every matrix that the two axes span."""
    row_sums = squares.sum(axis=cols_axis, keepdims=True)
    col_sums = squares.sum(axis=rows_axis, keepdims=True)
    return row_sums * col_sums / squares.sum(axis=(rows_axis, cols_axis), keepdims=True)


def adafactor(
    p, grads, axes, lr=None, decay_rate=0.8, offset=0, relative=True, clip=1.0, momentum=None, wd=0.0, eps=1e-30,
    min_scale=1e-3,
):  # fmt: skip
    """Algorithms 4 and 5 of 1804.04235; ``axes`` are the rows' and the columns', None for one average a weight.

    The average of a product form is the product form of the average of the squares, which is what is kept here.
    """
    average, m, rows = np.zeros(p.shape), np.zeros_like(p), []
    for t, g in enumerate(grads, start=1):
        beta = 1 - (t - offset) ** -decay_rate
        average = beta * average + (1 - beta) * (np.abs(g) ** 2 + eps)
        v = average if axes is None else rank_one(average, *axes)
        u = g / np.sqrt(v)
        if clip is not None:
            u = u / max(1.0, rms(u) / clip)
        if lr is not None:
            u = u * (lr(t - 1) if callable(lr) else lr)
        if relative:
            u = u * max(min_scale, rms(p))
        if momentum is not None:
            m = momentum * m + (1 - momentum) * u
            u = m
        p = p - u - wd * p
        rows.append(p)
    return np.stack(rows)
