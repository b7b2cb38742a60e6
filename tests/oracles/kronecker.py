"""SOAP, Shampoo and their kin as loops over one upright matrix, from the papers' recurrences."""

import numpy as np


def descending_basis(a):
    return np.linalg.eigh(a)[1][:, ::-1]


def sorted_iteration(a, q):
    order = np.argsort(-np.diag(q.conj().T @ a @ q).real, kind="stable")
    return np.linalg.qr(a @ q[:, order])[0], order


def soap(
    grads,
    p,
    rate,
    b1=0.95,
    b2=0.95,
    eps=1e-8,
    decay=0.0,
    beta=0.95,
    every=10,
    longest=10**4,
    corrected=True,
    start=None,
):
    """The parameters after each step; ``start`` are bases to use in the place of the first eigenbases."""
    m, n = p.shape
    left, right = np.zeros((m, m), p.dtype), np.zeros((n, n), p.dtype)
    ql, qr = np.eye(m), np.eye(n)
    mu, nu = np.zeros_like(p), np.zeros(p.shape)
    path = []
    for t, g in enumerate(grads):
        u = np.zeros_like(p)
        if t > 0:
            turned = ql.conj().T @ g @ qr
            mu = b1 * mu + (1 - b1) * turned
            nu = b2 * nu + (1 - b2) * np.abs(turned) ** 2
            first, second = (1 - b1**t, 1 - b2**t) if corrected else (1.0, 1.0)
            u = ql @ (mu / first / ((np.sqrt(nu) + eps) / np.sqrt(second))) @ qr.conj().T
        p = p - rate * (u + decay * p)
        path.append(p)
        left = beta * left + (1 - beta) * g @ g.conj().T
        right = beta * right + (1 - beta) * g.conj().T @ g
        if t == 0:
            ql, qr = (descending_basis(left), descending_basis(right)) if start is None else start
            ql, qr = (np.eye(m) if m > longest else ql), (np.eye(n) if n > longest else qr)
        elif t % every == 0:
            back = ql @ mu @ qr.conj().T
            if m <= longest:
                ql, order = sorted_iteration(left, ql)
                nu = nu[order]
            if n <= longest:
                qr, order = sorted_iteration(right, qr)
                nu = nu[:, order]
            mu = ql.conj().T @ back @ qr
    return np.stack(path)
