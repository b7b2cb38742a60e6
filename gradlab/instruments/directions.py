r"""Directions through parameter space for `gradlab.instruments.landscape`: random ones, and those of a path.

A random direction d is given the scale of the parameters p, filter by filter (arXiv 1712.09913)::

    d_filter <- d_filter * |p_filter| / |d_filter|

so that pictures of networks that differ only in the scale of a layer and its inverse in the next one, which ReLU lets
pass, are the same.  In Flax the outputs are the **last** axis of a kernel, ``(in, out)`` or ``(height, width, in,
out)``: one filter is ``kernel[..., j]``.  (In PyTorch it is the first axis.)

The principal components of a path show most of any path: those of a random walk of n points in many dimensions have
the shares ``csc(k pi / 2n)^2 / sum``, for long walks ``6 / (pi k)^2``: 60.8 %, 15.2 %, ... (arXiv 1806.08805).  Seen
from its last point instead of its mean, it is ``8 / (pi (2k - 1))^2``: 81.1 %, 9.0 %.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.curvature import widen
from gradlab.core.decompositions import eigh
from gradlab.core.norms import global_norm, norm
from gradlab.core.numerics import finite_or_nan, safe_quotient
from gradlab.instruments.arguments import real_params

Tree = Any
NORMS = ("filter", "layer", "leaf", "none")
CENTERS = ("mean", "last")


class PathDirections(NamedTuple):
    """Principal components of a path."""

    directions: Tree  # like the parameters, with an axis of k unit vectors in front; NaN beyond the path's dimensions
    center: Tree  # like the parameters: the point that the shares are about
    shares: jax.Array  # (k,) of the squared distances from the center that each one explains
    null: jax.Array  # (k,) the same of a random walk of as many points in many dimensions


def random_directions(
    key: jax.Array, params: Tree, count: int = 2, *, scale: str = "filter", biases: bool = False
) -> Tree:
    """Gaussian directions with the scale of the parameters: a tree like ``params`` with an axis of ``count`` in front.

    They are not made orthogonal, which would undo the scaling; in many dimensions they nearly are.  Filters, layers and
    leaves that are zero stay at rest.

    Args:
      key: the same key gives the same directions.
      params: any tree of real floating-point arrays.
      count: (static) how many.
      scale: ``'filter'``: every slice along the last axis has the norm of the parameters' slice; ``'leaf'``: every
        array; ``'layer'``: all arrays whose paths differ in the last name only, a kernel with its bias; ``'none'``.
      biases: whether arrays of fewer than two axes move.  If so, each entry of them is a filter of its own.

    Raises:
      ValueError: an unknown scale, or less than one direction.

    >>> params = {'kernel': jnp.array([[3.0, 0.0], [4.0, 1.0]]), 'bias': jnp.ones(2)}
    >>> directions = random_directions(jax.random.key(0), params, count=1)
    >>> jnp.linalg.norm(directions['kernel'][0], axis=0).round(4).tolist(), directions['bias'].tolist()
    ([5.0, 1.0], [[0.0, 0.0]])
    """
    check.one_of("scale", scale, NORMS)
    check.in_range("count", count, 1)
    wide = widen(real_params("random_directions", params))
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(wide)
    keys = jax.random.split(key, max(len(paths_and_leaves), 1))
    drawn = [
        jax.random.normal(key, shape, leaf.dtype) if biases or leaf.ndim > 1 else jnp.zeros(shape, leaf.dtype)
        for key, (_, leaf) in zip(keys, paths_and_leaves, strict=False)
        for shape in [(count, *leaf.shape)]
    ]
    lengths = {"filter": _filter_norms, "leaf": _leaf_norms, "layer": _layer_norms, "none": None}[scale]
    if lengths is not None:
        layers = [path[:-1] for path, _ in paths_and_leaves]
        wanted = lengths([leaf for _, leaf in paths_and_leaves], layers)
        found = jax.vmap(lambda leaves: lengths(leaves, layers))(drawn)
        drawn = [d * safe_quotient(w, f) for d, w, f in zip(drawn, wanted, found, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def path_directions(points: Tree, count: int = 2, *, center: str = "last") -> PathDirections:
    """The principal components of a path, such as the iterates of a training run.

    Cost: no loss; the (points, points) inner products and their eigenvalues.  Each direction points from the center to
    the side of the first point.

    Args:
      points: a tree of arrays with an axis of points in front.
      count: (static) how many directions, at most one less than there are points.
      center: ``'last'``, the usual choice for training, or ``'mean'``, that of principal component analysis.

    Raises:
      ValueError: an unknown center, more directions than the path can have, or arrays of different length.

    >>> found = path_directions(jnp.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 0.0]]), center='mean')
    >>> jnp.abs(found.directions).round(4).tolist(), [round(float(x), 3) for x in found.shares]
    ([[1.0, 0.0], [0.0, 1.0]], [0.842, 0.158])
    """
    check.one_of("center", center, CENTERS)
    wide = widen(real_params("path_directions", points))
    size = _points_of(wide)
    check.in_range("count", count, 1, size - 1)
    middle = jax.tree.map(lambda x: x.mean(0) if center == "mean" else x[-1], wide)
    apart = jax.tree.map(lambda x, m: (x - m).reshape(size, -1), wide, middle)
    gram = jax.tree.reduce(jnp.add, jax.tree.map(lambda a: jnp.matmul(a, a.T, precision="highest"), apart))
    values, vectors = eigh(finite_or_nan(gram))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    present = values > 10 * size * jnp.finfo(values.dtype).eps * values[0]
    vectors = jnp.where(vectors[0] < 0, -vectors, vectors) / jnp.where(present, jnp.sqrt(values), jnp.nan)
    along = lambda a, x: jnp.matmul(vectors.T.astype(a.dtype), a, precision="highest").reshape(count, *x.shape[1:])
    directions = jax.tree.map(along, apart, wide)
    lengths = jax.vmap(global_norm)(directions)  # one up to rounding, which is large where the values are small
    directions = jax.tree.map(lambda d: d / lengths.reshape(-1, *[1] * (d.ndim - 1)).astype(d.dtype), directions)
    null = random_walk_shares(size, count, center=center)
    return PathDirections(directions, middle, values / jnp.trace(gram), null)


def random_walk_shares(points: int, count: int = 2, *, center: str = "last") -> jax.Array:
    """What share of a random walk its principal components explain, in the limit of many dimensions.

    The eigenvalues are those of the covariance ``min(i, j)`` of the walk's points, seen from the center.  A path whose
    shares are like these has no more shape in the picture than a random walk has.

    Args:
      points: (static) of the walk.
      count: (static) how many components.
      center: see `path_directions`.

    >>> [round(float(x), 3) for x in random_walk_shares(1000, 3, center='mean')]
    [0.608, 0.152, 0.068]
    >>> [round(float(x), 3) for x in random_walk_shares(1000)]
    [0.811, 0.09]
    """
    check.one_of("center", center, CENTERS)
    check.in_range("count", count, 1, points - 1)
    k = jnp.arange(1.0, points)
    angles = jnp.pi * (k / points if center == "mean" else (2 * k - 1) / (2 * points - 1)) / 2
    values = 1 / jnp.sin(angles) ** 2
    return (values / values.sum())[:count]


def direction_count(who: str, directions: Tree, params: Tree, count: int) -> None:
    """Raises unless ``directions`` is a tree like ``params`` with an axis of length ``count`` in front."""
    trees.require_same_structure("directions", directions, "parameters", params)

    def check_leaf(path, p, d):
        if jnp.shape(d) != (count, *jnp.shape(p)):
            raise ValueError(
                f"{who}: the directions at '{trees.path_name(path)}' must have the shape {(count, *jnp.shape(p))}, an "
                f"axis of directions before those of the parameter, got {jnp.shape(d)}"
            )

    jax.tree_util.tree_map_with_path(check_leaf, params, directions)


def _filter_norms(leaves: list[jax.Array], layers: list[Any]) -> list[jax.Array]:
    return [jnp.abs(x) if x.ndim < 2 else norm(x, axis=tuple(range(x.ndim - 1)), keepdims=True) for x in leaves]


def _leaf_norms(leaves: list[jax.Array], layers: list[Any]) -> list[jax.Array]:
    return [norm(x, axis=tuple(range(x.ndim)), keepdims=True) for x in leaves]


def _layer_norms(leaves: list[jax.Array], layers: list[Any]) -> list[jax.Array]:
    """Of the leaves that share a layer, together; a leaf at rest counts with the parameters but not with the draw."""
    group = lambda layer: [x for x, other in zip(leaves, layers, strict=True) if other == layer]
    return [
        global_norm(group(layer)).reshape([1] * x.ndim).astype(x.dtype) for x, layer in zip(leaves, layers, strict=True)
    ]


def _points_of(points: Tree) -> int:
    lengths = {trees.path_name(path): x.shape[:1] for path, x in jax.tree_util.tree_leaves_with_path(points)}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(f"path_directions: the arrays must share a first axis of points, got lengths {lengths}")
    return next(iter(lengths.values()))[0]
