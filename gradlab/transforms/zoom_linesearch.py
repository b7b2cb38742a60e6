r"""The stage that scales the updates by the step size of a zoom line search; see `gradlab.transforms.zoom`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import is_none, real_dtype, zeros_like
from gradlab.transforms.line_search import line, scaled
from gradlab.transforms.zoom import Interval, Limits, Point, Search, zoom

INITIAL_GUESS_STRATEGIES = ("keep", "one")


def _scale_by_zoom_linesearch_init(params):
    dtype = real_dtype(params)
    inf = jnp.full([], jnp.inf, dtype)
    info = optax.ZoomLinesearchInfo(jnp.zeros([], int), decrease_error=inf, curvature_error=inf)
    return optax.ScaleByZoomLinesearchState(
        learning_rate=jnp.ones([], dtype), value=inf, grad=zeros_like(params), info=info
    )


def _scale_by_zoom_linesearch_update(
    updates,
    state,
    params=None,
    *,
    value=None,
    grad=None,
    value_fn=None,
    max_linesearch_steps,
    max_learning_rate,
    tol,
    increase_factor,
    slope_rtol,
    curv_rtol,
    approx_dec_rtol,
    stepsize_precision,
    initial_guess_strategy,
    verbose,
    **extra,
):
    path = line("scale_by_zoom_linesearch", updates, params, extra, value=value, grad=grad, value_fn=value_fn)
    if not jax.tree.leaves(updates):
        return updates, state
    dtype = state.learning_rate.dtype
    last = state.learning_rate
    limits = Limits(
        guess=1.0 if initial_guess_strategy == "one" else jnp.where(last > 0, last, 1),
        max_steps=max_linesearch_steps,
        max_stepsize=jnp.inf if max_learning_rate is None else max_learning_rate,
        tol=tol,
        increase_factor=increase_factor,
        slope_rtol=slope_rtol,
        curv_rtol=curv_rtol,
        approx_dec_rtol=approx_dec_rtol,
        stepsize_precision=stepsize_precision,
    )
    value, slope = jnp.asarray(value, dtype), vdot(updates, grad).astype(dtype)
    stored = jax.tree.map(lambda g, old: old if g is None else g.astype(old.dtype), grad, state.grad, is_leaf=is_none)
    found = zoom(path, value, slope, stored, limits)
    if verbose:
        _report(found, value, slope, tol)
    best, info = Point(*Interval(*found.points).best), optax.ZoomLinesearchInfo(found.count, *found.errors)
    new_state = optax.ScaleByZoomLinesearchState(best.stepsize, best.value, found.grad, info)
    return scaled(updates, best.stepsize), new_state


def _report(found: Search, value: jax.Array, slope: jax.Array, tol: Any) -> None:
    message = (
        "scale_by_zoom_linesearch found no step after {count} tries: decrease falls short by {decrease}, curvature by "
        "{curvature}; at the start the loss is {value} with slope {slope}; it goes on with step size {stepsize}"
    )
    names = ("count", "decrease", "curvature", "value", "slope", "stepsize")
    numbers = dict(zip(names, (found.count, *found.errors, value, slope, Interval(*found.points).best[0]), strict=True))
    jax.lax.cond(jnp.max(found.errors) > tol, lambda: jax.debug.print(message, **numbers), lambda: None)


def scale_by_zoom_linesearch(
    max_linesearch_steps: Any,
    max_learning_rate: Any = None,
    tol: Any = 0.0,
    increase_factor: Any = 2.0,
    slope_rtol: Any = 1e-4,
    curv_rtol: Any = 0.9,
    approx_dec_rtol: Any = 1e-6,
    stepsize_precision: Any = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> Transform:
    """Scales the updates by a learning rate that satisfies the strong Wolfe conditions (Nocedal and Wright 1999).

    The conditions are those of `gradlab.transforms.zoom`.  It stands after the minus sign.  ``update`` needs ``value``
    and ``value_fn``, and ``grad`` where no chain around it supplies that; other extra arguments go to ``value_fn`` if
    it has parameters of their names, and are ignored otherwise (Optax raises).  Loss and gradient at the new point are
    kept in the state, for `value_and_grad_from_state`.  Where no step gives a finite loss the parameters stay.

    Args:
      max_linesearch_steps: most evaluations of the loss and its gradient.
      max_learning_rate: bound on the learning rate; none if None.
      tol: slack of both conditions.
      increase_factor: by which a learning rate is multiplied while the loss still falls.
      slope_rtol: part of the decrease that the slope promises, which must be reached.
      curv_rtol: part of the slope that may remain; infinity asks for decrease alone.
      approx_dec_rtol: increase of the loss, relative to it, up to which the slopes may stand for the decrease; None
        leaves that condition out.
      stepsize_precision: length of the interval below which a step of sufficient decrease will do.
      initial_guess_strategy: (static) ``'keep'`` tries the last learning rate first, ``'one'`` tries 1, as
        quasi-Newton directions want it.
      verbose: (static) print why a search failed.

    Raises:
      ValueError: a negative number or an unknown strategy; ``update`` without ``params``.
      TypeError: ``update`` without ``value``, ``grad`` or ``value_fn``.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(1.0), scale_by_zoom_linesearch(15))
    >>> loss = lambda x: jnp.sum(x**2)
    >>> params = jnp.array([3.0, 4.0])
    >>> updates, state = tx.update(2 * params, tx.init(params), params, value=loss(params), value_fn=loss)
    >>> (params + updates).tolist(), float(state[-1].learning_rate)
    ([0.0, 0.0], 0.5)
    """
    numbers = {
        "max_linesearch_steps": max_linesearch_steps,
        "max_learning_rate": max_learning_rate,
        "tol": tol,
        "increase_factor": increase_factor,
        "slope_rtol": slope_rtol,
        "curv_rtol": curv_rtol,
        "approx_dec_rtol": approx_dec_rtol,
        "stepsize_precision": stepsize_precision,
    }
    check.non_negative(**numbers)
    check.one_of("initial_guess_strategy", initial_guess_strategy, INITIAL_GUESS_STRATEGIES)
    return transform(
        _scale_by_zoom_linesearch_init,
        _scale_by_zoom_linesearch_update,
        initial_guess_strategy=static(initial_guess_strategy),
        verbose=static(verbose),
        **numbers,
    )
