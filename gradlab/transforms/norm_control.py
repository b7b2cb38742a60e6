r"""Control of the weights' norms: projections after the learning rate, and lengths of updates measured in weights.

With p a tensor, or one of its matrices, u its direction, d the step that would be added (after the learning rate) and
n = p + d::

    relative_updates   u = u * |p| / |u|
    floor_updates      u = u * max(1, ratio * |p| / |u|)
    hyperball          d = n * radius / |n| - p, radius = |p| at the start            arXiv 2606.16899
    radial_brake       d = n * (|p| + brake * max(|n| - |p|, 0) + min(|n| - |p|, 0)) / |n| - p

Hyperball Adam is ``chain(scale_by_adam(), relative_updates(), scale_by_learning_rate(0.02), hyperball())`` on the
hidden matrices; give embeddings, heads, gains and biases to another optimizer with `partition`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import empty_init
from gradlab.core.layouts import Matrices, matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.transforms.select import is_placeholder


class HyperballState(NamedTuple):
    """State of `hyperball`."""

    radius: Any  # for each parameter its norm at the start, (), or those of its matrices, (matrices, 1, 1)


def relative_updates(*, weight_dimension_numbers: Any = None) -> Transform:
    """Gives each tensor's update the norm of the tensor, so that the learning rate is a relative one.

    An update or a tensor that is zero gives a zero update.

    Args:
      weight_dimension_numbers: (static) as for `scale_by_muon`: each matrix counts by itself; None takes whole tensors.

    Raises:
      ValueError: ``update`` called without ``params``.

    >>> tx, p = relative_updates(), jnp.array([3.0, 4.0])
    >>> tx.update(jnp.array([0.0, 2.0]), tx.init(p), p)[0].tolist()
    [0.0, 5.0]
    """
    return transform(empty_init, _relative_updates_update, layout=static(weight_dimension_numbers))


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


def hyperball(*, weight_dimension_numbers: Any = None, refuse_zeros: bool = False) -> Transform:
    """Keeps each tensor on the sphere of its first norm (arXiv 2606.16899): the last stage of a chain.

    Weight decay has no effect under it.  A tensor that starts at zero stays there: give it another start, or leave it
    out with `masked`.

    Args:
      weight_dimension_numbers: (static) as for `scale_by_muon`: each matrix has a sphere of its own; None takes whole
        tensors.
      refuse_zeros: (static) whether ``init`` raises where something starts at zero; under `jax.jit` it cannot know.

    Raises:
      ValueError: ``update`` called without ``params``; a start at zero, with the path.

    >>> tx, p = hyperball(), jnp.array([3.0, 4.0])
    >>> updates, _ = tx.update(jnp.array([-3.0, 4.0]), tx.init(p), p)
    >>> [round(float(x), 4) for x in p + updates]
    [0.0, 5.0]
    """
    layout = static(weight_dimension_numbers)
    at_init = {"layout": layout, "refuse_zeros": static(refuse_zeros)}
    return transform(_hyperball_init, _hyperball_update, at_init=at_init, layout=layout)


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


def _lengths(x: jax.Array, matrices: Matrices | None) -> jax.Array:
    return norm(x) if matrices is None else norm(matrices.stack(x), axis=(1, 2), keepdims=True)


def _times(x: jax.Array, factors: jax.Array, matrices: Matrices | None) -> jax.Array:
    return x * factors if matrices is None else matrices.leaf(matrices.stack(x) * factors)


def _by_layout(layout: Any, tree: Any) -> dict[str, Any]:
    """Arguments of `leafwise` that give the rule the matrices of each leaf, or None for a whole tensor."""
    if layout is None:
        return {"structure": {"matrices": None}}
    return {"leaf_structure": {"matrices": matrices_in(tree, layout)}}


def _relative_rule(u, p, *, matrices):
    return (_times(u, safe_quotient(_lengths(p, matrices), _lengths(u, matrices)), matrices),)


def _relative_updates_update(updates, state, params=None, *, layout, **extra):
    del extra
    params = check.required_params("relative_updates", params)
    (updates,) = leafwise(_relative_rule, updates, params=params, **_by_layout(layout, updates))
    return updates, state


def _floor_rule(u, p, *, ratio):
    return (u * jnp.maximum(safe_quotient(ratio * norm(p), norm(u)), 1),)


def _floor_updates_update(updates, state, params=None, *, ratio, **extra):
    del extra
    params = check.required_params("floor_updates", params)
    (updates,) = leafwise(_floor_rule, updates, params=params, ratio=ratio)
    return updates, state


@functools.partial(jax.jit, static_argnums=1)
def _lengths_at_start(p: jax.Array, matrices: Matrices | None) -> jax.Array:
    return _lengths(p, matrices)


def _hyperball_init(params, *, layout, refuse_zeros):
    if layout is None or is_placeholder(params):
        radius = jax.tree.map(lambda p: _radius_of(p, None), params)
    else:
        radius = jax.tree.map(_radius_of, params, matrices_in(params, layout))
    if refuse_zeros:
        _refuse_zeros(params, radius)
    return HyperballState(radius)


def _radius_of(p: Any, matrices: Matrices | None) -> jax.Array:
    if isinstance(p, jax.ShapeDtypeStruct):
        shape = () if matrices is None else (matrices.count, 1, 1)
        return jnp.zeros(shape, trees.real_dtype(p))
    return _lengths_at_start(p, matrices)


def _refuse_zeros(params: Any, radius: Any) -> None:
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(radius), strict=True)
    known = {
        trees.path_name(path): r
        for (path, p), r in pairs
        if not isinstance(p, jax.ShapeDtypeStruct) and not isinstance(r, jax.core.Tracer)
    }
    stuck = [name for name, r in jax.device_get(known).items() if np.any(r == 0)]
    if stuck:
        raise ValueError(
            f"the parameters {stuck} start at zero, or one of their matrices does, and on a sphere of radius zero they "
            "would never move: initialise them otherwise, or give them to another optimizer"
        )


def _hyperball_rule(d, radius, p, *, matrices):
    new = p + d
    return _times(new, safe_quotient(radius, _lengths(new, matrices)), matrices) - p, radius


def _hyperball_update(updates, state, params=None, *, layout, **extra):
    del extra
    params = check.required_params("hyperball", params)
    updates, radius = leafwise(
        _hyperball_rule, updates, [state.radius], params, own_shapes=True, **_by_layout(layout, updates)
    )
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
