r"""Step sizes from the last two gradients: AdGD and Barzilai and Borwein.

With g the gradient, p the parameter, dp and dg their changes since the step before, ``<., .>`` and ``|.|`` taken over
all parameters together, and step = initial_step at the first step::

    step = min(sqrt(1 + growth) * step, |dp| / (2 * |dg|))       growth = infinity at the second step
    growth = step / (the step before)
    p = p - learning_rate * step * g                                              AdGD, arXiv 1910.09529

    step = clip(|dp|^2 / <dp, dg>, min_step, max_step)           form='long'
    step = clip(<dp, dg> / |dg|^2, min_step, max_step)           form='short'
    p = p - learning_rate * step * g                                              Barzilai and Borwein 1988

Where the changes say nothing (either is zero; for Barzilai and Borwein also where ``<dp, dg>`` is not positive, as on a
loss that curves down) AdGD takes the first term and Barzilai and Borwein the step before.  Both compare gradients of
one function: of the whole loss, or of a batch that stays.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import difference, squared_distance, sum_of_squares, vdot
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, real_dtype, zeros_like
from gradlab.transforms.scaling import scale_by_learning_rate

Tree = Any
FORMS = ("long", "short")


class ScaleByAdgdState(NamedTuple):
    """State of AdGD."""

    count: jax.Array  # () int32
    prev_params: Tree  # like params
    prev_grads: Tree  # like params
    step: jax.Array  # ()
    growth: jax.Array  # () the last step over the one before


class ScaleByBarzilaiBorweinState(NamedTuple):
    """State of Barzilai and Borwein's step size."""

    count: jax.Array  # () int32
    prev_params: Tree  # like params
    prev_grads: Tree  # like params
    step: jax.Array  # ()


def _scale_by_adgd_init(params):
    zero = jnp.zeros([], real_dtype(params))
    return ScaleByAdgdState(jnp.zeros([], jnp.int32), copied(params), zeros_like(params), step=zero, growth=zero)


def _scale_by_barzilai_borwein_init(params):
    zero = jnp.zeros([], real_dtype(params))
    return ScaleByBarzilaiBorweinState(jnp.zeros([], jnp.int32), copied(params), zeros_like(params), step=zero)


def _remembering_rule(g, prev_g, prev_p, p, *, step):
    return step * g, g, p


def _scale_by_adgd_update(grads, state, params=None, *, initial_step, **extra):
    del extra
    params = check.required_params("scale_by_adgd", params)
    moved = safe_sqrt(squared_distance(params, state.prev_params))
    bent = 2 * safe_sqrt(squared_distance(grads, state.prev_grads))
    informed = (moved > 0) & (bent > 0)
    curvature = jnp.where(informed, safe_quotient(moved, bent), jnp.inf)
    longest = jnp.where(state.count == 1, jnp.inf, jnp.sqrt(1 + state.growth) * state.step)
    step = jnp.minimum(longest, curvature)
    step = jnp.where(jnp.isfinite(step), step, state.step)
    step = jnp.where(state.count == 0, initial_step, step).astype(state.step.dtype)
    growth = safe_quotient(step, jnp.where(state.count == 0, step, state.step))
    slots = [state.prev_grads, state.prev_params]
    updates, prev_grads, prev_params = leafwise(_remembering_rule, grads, slots, params, step=step)
    return updates, ScaleByAdgdState(optax.safe_increment(state.count), prev_params, prev_grads, step, growth)


def _scale_by_barzilai_borwein_update(grads, state, params=None, *, initial_step, min_step, max_step, form, **extra):
    del extra
    params = check.required_params("scale_by_barzilai_borwein", params)
    moved = difference(params, state.prev_params)
    bent = difference(grads, state.prev_grads)
    across = vdot(moved, bent)
    step = (
        safe_quotient(sum_of_squares(moved), across) if form == "long" else safe_quotient(across, sum_of_squares(bent))
    )
    step = jnp.where(across > 0, jnp.clip(step, min_step, max_step), state.step)
    step = jnp.where(state.count == 0, initial_step, step).astype(state.step.dtype)
    slots = [state.prev_grads, state.prev_params]
    updates, prev_grads, prev_params = leafwise(_remembering_rule, grads, slots, params, step=step)
    return updates, ScaleByBarzilaiBorweinState(optax.safe_increment(state.count), prev_params, prev_grads, step)


def scale_by_adgd(initial_step: Any = 1e-6) -> Transform:
    """Multiplies the updates by the step size of AdGD; see `adgd`.

    >>> tx = scale_by_adgd(initial_step=0.5)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)), jnp.zeros(1))[0].tolist()
    [1.5]
    """
    check.positive(initial_step=initial_step)
    return transform(_scale_by_adgd_init, _scale_by_adgd_update, initial_step=initial_step)


@storable
def adgd(learning_rate: Any = 1.0, initial_step: Any = 1e-6) -> Transform:
    """AdGD (Malitsky and Mishchenko 2020, arXiv 1910.09529): gradient descent without a learning rate or line search.

    The recurrence heads this module.  It converges on every convex function with locally Lipschitz gradients: its step
    follows the curvature along the path, at most ``1 / (2 * curvature)``.

    Args:
      learning_rate: a factor of the step: a number, a schedule, or a tree of these that is a prefix of the parameters.
      initial_step: the first step size, far below any that is stable.

    Raises:
      ValueError: a negative learning rate, an initial step that is not above zero; ``update`` without ``params``.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = adgd()
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(2 * params, state, params)
    ...     params = params + updates
    >>> [round(float(p), 4) for p in params]
    [0.25, -0.5]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_adgd(initial_step), scale_by_learning_rate(learning_rate))


def scale_by_barzilai_borwein(
    form: str = "long", initial_step: Any = 1e-6, min_step: Any = 1e-10, max_step: Any = 1e10
) -> Transform:
    """Multiplies the updates by Barzilai and Borwein's step size; see `barzilai_borwein`.

    >>> tx = scale_by_barzilai_borwein(initial_step=0.5)
    >>> tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)), jnp.zeros(1))[0].tolist()
    [1.5]
    """
    check.one_of("form", form, FORMS)
    check.positive(initial_step=initial_step, min_step=min_step, max_step=max_step)
    return transform(
        _scale_by_barzilai_borwein_init,
        _scale_by_barzilai_borwein_update,
        initial_step=initial_step,
        min_step=min_step,
        max_step=max_step,
        form=static(form),
    )


@storable
def barzilai_borwein(
    learning_rate: Any = 1.0,
    form: str = "long",
    initial_step: Any = 1e-6,
    min_step: Any = 1e-10,
    max_step: Any = 1e10,
) -> Transform:
    """Gradient descent with the step size of Barzilai and Borwein (1988): a secant's inverse curvature.

    The recurrence heads this module.  On a quadratic the step is an inverse Rayleigh quotient of the Hessian, and the
    iteration, though not monotone, far faster than the best constant step.  Elsewhere it may diverge: bound it by
    ``max_step``, or shorten it by ``learning_rate``.

    Args:
      learning_rate: a factor of the step: a number, a schedule, or a tree of these that is a prefix of the parameters.
      form: (static) ``'long'`` or ``'short'``; the first is never below the second.
      initial_step: the first step size.
      min_step: the least later step size.
      max_step: the largest later step size.

    Raises:
      ValueError: a negative learning rate, a step that is not above zero, an unknown form; ``update`` without
        ``params``.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = barzilai_borwein()
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(2 * params, state, params)
    ...     params = params + updates
    >>> bool(jnp.max(jnp.abs(params)) < 0.1)
    True
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_barzilai_borwein(form, initial_step, min_step, max_step)
    return chain(direction, scale_by_learning_rate(learning_rate))
