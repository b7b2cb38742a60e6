r"""Fits of two Kronecker factors, until what they precondition is white: the geometries of `psgd_kron`.

The factors Q_L and Q_R of a matrix (m, n) are matrices, or vectors that stand for diagonals.  They precondition by
``Q_L^H Q_L x Q_R^T conj(Q_R)``.  Sums over a side are Gram matrices, of a diagonal factor their diagonals alone, and
``|.|`` is the spectral norm or an estimate of it from below.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradlab.core.decompositions import solve_adjoint_upper
from gradlab.core.kronecker import precise
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, safe_quotient, safe_sqrt

Factors = tuple[jax.Array, jax.Array]


def precondition(factors: Factors, x: jax.Array) -> jax.Array:
    """``Q_L^H Q_L x Q_R^T conj(Q_R)``.

    >>> precondition((jnp.array([[1.0, 1.0], [0.0, 1.0]]), jnp.array([3.0])), jnp.array([[1.0], [0.0]])).tolist()
    [[9.0], [9.0]]
    """
    with precise():
        return _on_both_sides(_adjoint_times, factors, _on_both_sides(_times, factors, x))


def _on_both_sides(function: Callable, factors: Factors, x: jax.Array) -> jax.Array:
    return function(factors[1], function(factors[0], x).mT).mT


def _times(q, x):
    return q[:, None] * x if q.ndim == 1 else q @ x


def _adjoint_times(q, x):
    return q.conj()[:, None] * x if q.ndim == 1 else q.mT.conj() @ x


def _adjoint_solve(q, x):
    return x / q.conj()[:, None] if q.ndim == 1 else solve_adjoint_upper(q, x)


def _gram(q, x):
    return jnp.sum(abs_sq(x), axis=1) if q.ndim == 1 else x @ x.mT.conj()


def _size(gram):
    return jnp.max(gram) if gram.ndim == 1 else norm_estimate(gram)


def norm_estimate(s: jax.Array) -> jax.Array:
    """The spectral norm of a normal matrix, from below: a power step from its longest column.

    >>> norm_estimate(jnp.diag(jnp.array([1.0, 3.0]))).item(), norm_estimate(jnp.zeros((2, 2))).item()
    (3.0, 0.0)
    """
    x = s @ s[:, jnp.argmax(jnp.sum(abs_sq(s), axis=0))]
    return safe_quotient(norm(s @ x), norm(x))


def balance(factors: Factors) -> Factors:
    """The factors at equal greatest magnitudes, their product kept.

    >>> [q.tolist() for q in balance((jnp.array([4.0]), jnp.array([1.0])))]
    [[2.0], [2.0]]
    """
    left, right = factors
    ratio = jnp.sqrt(jnp.max(jnp.abs(right)) / jnp.max(jnp.abs(left)))
    return left * ratio, right / ratio


def triangular_fit(factors: Factors, h: jax.Array, v: jax.Array, rate: jax.Array) -> Factors:
    """One step on the group of upper triangular matrices, from ``h`` and noise ``v`` of variance 1.

    With ``A = Q_L h Q_R^T`` and ``B = Q_L^-H v conj(Q_R)^-1``, for the side of Q_L::

        Q = Q - rate * triu(A A^H - B B^H) Q / |A A^H + B B^H|
    """
    with precise():
        a, b = _on_both_sides(_times, factors, h), _on_both_sides(_adjoint_solve, factors, v)
        largest = jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))
        shrunk = 1 / jax.lax.stop_gradient(largest)  # it cancels; without it the squares could overflow
        a, b = a * shrunk, b * shrunk
        pairs = zip(factors, (a, a.mT), (b, b.mT), strict=True)
        return tuple(_triangular_step(q, _gram(q, x), _gram(q, y), rate) for q, x, y in pairs)


def _triangular_step(q, of_a, of_b, rate):
    change = safe_quotient(of_a - of_b, _size(of_a + of_b))
    return q - rate * (change * q if q.ndim == 1 else jnp.triu(change) @ q)


def symmetric_fit(factors: Factors, bounds: jax.Array, h: jax.Array, rate: jax.Array) -> tuple[Factors, jax.Array]:
    """One step without inverses, the factors kept near Hermitian ones.

    With ``T = (P h) (P h)^H`` for the side of Q_L (m, m), P h what `precondition` makes of h, n the length of the other
    side and ``bound^2 = 0`` before the first step::

        x = |T| + n
        bound^2 = max(0.9 * bound^2 + 0.1 * x, x)
        Q = Q - rate * (T - n I) Q / bound^2
        R = (Q^H - Q) / |Q^H - Q|
        Q = Q + a R Q + a^2 / 2 R^2 Q,   a = 1/8, or less where Re tr of this is greatest

    Args:
      factors: Q_L and Q_R.
      bounds: (2,), for Q_L and Q_R.
      h: (m, n).
      rate: step size.
    """
    white = precondition(factors, h)
    with precise():
        pairs = zip(factors, bounds, (white, white.mT), strict=True)
        steps = [_symmetric_step(q, bound, x, rate) for q, bound, x in pairs]
    return tuple(q for q, _ in steps), jnp.stack([bound for _, bound in steps])


def _symmetric_step(q, bound, x, rate):
    unit = jax.lax.stop_gradient(jnp.maximum(jnp.maximum(bound, jnp.max(jnp.abs(x))), 1))
    shrunk = 1 / unit  # it cancels; without it the squares could overflow
    target = x.shape[1] * shrunk**2
    gram = _gram(q, x * shrunk)
    now = _size(gram) + target
    sq_bound = jnp.maximum(0.9 * (bound * shrunk) ** 2 + 0.1 * now, now)
    moved = q - rate / sq_bound * ((gram * q if q.ndim == 1 else gram @ q) - target * q)
    return moved if q.ndim == 1 else _turned(moved), unit * safe_sqrt(sq_bound)


def _turned(q):
    """``q``, turned from the left towards a Hermitian matrix."""
    skew = q.mT.conj() - q
    skew = safe_quotient(skew, norm_estimate(skew))
    once = skew @ q
    twice = skew @ once
    slope, curvature = jnp.trace(once).real, jnp.trace(twice).real
    best = safe_quotient(slope, -curvature)
    a = jnp.where(curvature < 0, jnp.minimum(best, 0.125), 0.125)
    return q + a * once + 0.5 * a**2 * twice
