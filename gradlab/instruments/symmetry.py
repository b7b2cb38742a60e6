r"""Symmetries of networks: hidden units in another order, or larger before a ReLU and smaller after it.

The units of a layer are an axis of several arrays, which a `Spec` names: with p a permutation and c > 0::

    kernel_1[:, p], bias_1[p], kernel_2[p, :]               the same function
    kernel_1 * c, bias_1 * c, kernel_2 / c[:, None]         the same function if ReLU lies between

n hidden units have n! orders, so two runs that found the same function are rarely near each other.  `align` finds the
order in which one network is nearest to another one, layer by layer, each by the Hungarian algorithm (weight matching,
arXiv 2209.04836).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import squared_distance
from gradlab.core.curvature import cast_like, widen
from gradlab.core.numerics import safe_sqrt
from gradlab.instruments.arguments import real_params

Tree = Any
Spec = Mapping[str, Sequence[str | None]]
"""For the path of an array the name of the units along each of its axes, ``None`` where they stay in order."""


class Alignment(NamedTuple):
    """A network in the order of units that brings it near to another one."""

    params: Tree
    permutations: dict[str, jax.Array]  # for each name (units,): unit i is what was unit permutation[i]
    before: jax.Array  # () Euclidean distance of the parameters
    after: jax.Array  # () the same after the alignment
    sweeps: jax.Array  # () times that all layers were matched
    converged: jax.Array  # () whether the last time changed nothing; the order may still not be the nearest of all


def chain(params: Tree, layers: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """The `Spec` of layers that feed one another, dense or convolutional ones of Flax: outputs are the last axis.

    Args:
      params: a tree whose layers hold a ``kernel`` and any arrays of one axis, such as a ``bias``.
      layers: their paths, from input to output, such as ``['params/Dense_0', 'params/Dense_1']``.

    Raises:
      ValueError: fewer than two layers, a layer without a kernel, or one that does not take the outputs of the last.

    >>> params = {name: {'bias': jnp.ones(3), 'kernel': jnp.ones((3, 3))} for name in ('one', 'two')}
    >>> chain(params, ['one', 'two'])
    {'one/bias': ('one',), 'one/kernel': (None, 'one'), 'two/kernel': ('one', None)}
    """
    if len(layers) < 2:
        raise ValueError(f"a chain needs at least two layers, got {list(layers)}: hidden units lie between layers")
    shapes = _shapes(params)
    spec: dict[str, tuple[str | None, ...]] = {}
    for index, layer in enumerate(layers):
        before = layers[index - 1] if index else None
        here = layer if index < len(layers) - 1 else None
        if f"{layer}/kernel" not in shapes:
            raise ValueError(f"no kernel of the layer {layer!r}{check.suggestion(f'{layer}/kernel', shapes)}")
        for path, shape in shapes.items():
            own = path.rpartition("/")[0] == layer
            if own and path.endswith("/kernel"):
                spec[path] = (*[None] * (len(shape) - 2), before, here)
            elif own and len(shape) == 1 and here:
                spec[path] = (here,)
    spec = {path: axes for path, axes in spec.items() if any(axes)}
    _units(params, spec)
    return spec


def permute(params: Tree, spec: Spec, permutations: Mapping[str, Any]) -> Tree:
    """The network with its units in another order: the same function.

    Args:
      params: any tree of arrays.
      spec: which axes are which units.
      permutations: for each name (units,): unit i becomes what was unit ``permutation[i]``; names left out stay.

    Raises:
      ValueError: the specification does not fit the parameters, or a permutation has another name or
        length, or a unit twice.

    >>> spec = {'kernel': (None, 'units')}
    >>> permute({'kernel': jnp.array([[1.0, 2.0, 3.0]])}, spec, {'units': [2, 0, 1]})['kernel'].tolist()
    [[3.0, 1.0, 2.0]]
    """
    chosen = {name: jnp.asarray(p) for name, p in permutations.items()}
    _fit("permutation", chosen, _units(params, spec))
    for name, order in chosen.items():
        if not isinstance(order, jax.core.Tracer) and sorted(order.tolist()) != list(range(order.size)):
            raise ValueError(f"the permutation of {name!r} must have each of 0 to {order.size - 1} once, got {order}")

    def change(leaf, axis, name):
        return jnp.take(leaf, chosen[name], axis=axis) if name in chosen else leaf

    return _along_axes(params, spec, change)


def rescale(params: Tree, spec: Spec, factors: Mapping[str, Any]) -> Tree:
    """The network with its units scaled: the same function if each of them goes through a ReLU, and factors are > 0.

    Arrays are multiplied along their last axis, that of Flax's outputs and biases, and divided along the others.

    Args:
      params: any tree of real floating-point arrays.
      spec: which axes are which units.
      factors: for each name (units,), above zero; names left out stay.

    Raises:
      ValueError: a factor is not above zero, or see `permute`.

    >>> params = {'one': {'kernel': jnp.ones((1, 2))}, 'two': {'kernel': jnp.ones((2, 1))}}
    >>> scaled = rescale(params, chain(params, ['one', 'two']), {'one': [2.0, 4.0]})
    >>> scaled['one']['kernel'].tolist(), scaled['two']['kernel'].tolist()
    ([[2.0, 4.0]], [[0.5], [0.25]])
    """
    chosen = {name: jnp.asarray(factor) for name, factor in factors.items()}
    check.positive(**chosen)
    _fit("factors", chosen, _units(params, spec))

    def change(leaf, axis, name):
        if name not in chosen:
            return leaf
        factor = chosen[name].astype(leaf.dtype).reshape([-1 if own == axis else 1 for own in range(leaf.ndim)])
        return leaf * factor if axis == leaf.ndim - 1 else leaf / factor

    wide = widen(real_params("rescale", params))
    return cast_like(_along_axes(wide, spec, change), params)


def align(reference: Tree, params: Tree, spec: Spec, *, sweeps: int = 20) -> Alignment:
    """The order of the units of ``params`` in which it is nearest to ``reference``, all else the same.

    One layer is matched exactly given the order of the others; all are until nothing changes.  With one hidden layer
    that is the nearest order of all; with more it may be a local one.  Cost: no loss; for each layer of n units and
    each sweep n^2 times its parameters a unit, and n^3.

    Args:
      reference: a tree of real floating-point arrays.
      params: a tree like ``reference``.
      spec: which axes are which units, such as `chain` makes.
      sweeps: (static) at most so many times over all layers.

    Raises:
      ValueError: the specification does not fit, or an array has one kind of units on two axes, as the recurrent
        kernel of a network has: that is no assignment problem.

    >>> params = {'one': {'kernel': jnp.array([[1.0, 2.0]])}, 'two': {'kernel': jnp.array([[3.0], [4.0]])}}
    >>> spec = chain(params, ['one', 'two'])
    >>> found = align(params, permute(params, spec, {'one': [1, 0]}), spec)
    >>> found.permutations['one'].tolist(), round(float(found.before), 3), float(found.after)
    ([1, 0], 2.0, 0.0)
    """
    check.in_range("sweeps", sweeps, 1)
    units = _units(params, spec)
    twice = [path for path, axes in spec.items() for name in set(axes) - {None} if list(axes).count(name) > 1]
    if twice:
        raise ValueError(f"align: {twice} have one kind of units on two axes, which is no assignment problem")
    trees.require_same_structure("params", params, "reference", reference)
    if _shapes(params) != _shapes(reference):
        raise ValueError("align: the networks have arrays of different shapes, so their units cannot be matched")
    fixed, moved = widen(real_params("align", reference)), widen(real_params("align", params))

    def sweep(carry):
        orders, _, count = carry
        found = dict(orders)
        for name in units:
            rest = {other: order for other, order in found.items() if other != name}
            found[name] = _best_order(_likeness(fixed, permute(moved, spec, rest), spec, name))
        changed = jnp.any(jnp.stack([jnp.any(found[name] != orders[name]) for name in units]))
        return found, changed, count + 1

    start = {name: jnp.arange(size) for name, size in units.items()}
    carry = start, jnp.array(bool(units)), jnp.zeros([], int)
    orders, changed, count = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < sweeps), sweep, carry)
    aligned = permute(params, spec, orders)
    distance = lambda tree: safe_sqrt(squared_distance(tree, reference))
    return Alignment(aligned, orders, distance(params), distance(aligned), count, ~changed)


def log10_orders(params: Tree, spec: Spec) -> float:
    """The decimal logarithm of the number of orders of all units, the product of ``n!``: so many equal minima exist.

    >>> round(10 ** log10_orders({'kernel': jnp.ones((2, 4))}, {'kernel': (None, 'units')}))
    24
    """
    return sum(math.lgamma(size + 1) for size in _units(params, spec).values()) / math.log(10)


def _likeness(fixed: Tree, moved: Tree, spec: Spec, name: str) -> jax.Array:
    """(n, n): the inner product of all that belongs to unit i of ``fixed`` and unit j of ``moved``."""
    total = 0.0
    named, leaves = jax.tree_util.tree_leaves_with_path(fixed), jax.tree.leaves(moved)
    for (path, one), other in zip(named, leaves, strict=True):
        axes = list(spec.get(trees.path_name(path), ()))
        if name in axes:
            first, second = (jnp.moveaxis(leaf, axes.index(name), 0) for leaf in (one, other))
            first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
            total += jnp.matmul(first, second.T, precision="highest")
    return total


def _best_order(likeness: jax.Array) -> jax.Array:
    """The permutation p with the largest ``sum_i likeness[i, p[i]]``; any where a number is not finite."""
    finite = jnp.all(jnp.isfinite(likeness))  # the algorithm would not end
    rows, columns = optax.assignment.hungarian_algorithm(jnp.where(finite, -likeness, 0.0))
    return jnp.zeros(len(likeness), int).at[rows].set(columns)


def _along_axes(params: Tree, spec: Spec, change: Any) -> Tree:
    def leaf_of(path, leaf):
        for axis, name in enumerate(spec.get(trees.path_name(path), ())):
            leaf = change(jnp.asarray(leaf), axis, name)
        return leaf

    return jax.tree_util.tree_map_with_path(leaf_of, params)


def _units(params: Tree, spec: Spec) -> dict[str, int]:
    """How many units each name stands for, in the order of the specification."""
    shapes = _shapes(params)
    units: dict[str, int] = {}
    for path, axes in spec.items():
        check.one_of("path in the specification", path, shapes)
        if len(axes) != len(shapes[path]):
            raise ValueError(f"the specification of {path!r} has {len(axes)} axes, the array {len(shapes[path])}")
        for name, size in zip(axes, shapes[path], strict=True):
            if name is not None and units.setdefault(name, size) != size:
                raise ValueError(f"{path!r} has {size} units of {name!r}, but other arrays have {units[name]}")
    return units


def _fit(what: str, chosen: Mapping[str, jax.Array], units: Mapping[str, int]) -> None:
    for name, values in chosen.items():
        check.one_of("name of units", name, units)
        if values.shape != (units[name],):
            raise ValueError(f"the {what} of {name!r} must have the shape ({units[name]},), got {values.shape}")


def _shapes(params: Tree) -> dict[str, tuple[int, ...]]:
    return {trees.path_name(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
