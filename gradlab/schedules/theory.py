"""Whether a schedule meets the conditions of stochastic approximation: ``sum(value) = inf, sum(value**2) < inf``.

Both depend on the tail only, which for every closed form is ``scale * exp(log_ratio * k) * k**-power`` as the step k
grows.  A product of schedules multiplies tails; in a sum the slower one wins; a join has the tail of its last piece.
A schedule with an end value has that constant as its tail, however long it takes to reach it, and one that goes round
for ever has a mean of its cycle.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradlab.core import schedule as core
from gradlab.core.rule import Rule
from gradlab.core.schedule import CountFunction, Schedule, as_schedule
from gradlab.schedules import anytime, cycles, decay, piecewise, power, slow_average, untuned, warmup, waves


class RobbinsMonro(NamedTuple):
    """What `robbins_monro` found."""

    sum_diverges: bool
    square_sum_converges: bool
    satisfied: bool
    reason: str


class _Tail(NamedTuple):
    """``scale * exp(log_ratio * k) * k**-power`` for large k; if log_ratio is not 0, scale is right in sign only."""

    scale: float
    log_ratio: float = 0.0
    power: float = 0.0

    @property
    def growth(self) -> tuple[float, float]:
        return self.log_ratio, -self.power


def robbins_monro(schedule: Any) -> RobbinsMonro:
    """States whether the step sizes sum to infinity while their squares sum to a finite number.

    The two conditions under which stochastic gradient descent converges with probability one: the steps reach any
    point, and their noise dies out.  The answer is exact, read from the structure and the numbers of the schedule.
    A schedule that ends at a positive value fails the second condition, one that ends at zero fails the first.

    Args:
      schedule: a number or a schedule built from this package's factories, arithmetic, ``then`` and ``shift``.

    Raises:
      ValueError: the schedule contains a function of unknown form, cancels to an unknown remainder, becomes negative,
        or holds several values at once.
      TypeError: ``schedule`` is not a schedule, or its numbers are traced.

    Source: Robbins and Monro, A stochastic approximation method, 1951.

    >>> from gradlab.schedules import inverse_time_schedule, linear_schedule
    >>> robbins_monro(inverse_time_schedule(0.1, rate=0.01)).satisfied
    True
    >>> print(robbins_monro(linear_schedule(0.1, 0.001, 1000)).reason)
    the tail is constant: the sum diverges, the sum of squares diverges
    """
    tail = _tail(as_schedule(schedule))
    if tail.scale < 0:
        raise ValueError(f"robbins_monro is about step sizes, but this schedule stays negative: {schedule!r}")
    log_ratio, power = tail.log_ratio, tail.power
    sum_diverges = tail.scale > 0 and (log_ratio > 0 or (log_ratio == 0 and power <= 1))
    square_sum_converges = tail.scale == 0 or log_ratio < 0 or (log_ratio == 0 and 2 * power > 1)
    reason = (
        f"the tail {_shape(tail)}: the sum {'diverges' if sum_diverges else 'converges'}, "
        f"the sum of squares {'converges' if square_sum_converges else 'diverges'}"
    )
    return RobbinsMonro(sum_diverges, square_sum_converges, sum_diverges and square_sum_converges, reason)


def _shape(tail: _Tail) -> str:
    if tail.scale == 0:
        return "is zero"
    if tail.log_ratio != 0:
        return f"{'grows' if tail.log_ratio > 0 else 'falls'} geometrically, by {math.exp(tail.log_ratio):.6g} a step"
    return "is constant" if tail.power == 0 else f"is proportional to step**{-tail.power:g}"


def _tail(value: Any) -> _Tail:
    if not isinstance(value, Schedule):
        return _Tail(_number(value))
    rule, values = value.value_at.func, value.value_at.keywords
    function = rule.function if isinstance(rule, Rule | CountFunction) else rule
    if function in _ENDING:
        jax.tree.map(_number, values)
        return _Tail(float(value(math.inf)))
    if function not in _TAILS:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise ValueError(
            f"robbins_monro cannot see the form of the function {name}; "
            "build the schedule from gradlab's factories, arithmetic, then and shift"
        )
    return _TAILS[function](**values)


def _number(value: Any) -> float:
    if isinstance(value, jax.core.Tracer):
        raise TypeError("robbins_monro reads the numbers of a schedule, but these are traced; call it outside of jit")
    if np.ndim(value):
        raise ValueError(
            f"robbins_monro judges one schedule at a time, but this one holds {np.size(value)} values in one leaf"
        )
    return float(value)


def _sum_tail(left: _Tail, right: _Tail) -> _Tail:
    if left.scale == 0 or right.scale == 0:
        return left if right.scale == 0 else right
    if left.growth != right.growth:
        return max(left, right, key=lambda tail: tail.growth)
    opposite = left.scale * right.scale < 0
    if opposite and (left.log_ratio != 0 or math.isclose(left.scale, -right.scale, rel_tol=1e-6)):
        raise ValueError("robbins_monro cannot decide: the leading terms of a sum or difference cancel")
    return left._replace(scale=left.scale + right.scale)


def _constant_tail(*, value):
    return _Tail(_number(value))


def _sum_of_tails(*, left, right):
    return _sum_tail(_tail(left), _tail(right))


def _difference_of_tails(*, left, right):
    subtracted = _tail(right)
    return _sum_tail(_tail(left), subtracted._replace(scale=-subtracted.scale))


def _product_of_tails(*, left, right):
    left, right = _tail(left), _tail(right)
    return _Tail(left.scale * right.scale, left.log_ratio + right.log_ratio, left.power + right.power)


def _quotient_of_tails(*, left, right):
    left, right = _tail(left), _tail(right)
    if right.scale == 0:
        raise ValueError("robbins_monro cannot decide: the schedule is divided by one that ends at zero")
    return _Tail(left.scale / right.scale, left.log_ratio - right.log_ratio, left.power - right.power)


def _then_tail(*, first, second, at):
    del first, at
    return _tail(second)


def _shifted_tail(*, schedule, steps):
    del steps
    return _tail(schedule)


def _join_tail(*, schedules, boundaries):
    del boundaries
    return _tail(schedules[-1])


def _inverse_time_tail(*, init_value, rate):
    init_value, rate = _number(init_value), _number(rate)
    return _Tail(init_value / rate, power=1.0) if rate > 0 else _Tail(init_value)


def _inverse_sqrt_tail(*, peak_value, warmup_steps, init_value=None):
    del init_value
    return _Tail(_number(peak_value) * math.sqrt(_number(warmup_steps)), power=0.5)


def _multiply_tail(*, init_value, factor):
    return _Tail(_number(init_value), math.log(_number(factor)))


def _power_tail(*, peak_value, scale, exponent):
    peak_value, exponent = _number(peak_value), _number(exponent)
    if exponent >= 0:
        return _Tail(peak_value if exponent > 0 else min(peak_value, _number(scale)))
    return _Tail(_number(scale), power=-exponent)


def _rectified_tail(*, peak_value, b2):
    del b2
    return _Tail(_number(peak_value))


def _cyclic_tail(*, low_value, high_value, half_period, decay):
    low_value, ratio = _number(low_value), math.log(_number(decay)) / (2 * _number(half_period))
    if ratio == 0:
        return _Tail(0.5 * (low_value + _number(high_value)))
    return _Tail(low_value) if ratio < 0 and low_value else _Tail(_number(high_value) - low_value, ratio)


def _chebyshev_tail(*, smallest, largest):
    return _Tail(2 / (_number(smallest) + _number(largest)))


def _step_decay_tail(*, init_value, factor, every):
    return _Tail(_number(init_value), math.log(_number(factor)) / _number(every))


def _exponential_tail(*, init_value, transition_steps, decay_rate, transition_begin, end_value=None):
    del transition_begin
    init_value, decay_rate = _number(init_value), _number(decay_rate)
    free = _Tail(init_value, math.log(decay_rate) / _number(transition_steps))
    if end_value is None:
        return free
    end_value = _number(end_value)
    if init_value == 0 or decay_rate == 1:
        return _Tail(max(init_value, end_value) if decay_rate < 1 else min(init_value, end_value))
    bounded = init_value > 0 if decay_rate > 1 else end_value > 0 or init_value < end_value == 0
    return _Tail(end_value) if bounded else free


def _warmup_exponential_tail(*, init_value, peak_value, warmup_steps, **decay):
    del init_value, warmup_steps
    return _exponential_tail(init_value=peak_value, **decay)


_TAILS: dict[Callable, Callable] = {
    core._constant: _constant_tail,
    core._sum: _sum_of_tails,
    core._difference: _difference_of_tails,
    core._product: _product_of_tails,
    core._quotient: _quotient_of_tails,
    core._then: _then_tail,
    core._shifted: _shifted_tail,
    piecewise._join: _join_tail,
    anytime._inverse_time: _inverse_time_tail,
    anytime._inverse_sqrt: _inverse_sqrt_tail,
    anytime._multiply: _multiply_tail,
    anytime._step_decay: _step_decay_tail,
    anytime._exponential_decay: _exponential_tail,
    power._power: _power_tail,
    untuned._rectified: _rectified_tail,
    waves._chebyshev: _chebyshev_tail,
    waves._cyclic: _cyclic_tail,
    warmup._warmup_exponential_decay: _warmup_exponential_tail,
}

_ENDING: frozenset[Callable] = frozenset(
    {
        decay._linear,
        decay._linear_floor,
        decay._polynomial,
        decay._cosine_decay,
        decay._rex,
        slow_average._ademamix_alpha,
        slow_average._ademamix_b3,
        warmup._warmup_constant,
        warmup._warmup_cosine_decay,
        warmup._wsd,
        power._power_cooldown,
        power._growing_decay,
        power._infinite_cosine,
        untuned._untuned_exponential,
        untuned._untuned_linear,
        waves._onecycle_momentum,
        piecewise._piecewise_constant,
        piecewise._piecewise_interpolate,
        cycles._linear_onecycle,
        cycles._cosine_onecycle,
        cycles._sgdr,
    }
)
