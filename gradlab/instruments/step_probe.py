r"""The step probe: what one update was expected to do to the loss, what it did, and how far it could have gone.

Along the update u, with g the gradient and H the Hessian of the loss L at the parameters p::

    L(p + s u) ~ L(p) + s g'u + s^2 u'Hu / 2          the quadratic model
    predicted  = g'u + u'Hu / 2,    actual = L(p + u) - L(p),    ratio = actual / predicted
    best       = -g'u / u'Hu        the s at which the model is lowest
    critical   = 2 best             the s up to which the model is below L(p)
    alpha      = 1 / best - 1       0: the update ends at the lowest point; 1: at the same height; above: higher
                                    (arXiv 2102.06604, without its noise); -1: no curvature on the way

For ``u = -lr g`` these are the numbers by which Goodfellow, Bengio and Courville (2016, section 8.2.1) explain
ill-conditioning: the loss rises as soon as ``lr g'Hg / 2 > g'g``, and ``lr best = g'g / g'Hg``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import vdot
from gradlab.core.curvature import cast_like, free, widen
from gradlab.core.update import apply_updates
from gradlab.instruments.arguments import real_params, require_outputs

Tree = Any


class StepProbe(NamedTuple):
    """What `step_probe` measures; all are scalars."""

    loss: jax.Array  # L(p)
    grad_squared: jax.Array  # g'g
    grad_curvature: jax.Array  # g'Hg
    slope: jax.Array  # g'u
    curvature: jax.Array  # u'Hu
    predicted: jax.Array  # change of the loss by the quadratic model
    actual: jax.Array  # change of the loss
    rounding: jax.Array  # unit of rounding of the losses: of actual, nothing below it means anything
    ratio: jax.Array  # actual / predicted: 1 where the model holds
    best_rate: jax.Array  # learning rate along u at which the model is lowest; 0 uphill, infinite without a minimum
    critical_rate: jax.Array  # learning rate along u below which the model falls; 0 uphill, infinite if it never rises
    alpha: jax.Array  # where the update ends: 0 at the lowest point of the model, 1 at the height of the start


def step_probe(loss: Callable, params: Tree, batch: Any, update: Tree, learning_rate: Any = 1.0) -> StepProbe:
    """Compares an update with the quadratic model of the loss along it.

    It costs 1 G, 2 Hessian-vector products and 2 losses, about 7 G.  Known exactly: on a quadratic, predicted and
    actual agree to rounding; along an eigenvector of value h the best rate of gradient descent is 1/h and the critical
    one 2/h.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic; static under `jax.jit`.
      params: where the update starts.
      batch: any tree of arrays, or ``None``; the same batch is used for all numbers.
      update: what is added to the parameters, a tree like them; those whose update is ``None`` are held, and count
        nowhere.
      learning_rate: that was used for the update, above 0; rates are in its unit, and are factors of the update if 1.

    Returns:
      The numbers; one that is undefined (a zero update, a NaN in the loss) is NaN.

    Raises:
      TypeError: a parameter or the loss is not real and floating-point.
      ValueError: the loss is not a scalar, the update has other leaves than the parameters, the rate is not above 0.

    >>> bowl = lambda p, batch: 2.0 * p[0]**2 + 0.5 * p[1]**2
    >>> params = jnp.array([1.0, 0.0])
    >>> probe = step_probe(bowl, params, None, -0.5 * jax.grad(bowl)(params, None), learning_rate=0.5)
    >>> [float(x) for x in (probe.actual, probe.predicted, probe.best_rate, probe.critical_rate, probe.alpha)]
    [0.0, 0.0, 0.25, 0.5, 1.0]
    """
    params = real_params("step_probe", params)
    require_outputs("step_probe", loss, params, batch, axes=0)
    check.positive(learning_rate=learning_rate)
    trees.require_same_structure("the update", update, "the parameters", params)
    value_of, moved = free(lambda params: loss(params, batch), params, update)
    after = jnp.asarray(value_of(apply_updates(moved, update)))
    value, grad, product = _expansion(value_of, moved)
    step = cast_like(widen(update), grad)
    slope, curvature = vdot(grad, step), vdot(step, product(step))
    predicted, actual = slope + curvature / 2, (after - value).astype(slope.dtype)
    downhill, fastest = _rates(slope, curvature)
    return StepProbe(
        loss=value,
        grad_squared=vdot(grad, grad),
        grad_curvature=vdot(grad, product(grad)),
        slope=slope,
        curvature=curvature,
        predicted=predicted,
        actual=actual,
        rounding=(jnp.finfo(after.dtype).eps * jnp.maximum(jnp.abs(value), jnp.abs(after))).astype(slope.dtype),
        ratio=actual / predicted,
        best_rate=learning_rate * downhill,
        critical_rate=learning_rate * fastest,
        alpha=-curvature / slope - 1,
    )


def _expansion(value_of: Callable, params: Tree) -> tuple[jax.Array, Tree, Callable[[Tree], Tree]]:
    """The loss, its gradient, and the map from v to H v, from one pass."""
    value_and_grad = jax.value_and_grad(lambda wide: value_of(cast_like(wide, params)))
    (value, grad), linear = jax.linearize(value_and_grad, widen(params))
    return value, grad, lambda vector: linear(vector)[1]


def _rates(slope: jax.Array, curvature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The factors of an update at which ``slope s + curvature s^2 / 2`` is lowest and below which it is negative."""
    undefined = jnp.isnan(slope) | jnp.isnan(curvature) | ((slope == 0) & (curvature == 0))
    falls = (slope < 0) | ((slope == 0) & (curvature < 0))
    lowest = jnp.where(curvature > 0, jnp.where(falls, -slope / curvature, 0.0), jnp.inf)
    best = jnp.where(falls | (curvature < 0), lowest, 0.0)
    critical = jnp.where(falls, 2 * lowest, 0.0)
    return jnp.where(undefined, jnp.nan, best), jnp.where(undefined, jnp.nan, critical)
