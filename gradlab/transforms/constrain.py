r"""Constraints on the parameters: projections that come last, after the learning rate.

With p the parameter and u the incoming update, a stage returns what leads to the projected point::

    u = projection(p + u) - p

so that p + u lies in the set, up to the rounding of that sum.  Descent followed by a projection is projected gradient
descent; behind an adaptive method the nearest point is taken in the Euclidean norm, not in the method's own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform

Tree = Any


def keep_params_nonnegative() -> Transform:
    """Keeps parameters at zero or above: an update that would cross zero ends there.

    >>> tx = keep_params_nonnegative()
    >>> tx.update(jnp.array([-3.0, -0.5]), tx.init(jnp.ones(2)), jnp.ones(2))[0].tolist()
    [-1.0, -0.5]
    """
    return transform(empty_init, _keep_params_nonnegative_update)


def project_box(lower: Any = None, upper: Any = None) -> Transform:
    """Keeps every parameter between two bounds.

    Args:
      lower: least value; a number, a schedule, or a tree of these or of arrays that is a prefix of the parameters.
      upper: largest value, likewise.  None leaves its side open.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> tx = project_box(-1.0, 1.0)
    >>> params = jnp.array([0.5, -0.5])
    >>> tx.update(jnp.array([2.0, 0.25]), tx.init(params), params)[0].tolist()
    [0.5, 0.25]
    """
    bounds = {"lower": lower, "upper": upper}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return transform(empty_init, _project_box_update, **given)


def project_l2_ball(radius: Any) -> Transform:
    """Keeps the Euclidean norm of all parameters together at ``radius`` or below.

    Inside of `partition` and `masked` the norm is that of the parameters selected.

    Args:
      radius: a number or a schedule.

    Raises:
      ValueError: a negative radius; ``update`` called without ``params``.

    >>> tx = project_l2_ball(1.0)
    >>> params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
    >>> updates, _ = tx.update({'a': jnp.array([3.0]), 'b': jnp.array([4.0])}, tx.init(params), params)
    >>> round(float(updates['a'][0]), 4), round(float(updates['b'][0]), 4)
    (0.6, 0.8)
    """
    check.non_negative(radius=radius)
    return transform(empty_init, _project_l2_ball_update, radius=radius)


def project(projection: Callable[..., Tree], **values: Any) -> Transform:
    """Keeps the parameters where a projection leads: ``projection(params, **values)``, one of `optax.projections` say.

    Args:
      projection: (static) a function from a tree to a tree like it.
      **values: its other arguments: numbers, schedules, arrays or trees of them; `gradlab.hyperparams` lists them as
        ``values.<name>``.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> import optax
    >>> tx = project(optax.projections.projection_simplex, scale=1.0)
    >>> params = jnp.array([0.5, 0.5])
    >>> updates, _ = tx.update(jnp.array([0.75, 0.25]), tx.init(params), params)
    >>> (params + updates).tolist()
    [0.75, 0.25]
    """
    return transform(empty_init, _project_update, projection=static(projection), values=values)


def _nonnegative_rule(u, p):
    return (jnp.where(p + u < 0, -p, u),)


def _keep_params_nonnegative_update(grads, state, params=None, **extra):
    del extra
    params = check.required_params("keep_params_nonnegative", params)
    (updates,) = leafwise(_nonnegative_rule, grads, params=params)
    return updates, state


def _box_rule(u, p, *, lower=None, upper=None):
    return (jnp.clip(p + u, lower, upper) - p,)


def _project_box_update(grads, state, params=None, *, lower=None, upper=None, **extra):
    del extra
    bounds = {name: bound for name, bound in (("lower", lower), ("upper", upper)) if bound is not None}
    (updates,) = leafwise(_box_rule, grads, params=check.required_params("project_box", params), **bounds)
    return updates, state


def _shrink_rule(u, p, *, factor):
    return (factor * (p + u) - p,)


def _moved(grads: Tree, params: Tree) -> Tree:
    """The parameters after the updates, in at least float32; None where an update is."""
    trees.require_same_structure("updates", grads, "parameters", params)

    def add(u, p):
        wide = jnp.promote_types(jnp.result_type(u, p), jnp.float32)
        return jnp.asarray(p, wide) + jnp.asarray(u, wide)

    return jax.tree.map(lambda u, p: None if u is None else add(u, p), grads, params, is_leaf=trees.is_none)


def _project_l2_ball_update(grads, state, params=None, *, radius, **extra):
    del extra
    params = check.required_params("project_l2_ball", params)
    norm = global_norm(_moved(grads, params))
    beyond = norm > radius
    factor = jnp.where(beyond, radius / jnp.where(beyond, norm, 1), 1)
    (updates,) = leafwise(_shrink_rule, grads, params=params, factor=factor)
    return updates, state


def _project_update(grads, state, params=None, *, projection, values, **extra):
    del extra
    params = check.required_params("project", params)
    moved = _moved(grads, params)
    if jax.tree.leaves(moved):
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(moved))).dtype
        values = jax.tree.map(lambda value: jnp.asarray(value, real), values)  # wider numbers would widen the tree
    goal = projection(moved, **values)
    difference = lambda u, p, goal: None if u is None else (goal - p).astype(u.dtype)
    return jax.tree.map(difference, grads, params, goal, is_leaf=trees.is_none), state
