"""What a factory says about values that make no schedule, where Optax often repairs them in silence."""

import jax
import jax.numpy as jnp
import pytest

from gradlab import schedules as s

BAD_VALUES = [
    (lambda: s.linear_schedule(1.0, 0.0, 0), "`transition_steps` must be > 0, got 0"),
    (lambda: s.linear_schedule(1.0, 0.0, -5), "`transition_steps` must be > 0, got -5"),
    (lambda: s.linear_schedule(1.0, 0.0, 5, -1), "`transition_begin` must be >= 0, got -1"),
    (lambda: s.linear_schedule(float("nan"), 0.0, 5), "`init_value` must be .*, got nan"),
    (lambda: s.linear_floor_schedule(1.0, 0.1, 0), "`tau` must be > 0, got 0"),
    (lambda: s.polynomial_schedule(1.0, 0.0, 2, 0), "`transition_steps` must be > 0, got 0"),
    (lambda: s.polynomial_schedule(1.0, 0.0, 0, 5), "`power` must be > 0, got 0"),
    (lambda: s.polynomial_schedule(1.0, 0.0, 1, 5, -2), "`transition_begin` must be >= 0, got -2"),
    (lambda: s.cosine_decay_schedule(1.0, 0), "`decay_steps` must be > 0, got 0"),
    (lambda: s.cosine_decay_schedule(1.0, 5, exponent=-1), "`exponent` must be > 0, got -1"),
    (lambda: s.rex_schedule(1.0, 0), "`decay_steps` must be > 0, got 0"),
    (lambda: s.untuned_exponential_schedule(1.0, 1.0), "`b2` must be in .0, 1., got 1"),
    (lambda: s.untuned_linear_schedule(1.0, -0.1), "`b2` must be in .0, 1., got -0.1"),
    (lambda: s.rectified_schedule(1.0, 0.5), "`b2` must be in .0.6, 1., got 0.5"),
    (lambda: s.power_schedule(1.0, 0.0), "`scale` must be > 0, got 0"),
    (lambda: s.power_cooldown_schedule(1.0, 0, 0.1), "`end_step` must be > 0, got 0"),
    (lambda: s.growing_decay_schedule(0.0), "`exponent` must be > 0, got 0"),
    (lambda: s.infinite_cosine_schedule(1.0, 0.0, 0.1, 1, 1, 1, 1), "`constant_value` must be > 0, got 0"),
    (lambda: s.infinite_cosine_schedule(1.0, 0.5, 0.1, 1, 0, 1, 1), "`cosine_steps` must be > 0, got 0"),
    (lambda: s.cyclic_schedule(0.0, 1.0, 0), "`half_period` must be > 0, got 0"),
    (lambda: s.onecycle_momentum_schedule(10, pct_start=1.5), "`pct_start` must be in .0, 1., got 1.5"),
    (lambda: s.chebyshev_schedule(2.0, 1.0, 4), "`largest - smallest` must be > 0, got -1"),
    (lambda: s.chebyshev_schedule(1.0, 2.0, 6), "`period` must be a power of two, got 6"),
    (lambda: s.inverse_time_schedule(1.0, -0.1), "`rate` must be >= 0, got -0.1"),
    (lambda: s.inverse_sqrt_schedule(1.0, 0), "`warmup_steps` must be > 0, got 0"),
    (lambda: s.multiply_schedule(1.0, 0.0), "`factor` must be > 0, got 0"),
    (lambda: s.step_decay_schedule(1.0, 0.5, 0), "`every` must be > 0, got 0"),
    (lambda: s.step_decay_schedule(1.0, -0.5, 3), "`factor` must be > 0, got -0.5"),
    (lambda: s.exponential_decay(1.0, 0, 0.5), "`transition_steps` must be > 0, got 0"),
    (lambda: s.exponential_decay(1.0, 5, 0.0), "`decay_rate` must be > 0, got 0"),
    (lambda: s.exponential_decay(1.0, 5, 0.5, -3), "`transition_begin` must be >= 0, got -3"),
    (lambda: s.warmup_constant_schedule(0.0, 1.0, -1), "`warmup_steps` must be >= 0, got -1"),
    (lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10), "includes the warm-up.* must be > 0, got 0"),
    (lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, -1, 10), "`warmup_steps` must be >= 0, got -1"),
    (lambda: s.warmup_cosine_decay_schedule(0.0, 1.0, 1, 10, exponent=0), "`exponent` must be > 0, got 0"),
    (lambda: s.warmup_exponential_decay_schedule(0.0, 1.0, -1, 5, 0.5), "`warmup_steps` must be >= 0, got -1"),
    (lambda: s.warmup_exponential_decay_schedule(0.0, 1.0, 1, 5, 0.0), "`decay_rate` must be > 0, got 0"),
    (lambda: s.wsd_schedule(0.0, 1.0, 1, -1, 5), "`stable_steps` must be >= 0, got -1"),
    (lambda: s.wsd_schedule(0.0, 1.0, 1, 1, 0), "`decay_steps` must be > 0, got 0"),
    (lambda: s.wsd_schedule(0.0, 1.0, 1, 1, 5, shape="linaer"), "unknown shape 'linaer'; did you mean 'linear'"),
    (lambda: s.piecewise_constant_schedule(1.0, {5: -0.1}), r"\(a scale\)` must be >= 0, got -0.1"),
    (lambda: s.piecewise_constant_schedule(1.0, {-5: 0.1}), r"\(a step\)` must be >= 0, got -5"),
    (lambda: s.piecewise_interpolate_schedule("cosin", 1.0), "unknown interpolate_type 'cosin'; did you mean 'cosine'"),
    (lambda: s.piecewise_interpolate_schedule("linear", 1.0, {3: -1.0}), r"\(a scale\)` must be >= 0, got -1"),
    (lambda: s.linear_onecycle_schedule(0, 1.0), "`transition_steps` must be > 0, got 0"),
    (lambda: s.linear_onecycle_schedule(9, 1.0, 0.5, 0.4), "`pct_final - pct_start` must be >= 0, got -0.1"),
    (lambda: s.linear_onecycle_schedule(9, 1.0, 1.5), r"`pct_start` must be in \[0, 1\], got 1.5"),
    (lambda: s.linear_onecycle_schedule(9, 1.0, 0.5, 1.5), r"`pct_final` must be in \[0, 1\], got 1.5"),
    (lambda: s.cosine_onecycle_schedule(-1, 1.0), "`transition_steps` must be > 0, got -1"),
    (lambda: s.cosine_onecycle_schedule(9, 1.0, -0.5), r"`pct_start` must be in \[0, 1\], got -0.5"),
    (lambda: s.cosine_onecycle_schedule(9, 1.0, div_factor=0), "`div_factor` must be > 0, got 0"),
    (lambda: s.sgdr_schedule([]), "at least one cycle, got none"),
    (
        lambda: s.sgdr_schedule([{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 5, "decay_steps": 2}]),
        "includes the warm-up.* must be > 0, got -3",
    ),
    (lambda: s.join_schedules([1.0, 0.5], []), "2 schedules and 0 boundaries"),
    (lambda: s.join_schedules([], []), "0 schedules and 0 boundaries"),
    (lambda: s.join_schedules([1.0, 0.5], [-1]), "`boundaries` must be >= 0, got -1"),
    (lambda: s.join_schedules([1.0, 0.5, 0.1], [9, 5]), r"`boundaries\[1\] - boundaries\[0\]` must be >= 0, got -4"),
    (lambda: s.cosine_decay_schedule(1.0, jnp.array([5.0, -2.0])), "`decay_steps` must be > 0, got -2 at position 1"),
]

BAD_TYPES = [
    (lambda: s.linear_schedule("0.1", 0.0, 5), "`init_value` must be a number, got str: '0.1'"),
    (lambda: s.linear_schedule(0.1, 0.0, "5"), "`transition_steps` must be a number, got str: '5'"),
    (lambda: s.linear_schedule(0.1, 0.0, True), "`transition_steps` must be a number, got bool: True"),
    (lambda: s.linear_schedule(0.1, None, 5), "`end_value` must be a number, got None"),
    (lambda: s.cosine_decay_schedule(0.1, None), "`decay_steps` must be a number, got None"),
    (lambda: s.linear_schedule(lambda step: step, 0.0, 5), "`init_value` must be a number, got a schedule"),
    (lambda: s.multiply_schedule(s.constant_schedule(1.0)), "`init_value` must be a number, got a schedule"),
    (lambda: s.constant_schedule(s.constant_schedule(1.0)), "`value` must be a number, got a schedule"),
    (lambda: s.piecewise_constant_schedule(1.0, [5, 0.1]), r"must be a dict \{step: scale\}, got list: \[5, 0.1\]"),
    (lambda: s.piecewise_constant_schedule(1.0, {"5": 0.1}), r"\(a step\)` must be a number"),
    (lambda: s.sgdr_schedule([{"peak": 1.0}]), "unexpected keyword argument 'peak'"),
]


@pytest.mark.parametrize("make, message", BAD_VALUES, ids=[message for _, message in BAD_VALUES])
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make, message", BAD_TYPES, ids=[message for _, message in BAD_TYPES])
def test_bad_types_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_traced_values_are_not_checked():
    values = jax.jit(lambda horizon: s.warmup_cosine_decay_schedule(0.0, 1.0, horizon / 2, horizon)(5))(10.0)
    assert float(values) == 1.0
