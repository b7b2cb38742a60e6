r"""SM3: AdaGrad whose sum of squares is kept as one number for each row and each column.

With g the gradient of an array, an accumulator mu[i] along each axis i and m = 0 before the first step::

    nu = b2 * min over i of mu[i] + weight * |g|^2        weight = 1 - b2, but 1 at b2 = 1
    mu[i] = max of nu over all axes but i
    m = b1 * m + (1 - b1) * g / sqrt(nu + eps)            zero where nu is
    p = p - learning_rate * m

arXiv 1901.11150, algorithm SM3-II, with the cover of rows and columns (the slices along every axis).  ``nu`` is never
below AdaGrad's sum of squares, and equals it for vectors and scalars, whose every entry is a slice.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.core.values import relabel
from gradlab.optimizers.factored import reduced_zeros_like
from gradlab.transforms.scaling import scale_by_learning_rate


def _other_axes(ndim: int) -> list[tuple[int, ...]]:
    """For each axis all the others; a scalar is a vector of one entry."""
    return [tuple(other for other in range(ndim) if other != axis) for axis in range(max(ndim, 1))]


def _scale_by_sm3_init(params):
    slices = lambda p: [reduced_zeros_like(p, axes) for axes in _other_axes(p.ndim)]
    return optax.ScaleBySM3State(mu=jax.tree.map(slices, params), nu=zeros_like(params))


def _sm3_rule(g, mu, m, *, b1, b2, eps):
    others = _other_axes(g.ndim)
    expanded = [jnp.expand_dims(jnp.real(bound), axes) for bound, axes in zip(jax.tree.leaves(mu), others, strict=True)]
    nu = jnp.where(b2 == 1, 1, 1 - b2) * abs_sq(g) + b2 * functools.reduce(jnp.minimum, expanded)
    seen = nu > 0
    scaled = jnp.where(seen, g / jnp.sqrt(jnp.where(seen, nu, 1) + eps), 0)
    m = b1 * m + (1 - b1) * scaled
    return m, [jnp.max(nu, axes, initial=None if nu.size else 0) for axes in others], m


def _scale_by_sm3_update(grads, state, params=None, *, b1, b2, eps, **extra):
    del params, extra
    hyper = {"b1": b1, "b2": b2, "eps": eps}
    updates, mu, nu = leafwise(_sm3_rule, grads, [state.mu, state.nu], own_shapes=True, **hyper)
    return updates, optax.ScaleBySM3State(mu=mu, nu=nu)


def scale_by_sm3(b1: Any = 0.9, b2: Any = 1.0, eps: Any = 1e-8) -> Transform:
    """Divides the updates by the root of SM3's bound on their sum of squares, then averages; see `sm3`.

    ``state.mu`` holds the accumulators, a list of one for each axis of a parameter, and ``state.nu`` the average of
    the scaled gradients, as Optax names them.

    >>> tx = scale_by_sm3(b1=0.0)
    >>> updates, state = tx.update(jnp.array([[3.0, 4.0], [0.0, 5.0]]), tx.init(jnp.zeros((2, 2))))
    >>> [mu.tolist() for mu in state.mu]
    [[16.0, 25.0], [9.0, 25.0]]
    """
    check.decay_rate(b1=b1)
    check.in_range("b2", b2, 0.0, 1.0)
    check.non_negative(eps=eps)
    return transform(_scale_by_sm3_init, _scale_by_sm3_update, b1=b1, b2=b2, eps=eps)


@storable
def sm3(learning_rate: Any, momentum: Any = 0.9, *, b2: Any = 1.0, eps: Any = 1e-8) -> Transform:
    """SM3 (Anil, Gupta, Koren and Singer 2019, arXiv 1901.11150): AdaGrad at the memory of rows and columns.

    The recurrence heads this module.  A matrix ``(m, n)`` costs ``m + n`` numbers beside the average of its updates.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      momentum: decay of the average of scaled gradients, in [0, 1).
      b2: decay of the bound on the squares, in [0, 1]; 1 is the paper's sum.
      eps: added under the root.

    Scalar parameters work (Optax raises IndexError for them), and so do complex ones.

    Raises:
      ValueError: a number outside of its range, a negative learning rate.

    >>> tx = sm3(0.1, momentum=0.0)
    >>> updates, state = tx.update(jnp.array([3.0, -5.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate)
    check.decay_rate(momentum=momentum)
    return chain(relabel(scale_by_sm3(momentum, b2, eps), b1="momentum"), scale_by_learning_rate(learning_rate))
