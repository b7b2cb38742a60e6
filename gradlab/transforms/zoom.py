r"""A line search for the strong Wolfe conditions: bracket an interval, then zoom into it.

With f the loss along the updates, f' its slope and t the step size, a step is accepted where::

    f(t) <= f(0) + slope_rtol * t * f'(0)                           sufficient decrease
    or f'(t) <= (2 * slope_rtol - 1) * f'(0)  and  f(t) <= f(0) + approx_dec_rtol * |f(0)|
    |f'(t)| <= curv_rtol * |f'(0)|                                  small curvature

Nocedal and Wright 1999, algorithms 3.5 and 3.6; the second line is Hager and Zhang's (2006), for steps so near to the
minimum that rounding hides the decrease of f.

Each try evaluates the loss and its gradient once, in one place of the compiled program: the two phases of the search
differ in where they try next, which is arithmetic on a few scalars.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.transforms.line_search import Line

Tree = Any


class Point(NamedTuple):
    """A point of the line: its coordinate, the loss and the slope there."""

    stepsize: jax.Array
    value: jax.Array
    slope: jax.Array


class Limits(NamedTuple):
    """The numbers of a search, as for `scale_by_zoom_linesearch`."""

    guess: Any  # the step size to try first
    max_steps: Any
    max_stepsize: Any
    tol: Any
    increase_factor: Any
    slope_rtol: Any
    curv_rtol: Any
    approx_dec_rtol: Any  # None leaves the approximate decrease out
    stepsize_precision: Any


class Interval(NamedTuple):
    """Where the search stands."""

    low: Any  # the better end; before there is an interval, the last try
    high: Any  # the other end
    third: Any  # one end of the interval before, for the cubic
    best: Any  # where the search would end now


class Search(NamedTuple):
    """What the tries so far have found."""

    count: jax.Array  # () tries
    bracketed: jax.Array  # () bool: the interval is known
    stopped: jax.Array  # () bool
    points: jax.Array  # (4, 3) the Points of `Interval`, packed: one kernel writes them
    grad: Tree  # the gradient at best
    errors: jax.Array  # (2,) by how much decrease and curvature of the last try fall short


def zoom(path: Line, value: Any, slope: Any, grad: Tree, limits: Limits) -> Search:
    """Searches a step that satisfies the strong Wolfe conditions; see the module.

    Ends with the best step of sufficient decrease if the tries run out, or if the interval becomes shorter than
    ``stepsize_precision``; with the last one if there was none; with a step of zero if the loss is not finite there.

    Args:
      path: the line.
      value: the loss at its start.
      slope: the slope there.
      grad: the gradient there.
      limits: the numbers of the search.
    """
    start = jnp.stack([jnp.zeros_like(slope), value, slope])
    approximate = limits.approx_dec_rtol is not None
    numbers = limits if approximate else limits._replace(approx_dec_rtol=0.0)
    packed = jnp.stack([jnp.asarray(number, slope.dtype) for number in numbers])  # one operand of the loop, not nine
    no = jnp.zeros([], bool)
    errors = jnp.full([2], jnp.inf, slope.dtype)
    search = Search(jnp.zeros([], int), no, no, jnp.stack([start] * 4), grad, errors)
    decide = lambda search, new: _decide(search, Point(*new), Point(*start), Limits(*packed), approximate)
    return jax.lax.while_loop(_unfinished, lambda search: _try(path, search, Limits(*packed), decide), search)


def _unfinished(search: Search) -> jax.Array:
    return ~search.stopped


class _Decision(NamedTuple):
    """What a try means for the interval."""

    errors: jax.Array
    new_is_high: jax.Array  # the minimum lies between the low end and the try
    low_is_high: jax.Array  # the minimum lies between the try, the new low end, and the old one
    stopped: jax.Array
    take: jax.Array  # the try is where the search would end now


def _try(path: Line, search: Search, limits: Limits, decide: Callable) -> Search:
    stepsize = _next_stepsize(search, limits)
    value, slope, grad = path.value_slope_grad(stepsize)
    new = jnp.stack([stepsize, value, slope])
    found = decide(search, new)
    where, last = jnp.where, Interval(*search.points)
    low = where(found.new_is_high, last.low, new)
    high = where(found.new_is_high, new, where(found.low_is_high, last.low, last.high))
    high_moved = found.new_is_high | found.low_is_high
    third = where(search.bracketed, where(high_moved, last.high, last.low), low)
    best = where(found.take, new, last.best)
    return Search(
        count=search.count + 1,
        bracketed=search.bracketed | high_moved,
        stopped=found.stopped,
        points=jnp.stack(Interval(low, high, third, best)),
        grad=jax.tree.map(lambda new, old: where(found.take, new, old).astype(old.dtype), grad, search.grad),
        errors=found.errors,
    )


def _next_stepsize(search: Search, limits: Limits) -> jax.Array:
    low, high, third, _ = (Point(*row) for row in search.points)
    longer = jnp.where(search.count == 0, limits.guess, limits.increase_factor * low.stepsize)
    longer = jnp.minimum(longer, limits.max_stepsize)
    return jnp.where(search.bracketed, _interpolated(low, high, third), longer)


def _interpolated(low: Point, high: Point, third: Point) -> jax.Array:
    """The minimum of the cubic through low, its slope, high and third; else of the parabola without third; else the
    middle.  A minimum that is undefined, or within a fifth (a tenth) of the ends, does not count."""
    left, right = jnp.minimum(low.stepsize, high.stepsize), jnp.maximum(low.stepsize, high.stepsize)
    width = right - left
    x, y = high.stepsize - low.stepsize, third.stepsize - low.stepsize
    rise_x, rise_y = high.value - low.value - low.slope * x, third.value - low.value - low.slope * y
    denominator = (x * y) ** 2 * (x - y)
    cubic = (y**2 * rise_x - x**2 * rise_y) / denominator
    square = (x**3 * rise_y - y**3 * rise_x) / denominator
    root = jnp.sqrt(square * square - 3 * cubic * low.slope)
    of_cubic = low.stepsize + (root - square) / (3 * cubic)
    of_parabola = low.stepsize - low.slope / (2 * (rise_x / x**2))
    middle = (low.stepsize + high.stepsize) / 2
    inside = lambda t, margin: (t > left + margin * width) & (t < right - margin * width)
    return jnp.where(inside(of_cubic, 0.2), of_cubic, jnp.where(inside(of_parabola, 0.1), of_parabola, middle))


def _decide(search: Search, new: Point, start: Point, limits: Limits, approximate: bool) -> _Decision:
    low, high, _, best = (Point(*row) for row in search.points)
    errors = _errors(new, start, limits, approximate)
    decrease_error, error = errors[0], jnp.max(errors)
    known = search.bracketed
    not_below_low = (new.value >= low.value) & (known | (search.count > 0))
    new_is_high = (decrease_error > 0) | not_below_low
    towards_high = jnp.where(known, high.stepsize - low.stepsize, 1)
    low_is_high = ~new_is_high & (new.slope * towards_high >= 0)
    done = error <= limits.tol
    decreases = decrease_error <= limits.tol
    better = decreases & (~known | (new.value < best.value))
    has_decrease = better | (best.stepsize > 0)
    at_end = ~known & ~new_is_high & ~low_is_high & (new.stepsize >= limits.max_stepsize)
    too_short = known & (jnp.abs(high.stepsize - low.stepsize) <= limits.stepsize_precision) & has_decrease
    out_of_steps = search.count + 1 >= limits.max_steps
    last_resort = (out_of_steps | too_short) & ~has_decrease & ~jnp.isinf(decrease_error)
    return _Decision(
        errors=errors,
        new_is_high=new_is_high,
        low_is_high=low_is_high,
        stopped=done | at_end | too_short | out_of_steps,
        take=better | done | last_resort,
    )


def _errors(new: Point, start: Point, limits: Limits, approximate: bool) -> jax.Array:
    """By how much the conditions on decrease and on curvature are violated; infinite where a number is not finite."""
    decrease = new.value - start.value - limits.slope_rtol * new.stepsize * start.slope
    if approximate:
        flat = new.slope - (2 * limits.slope_rtol - 1) * start.slope
        near = new.value - start.value - limits.approx_dec_rtol * jnp.abs(start.value)
        decrease = jnp.minimum(jnp.maximum(flat, near), decrease)
    curvature = jnp.abs(new.slope) - limits.curv_rtol * jnp.abs(start.slope)
    errors = jnp.maximum(jnp.stack([decrease, curvature]), 0)
    return jnp.where(jnp.isnan(errors), jnp.inf, errors)
