r"""Two sides of a matrix: second moments of rows and columns, their eigenbases and inverse roots.

For a gradient G (m, n) the sides have L = G G^H (m, m) and R = G^H G (n, n).  A side without a factor, because it is
too long for one, is None, and stands for the identity.  All products have the full precision of their dtype.  Bases
have no derivative: that of a basis with equal eigenvalues does not exist.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core.decompositions import eigh, qr
from gradlab.core.norms import norm

Factor = jax.Array | None


def precise() -> Any:
    """A context in which matrix products have the full precision of their dtype, on accelerators too."""
    return jax.default_matmul_precision("highest")


def grams(g: jax.Array, left: Any, right: Any) -> tuple[Factor, Factor]:
    """``(g g^H, g^H g)``, for the sides that have a factor.

    >>> left, right = grams(jnp.array([[1.0, 2.0]]), 0.0, None)
    >>> left.tolist(), right
    ([[5.0]], None)
    """
    with precise():
        return (None if left is None else g @ g.mT.conj(), None if right is None else g.mT.conj() @ g)


def into_bases(g: jax.Array, left: Factor, right: Factor) -> jax.Array:
    """``left^H g right``: a matrix in the bases of its sides."""
    with precise():
        g = g if left is None else left.mT.conj() @ g
        return g if right is None else g @ right


def out_of_bases(g: jax.Array, left: Factor, right: Factor) -> jax.Array:
    """``left g right^H``: what `into_bases` undoes."""
    with precise():
        g = g if left is None else left @ g
        return g if right is None else g @ right.mT.conj()


def eigenbasis(a: jax.Array) -> jax.Array:
    """The eigenvectors of a Hermitian matrix as columns, that of the largest eigenvalue first.

    >>> jnp.abs(eigenbasis(jnp.diag(jnp.array([1.0, 3.0])))).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return eigh(jax.lax.stop_gradient(a))[1][:, ::-1]


def refined(a: jax.Array, basis: jax.Array, *, sort: bool = True) -> tuple[jax.Array, jax.Array]:
    """One step of orthogonal iteration from an approximate eigenbasis, and the order in which it took the columns.

    Args:
      a: Hermitian, (m, m).
      basis: (m, m), orthonormal columns.
      sort: whether the columns are first sorted by their Rayleigh quotients, the largest first.

    >>> basis, order = refined(jnp.diag(jnp.array([1.0, 3.0])), jnp.eye(2))
    >>> jnp.abs(basis).tolist(), order.tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [1, 0])
    """
    a, basis = jax.lax.stop_gradient((a, basis))
    with precise():
        power = a @ basis
        order = jnp.arange(a.shape[0])
        if sort:
            order = jnp.argsort(jnp.sum(basis.conj() * power, axis=0).real, descending=True)
        return qr(power[:, order])[0], order


def sandwiched(g: jax.Array, left: Factor, right: Factor) -> jax.Array:
    """``left g right``.

    >>> sandwiched(jnp.ones((1, 2)), None, jnp.diag(jnp.array([2.0, 3.0]))).tolist()
    [[2.0, 3.0]]
    """
    with precise():
        g = g if left is None else left @ g
        return g if right is None else g @ right


def inverse_power(a: jax.Array, exponent: float, eps: Any) -> jax.Array:
    """``(a + eps I)^-exponent`` by eigenvalues; those of ``a`` that rounding made negative are first lifted to zero.

    With ``eps`` zero, directions whose eigenvalue is zero to rounding are left out, as by a pseudo-inverse.  It has no
    derivative.

    Args:
      a: Hermitian, (m, m), no eigenvalue below zero.
      exponent: above zero.
      eps: not below zero.

    >>> inverse_power(jnp.diag(jnp.array([4.0, 0.0])), 0.5, 0.0).round(3).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    a, eps = jax.lax.stop_gradient((a, eps))
    values, basis = eigh(a)
    values = jnp.maximum(values, 0) + eps
    rounding = a.shape[0] * jnp.finfo(values.dtype).eps * values[-1]
    is_zero = values <= jnp.where(eps == 0, rounding, 0)
    powers = jnp.where(is_zero, 0, jnp.where(is_zero, 1, values) ** -exponent)
    with precise():
        return (basis * powers) @ basis.mT.conj()


def newton_inverse_root(a: jax.Array, order: int, eps: Any) -> jax.Array:
    """``(a + eps I)^(-1/order)`` by products alone: the coupled iteration of Newton (Guo & Higham 2006).

    It sees no single eigenvalue: one that rounding made negative, or zero, ends the iteration when it begins to grow or
    when all that exceed rounding have converged, and stays without meaning.  It has no derivative.

    Args:
      a: Hermitian, (m, m), no eigenvalue below zero.
      order: at least 1.
      eps: not below zero.

    >>> newton_inverse_root(jnp.diag(jnp.array([16.0, 256.0])), 4, 0.0).round(3).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    a, eps = jax.lax.stop_gradient((a, eps))
    unit, rounding = jnp.eye(a.shape[0], dtype=a.dtype), float(jnp.finfo(a.dtype).eps)
    a = a + eps * unit
    length = norm(a)
    scale = 1 / jnp.where(length == 0, 1, length)  # the eigenvalues of power lie below one and rise: the error falls
    factor = lambda power: ((1 + order) * unit - power) / order
    error_of = lambda power: jnp.max(jnp.abs(power - unit))

    def is_running(carry):
        count, _, _, error, has_grown = carry
        return (count < 8 - math.log2(rounding)) & (error > rounding**0.5) & ~has_grown

    def step(carry):
        count, root, power, error, _ = carry
        t = factor(power)
        new_power = jnp.linalg.matrix_power(t, order) @ power
        new_error = error_of(new_power)
        has_grown = new_error > 1.2 * error
        new = (root @ t, new_power, new_error)
        kept = jax.tree.map(lambda new, old: jnp.where(has_grown, old, new), new, (root, power, error))
        return count + 1, *kept, has_grown

    with precise():
        start = (jnp.int32(0), scale ** (1 / order) * unit, scale * a, error_of(scale * a), jnp.bool_(False))
        _, root, power, error, _ = jax.lax.while_loop(is_running, step, start)
        root = jnp.where(error > rounding**0.5, root, root @ factor(power))  # the last step squares the error
    return jnp.where(length == 0, 0, jnp.where(jnp.isfinite(length), root, jnp.nan))
