"""AdaMuon, Muon^2, Scion, QK-clip and hyperball in NumPy float64, from the papers; loops only."""

import numpy as np

from tests.oracles.muon import orthogonalised


def adamuon(
    grads,
    p,
    learning_rate,
    coefficients,
    beta=0.95,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.0,
    rms=0.2,
    ns_eps=1e-7,
    nesterov=True,
    signed=True,
):
    """Parameters after each step on one matrix (in, out), from arXiv 2507.11005 and what is known of its code."""
    buffer, nu, path = np.zeros_like(p), np.zeros(p.shape), []
    for g in grads:
        buffer = beta * buffer + g
        u = g + beta * buffer if nesterov else buffer
        if signed:
            u = np.array([[x / abs(x) if x != 0 else 0.0 for x in row] for row in u])
        o = orthogonalised(u, coefficients, eps=ns_eps)
        s = np.zeros_like(o)
        for row in range(p.shape[0]):
            for column in range(p.shape[1]):
                nu[row, column] = b2 * nu[row, column] + (1 - b2) * abs(o[row, column]) ** 2
                s[row, column] = o[row, column] / (np.sqrt(nu[row, column]) + eps)
        s = rms * np.sqrt(p.size) * s / (np.linalg.norm(s) + eps)
        p = p - learning_rate * (s + weight_decay * p)
        path.append(p)
    return np.array(path)


def muon_squared(
    grads,
    p,
    learning_rate,
    coefficients,
    beta=0.95,
    b2=0.95,
    eps_root=1e-8,
    weight_decay=0.0,
    ns_eps=1e-7,
):
    """The algorithm of arXiv 2604.09967 on one matrix (in, out)."""
    fan_in, fan_out = p.shape
    mean, square, path = np.zeros_like(p), np.zeros(p.shape), []
    for g in grads:
        mean = beta * mean + (1 - beta) * g
        square = b2 * square + (1 - b2) * np.abs(g) ** 2
        o = orthogonalised(mean / np.sqrt(square + eps_root), coefficients, eps=ns_eps)
        p = (1 - learning_rate * weight_decay) * p - learning_rate * np.sqrt(fan_out / fan_in) * o
        path.append(p)
    return np.array(path)


def muon_squared_of_the_record(
    grads, p, learning_rate, coefficients, beta=0.95, b2=0.95, eps=1e-10, weight_decay=0.0125, ns_eps=1e-7
):
    """The speedrun's: Nesterov's mix over the root, with its epsilon outside, and Jordan's scale."""
    fan_in, fan_out = p.shape
    mean, square, path = np.zeros_like(p), np.zeros(p.shape), []
    for g in grads:
        mean = mean + (1 - beta) * (g - mean)
        square = square + (1 - b2) * (np.abs(g) ** 2 - square)
        ahead = g + beta * (mean - g)
        o = orthogonalised(ahead / (np.sqrt(square) + eps), coefficients, eps=ns_eps)
        p = (1 - learning_rate * weight_decay) * p - learning_rate * np.sqrt(max(1.0, fan_out / fan_in)) * o
        path.append(p)
    return np.array(path)
