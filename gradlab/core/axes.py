"""Meshes with explicit axes, the default of `jax.make_mesh`: how an array is split is part of its type.

JAX infers the type of every result, and refuses an operation whose result could be split in several ways: a product
over a split axis, a reshape of one, matrices of unlike parameters in one stack.  What does such things runs with
automatic axes instead, where XLA decides, and says how its results lie: as what they replace.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

Tree = Any
Shape = tuple[int, ...]


def explicit_mesh(*trees: Tree) -> AbstractMesh | None:
    """The mesh of the context, or else of the first array that has one, if it has explicit axes.

    >>> explicit_mesh(jnp.ones(2)) is None
    True
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh if _explicit_axes(mesh) else None
    shardings = map(sharding_of, jax.tree.leaves(trees))
    return next((sharding.mesh for sharding in shardings if sharding is not None), None)


def sharding_of(x: Any) -> NamedSharding | None:
    """How an array, or the shape of one, is split by its type; None where that is not said."""
    sharding = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x).sharding
    if not isinstance(sharding, NamedSharding) or not _explicit_axes(sharding.mesh):
        return None
    return NamedSharding(sharding.mesh.abstract_mesh, sharding.spec)


def _explicit_axes(mesh: Any) -> list[str]:
    return [axis for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is AxisType.Explicit]


def automatic(function: Callable, operands: tuple, like: Tree) -> Tree:
    """``function(*operands)``, computed with automatic axes where the mesh has explicit ones.

    Args:
      function: of arrays; it closes over none.
      operands: trees of arrays.
      like: a prefix tree of the results, of arrays or shapes: a result is split as its own is, but for axes that have
        another length, if that is not a divisor of it that the devices divide.
    """
    mesh = explicit_mesh(operands)
    if mesh is None:
        return function(*operands)
    with jax.sharding.use_abstract_mesh(mesh.update_axis_types(dict.fromkeys(_explicit_axes(mesh), AxisType.Auto))):
        results = function(*jax.tree.map(lambda x: jax.sharding.reshard(x, P()), operands))
    placed = lambda of, part: jax.tree.map(lambda x: jax.sharding.reshard(x, _sharding_like(of, x, mesh)), part)
    return jax.tree.map(placed, like, results)


def _sharding_like(like: Any, x: jax.Array, mesh: AbstractMesh) -> NamedSharding:
    sharding = sharding_of(like)
    of_axis = entries(sharding.spec, len(like.shape)) if sharding else [None] * len(like.shape)
    axes = zip(x.shape, like.shape, of_axis, strict=False)
    return NamedSharding(mesh, P(*(entry if splits_alike(mesh, n, m, entry) else None for n, m, entry in axes)))


def splits_alike(mesh: Any, length: int, whole: int, entry: Any) -> bool:
    """Whether an axis, of which each number belongs to as many of another one, is split with it without remainder.

    >>> splits_alike(AbstractMesh((4,), ('x',)), 8, 256, 'x'), splits_alike(AbstractMesh((4,), ('x',)), 6, 192, 'x')
    (True, False)
    """
    return length == whole or (length > 0 and whole % length == 0 and length % number_of_devices(mesh, entry) == 0)


def entries(spec: P, ndim: int) -> tuple:
    """What a specification says of each axis."""
    return (*spec, *[None] * (ndim - len(spec)))


def laid_like(x: jax.Array, like: Any) -> jax.Array:
    """``x``, split as an array or shape of the same shape is by its type."""
    sharding = sharding_of(like)
    if sharding is None or x.shape != like.shape or sharding_of(x) == sharding:
        return x
    return jax.sharding.reshard(x, sharding)


def raveled(x: jax.Array) -> jax.Array:
    """The numbers of an array as one vector, whole on every device."""
    return automatic(jnp.ravel, (x,), like=jax.ShapeDtypeStruct((x.size,), x.dtype))


def shape_split(x: Any, shape: Shape, mesh: AbstractMesh, *spec: Any) -> jax.ShapeDtypeStruct:
    """A shape in the dtype of ``x`` that is split so."""
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, P(*spec)))


def evenly_split(x: Any, shape: Shape, mesh: AbstractMesh) -> jax.ShapeDtypeStruct:
    """The same, split over all explicit axes along the first axis of the shape that the devices divide, if one is."""
    axes = tuple(_explicit_axes(mesh))
    count = number_of_devices(mesh, axes)
    along = next((place for place, length in enumerate(shape) if length and length % count == 0), None)
    return shape_split(x, shape, mesh, *([] if along is None else [*[None] * along, axes]))


def number_of_devices(mesh: Any, entry: Any) -> int:
    """Over how many devices an axis with this entry of a specification is split."""
    names = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
    return math.prod(mesh.shape[name] for name in names)
