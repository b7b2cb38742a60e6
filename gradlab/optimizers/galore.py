r"""GaLore: any optimizer in the subspace of the gradient's leading singular vectors.

With G the gradient as a matrix (rows, columns), r the rank, and every ``update_proj_gap`` steps U S V^H = svd(G)::

    P = U[:, :r],  R = P^H G,  u = scale * P direction(R)         if G has at least as many rows as columns
    P = V[:, :r],  R = G P,    u = scale * direction(R) P^H       else
    p = p - learning_rate * (u + weight_decay * p)                arXiv 2403.03507

where ``direction`` is that of the inner optimizer, whose state has the shape of R.  Its averages are kept when P
changes.  Other leaves go to the inner optimizer as they are.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import GaLoreDimensionNumbers, GaLoreState

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.axes import automatic
from gradlab.core.decompositions import svd
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import finite_or_nan
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.decay import with_weight_decay

Tree = Any
Axes = tuple[tuple[int, ...], tuple[int, ...]]  # those of the rows and those of the columns


def _matrix_axes(choice: Any, tree: Tree) -> Tree:
    """For each leaf the axes of its rows and columns; None for the leaves that are not projected."""
    if callable(choice):
        choice = choice(tree)
    if choice is None:
        choice = jax.tree.map(lambda p: GaLoreDimensionNumbers() if jnp.ndim(p) == 2 else None, tree)
    if isinstance(choice, GaLoreDimensionNumbers):
        choice = jax.tree.map(lambda p, spec=choice: spec if jnp.ndim(p) >= 2 else None, tree)
    is_spec = lambda value: value is None or isinstance(value, GaLoreDimensionNumbers)
    spread = lambda spec, part: jax.tree.map(lambda p: spec, part)
    specs = jax.tree.map(spread, choice, tree, is_leaf=is_spec)
    return jax.tree_util.tree_map_with_path(_axes_of_leaf, tree, specs)


def _axes_of_leaf(path: tuple, p: Any, spec: GaLoreDimensionNumbers | None) -> Axes | None:
    if spec is None or 0 in jnp.shape(p):
        return None
    ndim = jnp.ndim(p)
    rows, columns = ((axes,) if isinstance(axes, int) else tuple(axes) for axes in spec)
    every = [axis % max(ndim, 1) for axis in (*rows, *columns)]
    if sorted(every) != list(range(ndim)) or not rows or not columns:
        raise ValueError(
            f"`weight_dimension_numbers` must name each axis of parameter '{trees.path_name(path)}' of shape "
            f"{jnp.shape(p)} once, some for the rows and some for the columns; got {spec}"
        )
    return tuple(every[: len(rows)]), tuple(every[len(rows) :])


def _as_matrix(x: jax.Array, axes: Axes) -> jax.Array:
    rows, columns = axes
    return jnp.reshape(jnp.transpose(x, rows + columns), (math.prod(x.shape[axis] for axis in rows), -1))


def _from_matrix(matrix: jax.Array, axes: Axes, shape: tuple[int, ...]) -> jax.Array:
    order = axes[0] + axes[1]
    moved = jnp.reshape(matrix, [shape[axis] for axis in order])
    return jnp.transpose(moved, sorted(range(len(order)), key=order.__getitem__))


def _sides(shape: tuple[int, ...], axes: Axes) -> tuple[int, int]:
    rows, columns = (math.prod(shape[axis] for axis in part) for part in axes)
    return rows, columns


def _shapes(p: Any, axes: Axes | None, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the projector and of the projected leaf; Orbax saves no array of size zero."""
    if axes is None:
        return (1, 1), jnp.shape(p)
    rows, columns = _sides(jnp.shape(p), axes)
    rank = min(rank, rows, columns)
    return ((rows, rank), (rank, columns)) if rows >= columns else ((columns, rank), (rows, rank))


def _scale_by_galore_init(params, *, inner, rank, weight_dimension_numbers):
    count = jnp.zeros([], jnp.int32)
    if not jax.tree.leaves(params):
        return GaLoreState(count, inner(params), params)
    shapes = jax.tree.map(lambda p, a: _shapes(p, a, rank), params, _matrix_axes(weight_dimension_numbers, params))
    projector = jax.tree.map(lambda p, shape: jnp.zeros(shape[0], p.dtype), params, shapes)
    projected = jax.tree.map(lambda p, shape: jnp.zeros(shape[1], p.dtype), params, shapes)
    return GaLoreState(count, inner(projected), projector)


def _leading_vectors_rule(g, projector, *, axes):
    if axes is None:
        return g, projector
    vectors = functools.partial(_leading_vectors, axes=axes, rank=projector.shape[1])
    return g, automatic(vectors, (g,), like=projector)


def _leading_vectors(g, *, axes, rank):
    matrix = jax.lax.stop_gradient(_as_matrix(g, axes))
    single = jnp.complex64 if jnp.iscomplexobj(g) else jnp.float32
    left, _, right = svd(finite_or_nan(matrix.astype(single)))
    vectors = left if matrix.shape[0] >= matrix.shape[1] else right.conj().T
    return vectors[:, :rank]


def _project_rule(g, projector, *, axes):
    if axes is None:
        return g, projector
    return automatic(functools.partial(_projected, axes=axes), (g, projector), like=g), projector


def _projected(g, projector, *, axes):
    matrix = _as_matrix(g, axes)
    is_tall = matrix.shape[0] >= matrix.shape[1]
    return projector.conj().T @ matrix if is_tall else matrix @ projector


def _lift_rule(g, u, projector, *, scale, axes):
    if axes is None:
        return u, u, projector
    lifted = automatic(functools.partial(_lifted, axes=axes, shape=g.shape), (u, projector), like=g)
    return scale * lifted, u, projector


def _lifted(u, projector, *, axes, shape):
    rows, columns = _sides(shape, axes)
    matrix = projector @ u if rows >= columns else u @ projector.conj().T
    return _from_matrix(matrix, axes, shape)


def _scale_by_galore_update(
    grads,
    state,
    params=None,
    *,
    inner,
    scale,
    update_proj_gap,
    weight_dimension_numbers,
    step=None,
    grad=None,
    value_fn=None,
    **extra,
):
    del params, grad, value_fn  # these have the shapes of the parameters, the inner optimizer works on others
    axes = _matrix_axes(weight_dimension_numbers, grads)
    fixed = {"own_shapes": True, "leaf_structure": {"axes": axes}}
    refresh = lambda: leafwise(_leading_vectors_rule, grads, [state.projector], **fixed)[1]
    is_due = (state.count if step is None else step) % update_proj_gap == 0
    projector = jax.lax.cond(is_due, refresh, lambda: state.projector)
    projected, _ = leafwise(_project_rule, grads, [projector], **fixed)
    updates, inner_state = inner(projected, state.base_optimizer_state, None, step=step, **extra)
    updates, *_ = leafwise(_lift_rule, grads, [updates, projector], scale=scale, **fixed)
    return updates, GaLoreState(optax.safe_increment(state.count), inner_state, projector)


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    base_optimizer: optax.GradientTransformation | None = None,
    weight_dimension_numbers: Any = None,
) -> Transform:
    """The direction of an inner optimizer in the leading subspace of each matrix's gradient; see `galore`.

    >>> tx = scale_by_galore(rank=1, base_optimizer=optax.identity())
    >>> grads = jnp.outer(jnp.array([3.0, 4.0]), jnp.ones(4))  # of rank one: nothing is lost
    >>> updates, state = tx.update(grads, tx.init(jnp.zeros((2, 4))))
    >>> [[round(u, 3) for u in row] for row in updates.tolist()], state.projector.shape
    ([[3.0, 3.0, 3.0, 3.0], [4.0, 4.0, 4.0, 4.0]], (4, 1))
    """
    for name, value in (("rank", rank), ("update_proj_gap", update_proj_gap)):
        if not isinstance(value, int):
            raise TypeError(f"`{name}` must be an int, got {type(value).__name__}: it is structure, not data")
        check.in_range(name, value, 1)
    numbers = static(weight_dimension_numbers)
    return transform(
        _scale_by_galore_init,
        _scale_by_galore_update,
        inner=scale_by_adam() if base_optimizer is None else base_optimizer,
        at_init={"rank": static(rank), "weight_dimension_numbers": numbers},
        scale=scale,
        update_proj_gap=static(update_proj_gap),
        weight_dimension_numbers=numbers,
    )


@storable
def galore(
    learning_rate: Any,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    base_optimizer: optax.GradientTransformation | None = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """GaLore (Zhao et al. 2024, arXiv 2403.03507): the state of an optimizer at the size of a low-rank gradient.

    The recurrence heads this module.  A matrix ``(m, n)`` with ``m >= n`` costs ``m r`` numbers for P and ``n r`` for
    each buffer of the inner optimizer.

    The singular vectors are computed in float32 and carry the signs that the decomposition gives them, as in Optax:
    the averages of the inner optimizer are kept across a refresh, so signs that differ between platforms change the
    steps.  In derivatives through an update P counts as a constant.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      rank: (static) of the subspace; the shorter side of a matrix if that is less.
      update_proj_gap: (static) steps between decompositions.  They branch on ``step`` if ``update`` is given one, so
        that the lanes of a sweep decompose together and not at every step, else on the state's own count.
      scale: factor of what is projected back; the paper's alpha.
      base_optimizer: stage for the projected gradients; it sees no parameters.  `gradlab.scale_by_adam` if None.
      weight_decay, mask, decay: as for `gradlab.adamw`.
      weight_dimension_numbers: (static) which axes are a matrix's rows and columns: one
        ``optax.contrib.GaLoreDimensionNumbers`` for all leaves of two or more axes, a tree of these and None that is a
        prefix of the parameters, or a function from parameters to one.  None projects the leaves of two axes.

    Raises:
      TypeError: ``rank`` or ``update_proj_gap`` is no int.
      ValueError: one of them below 1, axes that do not make a matrix, a negative number, an unknown ``decay``.

    >>> params = {'kernel': jnp.ones((64, 32)), 'bias': jnp.zeros(32)}
    >>> state = galore(1e-3, rank=4).init(params)[0]
    >>> state.projector['kernel'].shape, state.base_optimizer_state.mu['kernel'].shape
    ((64, 4), (4, 32))
    """
    direction = scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
