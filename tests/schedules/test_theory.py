"""The conditions of Robbins and Monro: the stated answer against integrals, and against partial sums."""

import itertools

import jax
import numpy as np
import optax
import pytest

from gradlab import schedules as s
from gradlab.core.schedule import make_schedule
from gradlab.schedules import robbins_monro
from tests.schedules.cases import CASES

INVERSE, ROOT, FIXED = s.inverse_time_schedule(0.3, 0.02), s.inverse_sqrt_schedule(0.3, 10), s.constant_schedule(0.1)
FALLING, ZERO = s.multiply_schedule(0.5, 0.9), s.linear_schedule(0.2, 0.0, 50)
GROWING = s.exponential_decay(0.1, 10, 1.5)

# (does the sum diverge, does the sum of squares converge)
BOTH, TOO_LARGE, TOO_SMALL = (True, True), (True, False), (False, True)
ANSWERS = [
    (INVERSE, BOTH, "step**-1"),
    (ROOT, TOO_LARGE, "step**-0.5"),
    (s.inverse_sqrt_schedule(0.3, 10, 0.0), TOO_LARGE, "step**-0.5"),
    (FIXED, TOO_LARGE, "constant"),
    (0.1, TOO_LARGE, "constant"),
    (s.constant_schedule(0.0), TOO_SMALL, "zero"),
    (s.inverse_time_schedule(0.3, 0.0), TOO_LARGE, "constant"),
    (FALLING, TOO_SMALL, "falls geometrically, by 0.9 a step"),
    (s.step_decay_schedule(0.5, 0.25, 2), TOO_SMALL, "falls geometrically, by 0.5 a step"),
    (s.multiply_schedule(0.5, 1.0), TOO_LARGE, "constant"),
    (s.exponential_decay(0.5, 10, 0.1), TOO_SMALL, "falls geometrically"),
    (s.exponential_decay(0.5, 10, 0.1, end_value=0.01), TOO_LARGE, "constant"),
    (s.exponential_decay(0.5, 10, 0.1, end_value=0.0), TOO_SMALL, "falls geometrically"),
    (s.exponential_decay(0.5, 10, 1.0, end_value=0.1), TOO_LARGE, "constant"),
    (s.exponential_decay(0.0, 10, 0.5, end_value=0.1), TOO_LARGE, "constant"),
    (GROWING, TOO_LARGE, "grows geometrically"),
    (s.exponential_decay(0.1, 10, 1.5, end_value=0.7), TOO_LARGE, "constant"),
    (s.warmup_exponential_decay_schedule(0.0, 0.1, 5, 10, 0.5), TOO_SMALL, "falls geometrically"),
    (s.warmup_exponential_decay_schedule(0.0, 0.1, 5, 10, 0.5, end_value=0.01), TOO_LARGE, "constant"),
    (ZERO, TOO_SMALL, "zero"),
    (s.linear_schedule(0.2, 0.001, 50), TOO_LARGE, "constant"),
    (s.linear_floor_schedule(0.2, 0.002, 50), TOO_LARGE, "constant"),
    (s.polynomial_schedule(0.2, 0.0, 3, 50), TOO_SMALL, "zero"),
    (s.cosine_decay_schedule(0.2, 50), TOO_SMALL, "zero"),
    (s.cosine_decay_schedule(0.2, 50, alpha=0.01), TOO_LARGE, "constant"),
    (s.warmup_cosine_decay_schedule(0.0, 0.2, 5, 50), TOO_SMALL, "zero"),
    (s.wsd_schedule(0.0, 0.2, 5, 10, 10, shape="1-sqrt"), TOO_SMALL, "zero"),
    (s.cosine_onecycle_schedule(50, 0.2), TOO_LARGE, "constant"),
    (2 * INVERSE, BOTH, "step**-1"),
    (INVERSE / 2, BOTH, "step**-1"),
    (ROOT * ROOT, BOTH, "step**-1"),
    (INVERSE * ROOT, TOO_SMALL, "step**-1.5"),
    (INVERSE / ROOT, TOO_LARGE, "step**-0.5"),
    (ROOT / INVERSE, TOO_LARGE, "step**0.5"),
    (INVERSE + ROOT, TOO_LARGE, "step**-0.5"),
    (ROOT + INVERSE, TOO_LARGE, "step**-0.5"),
    (INVERSE + FALLING, BOTH, "step**-1"),
    (INVERSE + ZERO, BOTH, "step**-1"),
    (ZERO + INVERSE, BOTH, "step**-1"),
    (INVERSE + 0.01, TOO_LARGE, "constant"),
    (INVERSE - ZERO, BOTH, "step**-1"),
    (0.5 - INVERSE, TOO_LARGE, "constant"),
    (2 * INVERSE - INVERSE, BOTH, "step**-1"),
    (INVERSE * FALLING, TOO_SMALL, "falls geometrically"),
    (INVERSE * GROWING, TOO_LARGE, "grows geometrically"),
    (FIXED * ZERO, TOO_SMALL, "zero"),
    (0.0 - (-INVERSE), BOTH, "step**-1"),
    (INVERSE.shift(100), BOTH, "step**-1"),
    (FIXED.then(INVERSE, at=100), BOTH, "step**-1"),
    (INVERSE.then(FIXED, at=100), TOO_LARGE, "constant"),
    (s.join_schedules([FIXED, ROOT, ZERO], [5, 10]), TOO_SMALL, "zero"),
    (s.join_schedules([ZERO, INVERSE], [50]), BOTH, "step**-1"),
]


@pytest.mark.parametrize("schedule, answer, word", ANSWERS, ids=[str(index) for index in range(len(ANSWERS))])
def test_known_answers(schedule, answer, word):
    result = robbins_monro(schedule)
    assert (result.sum_diverges, result.square_sum_converges) == answer
    assert result.satisfied == (answer == BOTH)
    assert word in result.reason
    assert f"the sum {'diverges' if answer[0] else 'converges'}," in result.reason
    assert result.reason.endswith(f"squares {'converges' if answer[1] else 'diverges'}")


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_schedule_is_decided(case):
    robbins_monro(case.make(s))


@pytest.mark.parametrize("index", range(len(ANSWERS)))
def test_answers_agree_with_partial_sums(index):
    """From one power of two to the next, a convergent sum adds ever less and a divergent one as much or more."""
    schedule, (sum_diverges, square_sum_converges), _ = ANSWERS[index]
    ends = [2**14, 2**15, 2**16]
    values = _values(schedule, ends[-1])
    with np.errstate(over="ignore"):
        for terms, diverges in ((values, sum_diverges), (values**2, not square_sum_converges)):
            before, after = (terms[begin:end].sum() for begin, end in itertools.pairwise(ends))
            assert (after == 0 or after < 0.85 * before) != diverges


def _values(schedule, count):
    if not callable(schedule):
        return np.full(count, schedule)
    evaluate = jax.jit(jax.vmap(lambda schedule, step: schedule(step), in_axes=(None, 0)))
    return np.asarray(evaluate(schedule, np.arange(count)))


def _unknown_rule(step, *, value):
    return value / step


UNDECIDABLE = [
    (lambda: optax.cosine_decay_schedule(0.1, 10), ValueError, "cannot see the form of the function cosine_decay"),
    (lambda: 0.1 * s.join_schedules([0.1, lambda step: 1 / step], [5]), ValueError, "<lambda>"),
    (lambda: make_schedule(_unknown_rule, value=1.0), ValueError, "_unknown_rule"),
    (lambda: INVERSE - INVERSE, ValueError, "leading terms of a sum or difference cancel"),
    (lambda: FIXED + (-0.1), ValueError, "leading terms of a sum or difference cancel"),
    (lambda: FALLING.shift(10) - 0.5 * FALLING, ValueError, "leading terms of a sum or difference cancel"),
    (lambda: INVERSE / ZERO, ValueError, "divided by one that ends at zero"),
    (lambda: -INVERSE, ValueError, "stays negative"),
    (lambda: INVERSE - ROOT, ValueError, "stays negative"),
    (lambda: s.constant_schedule(np.array([0.1, 0.2])), ValueError, "holds 2 values in one leaf"),
    (lambda: s.linear_schedule(0.1, np.array([0.1, 0.2]), 5), ValueError, "holds 2 values in one leaf"),
    (lambda: "0.1", TypeError, "'0.1'"),
]


@pytest.mark.parametrize("make, error, message", UNDECIDABLE, ids=[message for *_, message in UNDECIDABLE])
def test_undecidable_schedules_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        robbins_monro(make())


@pytest.mark.parametrize("make", [lambda x: s.constant_schedule(x), lambda x: s.linear_schedule(x, 0.0, 5)])
def test_traced_numbers_are_refused(make):
    with pytest.raises(TypeError, match="traced; call it outside of jit"):
        jax.jit(lambda x: robbins_monro(make(x)).satisfied)(0.1)


def test_zero_tail_is_exact_in_float32():
    with jax.enable_x64(False):
        assert robbins_monro(s.cosine_decay_schedule(0.1, 7, exponent=0.5)).reason.startswith("the tail is zero")
        assert robbins_monro(s.warmup_cosine_decay_schedule(0.0, 0.1, 3, 7)).reason.startswith("the tail is zero")


def test_chebyshev_steps_beat_the_best_constant_step_by_the_published_rate():
    """On eigenvalues in [m, L] a period divides the error by ``cosh(period * arccosh((L + m) / (L - m)))`` or more."""
    m, largest, period = 1.0, 100.0, 64
    eigenvalues = np.linspace(m, largest, 500)
    schedule = s.chebyshev_schedule(m, largest, period)
    errors = np.ones_like(eigenvalues)
    for step in range(period):
        errors = errors * (1 - float(schedule(step)) * eigenvalues)
        assert np.abs(errors).max() < 2 * largest / m  # in the natural order it would pass 1e10 on the way
    bound = 1 / np.cosh(period * np.arccosh((largest + m) / (largest - m)))
    np.testing.assert_allclose(np.abs(errors).max(), bound, rtol=1e-8)
    constant = ((largest - m) / (largest + m)) ** period
    assert bound < 1e-4 < 0.2 < constant
