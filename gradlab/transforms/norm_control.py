r"""Control of the weights' norms: projections after the learning rate, and lengths of updates measured in weights.

With p a tensor, u its direction, d the step that would be added (after the learning rate) and n = p + d::

    relative_updates   u = u * |p| / |u|
    floor_updates      u = u * max(1, ratio * |p| / |u|)
    hyperball          d = n * radius / |n| - p, radius = |p| at the start            arXiv 2606.16899
    radial_brake       d = n * (|p| + brake * max(|n| - |p|, 0) + min(|n| - |p|, 0)) / |n| - p

Hyperball Adam is ``chain(scale_by_adam(), relative_updates(), scale_by_learning_rate(0.02), hyperball())`` on the
hidden matrices; give embeddings, heads, gains and biases to another optimizer with `partition`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.transform import Transform, transform


class HyperballState(NamedTuple):
    """State of `hyperball`."""

    radius: Any  # a scalar for each parameter: its norm at the start


def relative_updates() -> Transform:
    """Gives each tensor's update the norm of the tensor, so that the learning rate is a relative one.

    An update or a tensor that is zero gives a zero update.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> tx, p = relative_updates(), jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([0.0, 2.0]), tx.init(p), p)[0].tolist()
    [0.0, 5.0]
    """
    return transform(empty_init, _relative_updates_update)


def floor_updates(ratio: Any = 0.35) -> Transform:
    """Scales up the updates of tensors whose norm is below ``ratio`` times the tensor's; others pass.

    Args:
      ratio: of the norms, not negative.

    Raises:
      ValueError: a negative ratio; ``update`` called without ``params``.

    >>> tx, p = floor_updates(0.5), jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([0.0, 2.0]), tx.init(p), p)[0].tolist()
    [0.0, 2.5]
    """
    check.non_negative(ratio=ratio)
    return transform(empty_init, _floor_updates_update, ratio=ratio)


def hyperball() -> Transform:
    """Keeps each tensor on the sphere of its first norm (arXiv 2606.16899): the last stage of a chain.

    Weight decay has no effect under it.  A tensor that starts at zero stays there: give it another start, or leave it
    out with `masked`.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> tx, p = hyperball(), jnp.array([3.0, 4.0])
    >>> updates, _ = tx.update(jnp.array([-3.0, 4.0]), tx.init(p), p)
    >>> [round(float(x), 4) for x in p + updates]
    [0.0, 5.0]
    """
    return transform(_hyperball_init, _hyperball_update)


def radial_brake(brake: Any = 0.5) -> Transform:
    """Lets a tensor's norm grow by only ``brake`` of what a step would add; it may shrink freely.  The last stage.

    Args:
      brake: in [0, 1]: 0 forbids growth, 1 does nothing.

    Raises:
      ValueError: a value outside of [0, 1]; ``update`` called without ``params``.

    >>> tx, p = radial_brake(0.5), jnp.array([2.0])
    >>> [round(float(tx.update(jnp.array([d]), tx.init(p), p)[0][0]), 4) for d in (1.0, -1.0)]
    [0.5, -1.0]
    """
    check.in_range("brake", brake, 0.0, 1.0)
    return transform(empty_init, _radial_brake_update, brake=brake)


def _relative_rule(u, p):
    return (u * safe_quotient(norm(p), norm(u)),)


def _relative_updates_update(updates, state, params=None, **extra):
    del extra
    (updates,) = leafwise(_relative_rule, updates, params=check.required_params("relative_updates", params))
    return updates, state


def _floor_rule(u, p, *, ratio):
    return (u * jnp.maximum(safe_quotient(ratio * norm(p), norm(u)), 1),)


def _floor_updates_update(updates, state, params=None, *, ratio, **extra):
    del extra
    params = check.required_params("floor_updates", params)
    (updates,) = leafwise(_floor_rule, updates, params=params, ratio=ratio)
    return updates, state


@jax.jit
def _norm_at_start(p: jax.Array) -> jax.Array:
    return norm(p)


def _hyperball_init(params):
    return HyperballState(radius=jax.tree.map(_radius_of, params))


def _radius_of(p: Any) -> jax.Array:
    if isinstance(p, jax.ShapeDtypeStruct):
        return jnp.zeros([], jnp.finfo(jnp.promote_types(p.dtype, jnp.float32)).dtype)
    return _norm_at_start(p)


def _hyperball_rule(d, radius, p):
    new = p + d
    return new * safe_quotient(radius, norm(new)) - p, radius


def _hyperball_update(updates, state, params=None, **extra):
    del extra
    params = check.required_params("hyperball", params)
    updates, radius = leafwise(_hyperball_rule, updates, [state.radius], params)
    return updates, HyperballState(radius)


def _radial_brake_rule(d, p, *, brake):
    new = p + d
    before, after = norm(p), norm(new)
    growth = jnp.maximum(after - before, 0)
    return (jnp.where(growth > 0, new * safe_quotient(after - (1 - brake) * growth, after) - p, d),)


def _radial_brake_update(updates, state, params=None, *, brake, **extra):
    del extra
    params = check.required_params("radial_brake", params)
    (updates,) = leafwise(_radial_brake_rule, updates, params=params, brake=brake)
    return updates, state
