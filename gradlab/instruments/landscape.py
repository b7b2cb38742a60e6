r"""Losses on lines and planes through parameter space, and how far a path of training is from what they show.

::

    line(x) = L(p + x d)            plane(x, y) = L(p + x d_1 + y d_2)

The losses are exact; what a picture of them can hide is how far the path runs outside of the plane, so `project_path`
gives for every point its distance from the plane and the plane's loss below it beside the true one.  A loss that is
NaN or infinite is so at its own place only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.across import at_least_float32
from gradlab.core.curvature import cast_like, widen
from gradlab.core.decompositions import eigh
from gradlab.core.norms import global_norm
from gradlab.core.numerics import finite_or_nan
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.chunks import mapped
from gradlab.instruments.directions import direction_count

Tree = Any


class Projection(NamedTuple):
    """A path as seen from a plane, or from a space of k directions."""

    coordinates: jax.Array  # (points, k) of the nearest point of the plane; NaN if the directions are dependent
    distance: jax.Array  # (points,) Euclidean, from the plane
    condition: jax.Array  # () number of the directions as unit vectors: by how much rounding errors grow, at most


class PathLosses(NamedTuple):
    """A path beside its shadow in a plane."""

    projection: Projection
    plane_losses: jax.Array  # (points,) at the nearest point of the plane
    losses: jax.Array  # (points,) at the point itself
    gaps: jax.Array  # (points,) plane_losses - losses: by how much the picture is wrong about the path


def line(
    loss: Callable, params: Tree, batch: Any, direction: Tree, xs: Any, *, batch_size: int | None = None
) -> jax.Array:
    """The losses at ``params + x * direction``: one forward pass for each x.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic; static under `jax.jit`.
      params: any tree of real floating-point arrays.
      batch: what the loss gets.
      direction: a tree like ``params``.
      xs: (nx,) positions.
      batch_size: (static) points that are evaluated together, each with its own parameters; all by default.

    Raises:
      ValueError: the loss is no scalar, or the direction's shapes are not those of the parameters.

    >>> line(lambda p, batch: jnp.sum(p**2), jnp.array([1.0, 0.0]), None, jnp.array([0.0, 1.0]), [0.0, 2.0]).tolist()
    [1.0, 5.0]
    """
    return _losses("line", loss, params, batch, jax.tree.map(lambda d: d[None], direction), [xs], batch_size)


def plane(
    loss: Callable, params: Tree, batch: Any, directions: Tree, xs: Any, ys: Any, *, batch_size: int | None = None
) -> jax.Array:
    """The losses at ``params + x * first + y * second``, (ny, nx): one forward pass for each point.

    Args:
      loss: see `line`.
      params: the origin of the plane.
      batch: see `line`.
      directions: a tree like ``params`` with an axis of length 2 in front, as from `random_directions`.
      xs: (nx,) positions along the first direction.
      ys: (ny,) positions along the second one.
      batch_size: (static) points that are evaluated together; all by default.  It needs the memory of as many forward
        passes and copies of the parameters.

    Raises:
      ValueError: see `line`.

    >>> plane(lambda p, batch: p[0] + 10 * p[1], jnp.zeros(2), None, jnp.eye(2), [0.0, 1.0, 2.0], [0.0, 1.0]).tolist()
    [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]
    """
    return _losses("plane", loss, params, batch, directions, [xs, ys], batch_size).T


def interpolate(
    loss: Callable, start: Tree, end: Tree, batch: Any, xs: Any, *, batch_size: int | None = None
) -> jax.Array:
    """The losses at ``(1 - x) * start + x * end``: start at 0, end at 1, and beyond if asked for (arXiv 1412.6544).

    Both ends are met exactly.

    >>> interpolate(lambda p, batch: p**2, jnp.array(-1.0), jnp.array(3.0), None, [0.0, 0.5, 1.0]).tolist()
    [1.0, 1.0, 9.0]
    """
    start, end = real_params("interpolate", start), real_params("interpolate", end)
    require_outputs("interpolate", loss, start, batch, axes=0)
    wide, other = widen(start), widen(end)
    mix = lambda x: jax.tree.map(lambda a, b: (1 - x).astype(a.dtype) * a + x.astype(a.dtype) * b, wide, other)
    return _mapped(lambda x: loss(cast_like(mix(x), start), batch), at_least_float32(xs), batch_size)


def project(points: Tree, directions: Tree, origin: Tree) -> Projection:
    """The nearest points of ``origin + span(directions)``, by least squares: the directions need not be orthogonal.

    Cost: no loss; the directions' (k, k) products.

    Args:
      points: a tree like ``origin`` with an axis of points in front, such as the iterates that a scan returns.
      directions: a tree like ``origin`` with an axis of k directions in front.
      origin: parameters.

    >>> projection = project(jnp.array([[3.0, 2.0, 7.0]]), jnp.array([[1.0, 0, 0], [1.0, 1.0, 0]]), jnp.zeros(3))
    >>> [round(float(x), 3) for x in projection.coordinates[0]], round(float(projection.distance[0]), 3)
    ([1.0, 2.0], 7.0)
    """
    rows = widen(directions)
    lengths = jax.vmap(global_norm)(rows)
    units = jax.tree.map(lambda d: d / lengths.reshape(-1, *[1] * (d.ndim - 1)).astype(d.dtype), rows)
    gram = jax.vmap(lambda u: _products(units, u))(units)
    values, vectors = eigh(finite_or_nan(gram))
    independent = values[0] > 10 * jnp.finfo(values.dtype).eps * values[-1]
    inverse = (vectors / jnp.where(independent, values, jnp.nan)) @ vectors.T

    def one(point):
        apart = jax.tree.map(jnp.subtract, widen(point), widen(origin))
        first = inverse @ _products(units, apart)
        found = first + inverse @ _products(units, _beyond(apart, first, units))  # what rounding left
        return found / lengths, global_norm(_beyond(apart, found, units))

    condition = jnp.sqrt(values[-1] / jnp.where(independent, values[0], 0))
    return Projection(*jax.lax.map(one, points), condition)


def project_path(
    loss: Callable, params: Tree, batch: Any, points: Tree, directions: Tree, *, batch_size: int | None = None
) -> PathLosses:
    """A path's coordinates in a plane, its distance from it, and the losses on the path and on the plane below it.

    Cost: two forward passes for each point.

    Args:
      loss: see `line`.
      params: the origin of the plane.
      batch: see `line`.
      points: a tree like ``params`` with an axis of points in front.
      directions: a tree like ``params`` with an axis of k directions in front.
      batch_size: (static) points that are evaluated together; all by default.

    >>> path, loss = jnp.array([[1.0, 0.0], [1.0, 2.0]]), lambda p, batch: jnp.sum(p**2)
    >>> seen = project_path(loss, jnp.zeros(2), None, path, jnp.array([[1.0, 0.0]]))
    >>> seen.plane_losses.tolist(), seen.losses.tolist(), seen.projection.distance.tolist()
    ([1.0, 1.0], [1.0, 5.0], [0.0, 2.0])
    """
    params = real_params("project_path", params)
    require_outputs("project_path", loss, params, batch, axes=0)
    projection = project(points, directions, params)
    shadow = lambda place: loss(_at(params, directions, place), batch)
    plane_losses = _mapped(shadow, projection.coordinates, batch_size)
    losses = _mapped(lambda point: loss(cast_like(point, params), batch), points, batch_size)
    return PathLosses(projection, plane_losses, losses, plane_losses - losses)


def _losses(
    who: str, loss: Callable, params: Tree, batch: Any, directions: Tree, axes: list[Any], batch_size: int | None
) -> jax.Array:
    params = real_params(who, params)
    require_outputs(who, loss, params, batch, axes=0)
    direction_count(who, directions, params, len(axes))
    grid = jnp.meshgrid(*(at_least_float32(axis) for axis in axes), indexing="ij")
    places = jnp.stack([axis.ravel() for axis in grid], axis=1)
    losses = _mapped(lambda place: loss(_at(params, directions, place), batch), places, batch_size)
    return losses.reshape(grid[0].shape)


def _mapped(function: Callable, items: Tree, batch_size: int | None) -> jax.Array:
    if batch_size is None:
        return jax.vmap(function)(items)
    check.in_range("batch_size", batch_size, 1)
    return mapped(function, items, batch_size)


def _at(params: Tree, directions: Tree, place: jax.Array) -> Tree:
    """``params + sum_k place_k * direction_k`` in the dtypes of ``params``, computed in at least float32."""
    moved = jax.tree.map(lambda p, d: p + _combined(place, d.astype(p.dtype)), widen(params), directions)
    return cast_like(moved, params)


def _combined(coordinates: jax.Array, rows: jax.Array) -> jax.Array:
    """``sum_k coordinates_k * rows_k``, as a sum because matrix units multiply in fewer digits."""
    return jnp.sum(coordinates.astype(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1)) * rows, axis=0)


def _products(units: Tree, vector: Tree) -> jax.Array:
    """The inner product with each of the directions, (k,)."""
    terms = jax.tree.map(lambda d, v: jnp.sum((d * v).reshape(len(d), -1), axis=1), units, vector)
    return jax.tree.reduce(jnp.add, terms)


def _beyond(apart: Tree, coordinates: jax.Array, units: Tree) -> Tree:
    return jax.tree.map(lambda a, d: a - _combined(coordinates, d), apart, units)
