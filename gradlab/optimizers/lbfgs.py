r"""L-BFGS: the gradient times an inverse Hessian that the last steps suggest (Liu and Nocedal 1989).

With g the gradient, p the parameters, and the last ``memory_size`` differences s of p and y of g::

    rho = 1 / <y, s>                                  0 where the product is
    gamma = <y, s> / <y, y>                           of the newest pair; min(1, 1 / |g|) at the first step
    q = g
    for the pairs from the newest to the oldest:      alpha = rho * <s, q>;  q = q - alpha * y
    q = gamma * q
    for the pairs from the oldest to the newest:      q = q + (alpha - rho * <y, q>) * s
    p = p - t * q                                     with the step size t of a line search

The pairs of the last step join the memory when the next gradient arrives: no step is remembered that the line search
did not make.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.compose import chain, identity
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import is_none, real_dtype, require_same_structure, zeros_like
from gradlab.transforms.scaling import descend, scale_by_learning_rate
from gradlab.transforms.zoom_linesearch import scale_by_zoom_linesearch

Tree = Any

NEWTON_SEARCH = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


def _scale_by_lbfgs_init(params, *, memory_size):
    rows = jax.tree.map(lambda p: jnp.broadcast_to(jnp.zeros_like(p), (memory_size, *p.shape)), params)
    return optax.ScaleByLBFGSState(
        count=jnp.zeros([], jnp.int32),
        params=zeros_like(params),
        updates=zeros_like(params),
        diff_params_memory=rows,
        diff_updates_memory=rows,
        weights_memory=jnp.zeros([memory_size], real_dtype(params)),
    )


def _remember_rule(g, last_p, last_g, steps, changes, p, *, row, kept):
    """Puts the newest differences into their row, zeros before the second step."""
    row = row.astype(int)
    difference = lambda new, old: jnp.where(kept > 0, new - old, 0)
    return g, p, g, steps.at[row].set(difference(p, last_p)), changes.at[row].set(difference(g, last_g))


def _precondition(g: Tree, steps: Tree, changes: Tree, weights: jax.Array, gamma: Any, order: jax.Array) -> Tree:
    """The two loops; ``order`` lists the rows of the memory from the oldest to the newest."""
    pair = lambda row: jax.tree.map(lambda rows: rows[row], (steps, changes))
    add = lambda q, factor, tree: jax.tree.map(lambda a, b: (a + factor * b).astype(a.dtype), q, tree)

    def from_newest(q, row):
        s, y = pair(row)
        alpha = weights[row] * vdot(s, q)
        return add(q, -alpha, y), alpha

    def from_oldest(q, row_and_alpha):
        row, alpha = row_and_alpha
        s, y = pair(row)
        return add(q, alpha - weights[row] * vdot(y, q), s), None

    q, alphas = jax.lax.scan(from_newest, g, order, reverse=True)
    q = jax.tree.map(lambda leaf: (gamma * leaf).astype(leaf.dtype), q)
    return jax.lax.scan(from_oldest, q, (order, alphas))[0]


def _scale_by_lbfgs_update(grads, state, params=None, *, memory_size, scale_init_precond, **extra):
    del extra
    params = check.required_params("scale_by_lbfgs", params)
    require_same_structure("gradients", grads, "parameters", params)
    newest, started = (state.count - 1) % memory_size, state.count > 0
    s, y = _difference(grads, params, state.params), _difference(grads, grads, state.updates)
    curvature, length = vdot(y, s), vdot(y, y)
    _, last_params, last_grads, steps, changes = leafwise(
        _remember_rule,
        grads,
        [state.params, state.updates, state.diff_params_memory, state.diff_updates_memory],
        params,
        own_shapes=True,
        row=newest,
        kept=started,
    )
    weight = jnp.where(started, _ratio(1, curvature, 0), 0).astype(state.weights_memory.dtype)
    weights = jnp.where(jnp.arange(memory_size) == newest, weight, state.weights_memory)
    gamma = 1.0
    if scale_init_precond:  # before the first step y is the gradient
        gamma = jnp.where(started, _ratio(curvature, length, 1), 1 / jnp.sqrt(jnp.maximum(1, length)))
    order = (state.count + jnp.arange(memory_size)) % memory_size
    memory = _where_given(grads, steps), _where_given(grads, changes)
    q = _precondition(_wide(grads), *memory, weights, gamma, order)
    updates = jax.tree.map(lambda leaf, grad: leaf.astype(grad.dtype), q, grads)
    count = optax.safe_increment(state.count)
    return updates, optax.ScaleByLBFGSState(count, last_params, last_grads, steps, changes, weights)


def _difference(grads: Tree, new: Tree, old: Tree) -> Tree:
    """``new - old`` in at least float32, ``None`` where the gradient is."""
    return jax.tree.map(jnp.subtract, _wide(_where_given(grads, new)), _wide(_where_given(grads, old)))


def _ratio(numerator: Any, denominator: jax.Array, otherwise: float) -> jax.Array:
    """The quotient, and ``otherwise`` with derivative zero where the denominator is zero."""
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), otherwise)


def _wide(grads: Tree) -> Tree:
    return jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), grads)


def _where_given(grads: Tree, tree: Tree) -> Tree:
    return jax.tree.map(lambda g, leaf: None if g is None else leaf, grads, tree, is_leaf=is_none)


def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> Transform:
    """The direction of L-BFGS: the gradient times an approximation of the inverse Hessian; see `lbfgs`.

    >>> tx = scale_by_lbfgs()
    >>> state = tx.init(jnp.zeros(1))
    >>> _, state = tx.update(jnp.array([8.0]), state, jnp.array([2.0]))  # the gradient of 2 x^2
    >>> tx.update(jnp.array([4.0]), state, jnp.array([1.0]))[0].tolist()
    [1.0]
    """
    check.in_range("memory_size", memory_size, 1)
    return transform(
        _scale_by_lbfgs_init,
        _scale_by_lbfgs_update,
        at_init={"memory_size": static(int(memory_size))},
        memory_size=static(int(memory_size)),
        scale_init_precond=static(scale_init_precond),
    )


@storable
def lbfgs(
    learning_rate: Any = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: optax.GradientTransformation | None = NEWTON_SEARCH,
) -> Transform:
    """L-BFGS with a line search (Liu and Nocedal 1989; Nocedal and Wright 1999, algorithm 7.4).

    The recurrence heads this module.  ``update`` needs ``value`` and ``value_fn``, the loss and the function that gives
    it; `gradlab.minimize` is the loop around it.  Memory: ``2 * memory_size`` copies of the parameters.

    Args:
      learning_rate: a factor of the direction: a number, a schedule, or a tree of these that is a prefix of the
        parameters.  None leaves the length of the steps to the line search.
      memory_size: (static) pairs that are remembered.
      scale_init_precond: (static) false puts 1 in the place of gamma.
      linesearch: the stage that scales the step; by default a zoom search of at most 20 tries from step size 1.  None
        makes the step as it is: then ``update`` needs no value.

    Raises:
      ValueError: a negative learning rate, a memory of less than one pair; ``update`` without ``params``.

    >>> loss = lambda x: jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    >>> tx, params = lbfgs(), jnp.array([3.0, 1.0])
    >>> state = tx.init(params)
    >>> for _ in range(9):
    ...     value, grad = jax.value_and_grad(loss)(params)
    ...     updates, state = tx.update(grad, state, params, value=value, value_fn=loss)
    ...     params = params + updates
    >>> bool(loss(params) < 1e-6)
    True
    """
    return with_linesearch(scale_by_lbfgs(memory_size, scale_init_precond), learning_rate, linesearch)


def with_linesearch(direction: Transform, learning_rate: Any, linesearch: Any) -> Transform:
    """``direction``, minus the learning rate (1 if None) and the line search in a chain."""
    if learning_rate is not None:
        check.non_negative(learning_rate=learning_rate)
    step = descend() if learning_rate is None else scale_by_learning_rate(learning_rate)
    return chain(direction, step, identity() if linesearch is None else linesearch)
