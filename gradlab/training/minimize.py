r"""`minimize`: a deterministic function to its minimum, as one compiled loop.

::

    while steps < max_steps and |grad| > tol and value and grad are finite:
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=fun)
        params = params + updates
        value, grad = what the line search evaluated last, if it ends the optimizer; else fun anew
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.closures import as_pytree
from gradlab.core.norms import global_norm
from gradlab.core.transform import from_optax
from gradlab.core.tree import real_dtype
from gradlab.core.update import apply_updates
from gradlab.optimizers.lbfgs import lbfgs

Tree = Any

SEARCHES = (optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState)


class Minimum(NamedTuple):
    """Where a minimisation ended."""

    params: Tree
    value: jax.Array  # () the function there
    grad_norm: jax.Array  # () the Euclidean norm of its gradient there
    steps: jax.Array  # () int32, updates made
    converged: jax.Array  # () bool: the norm came down to the tolerance, where the function is finite
    state: Any  # of the optimizer


class _Iterate(NamedTuple):
    """What the loop carries."""

    params: Tree
    value: jax.Array
    grad: Tree  # the direction of steepest ascent: conjugated for complex parameters
    grad_norm: jax.Array
    steps: jax.Array
    state: Any


def minimize(
    fun: Callable[..., Any],
    x0: Tree,
    tx: optax.GradientTransformation | None = None,
    *,
    args: tuple = (),
    max_steps: Any = 1000,
    tol: Any = 1e-5,
) -> Minimum:
    """Minimises ``fun(x, *args)`` from ``x0`` in one compiled loop.

    A second call with the same code of ``fun`` and other data (``args``, arrays that ``fun`` closes over, ``x0`` of the
    same shape, other hyperparameters, ``max_steps`` or ``tol``) runs the program that is already compiled.  It may be
    vmapped over ``x0``, ``args`` and the leaves of ``tx``: each lane ends on its own.  Where a line search ends the
    optimizer, its last evaluation is the next step's, and ``fun`` is called nowhere else.

    Args:
      fun: a function of a tree of parameters, and of ``args``, that returns one number; jax must be able to
        differentiate it.
      x0: a tree of floating-point arrays to start from.
      tx: an optimizer; `lbfgs` if None.
      args: further arguments of ``fun``, trees of arrays.
      max_steps: most updates.
      tol: Euclidean norm of the gradient at which it has converged.  Rounding bounds what can be reached: in float32
        about 1e-7 times the largest curvature and the size of the parameters.

    Raises:
      TypeError: ``fun`` does not return one real number, or ``x0`` has leaves that are not floating-point.
      ValueError: ``fun`` or its gradient is not finite at ``x0``; a negative tolerance or number of steps.

    >>> found = minimize(lambda x: jnp.sum((x - 3.0) ** 4), jnp.zeros(2))
    >>> bool(found.converged), [round(x, 1) for x in found.params.tolist()]
    (True, [3.0, 3.0])
    """
    check.non_negative(max_steps=max_steps, tol=tol)
    x0 = jax.tree_util.tree_map_with_path(_start_leaf, x0)
    found = _minimize(as_pytree(fun), from_optax(lbfgs() if tx is None else tx), x0, tuple(args), max_steps, tol)
    _check_start(found)
    return found


def _start_leaf(path: tuple, leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise TypeError(f"x0 at '{trees.path_name(path)}' is {leaf.dtype}: minimize moves floating-point numbers")
    return leaf


def _check_start(found: Minimum) -> None:
    numbers = (found.steps, found.value, found.grad_norm)
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return
    steps, value, grad_norm = jax.device_get(numbers)
    if steps == 0 and not (np.isfinite(value) and np.isfinite(grad_norm)):
        raise ValueError(
            f"fun is {value} at x0, and the norm of its gradient {grad_norm}: no step leads on from there; start where "
            "both are finite"
        )


@jax.jit
def _minimize(fun, tx, x0, args, max_steps, tol):
    def value_fn(params):
        return _one_number(fun(params, *args))

    def unfinished(now):
        return (now.steps < max_steps) & (now.grad_norm > tol) & jnp.isfinite(now.value) & jnp.isfinite(now.grad_norm)

    start = _iterate(x0, *_evaluated(value_fn, x0), jnp.zeros([], jnp.int32), tx.init(x0))
    end = jax.lax.while_loop(unfinished, lambda now: _next(tx, value_fn, now), start)
    converged = (end.grad_norm <= tol) & jnp.isfinite(end.value)
    return Minimum(end.params, end.value, end.grad_norm, end.steps, converged, end.state)


def _one_number(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"fun must return one real number, got {value.dtype}{list(value.shape)}; reduce it with jnp.sum or jnp.mean"
        )
    return value


def _evaluated(value_fn: Callable, params: Tree) -> tuple[jax.Array, Tree]:
    return jax.value_and_grad(value_fn)(params)


def _iterate(params: Tree, value: jax.Array, grad: Tree, steps: jax.Array, state: Any) -> _Iterate:
    dtype = real_dtype(params)
    grad = jax.tree.map(jnp.conj, grad)
    return _Iterate(params, value.astype(dtype), grad, global_norm(grad).astype(dtype), steps, state)


def _next(tx: Any, value_fn: Callable, now: _Iterate) -> _Iterate:
    known = {"value": now.value, "grad": now.grad, "value_fn": value_fn, "step": now.steps}
    updates, state = tx.update(now.grad, now.state, now.params, **known)
    params = apply_updates(now.params, updates)
    search = _last_search(state)
    value, grad = _evaluated(value_fn, params) if search is None else (search.value, search.grad)
    return _iterate(params, value, grad, now.steps + 1, state)


def _last_search(state: Any) -> Any:
    """The state of the line search that ends the optimizer, if one does and keeps the gradient."""
    if isinstance(state, SEARCHES):
        return state if state.grad is not None else None
    if type(state) is tuple and state:
        return _last_search(state[-1])
    return None
