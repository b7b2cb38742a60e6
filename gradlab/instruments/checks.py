"""Tests that a loss and an operator are what the instruments take them for; they run now, not under `jax.jit`.

An operator that is not linear or not symmetric has no eigenvalues that Lanczos' iteration could find, and a loss
that draws new random numbers at every call gives a different operator at every product.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.curvature import ravel, unravel
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.operators import Operator

Tree = Any


class OperatorErrors(NamedTuple):
    """How far an operator is from linear, symmetric and repeatable; each is relative, and 0 for the zero operator."""

    linearity: jax.Array  # |A(2u - 3v) - 2 Au + 3 Av| over |2 Au| + |3 Av|
    symmetry: jax.Array  # |u'Av - v'Au| over |u'Av| + |v'Au|, each a root mean square over the pairs
    repeat: jax.Array  # |Au - Au| over |Au|, from two evaluations


def operator_errors(op: Operator, key: jax.Array, probes: int = 4) -> OperatorErrors:
    """Measures on Gaussian vectors whether ``op`` is linear, symmetric and repeatable; 4 products a probe.

    For matrices that are not symmetric ``symmetry`` is of order one, whatever the size.  Under `jax.jit` both
    evaluations are one, and ``repeat`` is zero.

    Args:
      op: what is tested.
      key: for the vectors.
      probes: (static) number of pairs of vectors.

    >>> op = Operator(jax.tree_util.Partial(lambda v: jnp.array([[0.0, 1.0], [-1.0, 0.0]]) @ v), jnp.zeros(2))
    >>> round(float(operator_errors(op, jax.random.key(0)).symmetry), 4)
    1.0
    """
    product = lambda vector: ravel(op(unravel(vector, op.like)))
    shape = (probes, 2, ravel(op.like).size)
    pairs = jax.random.normal(key, shape, ravel(op.like).dtype)
    found = jnp.stack([jnp.stack(_pair_errors(product, u, v)) for u, v in pairs])
    root = jnp.sqrt(jnp.mean(found**2, axis=0))
    return OperatorErrors(_over(root[0], root[1]), _over(root[2], root[3]), _over(root[4], root[5]))


def _pair_errors(product: Callable, u: jax.Array, v: jax.Array) -> list[jax.Array]:
    image_u, image_v = product(u), product(v)
    length = jnp.linalg.norm
    return [
        length(product(2 * u - 3 * v) - 2 * image_u + 3 * image_v),
        2 * length(image_u) + 3 * length(image_v),
        u @ image_v - v @ image_u,
        jnp.abs(u @ image_v) + jnp.abs(v @ image_u),
        length(product(u) - image_u),
        length(image_u),
    ]


def _over(error: jax.Array, size: jax.Array) -> jax.Array:
    return jnp.where(error == 0, 0, error / size)


def check_operator(op: Operator, key: jax.Array, probes: int = 4, tolerance: float | None = None) -> OperatorErrors:
    """Raises unless ``op`` is finite, repeatable, linear and symmetric on Gaussian vectors; returns the errors.

    Args:
      op: what is tested, outside of `jax.jit`.
      key: for the vectors.
      probes: number of pairs of vectors; 4 products each.
      tolerance: relative; the root of the rounding unit if None: 3.5e-4 for float32, 1.5e-8 for float64.

    Raises:
      ValueError: it is not; the message says which and by how much.

    >>> op = Operator(jax.tree_util.Partial(lambda v: jnp.array([[1.0, 1.0], [0.0, 1.0]]) @ v), jnp.zeros(2))
    >>> check_operator(op, jax.random.key(0))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: the operator is not symmetric: u'Av and v'Au differ by ...
    """
    if tolerance is None:
        tolerance = float(jnp.finfo(ravel(op.like).dtype).eps) ** 0.5
    check.positive(tolerance=tolerance)
    errors = operator_errors(op, key, probes)
    linearity, symmetry, repeat = (float(error) for error in errors)
    if not all(np.isfinite([linearity, symmetry, repeat])):
        raise ValueError("the operator's products are not finite; look at the loss and its gradient with check_loss")
    if repeat > tolerance:
        raise ValueError(
            f"the operator is not repeatable: two products with one vector differ by {repeat:.2g} of their length; "
            "does the loss draw random numbers? Fix its key, and switch dropout off"
        )
    if linearity > tolerance:
        raise ValueError(
            f"the operator is not linear: A(2u - 3v) and 2 Au - 3 Av differ by {linearity:.2g} of their length; "
            "a product must be linear in its vector"
        )
    if symmetry > tolerance:
        raise ValueError(
            f"the operator is not symmetric: u'Av and v'Au differ by {symmetry:.2g} of their size; "
            "use the symmetric form, P^-1/2 A P^-1/2 instead of P^-1 A (see preconditioned)"
        )
    return errors


def check_loss(loss: Callable, params: Tree, batch: Any = None) -> None:
    """Raises unless ``loss`` is a real scalar that is the same when evaluated twice, with a finite gradient.

    Args:
      loss: ``(params, batch) -> scalar``; evaluated twice with its gradient, outside of `jax.jit`.
      params: where.
      batch: on what.

    Raises:
      TypeError: a parameter or the loss is not real and floating-point.
      ValueError: the loss is not scalar, not finite or not repeatable, or its gradient is not; the message says where.

    >>> check_loss(lambda p, batch: jnp.sqrt(p), jnp.array(0.0))
    Traceback (most recent call last):
    ValueError: the gradient at '(root)' has 1 entry that is not finite: the loss is not differentiable there
    """
    params = real_params("check_loss", params)
    require_outputs("check_loss", loss, params, batch, axes=0)
    first, second = (jax.value_and_grad(loss)(params, batch) for _ in range(2))
    if not np.isfinite(first[0]):
        raise ValueError(f"the loss is {float(first[0])} at these parameters: instruments need a finite one")
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        if not np.array_equal(one, other, equal_nan=True):
            where = f"its gradient at '{trees.path_name(path[1:])}'" if len(path) > 1 else "its value"
            raise ValueError(
                f"the loss is stochastic: evaluated twice, {where} differs by up to "
                f"{float(jnp.max(jnp.abs(one - other))):.2g}; fix its key, and switch dropout off"
            )
    _require_finite(first[1])


def _require_finite(gradient: Tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        bad = int(jnp.sum(~jnp.isfinite(leaf)))
        if bad:
            entries = "1 entry that is" if bad == 1 else f"{bad} entries that are"
            raise ValueError(
                f"the gradient at '{trees.path_name(path)}' has {entries} not finite: "
                "the loss is not differentiable there"
            )
