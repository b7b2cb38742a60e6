r"""Nonlinear conjugate gradients: each direction the gradient plus a multiple of the direction before.

With g the gradient, u the direction, g_ and u_ those of the step before, and y = g - g_::

    u = g + beta * u_
    beta = <g, g> / <g_, g_>              form='fr'    Fletcher and Reeves 1964
    beta = max(0, <g, y> / <g_, g_>)      form='pr+'   Polak and Ribiere 1969, Powell 1984
    beta = <g, y> / -<u_, y>              form='hs'    Hestenes and Stiefel 1952
    beta = <g, g> / -<u_, y>              form='dy'    Dai and Yuan 1999
    p = p - t * u                         with the step size t of a line search

It restarts from the gradient, ``beta = 0``, where the denominator is not positive, where u would not descend,
``<g, u> <= 0``, and where successive gradients are far from orthogonal, ``|<g, g_>| >= restart_threshold * <g, g>``
(Powell 1977).  Nocedal and Wright 1999, section 5.2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import require_same_structure, zeros_like
from gradlab.optimizers.lbfgs import with_linesearch
from gradlab.transforms.zoom_linesearch import scale_by_zoom_linesearch

Tree = Any

FORMS = ("pr+", "fr", "hs", "dy")
CONJUGATE_SEARCH = scale_by_zoom_linesearch(max_linesearch_steps=20, curv_rtol=0.1)


class ScaleByConjugateGradientState(NamedTuple):
    """What `scale_by_conjugate_gradient` remembers."""

    count: jax.Array  # () int32, updates so far
    restarts: jax.Array  # () int32, of them those along the gradient alone
    updates: Tree  # the gradients of the last update
    direction: Tree  # the last direction


def _scale_by_conjugate_gradient_init(params):
    zero = jnp.zeros([], jnp.int32)
    return ScaleByConjugateGradientState(zero, zero, updates=zeros_like(params), direction=zeros_like(params))


def _direction_rule(g, last_g, last_direction, *, beta):
    del last_g
    direction = g + jnp.where(beta != 0, beta * last_direction, 0)
    return direction, g, direction


def _beta(form: str, squared: jax.Array, last_squared: jax.Array, overlap: jax.Array, curvature: jax.Array):
    """The weight of the last direction, from <g, g>, <g_, g_>, <g, g_> and -<u_, y>."""
    numerator = squared if form in ("fr", "dy") else squared - overlap
    denominator = last_squared if form in ("fr", "pr+") else curvature
    positive = denominator > 0
    beta = jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)
    return jnp.maximum(beta, 0) if form == "pr+" else beta


def _scale_by_conjugate_gradient_update(grads, state, params=None, *, restart_threshold, form, **extra):
    del params, extra
    require_same_structure("gradients", grads, "state", state.updates)
    last, before = state.updates, state.direction
    squared, last_squared = vdot(grads, grads), vdot(last, last)
    overlap, slope = vdot(grads, last), vdot(grads, before)
    beta = _beta(form, squared, last_squared, overlap, vdot(last, before) - slope)
    descends = squared + beta * slope > 0
    orthogonal = jnp.abs(overlap) < restart_threshold * squared
    beta = jnp.where((state.count > 0) & descends & orthogonal, beta, 0)
    updates, last, direction = leafwise(_direction_rule, grads, [last, before], beta=beta)
    restarts = state.restarts + (beta == 0).astype(jnp.int32)
    return updates, ScaleByConjugateGradientState(optax.safe_increment(state.count), restarts, last, direction)


def scale_by_conjugate_gradient(form: str = "pr+", restart_threshold: Any = 0.2) -> Transform:
    """The direction of nonlinear conjugate gradients; see `nonlinear_cg`.

    >>> tx = scale_by_conjugate_gradient('fr')
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([2.0, 0.0]), state)
    >>> tx.update(jnp.array([0.0, 1.0]), state)[0].tolist()
    [0.5, 1.0]
    """
    check.one_of("form", form, FORMS)
    check.non_negative(restart_threshold=restart_threshold)
    return transform(
        _scale_by_conjugate_gradient_init,
        _scale_by_conjugate_gradient_update,
        restart_threshold=restart_threshold,
        form=static(form),
    )


@storable
def nonlinear_cg(
    learning_rate: Any = None,
    form: str = "pr+",
    linesearch: optax.GradientTransformation | None = CONJUGATE_SEARCH,
    restart_threshold: Any = 0.2,
) -> Transform:
    """Nonlinear conjugate gradients with a line search (Nocedal and Wright 1999, section 5.2).

    The recurrence heads this module.  On a quadratic of n unknowns with exact line searches it ends after n steps.
    ``update`` needs ``value`` and ``value_fn``, the loss and the function that gives it; `gradlab.minimize` is the loop
    around it.

    Args:
      learning_rate: a factor of the direction: a number, a schedule, or a tree of these that is a prefix of the
        parameters.  None leaves the length of the steps to the line search.
      form: (static) the formula of beta: ``'pr+'``, ``'fr'``, ``'hs'`` or ``'dy'``.
      linesearch: the stage that scales the step; by default a zoom search from the last step size that leaves at most a
        tenth of the slope.  None makes the step as it is: then ``update`` needs no value.
      restart_threshold: the cosine-like ratio of successive gradients from which it restarts; infinity never does.

    Raises:
      ValueError: an unknown ``form``, a negative learning rate or threshold.

    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    >>> tx, params = nonlinear_cg(), jnp.array([3.0, 1.0])
    >>> state = tx.init(params)
    >>> for _ in range(9):
    ...     value, grad = jax.value_and_grad(loss)(params)
    ...     updates, state = tx.update(grad, state, params, value=value, value_fn=loss)
    ...     params = params + updates
    >>> bool(loss(params) < 1e-6)
    True
    """
    return with_linesearch(scale_by_conjugate_gradient(form, restart_threshold), learning_rate, linesearch)
