r"""Two sides of a matrix: second moments of rows and columns, their eigenbases and inverse roots.

For a gradient G (m, n) the sides have L = G G^H (m, m) and R = G^H G (n, n).  A side without a factor, because it is
too long for one, is None, and stands for the identity.  All products have the full precision of their dtype.  Bases
have no derivative: that of a basis with equal eigenvalues does not exist.
"""

from typing import Any

import jax
import jax.numpy as jnp

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
    return jnp.linalg.eigh(jax.lax.stop_gradient(a))[1][:, ::-1]


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
        return jnp.linalg.qr(power[:, order])[0], order
