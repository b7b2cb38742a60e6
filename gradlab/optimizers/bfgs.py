r"""BFGS: the gradient times a dense approximation of the inverse Hessian, for problems of up to some thousand numbers.

With g the gradient, p the parameters, s and y the last differences of p and g, all in one vector (of a complex
parameter the real and the imaginary parts), and H the approximation::

    rho = 1 / <y, s>
    H = (I - rho * s y^T) H (I - rho * y s^T) + rho * s s^T       where <y, s> > eps * |y| * |s|; else H stays
    p = p - t * H g                                               with the step size t of a line search

H starts as ``<y, s> / <y, y> * I`` at the first pair; the step before it is along ``g / max(1, |g|)``.  Nocedal and
Wright 1999, section 6.1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.axes import laid_like, raveled
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import is_none, real_dtype, zeros_like
from gradlab.optimizers.lbfgs import NEWTON_SEARCH, with_linesearch

Tree = Any


class ScaleByBFGSState(NamedTuple):
    """What `scale_by_bfgs` remembers."""

    count: jax.Array  # () int32, updates so far
    pairs: jax.Array  # () int32, of them those whose pair entered the approximation
    params: Tree  # at the last update
    updates: Tree  # the gradients of the last update
    inverse_hessian: jax.Array  # (n, n), n the number of real numbers among the parameters


def _scale_by_bfgs_init(params):
    size = sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in jax.tree.leaves(params))
    zero = jnp.zeros([], jnp.int32)
    return ScaleByBFGSState(zero, zero, zeros_like(params), zeros_like(params), jnp.eye(size, dtype=real_dtype(params)))


def _remember_rule(g, last_p, last_g, p):
    del last_p, last_g
    return g, p, g


def _vector(tree: Tree, like: Tree, dtype: Any) -> jax.Array:
    """A tree as one real vector; zeros in the place of ``None``, as many as ``like`` has numbers there."""
    leaves = zip(jax.tree.leaves(tree, is_leaf=is_none), jax.tree.leaves(like, is_leaf=is_none), strict=True)
    parts = [_reals(jnp.zeros_like(p) if leaf is None else leaf) for leaf, p in leaves if p is not None]
    return jnp.concatenate([part.astype(dtype) for part in parts]) if parts else jnp.zeros([0], dtype)


def _reals(leaf: jax.Array) -> jax.Array:
    leaf = raveled(leaf)
    return jnp.concatenate([leaf.real, leaf.imag]) if jnp.iscomplexobj(leaf) else leaf


def _tree(vector: jax.Array, grads: Tree, like: Tree) -> Tree:
    """The inverse of `_vector`, in the dtypes of the gradients and with their ``None``."""
    leaves, treedef = jax.tree.flatten(grads, is_leaf=is_none)
    new, start = [], 0
    for g, p in zip(leaves, jax.tree.leaves(like, is_leaf=is_none), strict=True):
        if p is None:
            new.append(None)
            continue
        parts = [vector[start : start + p.size], vector[start + p.size : start + 2 * p.size]]
        start += p.size * (2 if jnp.iscomplexobj(p) else 1)
        flat = jax.lax.complex(*parts) if jnp.iscomplexobj(p) else parts[0]
        new.append(None if g is None else laid_like(flat.reshape(p.shape).astype(g.dtype), g))
    return jax.tree.unflatten(treedef, new)


def improved(inverse: jax.Array, s: jax.Array, y: jax.Array) -> jax.Array:
    """The approximation after one more pair: the nearest to it with ``H y = s``, where ``<y, s> > 0``."""
    curvature = jnp.vdot(y, s)
    rho = 1 / jnp.where(curvature > 0, curvature, 1)
    hy = _product(inverse, y)
    cross = jnp.outer(s, hy)
    return inverse - rho * (cross + cross.T) + rho * (1 + rho * jnp.vdot(y, hy)) * jnp.outer(s, s)


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _scale_by_bfgs_update(grads, state, params=None, *, eps, scale_init_precond, **extra):
    del extra
    params = check.required_params("scale_by_bfgs", params)
    _, last_params, last_grads = leafwise(_remember_rule, grads, [state.params, state.updates], params)
    inverse = state.inverse_hessian
    g, s, y = (
        _vector(tree, params, inverse.dtype)
        for tree in (grads, _changes(grads, params, state.params), _changes(grads, last_grads, state.updates))
    )
    curvature, size = jnp.vdot(y, s), norm(y)
    accepted = (state.count > 0) & (curvature > eps * size * norm(s))
    if scale_init_precond:
        gamma = curvature / jnp.where(accepted, size**2, 1)
        inverse = jnp.where(accepted & (state.pairs == 0), gamma * inverse, inverse)
    inverse = jnp.where(accepted, improved(inverse, s, y), inverse)
    pairs = state.pairs + accepted.astype(jnp.int32)
    direction = jnp.where(pairs > 0, _product(inverse, g), g / jnp.maximum(1, norm(g)))
    new_state = ScaleByBFGSState(optax.safe_increment(state.count), pairs, last_params, last_grads, inverse)
    return _tree(direction, grads, params), new_state


def _changes(grads: Tree, new: Tree, old: Tree) -> Tree:
    """``new - old`` in at least float32, ``None`` where the gradient is."""
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    change = lambda g, n, o: None if g is None else wide(n) - wide(o)
    return jax.tree.map(change, grads, new, old, is_leaf=is_none)


def scale_by_bfgs(eps: Any = 1e-8, *, scale_init_precond: bool = True) -> Transform:
    """The direction of BFGS: a dense approximation of the inverse Hessian times the gradient; see `bfgs`.

    >>> tx = scale_by_bfgs()
    >>> state = tx.init(jnp.zeros(1))
    >>> _, state = tx.update(jnp.array([8.0]), state, jnp.array([2.0]))  # the gradient of 2 x^2
    >>> updates, state = tx.update(jnp.array([4.0]), state, jnp.array([1.0]))
    >>> updates.tolist(), state.inverse_hessian.tolist()
    ([1.0], [[0.25]])
    """
    check.non_negative(eps=eps)
    return transform(_scale_by_bfgs_init, _scale_by_bfgs_update, eps=eps, scale_init_precond=static(scale_init_precond))


@storable
def bfgs(
    learning_rate: Any = None,
    linesearch: optax.GradientTransformation | None = NEWTON_SEARCH,
    eps: Any = 1e-8,
    *,
    scale_init_precond: bool = True,
) -> Transform:
    """BFGS with a line search (Nocedal and Wright 1999, section 6.1), for small problems.

    The recurrence heads this module.  ``update`` needs ``value`` and ``value_fn``, the loss and the function that gives
    it; `gradlab.minimize` is the loop around it.  Memory and work of a step grow with the square of the number of
    parameters; the approximation is kept in at least float32.

    Args:
      learning_rate: a factor of the direction: a number, a schedule, or a tree of these that is a prefix of the
        parameters.  None leaves the length of the steps to the line search.
      linesearch: the stage that scales the step; by default a zoom search of at most 20 tries from step size 1.  None
        makes the step as it is: then ``update`` needs no value.
      eps: least cosine between s and y at which their pair is used.
      scale_init_precond: (static) false lets the approximation start from the identity.

    Raises:
      ValueError: a negative learning rate or ``eps``; ``update`` without ``params``.

    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    >>> tx, params = bfgs(), jnp.array([3.0, 1.0])
    >>> state = tx.init(params)
    >>> for _ in range(9):
    ...     value, grad = jax.value_and_grad(loss)(params)
    ...     updates, state = tx.update(grad, state, params, value=value, value_fn=loss)
    ...     params = params + updates
    >>> bool(loss(params) < 1e-6)
    True
    """
    return with_linesearch(scale_by_bfgs(eps, scale_init_precond=scale_init_precond), learning_rate, linesearch)
