r"""The health of a step: sizes of parameters, gradients and updates leaf by leaf, and units that no longer respond.

::

    ratio    = |u| / |p|                      about 1e-3 in healthy training, by a rule of thumb (CS231n)
    cosine   = g_t'g_(t-1) / |g_t| |g_(t-1)|  near 1: the steps are short; near -1: the leaf swings across a valley
    distance = |p - p_0|

A unit is dead if its activation is zero for every example, and saturated if it lies near a bound of its activation
function for every example: no gradient passes it either way.  All is counted, nothing raised: a NaN stays the NaN of
its entry.  No gradient is evaluated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import at_least_float32, difference
from gradlab.core.norms import norm

Tree = Any


class Sizes(NamedTuple):
    """The size of every leaf of a tree, in the order of `leaf_names`."""

    norm: jax.Array  # (leaves,) Euclidean
    largest: jax.Array  # (leaves,) magnitude
    zeros: jax.Array  # (leaves,) int32, entries that are exactly zero
    nonfinite: jax.Array  # (leaves,) int32, entries that are infinite or NaN


class Health(NamedTuple):
    """What `health` measures, in the order of `leaf_names`."""

    params: Sizes
    grads: Sizes
    updates: Sizes
    ratio: jax.Array  # (leaves,) |u| / |p|; infinite where the parameters are all zero
    cosine: jax.Array  # (leaves,) between the gradient and the previous one; NaN if either is unknown or zero
    distance: jax.Array  # (leaves,) of the parameters from their start; NaN if that is unknown


class Units(NamedTuple):
    """The units of every layer, in the order of `leaf_names`; entries are pairs of an example and a unit."""

    units: jax.Array  # (layers,) int32
    dead: jax.Array  # (layers,) int32, units that are zero for every example
    saturated: jax.Array  # (layers,) int32, units that are near a bound for every example
    zero_share: jax.Array  # (layers,) share of the entries that are zero
    saturated_share: jax.Array  # (layers,) share of the entries near a bound
    nonfinite: jax.Array  # (layers,) int32, entries that are infinite or NaN


def leaf_names(tree: Tree) -> list[str]:
    """The paths of the leaves, without those that are ``None``: what the axis of a measurement counts.

    >>> leaf_names({'Dense_0': {'bias': jnp.zeros(2), 'kernel': jnp.zeros((3, 2))}, 'frozen': None})
    ['Dense_0/bias', 'Dense_0/kernel']
    """
    return [trees.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def sizes(tree: Tree) -> Sizes:
    """The norm, the largest magnitude and the counts of zeros and of non-finite entries of every leaf.

    Args:
      tree: real floating-point arrays; ``None`` leaves are left out.

    Raises:
      ValueError: there are no leaves.

    >>> found = sizes({'a': jnp.array([3.0, -4.0, 0.0]), 'b': jnp.array([jnp.inf, 1.0])})
    >>> found.norm.tolist(), found.largest.tolist(), found.zeros.tolist(), found.nonfinite.tolist()
    ([5.0, inf], [4.0, inf], [1, 0], [0, 1])
    """
    leaves = _leaves("sizes", tree)
    return Sizes(
        norm=jnp.stack([norm(leaf) for leaf in leaves]),
        largest=jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]),
        zeros=_counts([leaf == 0 for leaf in leaves]),
        nonfinite=_counts([~jnp.isfinite(leaf) for leaf in leaves]),
    )


def health(
    params: Tree, grads: Tree, updates: Tree, *, previous_grads: Tree | None = None, start: Tree | None = None
) -> Health:
    """Sizes of the parameters, gradients and updates of a step, leaf by leaf.

    Known exactly: Adam's update for a constant gradient has the learning rate in every entry; plain descent has
    ``|u| = lr |g|``; a planted infinity or NaN is counted once.

    Args:
      params: before the step.
      grads: a tree like the parameters.
      updates: a tree like the parameters, as the optimizer returns them.
      previous_grads: of the step before; ``None`` leaves the cosines NaN.
      start: the parameters at the start; ``None`` leaves the distances NaN.

    Raises:
      ValueError: the trees differ, or there are no leaves.

    >>> params, grads = {'w': jnp.array([3.0, 4.0])}, {'w': jnp.array([0.0, 2.0])}
    >>> found = health(params, grads, {'w': -0.1 * grads['w']}, previous_grads={'w': jnp.array([0.0, -1.0])})
    >>> round(float(found.ratio[0]), 4), float(found.cosine[0]), found.grads.zeros.tolist()
    (0.04, -1.0, [1])
    """
    optional = {"previous_grads": previous_grads, "start": start}
    for name, tree in {"grads": grads, "updates": updates, **optional}.items():
        if tree is not None and jax.tree.structure(tree) != jax.tree.structure(params):
            trees.require_same_structure(f"`{name}`", tree, "`params`", params)
            raise ValueError(f"`{name}` has None where `params` has a leaf, or a leaf where it has None")
    of_params, of_updates = sizes(params), sizes(updates)
    unknown = jnp.full_like(of_params.norm, jnp.nan)
    return Health(
        params=of_params,
        grads=sizes(grads),
        updates=of_updates,
        ratio=of_updates.norm / of_params.norm,
        cosine=unknown if previous_grads is None else _cosines(grads, previous_grads),
        distance=unknown if start is None else sizes(difference(params, start)).norm,
    )


def _cosines(tree: Tree, other: Tree) -> jax.Array:
    def cosine(x, y):
        x, y = at_least_float32(x), at_least_float32(y)
        return jnp.sum((x / norm(x)) * (y / norm(y)))

    return jnp.stack(jax.tree.leaves(jax.tree.map(cosine, tree, other)))


def units(activations: Tree, *, low: Any = None, high: Any = None, margin: Any = 0.05) -> Units:
    """Dead and saturated units of every layer, from the activations of some examples.

    A rectified unit that is dead for the whole data set stays dead under gradient descent; for a batch it is only
    likely.  Known exactly: a column of zeros is one dead unit.

    Args:
      activations: a tree of real arrays (examples, ..., units), say what Flax's ``capture_intermediates`` returns;
        the axes between count as examples.
      low: lower bound of the activation function (-1 for tanh, 0 for the logistic function); ``None`` if it has none.
      high: upper bound, or ``None``.
      margin: how near to a bound is saturated, in the unit of the activations.

    Raises:
      ValueError: an array without an axis of examples or without entries, a negative margin, a lower bound that is not
        below the upper one.

    >>> found = units({'relu': jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])})
    >>> found.units.tolist(), found.dead.tolist(), round(float(found.zero_share[0]), 4)
    ([3], [1], 0.6667)
    """
    check.non_negative(margin=margin)
    if low is not None and high is not None:
        check.in_range("high", high - low, 0.0, open_low=True)
    layers = [
        _layer(name, leaf) for name, leaf in zip(leaf_names(activations), _leaves("units", activations), strict=True)
    ]
    zero = [layer == 0 for layer in layers]
    near = [_near_a_bound(layer, low, high, margin) for layer in layers]
    return Units(
        units=jnp.array([layer.shape[1] for layer in layers], jnp.int32),
        dead=_counts([jnp.all(mask, 0) for mask in zero]),
        saturated=_counts([jnp.all(mask, 0) for mask in near]),
        zero_share=jnp.stack([jnp.mean(mask, dtype=float) for mask in zero]),
        saturated_share=jnp.stack([jnp.mean(mask, dtype=float) for mask in near]),
        nonfinite=_counts([~jnp.isfinite(layer) for layer in layers]),
    )


def _layer(name: str, activations: jax.Array) -> jax.Array:
    if activations.ndim < 2 or not activations.size:
        raise ValueError(
            f"the activations at '{name}' must have the shape (examples, ..., units), got {activations.shape}"
        )
    return activations.reshape(-1, activations.shape[-1])


def _near_a_bound(layer: jax.Array, low: Any, high: Any, margin: Any) -> jax.Array:
    near = jnp.zeros(layer.shape, bool)
    if low is not None:
        near |= layer <= low + margin
    if high is not None:
        near |= layer >= high - margin
    return near


def _leaves(who: str, tree: Tree) -> list[jax.Array]:
    leaves = [at_least_float32(leaf) for leaf in jax.tree.leaves(tree)]
    if not leaves:
        raise ValueError(f"{who} needs at least one array, got a tree without leaves")
    return leaves


def _counts(masks: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in masks])
