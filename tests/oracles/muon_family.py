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


def lmo(x, norm, coefficients, positions=1, eps=1e-8, ns_eps=1e-7):
    """The point of a ball of radius one that lies farthest along a matrix (in, out); arXiv 2502.07529, table 2."""
    fan_in, fan_out = x.shape[0] // positions, x.shape[1]
    if norm == "spectral":
        return np.sqrt(fan_out / fan_in) / positions * orthogonalised(x, coefficients, eps=ns_eps)
    if norm == "spectral_max":
        return max(1.0, np.sqrt(fan_out / fan_in)) / positions * orthogonalised(x, coefficients, eps=ns_eps)
    if norm == "colnorm":
        return np.array([row / (np.sqrt(np.mean(np.abs(row) ** 2)) + eps) for row in x])
    if norm == "rownorm":
        columns = [column / (np.sqrt(fan_in) * np.sqrt(np.sum(np.abs(column) ** 2)) + eps) for column in x.T]
        return np.array(columns).T
    return np.sign(x) / x.shape[0]


def lmo_of_bias(x, norm, eps=1e-8):
    return np.sign(x) if norm == "sign" else x / (np.sqrt(np.mean(np.abs(x) ** 2)) + eps)


def scion(grads, p, learning_rate, extreme, radius, beta=0.9, constrained=True):
    """Parameters after each step, with the authors' alpha = 1 - beta; ``extreme`` maps a momentum to a ball of one."""
    alpha, momentum, path = 1 - beta, np.zeros_like(p), []
    for g in grads:
        momentum = (1 - alpha) * momentum + alpha * g
        shrunk = (1 - learning_rate) * p if constrained else p
        p = shrunk - learning_rate * radius * extreme(momentum)
        path.append(p)
    return np.array(path)


def qk_clipped(kernels, logits, tau):
    """New query and key kernels (in, heads, size) after the rule of arXiv 2507.20534."""
    clipped = [np.array(kernel) for kernel in kernels]
    for head, largest in enumerate(logits):
        gamma = min(1.0, tau / largest) if largest > 0 else 1.0
        for kernel in clipped:
            kernel[..., head, :] *= gamma**0.5
    return clipped


def on_hyperball(directions, p, learning_rate):
    """Parameters after each step from arXiv 2606.16899; ``directions`` yields the base optimizer's."""
    radius, path = np.linalg.norm(p), []
    for u in directions:
        new = p - learning_rate * radius * u / np.linalg.norm(u)
        p = radius * new / np.linalg.norm(new)
        path.append(p)
    return np.array(path)


def adam_directions(grads, b1=0.9, b2=0.999, eps=1e-8):
    mean, square = np.zeros_like(grads[0]), np.zeros(grads[0].shape)
    for count, g in enumerate(grads, start=1):
        mean = b1 * mean + (1 - b1) * g
        square = b2 * square + (1 - b2) * np.abs(g) ** 2
        yield mean / (1 - b1**count) / (np.sqrt(square / (1 - b2**count)) + eps)


def muon_directions(grads, coefficients, beta=0.95, nesterov=True, ns_eps=1e-7):
    mean = np.zeros_like(grads[0])
    for g in grads:
        mean = beta * mean + (1 - beta) * g
        yield orthogonalised(beta * mean + (1 - beta) * g if nesterov else mean, coefficients, eps=ns_eps)
