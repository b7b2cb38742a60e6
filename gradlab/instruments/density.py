r"""The spectrum of an operator as a density, by stochastic Lanczos quadrature.

From a vector v, m steps of Lanczos' iteration give a tridiagonal T; its eigenvalues theta_i and the squares w_i of the
first entries of its eigenvectors are a Gauss quadrature (Golub and Welsch 1969)::

    v' f(A) v / v'v = sum_i w_i f(theta_i)          exact for polynomials up to degree 2 m - 1

The mean over random v is ``trace f(A) / n``, and with f a narrow Gaussian the density of the eigenvalues (Ubaru, Chen
and Saad 2017; for networks arXiv 1901.10159).  The products are made once, in `slq`; widths and intervals are chosen
afterwards, from its nodes and weights.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.curvature import ravel, unravel
from gradlab.core.decompositions import eigh
from gradlab.core.krylov import lanczos
from gradlab.core.numerics import finite_or_nan
from gradlab.instruments.chunks import mapped
from gradlab.instruments.estimate import Estimate, mean_of
from gradlab.instruments.operators import Operator, like_vector

Tree = Any

SIGNS = (-1, 1)


class Quadrature(NamedTuple):
    """Nodes in rising order with weights that sum to one, for each probe where there are several."""

    nodes: jax.Array  # (m,) or (probes, m)
    weights: jax.Array  # (m,) or (probes, m)


def quadrature(op: Operator, vector: Tree, m: int) -> Quadrature:
    """The spectrum as one vector sees it: ``v' f(A) v / v'v`` is the weighted sum of f at the nodes.

    Exact for polynomials up to degree 2 m - 1.  Where the Krylov space is exhausted before, further nodes have the
    weight zero.  Costs ``m`` products and n x m numbers.

    Args:
      op: A.
      vector: v, a tree like the parameters.
      m: (static) number of products, at most n are made.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: jnp.sum(batch * p**2) / 2, jnp.ones(2), jnp.array([1.0, 3.0]))
    >>> found = quadrature(op, jnp.array([1.0, 2.0]), 2)
    >>> [round(float(x), 4) for x in (*found.nodes, *found.weights)]
    [1.0, 3.0, 0.2, 0.8]
    """
    check.in_range("m", m, 1)
    return _quadrature(op, ravel(like_vector(vector, op.like)), min(m, op.size))


@partial(jax.jit, static_argnames="m")
def _quadrature(op: Operator, vector: jax.Array, m: int) -> Quadrature:
    krylov = lanczos(lambda v: ravel(op(unravel(v, op.like))), vector, m)
    nodes, small = eigh(finite_or_nan(krylov.matrix))
    return Quadrature(nodes, small[0] ** 2)


def slq(op: Operator, key: jax.Array, probes: int = 10, m: int = 80, chunk: int = 1) -> Quadrature:
    """Quadratures from random signs, of which `density`, `log_density` and `fraction` are means.

    Of an operator with few different eigenvalues the nodes are these, and a weight is in the mean its multiplicity
    over n.  Costs ``probes * m`` products and a basis of ``chunk * m * n`` numbers; for a first look one probe with
    50 products, for a paper ten with 80.

    Args:
      op: A.
      key: for the probes.
      probes: (static) number of vectors; from two on there are standard errors.
      m: (static) products a probe, at most n are made.
      chunk: (static) probes at a time.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: jnp.sum(batch * p**2) / 2, jnp.ones(4), jnp.array([0.0, 0.0, 0.0, 8.0]))
    >>> found = slq(op, jax.random.key(0), probes=2)
    >>> round(float(fraction(found, 1.0, 9.0).value), 4)
    0.25
    """
    check.in_range("probes", probes, 1)
    check.in_range("m", m, 1)
    check.in_range("chunk", chunk, 1)
    return _slq(op, key, probes, min(m, op.size), min(chunk, probes))


@partial(jax.jit, static_argnames=("probes", "m", "chunk"))
def _slq(op: Operator, key: jax.Array, probes: int, m: int, chunk: int) -> Quadrature:
    like = ravel(op.like)
    vectors = lambda key: jax.random.rademacher(key, like.shape, like.dtype)
    return mapped(lambda key: _quadrature(op, vectors(key), m), jax.random.split(key, probes), chunk)


def density(found: Quadrature, grid: jax.Array, sigma: Any = None) -> Estimate:
    """The density of the eigenvalues at the points of a grid, smoothed by Gaussians; it integrates to one.

    Args:
      found: from `slq`.
      grid: (points,).
      sigma: standard deviation of the Gaussians, above zero; if None a hundredth of the largest magnitude of a node.

    Returns:
      An `Estimate` of (points,): mean and standard error over the probes.

    >>> found = Quadrature(jnp.array([[1.0]]), jnp.array([[1.0]]))
    >>> round(float(density(found, jnp.array([1.0]), 0.1).value[0]), 4)
    3.9894
    """
    nodes, weights = _by_probe(found)
    if sigma is None:
        largest = jnp.max(jnp.abs(nodes))
        sigma = jnp.where(largest == 0, 1, largest) / 100
    check.positive(sigma=sigma)
    return mean_of(_smooth(nodes, weights, jnp.asarray(grid, nodes.dtype), sigma))


def log_density(found: Quadrature, grid: jax.Array, sigma: Any = 0.1, sign: int = 1) -> Estimate:
    """The density of ``log10 |eigenvalue|`` of the positive or of the negative eigenvalues (arXiv 1901.08244).

    It integrates to the fraction of eigenvalues of that sign, so that bulk and outliers are seen together.

    Args:
      found: from `slq`.
      grid: (points,), decimal logarithms of magnitudes.
      sigma: standard deviation of the Gaussians in decades, above zero.
      sign: (static) 1 for the positive, -1 for the negative ones.

    >>> found = Quadrature(jnp.array([[-1.0, 100.0]]), jnp.array([[0.25, 0.75]]))
    >>> round(float(log_density(found, jnp.array([2.0])).value[0] * 0.1 * (2 * jnp.pi)**0.5), 4)
    0.75
    """
    check.positive(sigma=sigma)
    check.one_of("sign", sign, SIGNS)
    nodes, weights = _by_probe(found)
    counted = sign * nodes > 0
    logs = jnp.log10(jnp.where(counted | jnp.isnan(nodes), sign * nodes, 1))
    weights = jnp.where(counted | jnp.isnan(nodes), weights, 0)
    return mean_of(_smooth(logs, weights, jnp.asarray(grid, nodes.dtype), sigma))


def _by_probe(found: Quadrature) -> Quadrature:
    return Quadrature(jnp.atleast_2d(found.nodes), jnp.atleast_2d(found.weights))


def _smooth(nodes: jax.Array, weights: jax.Array, grid: jax.Array, sigma: Any) -> jax.Array:
    """(probes, points); a node at a time, so that nothing of probes x nodes x points is stored."""

    def add(total, node):
        at, weight = (column[:, None] for column in node)
        return total + weight * jnp.exp(-(((grid - at) / sigma) ** 2) / 2), None

    start = jnp.zeros((len(nodes), grid.size), nodes.dtype)
    return jax.lax.scan(add, start, (nodes.T, weights.T))[0] / (sigma * (2 * jnp.pi) ** 0.5)


class Fraction(NamedTuple):
    """A part of the eigenvalues with both of its errors."""

    value: jax.Array  # in [0, 1]
    error: jax.Array  # standard error over the probes
    resolution: jax.Array  # what a probe sees may be off by this much, since nodes count as wholes


def fraction(found: Quadrature, low: Any = -jnp.inf, high: Any = jnp.inf) -> Fraction:
    """The part of the eigenvalues in ``[low, high]``, with bounds for what lies close to its ends.

    A bulk of eigenvalues around an end, as a network has at zero, falls to one side with its whole node: by the
    inequalities of Chebyshev, Markov and Stieltjes at most the weight of the node before or behind the end is wrong.
    Where all eigenvalues were found, nothing is, and ``resolution`` is too large.

    Args:
      found: from `slq`.
      low: lower end.
      high: upper end.

    Raises:
      ValueError: ``low`` exceeds ``high``.

    >>> found = Quadrature(jnp.array([[-1.0, 2.0], [-1.0, 2.0]]), jnp.array([[0.2, 0.8], [0.4, 0.6]]))
    >>> [round(float(x), 4) for x in fraction(found, high=0.0)]
    [0.3, 0.1, 0.7]
    """
    check.in_range("high", high, low if isinstance(low, int | float) else -jnp.inf)
    nodes, weights = _by_probe(found)
    inside = jnp.sum(jnp.where((nodes >= low) & (nodes <= high), weights, 0), axis=1)
    value, error = mean_of(jnp.where(jnp.isnan(nodes).any(1), jnp.nan, inside))
    hidden = _beside(nodes, weights, low) + _beside(nodes, weights, high)
    return Fraction(value, error, jnp.mean(hidden) + 0 * value)


def _beside(nodes: jax.Array, weights: jax.Array, end: Any) -> jax.Array:
    """The larger weight of the last node before and the first one behind an end, for each probe."""
    padded = jnp.pad(weights, ((0, 0), (1, 1)))
    before = jnp.sum(nodes < end, axis=1, keepdims=True)
    both = [jnp.take_along_axis(padded, before + step, axis=1)[:, 0] for step in (0, 1)]
    return jnp.where(jnp.isfinite(end), jnp.maximum(*both), 0)
