"""Shampoo and SPlus as loops over one upright matrix, from the papers' recurrences."""

import numpy as np


def inverse_power(a, exponent, eps):
    values, vectors = np.linalg.eigh(a)
    return vectors @ np.diag((np.clip(values, 0, None) + eps) ** -exponent) @ vectors.conj().T


def shampoo(
    grads,
    p,
    rate,
    b1=0.9,
    b2=0.999,
    eps=1e-12,
    decay=0.0,
    graft=None,
    graft_b2=0.999,
    graft_eps=1e-8,
    exponents=(0.25, 0.25),
    every=1,
    start=1,
    corrected=True,
):
    """The parameters after each step; a side without an exponent keeps the identity."""
    m, n = p.shape
    left, right = np.zeros((m, m), p.dtype), np.zeros((n, n), p.dtype)
    pl, pr = np.eye(m), np.eye(n)
    mu, nu = np.zeros_like(p), np.zeros(p.shape)
    path = []
    for t, g in enumerate(grads, start=1):
        if b2 == 1:
            left, right = left + g @ g.conj().T, right + g.conj().T @ g
        else:
            left = b2 * left + (1 - b2) * g @ g.conj().T
            right = b2 * right + (1 - b2) * g.conj().T @ g
        if t == start or (t > start and t % every == 0):
            weight = 1 - b2**t if corrected and b2 < 1 else 1.0
            pl = pl if exponents[0] is None else inverse_power(left / weight, exponents[0], eps)
            pr = pr if exponents[1] is None else inverse_power(right / weight, exponents[1], eps)
        mu = b1 * mu + (1 - b1) * g
        mean = mu / (1 - b1**t) if corrected else mu
        nu = nu + np.abs(g) ** 2 if graft_b2 == 1 else graft_b2 * nu + (1 - graft_b2) * np.abs(g) ** 2
        second = nu / (1 - graft_b2**t) if corrected and graft == "adam" else nu
        d = mean if graft in (None, "sgd") else mean / (np.sqrt(second) + graft_eps)
        u = pl @ mean @ pr
        if graft is not None:
            u = d if t < start else u * np.linalg.norm(d) / np.linalg.norm(u)
        p = p - rate * (u + decay * p)
        path.append(p)
    return np.stack(path)


def unit(x):
    """The sign, or for complex numbers the phase."""
    return x / np.where(x == 0, 1, np.abs(x))


def splus(
    grads, p, rate, b1=0.9, b2=0.999, decay=0.0, every=100, longest=10**4, long_scale=0.001, keep=0.999, start=None
):
    """The parameters and their debiased averages after each step; ``start`` are bases to use after the first."""
    m, n = p.shape
    left, right = np.zeros((m, m), p.dtype), np.zeros((n, n), p.dtype)
    ql, qr = np.eye(m), np.eye(n)
    mu, average = np.zeros_like(p), np.zeros_like(p)
    rate = rate * (2 / (m + n) if max(m, n) <= longest else long_scale)
    path, averages = [], []
    for t, g in enumerate(grads, start=1):
        mu = b1 * mu + (1 - b1) * g
        u = ql @ unit(ql.conj().T @ mu @ qr) @ qr.conj().T
        p = p - rate * (u + decay * p)
        average = keep * average + (1 - keep) * p
        path.append(p)
        averages.append(average / (1 - keep**t))
        left = b2 * left + (1 - b2) * g @ g.conj().T
        right = b2 * right + (1 - b2) * g.conj().T @ g
        if t == 1 or t % every == 0:
            ql, qr = (np.linalg.eigh(a)[1] for a in (left, right))
            if t == 1 and start is not None:
                ql, qr = start
            ql, qr = (np.eye(m) if m > longest else ql), (np.eye(n) if n > longest else qr)
    return np.stack(path), np.stack(averages)
