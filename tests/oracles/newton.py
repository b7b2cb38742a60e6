"""Newton's methods in float64 NumPy: one vector, one plain loop, from the papers.

Each takes the start ``p``, the functions ``gradient(p)`` and ``hessian(p)`` and the number of steps, and returns the
iterates as rows.
"""

import numpy as np


def newton(p, gradient, hessian, steps, *, lr, damping):
    path = []
    for _ in range(steps):
        p = p - lr * np.linalg.solve(hessian(p) + damping * np.eye(len(p)), gradient(p))
        path.append(p)
    return np.stack(path)


def saddle_free_newton(p, gradient, hessian, steps, *, lr, damping):
    """1406.2572, with |H| = V S V' from the singular value decomposition H = U S V'."""
    path = []
    for _ in range(steps):
        _, s, v = np.linalg.svd(hessian(p))
        p = p - lr * v.T @ (v @ gradient(p) / (s + damping))
        path.append(p)
    return np.stack(path)


def krylov_newton(p, gradient, hessian, steps, *, lr, damping, rank):
    """|H| on the span of g, H g, ..., whose basis is the Q of a QR decomposition of these vectors."""
    path = []
    for _ in range(steps):
        h, g = hessian(p), gradient(p)
        powers = [g / np.linalg.norm(g)]
        for _ in range(rank - 1):
            image = h @ powers[-1]
            powers.append(image / np.linalg.norm(image))
        q, _ = np.linalg.qr(np.stack(powers, axis=1))
        _, s, v = np.linalg.svd(q.T @ h @ q)
        p = p - lr * q @ (v.T @ (v @ (q.T @ g) / (s + damping)))
        path.append(p)
    return np.stack(path)


def newton_cg(p, gradient, hessian, steps, *, lr, damping, tolerance, radius, max_iterations):
    path = []
    for _ in range(steps):
        matrix = hessian(p) + damping * np.eye(len(p))
        p = p - lr * truncated_cg(matrix, gradient(p), tolerance, radius, max_iterations)
        path.append(p)
    return np.stack(path)


def truncated_cg(matrix, g, tolerance, radius, max_iterations):
    """Algorithm 7.2 of Nocedal and Wright (2006), or 7.1 for no radius with its step g scaled by the curvature."""
    z, r, d = np.zeros_like(g), g.copy(), g.copy()
    for j in range(max_iterations):
        curvature = d @ matrix @ d
        if curvature <= 0:
            if radius is not None:
                return z + boundary(z, d, radius) * d
            return g * (g @ g) / abs(curvature) if j == 0 else z
        alpha = r @ r / curvature
        if radius is not None and np.linalg.norm(z + alpha * d) >= radius:
            return z + boundary(z, d, radius) * d
        z = z + alpha * d
        r_next = r - alpha * matrix @ d
        if np.linalg.norm(r_next) <= tolerance * np.linalg.norm(g):
            return z
        d = r_next + (r_next @ r_next) / (r @ r) * d
        r = r_next
    return z


def boundary(z, d, radius):
    """The positive root t of |z + t d|^2 = radius^2."""
    return np.max(np.roots([d @ d, 2 * z @ d, z @ z - radius**2]).real)
