"""Muon in NumPy float64, from Jordan's post of 2024, arXiv 2502.16982 and Optax's documented momentum; loops only."""

import numpy as np


def newton_schulz(x, coefficients):
    x = np.array(x)
    for a, b, c in coefficients:
        gram = x @ x.conj().T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


def polynomial(sigma, coefficients):
    """What the iteration makes of a singular value."""
    for a, b, c in coefficients:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return sigma


def polar(x):
    """U V^H of X = U diag(s) V^H: the orthogonal matrix nearest to X."""
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    return u @ vh


def bounded(x, eps, scaling):
    gram = x @ x.conj().T
    if scaling == "frobenius":
        return x / (np.sqrt(np.sum(np.abs(x) ** 2)) + eps)
    if scaling == "spectral":
        return x / (np.linalg.svd(x, compute_uv=False)[0] + eps)
    if scaling == "schatten":
        return x / np.sqrt(np.sqrt(np.sum(np.abs(gram) ** 2)))
    return x / np.sqrt(np.sum(np.abs(gram), axis=1))[:, None]


def orthogonalised(x, coefficients, eps=1e-8, scaling="frobenius"):
    """On the side on which the matrix is wide."""
    if x.shape[0] > x.shape[1]:
        return orthogonalised(x.T, coefficients, eps, scaling).T
    return newton_schulz(bounded(x, eps, scaling), coefficients)


def muon(
    grads,
    p,
    learning_rate,
    coefficients,
    beta=0.95,
    eps=1e-8,
    weight_decay=0.0,
    nesterov=True,
    bias_correction=True,
    scaling="frobenius",
    scale="jordan",
    rms=None,
):
    """Parameters after each step on one matrix (in, out)."""
    m, n = p.shape
    factor = {"jordan": max(1.0, n / m), "scion": n / m}[scale] ** 0.5 if rms is None else rms * max(m, n) ** 0.5
    mu, path = np.zeros_like(p), []
    for count, g in enumerate(grads, start=1):
        mu = beta * mu + (1 - beta) * g
        ahead, now = (1 - beta ** (count + 1), 1 - beta**count) if bias_correction else (1.0, 1.0)
        u = beta * mu / ahead + (1 - beta) * g / now if nesterov else mu / now
        p = p - learning_rate * (factor * orthogonalised(u, coefficients, eps, scaling) + weight_decay * p)
        path.append(p)
    return np.array(path)


def muon_of_jordan(grads, p, learning_rate, coefficients, momentum=0.95):
    """With a sum for an average and no epsilon, as Jordan's and PyTorch's code run."""
    m, n = p.shape
    buffer, path = np.zeros_like(p), []
    for g in grads:
        buffer = momentum * buffer + g
        p = p - learning_rate * max(1.0, n / m) ** 0.5 * orthogonalised(g + momentum * buffer, coefficients, eps=0.0)
        path.append(p)
    return np.array(path)


def normuon(
    grads, p, learning_rate, coefficients, beta=0.95, b2=0.95, eps=1e-10, weight_decay=0.0, nesterov=True, rms=None
):
    """On one matrix (in, out): the authors' code, or arXiv 2510.05491's algorithm with a root mean square."""
    m, n = p.shape
    mu, nu, path = np.zeros_like(p), np.zeros(n), []
    for g in grads:
        mu = beta * mu + (1 - beta) * g
        o = orthogonalised(beta * mu + (1 - beta) * g if nesterov else mu, coefficients, eps=1e-7)
        for neuron in range(n):
            nu[neuron] = b2 * nu[neuron] + (1 - b2) * np.mean(o[:, neuron] ** 2)
        s = o / (np.sqrt(nu) + eps)
        length = np.linalg.norm(o) * max(1.0, n / m) ** 0.5 if rms is None else rms * np.sqrt(m * n)
        p = p - learning_rate * (length * s / np.linalg.norm(s) + weight_decay * p)
        path.append(p)
    return np.array(path)
