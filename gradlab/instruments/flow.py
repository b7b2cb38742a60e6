r"""Gradient flow, the limit of gradient descent for small learning rates, and how far descent strays from it.

::

    dx/dt = -grad L(x)                                    flow; descent with rate lr is Euler's method with step lr
    k1 = -grad L(x),  k2 = -grad L(x + h k1 / 2),  k3 = -grad L(x + h k2 / 2),  k4 = -grad L(x + h k3)
    x = x + h (k1 + 2 k2 + 2 k3 + k4) / 6                 the Runge-Kutta method of order 4

Every interval is integrated twice, in two steps and in one; a fifteenth of their distance estimates the error of the
former (Richardson), which is the result.  The method needs ``h * largest curvature < 2.78``; beyond, the error says so.
One step of descent is ``lr^2 |H g| / 2`` away from the flow, to leading order (arXiv 2009.11162).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import difference
from gradlab.core.closures import as_pytree
from gradlab.core.curvature import cast_like, widen
from gradlab.core.norms import global_norm
from gradlab.instruments.arguments import real_params, require_outputs

Tree = Any


class Flow(NamedTuple):
    """A path of gradient flow."""

    times: jax.Array  # (steps + 1,)
    params: Tree  # the path: every leaf has a first axis of steps + 1
    losses: jax.Array  # (steps + 1,)
    error: jax.Array  # (steps + 1,) estimated Euclidean distance from the exact path


class FlowDistance(NamedTuple):
    """Gradient descent beside gradient flow, at the times 0, lr, 2 lr, ..."""

    distance: jax.Array  # (steps + 1,) Euclidean, between the two
    error: jax.Array  # (steps + 1,) estimated, of the flow
    descent_losses: jax.Array  # (steps + 1,)
    flow_losses: jax.Array  # (steps + 1,)


def gradient_flow(loss: Callable, params: Tree, batch: Any = None, *, time: Any, steps: int = 100) -> Flow:
    """The path of steepest descent in continuous time.

    It costs 12 G a step, and stores the path: steps + 1 times the parameters.  Known exactly: ``expm(-H t) x_0`` on the
    quadratic ``x'Hx / 2``.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic.
      params: where the path starts.
      batch: any tree of arrays, or ``None``.
      time: how long it flows, above 0; k steps of descent with rate lr correspond to k lr.
      steps: (static) intervals.

    Raises:
      TypeError: a parameter or the loss is not real and floating-point.
      ValueError: the loss is not a scalar, a time that is not above 0, no step.

    >>> flow = gradient_flow(lambda x, batch: 1.5 * x**2, jnp.array(1.0), time=1.0, steps=10)
    >>> abs(float(flow.params[-1] - jnp.exp(-3.0))) < 1e-5
    True
    """
    params = real_params("gradient_flow", params)
    require_outputs("gradient_flow", loss, params, batch, axes=0)
    check.positive(time=time)
    check.in_range("steps", steps, 1)
    return _gradient_flow(as_pytree(loss), params, batch, time, steps)


def flow_distance(
    loss: Callable, params: Tree, batch: Any = None, *, learning_rate: Any, steps: int, substeps: int = 1
) -> FlowDistance:
    """How far gradient descent is from gradient flow after each step.

    It costs ``1 + 12 substeps`` G a step and stores no path.  Known exactly: on ``h x^2 / 2`` the distance after k
    steps is ``|(1 - lr h)^k - exp(-lr h k)| |x_0|``.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic.
      params: where both start.
      batch: any tree of arrays, or ``None``.
      learning_rate: of descent, above 0.
      steps: (static) of descent.
      substeps: (static) intervals into which the time of one step is divided; more where the error is too large.

    Raises:
      TypeError: a parameter or the loss is not real and floating-point.
      ValueError: the loss is not a scalar, a rate that is not above 0, no steps.

    >>> found = flow_distance(lambda x, batch: 0.5 * x**2, jnp.array(1.0), learning_rate=0.5, steps=2)
    >>> [round(float(x), 3) for x in found.distance], bool(found.error.max() < 1e-3)
    ([0.0, 0.107, 0.118], True)
    """
    params = real_params("flow_distance", params)
    require_outputs("flow_distance", loss, params, batch, axes=0)
    check.positive(learning_rate=learning_rate)
    check.in_range("steps", steps, 1)
    check.in_range("substeps", substeps, 1)
    return _flow_distance(as_pytree(loss), params, batch, learning_rate, steps, substeps)


def _descent_of(loss: Callable, params: Tree, batch: Any) -> tuple[Callable, Callable]:
    """The loss of widened parameters, and the direction of steepest descent."""
    value = lambda wide: loss(cast_like(wide, params), batch)
    return value, lambda wide: jax.tree.map(jnp.negative, jax.grad(value)(wide))


def _shifted(x: Tree, step: Any, direction: Tree) -> Tree:
    return jax.tree.map(lambda x, d: (x + step * d).astype(x.dtype), x, direction)


def _runge_kutta(velocity: Callable, x: Tree, h: Any) -> Tree:
    k1 = velocity(x)
    k2 = velocity(_shifted(x, h / 2, k1))
    k3 = velocity(_shifted(x, h / 2, k2))
    k4 = velocity(_shifted(x, h, k3))
    return _shifted(x, h / 6, jax.tree.map(lambda a, b, c, d: a + 2 * b + 2 * c + d, k1, k2, k3, k4))


def _interval(velocity: Callable, fine: Tree, coarse: Tree, h: Any) -> tuple[Tree, Tree]:
    half = jax.lax.fori_loop(0, 2, lambda _, x: _runge_kutta(velocity, x, h / 2), fine)
    return half, _runge_kutta(velocity, coarse, h)


def _error(fine: Tree, coarse: Tree) -> jax.Array:
    return global_norm(difference(fine, coarse)) / 15


def _path(loss, params, batch, time, steps):
    start, h = widen(params), time / steps
    value, velocity = _descent_of(loss, params, batch)

    def step(pair, _):
        pair = _interval(velocity, *pair, h)
        return pair, (pair[0], value(pair[0]), _error(*pair))

    _, (path, losses, errors) = jax.lax.scan(step, (start, start), length=steps)
    join = lambda first, rest: jnp.concatenate([jnp.asarray(first)[None], rest])
    times = jnp.arange(steps + 1) * h
    return Flow(times, jax.tree.map(join, start, path), join(value(start), losses), join(0 * errors[0], errors))


def _distance(loss, params, batch, learning_rate, steps, substeps):
    start = widen(params)
    value, velocity = _descent_of(loss, params, batch)

    def measured(x, fine, coarse):
        return FlowDistance(global_norm(difference(x, fine)), _error(fine, coarse), value(x), value(fine))

    def step(state, _):
        x, *pair = state
        x = _shifted(x, learning_rate, velocity(x))
        advance = lambda _, pair: _interval(velocity, *pair, learning_rate / substeps)
        fine, coarse = jax.lax.fori_loop(0, substeps, advance, tuple(pair))
        return (x, fine, coarse), measured(x, fine, coarse)

    first = measured(start, start, start)
    _, rest = jax.lax.scan(step, (start, start, start), length=steps)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), first, rest)


_gradient_flow = jax.jit(_path, static_argnames="steps")
_flow_distance = jax.jit(_distance, static_argnames=("steps", "substeps"))
