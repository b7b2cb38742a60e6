"""Gradient descent and the forms of momentum in float64 NumPy: one array, one plain loop, from the papers.

Each oracle takes the start ``p``, ``gradient(p, t)`` with t = 0, 1, ... and the number of steps, and returns the list
of iterates after each step.  A learning rate or momentum may be a function of t.
"""

import numpy as np


def at(value, t):
    return value(t) if callable(value) else value


def gradient_descent(p, gradient, steps, *, lr):
    path = []
    for t in range(steps):
        p = p - at(lr, t) * gradient(p, t)
        path.append(p)
    return path


def learning_rate_inside(p, gradient, steps, *, lr, momentum):
    v, path = np.zeros_like(p), []
    for t in range(steps):
        v = at(momentum, t) * v - at(lr, t) * gradient(p, t)
        p = p + v
        path.append(p)
    return path


def learning_rate_outside(p, gradient, steps, *, lr, momentum, dampening=0.0, nesterov=False):
    buffer, path = None, []
    for t in range(steps):
        g = gradient(p, t)
        buffer = g if buffer is None else at(momentum, t) * buffer + (1 - dampening) * g
        p = p - at(lr, t) * (g + at(momentum, t) * buffer if nesterov else buffer)
        path.append(p)
    return path


def average(p, gradient, steps, *, lr, momentum, debias=False):
    m, weight, path = np.zeros_like(p), 0.0, []
    for t in range(steps):
        a = at(momentum, t)
        m = a * m + (1 - a) * gradient(p, t)
        weight = a * weight + (1 - a)
        p = p - at(lr, t) * (m / weight if debias else m)
        path.append(p)
    return path


def nesterov_two_points(q, gradient, steps, *, lr, momentum):
    """The textbook loop: q is the iterate, and each gradient is taken at the second point ``q + momentum * v``.

    The velocity is zero at the first step, so its look-ahead is too; a scheduled momentum is read one step later than
    the learning rate.
    """
    v, path = np.zeros_like(q), []
    for t in range(steps):
        a = at(momentum, t - 1) if t > 0 else 0.0
        v = a * v - at(lr, t) * gradient(q + a * v, t)
        q = q + v
        path.append(q)
    return path
