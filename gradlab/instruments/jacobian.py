r"""Singular values of a network's input-output Jacobian, and what repeated multiplication does to a vector.

::

    J = df/dx,   sigma_i^2 = the eigenvalues of J' J      how much f stretches small changes of x
    h_t = W^t h_0 = V diag(l)^t V^-1 h_0                  |l| > 1 explodes, |l| < 1 vanishes

All singular values near 1 (dynamical isometry, Saxe et al., arXiv 1312.6120) let signals pass through any depth.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.curvature import ravel, unravel
from gradlab.core.decompositions import eigh
from gradlab.core.krylov import lanczos
from gradlab.core.norms import norm

Tree = Any


class SingularValues(NamedTuple):
    """The largest singular values of a Jacobian."""

    values: jax.Array  # (k,) descending; NaN beyond the distinct ones that the Krylov space holds
    errors: jax.Array  # (k,) how far a singular value of the Jacobian is from each at most


class MatrixPowers(NamedTuple):
    """The length of W^t h_0, as logarithms, so that nothing overflows."""

    log_norms: jax.Array  # (steps + 1,)
    growth: jax.Array  # (steps,) |h_t| / |h_(t-1)|; tends to the spectral radius for almost every start
    spectral_radius: jax.Array  # () the largest |eigenvalue|
    largest_singular_value: jax.Array  # () no growth exceeds it


def jacobian_singular_values(
    f: Callable[[Any], Any], x: Tree, key: jax.Array, k: int = 1, lanczos_steps: int = 32
) -> SingularValues:
    """The ``k`` largest distinct singular values of df/dx by Lanczos' iteration on J' J.

    Cost: ``lanczos_steps + 1`` products with J and as many with J', about one gradient each, and a basis of
    ``lanczos_steps + 1`` vectors like x.  A repeated singular value is found once.  Squaring costs digits: values
    below the root of the rounding error times the largest are noise, and their error says so.

    Args:
      f: ``x -> output``, trees of real floating-point arrays; static under `jax.jit`.
      x: where the Jacobian is taken.
      key: of the random start.
      k: (static) how many values.
      lanczos_steps: (static) at least k; more than the numbers in x make no difference.

    Raises:
      ValueError: k below 1 or above ``lanczos_steps``.

    >>> f = lambda x: jnp.stack([3.0 * x[0], 4.0 * x[0], 0.5 * x[1]])
    >>> jacobian_singular_values(f, jnp.ones(2), jax.random.key(0), k=2).values.round(4).tolist()
    [5.0, 0.5]
    """
    check.in_range("k", k, 1)
    check.in_range("lanczos_steps", lanczos_steps, k)
    start = ravel(x)
    _, forward = jax.linearize(lambda vector: ravel(f(unravel(vector, x))), start)
    backward = jax.linear_transpose(forward, start)
    steps = min(lanczos_steps, start.size)
    probe = jax.random.normal(key, start.shape, start.dtype)
    krylov = lanczos(lambda v: backward(forward(v))[0], probe, steps + 1)
    values, errors = _ritz(krylov.matrix, krylov.basis, steps)
    missing = (0, max(k - steps, 0))
    return SingularValues(*(jnp.pad(item[:k], missing, constant_values=jnp.nan) for item in (values, errors)))


def _ritz(matrix: jax.Array, basis: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """Roots of the eigenvalues of the first ``steps`` rows, the largest first, and bounds on their errors."""
    absent = ~jnp.any(basis[:steps] != 0, axis=1)
    below = -1 - jnp.max(jnp.abs(matrix))  # smaller than every eigenvalue of J' J and its rounding
    inner = matrix[:steps, :steps] + jnp.diag(jnp.where(absent, below, 0))
    squares, vectors = eigh(inner)
    residuals = jnp.abs(matrix[steps, steps - 1] * vectors[-1])
    rounding = 10 * jnp.finfo(squares.dtype).eps * jnp.max(jnp.abs(squares))
    values = jnp.sqrt(jnp.maximum(squares, 0))
    errors = values - jnp.sqrt(jnp.maximum(squares - jnp.maximum(residuals, rounding), 0))
    errors = jnp.where(errors == values, jnp.sqrt(jnp.maximum(residuals, rounding)), errors)
    found = squares > below / 2
    return tuple(jnp.where(found, item, jnp.nan)[::-1] for item in (values, errors))


def matrix_powers(matrix: Any, start: Any, steps: int) -> MatrixPowers:
    """The length of ``matrix^t @ start`` for t = 0 ... steps.  Cost: one product a step, and two decompositions.

    Args:
      matrix: (n, n).
      start: (n,).
      steps: (static) number of products.

    Raises:
      ValueError: shapes that do not fit, or no step.

    >>> powers = matrix_powers(jnp.diag(jnp.array([2.0, 0.5])), jnp.array([1.0, 1.0]), 20)
    >>> round(float(powers.growth[-1]), 4), float(powers.spectral_radius)
    (2.0, 2.0)
    """
    check.in_range("steps", steps, 1)
    matrix, start = jnp.asarray(matrix, float), jnp.asarray(start, float)
    if matrix.ndim != 2 or matrix.shape != (start.size, start.size) or start.ndim != 1:
        raise ValueError(f"a square matrix and a vector of its size are needed, got {matrix.shape} and {start.shape}")

    def one(h, _):
        image = matrix @ h
        length = norm(image)
        return image / jnp.where(length == 0, 1, length), length

    first = norm(start)
    _, growth = jax.lax.scan(one, start / jnp.where(first == 0, 1, first), length=steps)
    log_norms = jnp.cumsum(jnp.log(jnp.concatenate([first[None], growth])))
    radius = jnp.max(jnp.abs(jnp.linalg.eigvals(matrix)))
    return MatrixPowers(log_norms, growth, radius, jnp.linalg.norm(matrix, 2))
