"""Trace and diagonal of an operator from products with random vectors.

With z of independent entries of mean zero and variance one (Hutchinson 1989)::

    E[z' A z] = trace A            variance 2 (|A|_F^2 - sum_i A_ii^2) for signs, 2 |A|_F^2 for Gaussian z
    E[z * A z] = diagonal of A     (Bekas, Kokiopoulou and Saad 2007); exact for signs where A is diagonal

Hutch++ (arXiv 2010.09649) takes the trace of the range of a sketch ``A S`` exactly, and estimates what is left: the
error falls as 1 / products where Hutchinson's falls as its root, if the spectrum decays.
"""

from functools import partial

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.curvature import ravel, unravel
from gradlab.core.decompositions import qr
from gradlab.instruments.chunks import mapped
from gradlab.instruments.estimate import Estimate, mean_of
from gradlab.instruments.operators import Operator
from gradlab.instruments.running import observe, running, standard_error

METHODS = ("hutch", "hutch++")
PROBES = {"signs": jax.random.rademacher, "gaussian": jax.random.normal}


def trace(
    op: Operator, key: jax.Array, products: int = 30, method: str = "hutch", probe: str = "signs", chunk: int = 1
) -> Estimate:
    """The trace, with the standard error of the estimate.

    Args:
      op: A.
      key: for the vectors.
      products: (static) with A; at least 2, for ``'hutch++'`` at least 6: a third for each of sketch, range and rest.
      method: (static) ``'hutch'``, or ``'hutch++'``, which holds a basis of ``products / 3 * n`` numbers.
      probe: (static) ``'signs'`` or ``'gaussian'``.
      chunk: (static) products at a time.

    Raises:
      ValueError: too few products for a standard error, or an unknown name.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: jnp.sum(batch * p**2) / 2, jnp.ones(3), jnp.array([-3.0, 1.0, 8.0]))
    >>> [round(abs(float(x)), 4) for x in trace(op, jax.random.key(0))]
    [6.0, 0.0]
    """
    check.one_of("method", method, METHODS)
    check.one_of("probe", probe, PROBES)
    check.in_range("products", products, 2 if method == "hutch" else 6)
    check.in_range("chunk", chunk, 1)
    measure = _hutchinson if method == "hutch" else _hutch_plus_plus
    return measure(op, key, products, probe, chunk)


def _products(op: Operator, vectors: jax.Array, chunk: int) -> jax.Array:
    return mapped(lambda v: ravel(op(unravel(v, op.like))), vectors, min(chunk, len(vectors)))


@partial(jax.jit, static_argnames=("products", "probe", "chunk"))
def _hutchinson(op: Operator, key: jax.Array, products: int, probe: str, chunk: int) -> Estimate:
    like = ravel(op.like)

    def one(key):
        z = unravel(PROBES[probe](key, like.shape, like.dtype), op.like)
        return vdot(z, op(z))

    return mean_of(mapped(one, jax.random.split(key, products), min(chunk, products)))


@partial(jax.jit, static_argnames=("products", "probe", "chunk"))
def _hutch_plus_plus(op: Operator, key: jax.Array, products: int, probe: str, chunk: int) -> Estimate:
    like, rank = ravel(op.like), min(products // 3, op.size)
    sketch_key, rest_key = jax.random.split(key)
    draw = lambda key, count: PROBES[probe](key, (count, like.size), like.dtype)
    basis = qr(_products(op, draw(sketch_key, rank), chunk).T)[0].T
    known = jnp.sum(basis * _products(op, basis, chunk))
    rest = draw(rest_key, products - 2 * rank)
    rest = rest - (rest @ basis.T) @ basis
    left = mean_of(jnp.sum(rest * _products(op, rest, chunk), axis=1))
    return Estimate(known + left.value, left.error)


def diagonal(op: Operator, key: jax.Array, products: int = 30) -> Estimate:
    """The diagonal, a tree like the parameters, with the standard error of every entry.

    Exact where A is diagonal; else the variance of one product is the sum of the squares beside the diagonal in that
    row.  Stores two trees, whatever the number of products.

    Args:
      op: A.
      key: for the random signs.
      products: (static) at least 2.

    >>> from gradlab.instruments import hessian
    >>> op = hessian(lambda p, batch: jnp.sum(batch * p**2) / 2, jnp.ones(3), jnp.array([-3.0, 1.0, 8.0]))
    >>> diagonal(op, jax.random.key(0)).value.tolist()
    [-3.0, 1.0, 8.0]
    """
    check.in_range("products", products, 2)
    return _diagonal(op, key, products)


@partial(jax.jit, static_argnames="products")
def _diagonal(op: Operator, key: jax.Array, products: int) -> Estimate:
    like = ravel(op.like)

    def step(state, key):
        z = unravel(jax.random.rademacher(key, like.shape, like.dtype), op.like)
        return observe(state, jax.tree.map(jnp.multiply, z, op(z))), None

    state, _ = jax.lax.scan(step, running(op.like), jax.random.split(key, products))
    return Estimate(state.mean, standard_error(state))
