r"""Newton-CG: conjugate gradients on Hessian-vector products, stopped early or by negative curvature.

With g the gradient and ``A = H + damping * I`` for the Hessian H of ``value_fn``, starting from u = 0 and r = d = g::

    if d @ A @ d <= 0: stop, see below
    a = r @ r / (d @ A @ d)
    u = u + a * d
    b = |r - a * A @ d|^2 / |r|^2;  r = r - a * A @ d
    if |r| <= tolerance * |g|: stop
    d = r + b * d

and p = p - learning_rate * u.  Negative curvature along d ends the search (Dembo and Steihaug 1983)::

    u as it is; if d is still g, u = g * (g @ g) / |g @ A @ g|       radius=None
    u = u + t * d with t > 0 such that |u| = radius                  radius, Steihaug 1983

With a ``radius`` the search also ends there when u would leave the ball.  Every u is a direction of descent.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.compose import chain, empty_init
from gradlab.core.curvature import (
    add_scaled,
    cast_like,
    free,
    hessian_map,
    required_value_fn,
    widen,
)
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.transforms.scaling import scale_by_learning_rate

Tree = Any


class _Search(NamedTuple):
    """Where conjugate gradients stand: trees like the parameters."""

    u: Tree
    residual: Tree
    direction: Tree
    residual_sq: jax.Array  # () |residual|^2
    stopped: jax.Array  # () bool


def _length(search, curvature, first):
    """How far to go along the direction; on negative curvature nowhere, unless it is the first."""
    flat = curvature == 0
    length = jnp.where(flat, 1, search.residual_sq / jnp.where(flat, 1, jnp.abs(curvature)))
    return jnp.where((curvature > 0) | first, length, 0)


def _to_boundary(search, radius):
    """The t > 0 with ``|u + t * direction| = radius``."""
    room = radius**2 - vdot(search.u, search.u)
    across = vdot(search.u, search.direction)
    length_sq = vdot(search.direction, search.direction)
    moving = length_sq > 0
    root = jnp.sqrt(jnp.where(moving, across**2 + length_sq * room, 1))
    return jnp.where(moving, room / (across + root), 0)


def _advance(search, first, product, *, damping, smallest_sq, radius):
    image = add_scaled(product(search.direction), damping, search.direction)
    curvature = vdot(search.direction, image)
    length = _length(search, curvature, first)
    blocked = ~(curvature > 0)
    if radius is not None:
        ahead = add_scaled(search.u, length, search.direction)
        blocked = blocked | (vdot(ahead, ahead) >= radius**2)
        length = jnp.where(blocked, _to_boundary(search, radius), length)
    residual = add_scaled(search.residual, -length, image)
    residual_sq = vdot(residual, residual)
    ratio = residual_sq / jnp.where(search.residual_sq > 0, search.residual_sq, 1)
    return _Search(
        u=add_scaled(search.u, length, search.direction),
        residual=residual,
        direction=add_scaled(residual, ratio, search.direction),
        residual_sq=residual_sq,
        stopped=blocked | (residual_sq <= smallest_sq),
    )


def _scale_by_newton_cg_update(
    grads, state, params=None, *, damping, tolerance, radius, max_iterations, value_fn=None, **extra
):
    del extra
    value_fn = required_value_fn("newton_cg", value_fn)
    loss, moved = free(value_fn, check.required_params("newton_cg", params), grads)
    if not jax.tree.leaves(grads):
        return grads, state
    g = cast_like(widen(grads), widen(moved))
    product, size_sq = hessian_map(loss, moved), vdot(g, g)
    numbers = {"damping": damping, "smallest_sq": tolerance**2 * size_sq, "radius": radius}

    def iterate(search, index):
        go_on = lambda search: _advance(search, index == 0, product, **numbers)
        return jax.lax.cond(search.stopped, lambda search: search, go_on, search), None

    start = _Search(jax.tree.map(jnp.zeros_like, g), g, g, size_sq, size_sq == 0)
    search, _ = jax.lax.scan(iterate, start, jnp.arange(max_iterations))
    return cast_like(search.u, grads), state


def scale_by_newton_cg(
    damping: Any = 0.0, tolerance: Any = 0.01, radius: Any = None, *, max_iterations: int = 20
) -> Transform:
    """The direction of truncated conjugate gradients on ``(H + damping * I) u = g``; see `newton_cg`.

    >>> tx, params = scale_by_newton_cg(), jnp.array([3.0, -1.0])
    >>> loss = lambda p: 2 * p[0] ** 2 + 3 * p[1] ** 2
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(float(u), 4) for u in updates]
    [3.0, -1.0]
    """
    check.non_negative(damping=damping)
    check.in_range("tolerance", tolerance, 0.0, 1.0, open_high=True)
    check.positive(radius=radius, max_iterations=max_iterations)
    return transform(
        empty_init,
        _scale_by_newton_cg_update,
        damping=damping,
        tolerance=tolerance,
        radius=radius,
        max_iterations=static(max_iterations),
    )


@storable
def newton_cg(
    learning_rate: Any = 1.0,
    damping: Any = 0.0,
    tolerance: Any = 0.01,
    radius: Any = None,
    *,
    max_iterations: int = 20,
) -> Transform:
    """Newton-CG: Newton's direction by conjugate gradients, turned away from where the curvature is negative.

    The recurrence heads this module.  The loss of the batch is ``value_fn``, as for `gradlab.newton`.  A step costs at
    most ``max_iterations`` Hessian-vector products and keeps four trees like the parameters.  Iterations after the
    search has ended are skipped; in the lanes of a ``vmap`` they run and change nothing.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      damping: added to every curvature; a number or a schedule.
      tolerance: the search ends when the residual is this fraction of the gradient, in [0, 1).  Near a minimum the
        distance shrinks about that much in a step.
      radius: bound on the length of u, which negative curvature then reaches; ``None`` bounds nothing, and where
        already the gradient has negative curvature takes the step that the same positive curvature would allow (the
        gradient itself at curvature zero).
      max_iterations: (static) most products a step; n of them solve for n parameters.

    Raises:
      ValueError: a negative number, a tolerance outside of [0, 1), a radius or number of iterations not above zero;
        ``update`` without ``params`` or ``value_fn``.

    >>> tx, params = newton_cg(), jnp.array([0.25, 0.5])
    >>> loss = lambda p: p[0] ** 2 - p[1] ** 2
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(float(x), 4) for x in params + updates]
    [-0.1667, 1.3333]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_newton_cg(damping, tolerance, radius, max_iterations=max_iterations)
    return chain(direction, scale_by_learning_rate(learning_rate))
