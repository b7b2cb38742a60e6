r"""Small dense problems in place of large ones: a Krylov basis, and the inverse of ``|matrix|`` with its derivative."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core.decompositions import eigh
from gradlab.core.norms import norm


class Krylov(NamedTuple):
    """An orthonormal basis of ``span(v, A v, A^2 v, ...)`` and A as seen from it."""

    basis: jax.Array  # (rank, n); rows of zeros once the space is exhausted
    matrix: jax.Array  # (rank, rank), tridiagonal: basis @ A @ basis.T
    outside: jax.Array  # (rank,); the length of the part of A @ basis[i] that is not in the span of the basis


def lanczos(
    matvec: Callable[[jax.Array], jax.Array], start: jax.Array, rank: int, key: jax.Array | None = None
) -> Krylov:
    """Lanczos' iteration from ``start``, every vector made orthogonal to all before it, twice.

    Where the space has fewer than ``rank`` dimensions the remaining rows are zero, and so is their part of the matrix;
    with a ``key`` the iteration goes on from a random vector orthogonal to all, and finds further copies of
    repeated eigenvalues.

    Args:
      matvec: the product with a symmetric matrix.
      start: (n,); the first basis vector is ``start / |start|``.
      rank: (static) number of products, at most n.
      key: for the vectors with which an exhausted space goes on.

    >>> krylov = lanczos(lambda v: jnp.array([1.0, 3.0]) * v, jnp.array([1.0, 1.0]), 2)
    >>> [[round(float(x), 4) for x in row] for row in krylov.matrix]
    [[2.0, 1.0], [1.0, 2.0]]
    """
    rounding = 10 * jnp.finfo(start.dtype).eps * start.size**0.5

    def extend(carry, index):
        basis, vector, scale = carry
        basis = basis.at[index].set(vector)
        image = matvec(vector)
        scale = jnp.maximum(scale, norm(image))
        rest = _orthogonal(basis, image)
        length = norm(rest)
        found = ~(length <= rounding * scale)
        following = jax.lax.cond(found, lambda: _unit(rest), lambda: _fresh(basis, index, key))
        coupling = jnp.where(found & (index + 1 < rank), length, 0)
        return (basis, following, scale), (vector @ image, coupling, length - coupling)

    carry = (jnp.zeros((rank, start.size), start.dtype), _unit(start), jnp.zeros([], start.dtype))
    (basis, _, _), (diagonal, beside, outside) = jax.lax.scan(extend, carry, jnp.arange(rank))
    beside = beside[:-1]
    return Krylov(basis, jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1), outside)


def _orthogonal(basis: jax.Array, vector: jax.Array) -> jax.Array:
    rest = vector - basis.T @ (basis @ vector)
    return rest - basis.T @ (basis @ rest)


def _unit(vector: jax.Array) -> jax.Array:
    length = norm(vector)
    return vector / jnp.where(length == 0, 1, length)


def _fresh(basis: jax.Array, index: jax.Array, key: jax.Array | None) -> jax.Array:
    """A random direction outside of the span of the basis; zero without a key."""
    size, dtype = basis.shape[1], basis.dtype
    if key is None:
        return jnp.zeros(size, dtype)
    return _unit(_orthogonal(basis, jax.random.normal(jax.random.fold_in(key, index), (size,), dtype)))


@jax.custom_jvp
def solve_abs(matrix: jax.Array, damping: jax.Array, vector: jax.Array) -> jax.Array:
    """``(|matrix| + damping * I)^-1 @ vector``, where ``|matrix|`` has the absolute eigenvalues of a symmetric matrix.

    Directions of eigenvalue zero are left out where ``damping`` is zero too.  The derivative is finite and right for
    repeated eigenvalues as well, whose eigenvectors have none.

    >>> solve_abs(jnp.diag(jnp.array([2.0, -4.0])), 0.0, jnp.array([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    eigenvalues, eigenvectors = eigh(matrix)
    return eigenvectors @ _over(eigenvectors.T @ vector, jnp.abs(eigenvalues) + damping)


@solve_abs.defjvp
def _solve_abs_jvp(primals, tangents):
    """With x the solution: ``(|A| + damping) dx = dv - (d|A| + d damping) x``.

    From ``|A|^2 = A^2`` follows, in the eigenvectors of A, ``d|A|_ij = dA_ij (l_i + l_j) / (|l_i| + |l_j|)``.
    """
    (matrix, damping, vector), (d_matrix, d_damping, d_vector) = primals, tangents
    eigenvalues, eigenvectors = eigh(matrix)
    size = jnp.abs(eigenvalues)
    x = _over(eigenvectors.T @ vector, size + damping)
    signs = _over(eigenvalues[:, None] + eigenvalues, size[:, None] + size)
    turned = signs * (eigenvectors.T @ (d_matrix + d_matrix.T) @ eigenvectors) / 2
    dx = _over(eigenvectors.T @ d_vector - turned @ x - d_damping * x, size + damping)
    return eigenvectors @ x, eigenvectors @ dx


def _over(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, zero where the denominator is."""
    return jnp.where(denominator == 0, 0, numerator / jnp.where(denominator == 0, 1, denominator))
