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
    p,
    grads,
    axes,
    lr=None,
    decay_rate=0.8,
    offset=0,
    relative=True,
    clip=1.0,
    momentum=None,
    wd=0.0,
    eps=1e-30,
    min_scale=1e-3,
):
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


def came(p, grads, axes, lr, b1=0.9, b2=0.999, b3=0.9999, eps=1e-30, eps_residual=1e-16, clip=1.0, wd=0.0):
    """Algorithm 2 of 2307.02047; without axes the authors' program: the average of the directions alone."""
    v, s, m, rows = np.zeros(p.shape), np.zeros(p.shape), np.zeros_like(p), []
    for g in grads:
        v = b2 * v + (1 - b2) * (np.abs(g) ** 2 + eps)
        u = g / np.sqrt(v if axes is None else rank_one(v, *axes))
        u = u / max(1.0, rms(u) / clip)
        m = b1 * m + (1 - b1) * u
        s = b3 * s + (1 - b3) * (np.abs(u - m) ** 2 + eps_residual)
        step = m if axes is None else m / np.sqrt(rank_one(s, *axes))
        p = p - lr * (step + wd * p)
        rows.append(p)
    return np.stack(rows)


def adam_mini(p, grads, blocks, lr, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, wd=0.0):
    """Algorithm 1 of 2406.16793: ``blocks`` has the number of its block for every weight."""
    m, v, rows = np.zeros_like(p), {block: 0.0 for block in np.unique(blocks)}, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        divisor = np.zeros(p.shape)
        for block in v:
            members = blocks == block
            v[block] = b2 * v[block] + (1 - b2) * np.mean(np.abs(g[members]) ** 2)
            divisor[members] = math.sqrt(v[block] / (1 - b2**t) + eps_root) + eps
        p = p - lr * (m / (1 - b1**t) / divisor + wd * p)
        rows.append(p)
    return np.stack(rows)


def sm3(p, grads, lr, momentum=0.9, b2=1.0, eps=1e-8):
    """SM3-II of 1901.11150, entry by entry: the sets of the cover are the slices along every axis."""
    p = np.array(p, dtype=float)
    slices_of = lambda index: list(enumerate(index)) if index else [(0, 0)]
    bound = {key: 0.0 for index in np.ndindex(p.shape) for key in slices_of(index)}
    m, rows = np.zeros_like(p), []
    for g in grads:
        new = dict.fromkeys(bound, 0.0)
        step = np.zeros_like(p)
        for index in np.ndindex(p.shape):
            smallest = min(bound[key] for key in slices_of(index))
            nu = smallest + g[index] ** 2 if b2 == 1 else b2 * smallest + (1 - b2) * g[index] ** 2
            step[index] = g[index] / math.sqrt(nu + eps) if nu > 0 else 0.0
            for key in slices_of(index):
                new[key] = max(new[key], nu)
        bound = new
        m = momentum * m + (1 - momentum) * step
        p = p - lr * m
        rows.append(p)
    return np.stack(rows)


def madgrad(p, grads, lr, momentum=0.9, weight_decay=0.0, eps=1e-6):
    """Algorithm 1 of 2101.11075, with the authors' two epsilons."""
    x0, s, squares, rows = p, np.zeros_like(p), np.zeros(p.shape), []
    for k, g in enumerate(grads):
        g = g + weight_decay * p
        weight = ((lr(k) if callable(lr) else lr) + eps) * math.sqrt(k + 1)
        s = s + weight * g
        squares = squares + weight * np.abs(g) ** 2
        z = x0 - s / (np.cbrt(squares) + eps)
        p = momentum * p + (1 - momentum) * z
        rows.append(p)
    return np.stack(rows)


def galore_adam(p, grads, rank, gap, lr, b1=0.9, b2=0.999, eps=1e-8, scale=1.0, wd=0.0):
    """Algorithm 2 of 2403.03507 on a matrix: Adam on the side that is shorter, decay after the step."""
    tall, rows = p.shape[0] >= p.shape[1], []
    m = v = None
    for t, g in enumerate(grads, start=1):
        if (t - 1) % gap == 0:
            left, _, right = np.linalg.svd(g, full_matrices=False)
            basis = left[:, :rank] if tall else right[:rank].T
        low = basis.T @ g if tall else g @ basis
        m, v = (np.zeros_like(low), np.zeros_like(low)) if m is None else (m, v)
        m = b1 * m + (1 - b1) * low
        v = b2 * v + (1 - b2) * low**2
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        step = scale * (basis @ step if tall else step @ basis.T)
        p = p - lr * (step + wd * p)
        rows.append(p)
    return np.stack(rows)
