r"""A line search that shrinks the step until the loss has decreased enough (Armijo 1966; arXiv 1905.09997).

With f the loss along the updates, f' its slope there, and lr the learning rate that was found last::

    lr = min(increase_factor * lr, max_learning_rate)
    while f(lr) > (1 + rtol) * f(0) + lr * slope_rtol * f'(0) + atol:    at most max_backtracking_steps times
        lr = decrease_factor * lr
    u = lr * g
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax._src.linesearch import BacktrackingLinesearchInfo as Info

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, zeros_like
from gradlab.transforms.line_search import Line, line, scaled

State = optax.ScaleByBacktrackingLinesearchState


class _Search(NamedTuple):
    """The last step that was tried."""

    count: jax.Array  # () tries so far
    stepsize: jax.Array  # ()
    value: jax.Array  # () the loss there
    error: jax.Array  # () by how much the decrease falls short


def _scale_by_backtracking_linesearch_init(params, *, store_grad):
    dtype = real_dtype(params)
    return State(
        learning_rate=jnp.ones([], dtype),
        value=jnp.full([], jnp.inf, dtype),
        grad=zeros_like(params) if store_grad else None,
        info=Info(num_linesearch_steps=jnp.zeros([], int), decrease_error=jnp.full([], jnp.inf, dtype)),
    )


def backtrack(
    path: Line, value: Any, slope: Any, first: Any, *, max_steps: Any, decrease_factor: Any, slope_rtol, atol, rtol
) -> _Search:
    """Tries ``first``, then steps ever shorter by ``decrease_factor``, and returns the first that is good or the last.

    Args:
      path: the line, see `gradlab.transforms.line_search`.
      value: the loss at its start.
      slope: the slope there.
      first: the step size to try first.
      max_steps, decrease_factor, slope_rtol, atol, rtol: as for `scale_by_backtracking_linesearch`.
    """

    def unfinished(search):
        return ~(search.error <= atol) & (search.count <= max_steps)

    def shorter(search):
        stepsize = jnp.where(search.count > 0, decrease_factor * search.stepsize, search.stepsize).astype(slope.dtype)
        new_value = path.value(stepsize)
        error = new_value - (1 + rtol) * value - stepsize * slope_rtol * slope
        error = jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0)).astype(slope.dtype)
        return _Search(search.count + 1, stepsize, new_value, error)

    start = _Search(jnp.zeros([], int), first, value, jnp.full([], jnp.inf, slope.dtype))
    return jax.lax.while_loop(unfinished, shorter, start)


def _scale_by_backtracking_linesearch_update(
    updates,
    state,
    params=None,
    *,
    value=None,
    grad=None,
    value_fn=None,
    max_backtracking_steps,
    slope_rtol,
    decrease_factor,
    increase_factor,
    max_learning_rate,
    atol,
    rtol,
    store_grad,
    verbose,
    **extra,
):
    path = line("scale_by_backtracking_linesearch", updates, params, extra, value=value, grad=grad, value_fn=value_fn)
    if not jax.tree.leaves(updates):
        return updates, state
    dtype = state.learning_rate.dtype
    value, slope = jnp.asarray(value, dtype), vdot(updates, grad).astype(dtype)
    longer = jnp.minimum(increase_factor * state.learning_rate, max_learning_rate)
    first = jnp.where(state.learning_rate > 0, longer, max_learning_rate).astype(dtype)
    found = backtrack(
        path,
        value,
        slope,
        first,
        max_steps=max_backtracking_steps,
        decrease_factor=decrease_factor,
        slope_rtol=slope_rtol,
        atol=atol,
        rtol=rtol,
    )
    if verbose:
        _report(found, value, slope, atol)
    stays = jnp.isinf(found.error)
    learning_rate = jnp.where(stays, 0, found.stepsize)
    new_value, new_grad = jnp.where(stays, value, found.value), None
    if store_grad:
        new_value, _, new_grad = path.value_slope_grad(learning_rate)
    info = Info(num_linesearch_steps=found.count, decrease_error=found.error)
    return scaled(updates, learning_rate), State(learning_rate, new_value, new_grad, info)


def _report(found: _Search, value: jax.Array, slope: jax.Array, atol: Any) -> None:
    message = (
        "scale_by_backtracking_linesearch found no sufficient decrease: at step size {stepsize} the loss is {new}, "
        "{error} too high; at the start it is {value} with slope {slope}"
    )
    numbers = {"stepsize": found.stepsize, "new": found.value, "error": found.error, "value": value, "slope": slope}
    jax.lax.cond(~(found.error <= atol), lambda: jax.debug.print(message, **numbers), lambda: None)


def scale_by_backtracking_linesearch(
    max_backtracking_steps: Any,
    slope_rtol: Any = 1e-4,
    decrease_factor: Any = 0.8,
    increase_factor: Any = 1.5,
    max_learning_rate: Any = 1.0,
    atol: Any = 0.0,
    rtol: Any = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> Transform:
    """Scales the updates by a learning rate with which the loss decreases enough (Armijo 1966; arXiv 1905.09997).

    The loop heads this module.  It stands after the minus sign, as in ``chain(sgd(1.0), ...)``.  ``update`` needs
    ``value`` and ``value_fn``, and ``grad`` where no chain around it supplies that; other extra arguments go to
    ``value_fn`` if it has parameters of their names, and are ignored otherwise (Optax raises).  Where no step gives a
    finite loss the parameters stay, and the next search starts from ``max_learning_rate``; Optax's learning rate
    stays at zero from then on.

    Args:
      max_backtracking_steps: how often the learning rate is shortened.
      slope_rtol: part of the decrease that the slope promises, which must be reached.
      decrease_factor: by which a learning rate that failed is multiplied.
      increase_factor: by which the last learning rate is multiplied for the first try; infinity starts every search
        from ``max_learning_rate``.
      max_learning_rate: bound on the learning rate.
      atol: absolute slack of the decrease.
      rtol: slack relative to the loss.
      store_grad: (static) keep the gradient at the new point in the state, for `value_and_grad_from_state`.
      verbose: (static) print why a search failed.

    Raises:
      ValueError: a negative number; ``update`` without ``params``.
      TypeError: ``update`` without ``value``, ``grad`` or ``value_fn``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), scale_by_backtracking_linesearch(15, decrease_factor=0.5))
    >>> loss = lambda x: jnp.sum(x**2)
    >>> params = jnp.array([3.0, 4.0])
    >>> updates, state = tx.update(2 * params, tx.init(params), params, value=loss(params), value_fn=loss)
    >>> (params + updates).tolist(), float(state[-1].learning_rate)
    ([0.0, 0.0], 0.5)
    """
    check.non_negative(
        max_backtracking_steps=max_backtracking_steps,
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        max_learning_rate=max_learning_rate,
        atol=atol,
        rtol=rtol,
    )
    return transform(
        _scale_by_backtracking_linesearch_init,
        _scale_by_backtracking_linesearch_update,
        at_init={"store_grad": static(store_grad)},
        max_backtracking_steps=max_backtracking_steps,
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        max_learning_rate=max_learning_rate,
        atol=atol,
        rtol=rtol,
        store_grad=static(store_grad),
        verbose=static(verbose),
    )
