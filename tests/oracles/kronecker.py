"""SOAP, Shampoo and their kin as loops over one upright matrix, from the papers' recurrences."""

import numpy as np

from tests.oracles.muon import orthogonalised


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


def kl_whitened(
    grads, p, rate, b1=0.95, b2=0.9, eps=1e-8, beta=0.9, start=0.1, bound=4000.0, decay=0.0, every=1, adam=True
):
    """KL-SOAP, or KL-Shampoo if not ``adam``: the parameters after each step."""
    m, n = p.shape
    ls, rs = np.full(m, start), np.full(n, start)
    mu, nu = np.zeros_like(p), np.zeros(p.shape)
    inverse = lambda values: np.minimum(values**-0.5, bound)
    path = []
    for t, g in enumerate(grads):
        if t == 0:
            left, right = g @ g.conj().T / n, g.conj().T @ g / m
            ql, qr = descending_basis(left), descending_basis(right)
            p = p - rate * decay * p
            path.append(p)
            continue
        turned = ql.conj().T @ g @ qr
        old_ls, old_rs = inverse(ls) ** 2, inverse(rs) ** 2
        ls = beta * ls + (1 - beta) * np.array([np.mean(np.abs(turned[i]) ** 2 * old_rs) for i in range(m)])
        rs = beta * rs + (1 - beta) * np.array([np.mean(np.abs(turned[:, j]) ** 2 * old_ls) for j in range(n)])
        left = beta * left + (1 - beta) * g @ qr @ np.diag(old_rs) @ qr.conj().T @ g.conj().T / n
        right = beta * right + (1 - beta) * g.conj().T @ ql @ np.diag(old_ls) @ ql.conj().T @ g / m
        mu = b1 * mu + (1 - b1) * turned
        nu = b2 * nu + (1 - b2) * np.abs(turned) ** 2
        direction = mu / (np.sqrt(nu) + eps) if adam else mu * inverse(ls)[:, None] * inverse(rs)
        p = p - rate * (ql @ direction @ qr.conj().T + decay * p)
        path.append(p)
        if t % every == 0:
            back = ql @ mu @ qr.conj().T
            ql, qr = np.linalg.qr(left @ ql)[0], np.linalg.qr(right @ qr)[0]
            mu = ql.conj().T @ back @ qr
    return np.stack(path)


def soap_muon(
    grads, p, rate, coefficients, beta=0.95, b2=0.9, power=0.5, gram=0.9, every=1, nesterov=True, eps=1e-7, decay=0.0
):
    """The parameters after each step, with Jordan's scale."""
    m, n = p.shape
    left, right, ql, qr = np.zeros((m, m)), np.zeros((n, n)), np.eye(m), np.eye(n)
    mu, nu, path = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(grads):
        mu = beta * mu + (1 - beta) * g
        w = beta * mu + (1 - beta) * g if nesterov else mu
        v = w
        if t > 0:
            turned = ql.T @ w @ qr
            nu = b2 * nu + (1 - b2) * turned**2
            v = ql @ (turned / np.maximum(nu, 1e-16) ** power) @ qr.T
            v = v * np.linalg.norm(w) / np.linalg.norm(v)
        p = p - rate * (max(1.0, n / m) ** 0.5 * orthogonalised(v, coefficients, eps=eps) + decay * p)
        path.append(p)
        left, right = gram * left + (1 - gram) * g @ g.T, gram * right + (1 - gram) * g.T @ g
        if t == 0:
            ql, qr = descending_basis(left), descending_basis(right)
        elif t % every == 0:
            ql, rows = sorted_iteration(left, ql)
            qr, columns = sorted_iteration(right, qr)
            nu = nu[rows][:, columns]
    return np.stack(path)
