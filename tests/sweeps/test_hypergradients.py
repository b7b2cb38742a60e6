"""Hypergradients equal finite differences of whole runs, and formulas where there are any."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.core.storage import Int8
from gradlab.sweeps.engine.hypergradients import hypergradients, unit_slope
from gradlab.sweeps.engine.lanes import Plan
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.spaces.dimensions import integer, linear, log, one_minus
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from gradlab.tasks import flax_task, make_task, quadratic, surface_task
from tests.sweeps.runs import CASES, PLAN, SEEDS, STEPS, cost_of_fit, difference, of, regression, task


@pytest.mark.parametrize(
    ("case", "method"), [*((case, "forward") for case in CASES), ("momentum", "reverse"), ("task", "reverse")]
)
def test_they_are_finite_differences_of_the_runs_that_fit_makes(case, method):
    make, space, values = CASES[case]
    found = of(make, space, [Trial.of(values)], method=method)
    np.testing.assert_allclose(found.costs, [cost_of_fit(make, values)], rtol=1e-10)
    assert found.names == tuple(name for name in space if not isinstance(space[name], list | int))
    for column, name in enumerate(found.names):
        expected = difference(make, values, name)
        assert abs(expected) > 1e-5
        np.testing.assert_allclose(found.natural[0, column], expected, rtol=2e-6)
        slope = unit_slope(space[name], values[name])
        np.testing.assert_allclose(found.unit[0, column], expected * slope, rtol=2e-6)


@pytest.mark.parametrize("dimension", [linear(-1.0, 3.0), log(1e-3, 10.0), one_minus(log(1e-4, 1e-1))])
def test_unit_slopes_are_those_of_from_unit(dimension):
    u = np.array([0.1, 0.5, 0.8])
    after, value, before = (np.array(dimension.from_unit(u + move)) for move in (1e-4, 0, -1e-4))
    np.testing.assert_allclose(unit_slope(dimension, value), (after - before) / 2e-4, rtol=1e-6)


@pytest.mark.parametrize("dimension", [integer(10, 500), integer(10, 500, log=True)])
def test_unit_slopes_of_whole_numbers_are_those_of_to_unit(dimension):
    after, before = (np.array(dimension.to_unit([100 + move, 300 + move])) for move in (1, -1))
    np.testing.assert_allclose(unit_slope(dimension, [100, 300]), 2 / (after - before), rtol=1e-4)


def test_costs_are_those_of_the_sweep_whatever_the_structure():
    space = Space({"learning_rate": log(0.01, 1.0), "nesterov": [False, True], "momentum": linear(0.0, 0.9)})
    trials = space.from_unit([[0.2, 0.1, 0.5], [0.5, 0.9, 0.9], [0.9, 0.1, 0.3]])
    swept = gradlab.sweep(task(), gradlab.sgd, space, trials=trials, seeds=SEEDS, steps=STEPS, batch_size=16)
    found = of(gradlab.sgd, space, trials)
    np.testing.assert_allclose(found.costs, swept.summary()["mean"], rtol=1e-6)
    backwards = of(gradlab.sgd, space, trials[::-1])
    np.testing.assert_allclose(backwards.natural[::-1], found.natural, rtol=1e-10)
    np.testing.assert_allclose(backwards.unit[::-1], found.unit, rtol=1e-10)


def test_a_registered_name_and_a_number_of_seeds_will_do():
    trial = Trial.of({"learning_rate": 0.2})
    named = hypergradients(task(), "sgd", {"learning_rate": log(0.01, 1.0)}, [trial], seeds=2, plan=PLAN)
    given = of(gradlab.sgd, {"learning_rate": log(0.01, 1.0)}, [trial], seeds=[0, 1])
    np.testing.assert_array_equal(named.natural, given.natural)


@pytest.mark.parametrize("horizon", [1, 9])
def test_forward_equals_reverse_over_any_horizon(horizon):
    make, space, values = CASES["adamw"]
    forward, reverse = (
        of(make, space, [Trial.of(values)], method=method, horizon=horizon) for method in ("forward", "reverse")
    )
    np.testing.assert_allclose(forward.costs, [cost_of_fit(make, values)], rtol=1e-10)
    np.testing.assert_allclose(forward.natural, reverse.natural, rtol=1e-9)


@pytest.mark.parametrize("method", ["forward", "reverse"])
@pytest.mark.parametrize("horizon", [None, 3])
def test_sgd_on_a_quadratic_has_a_formula(method, horizon):
    """x_T = x_0 prod_t (1 - rate a); of the T equal factors those of the last H are differentiated."""
    curvature, start, rate = np.array([1.0, 10.0]), np.array([2.0, -1.0]), 0.06
    bowl = surface_task(quadratic(condition=10.0), start=start)
    bowl_plan = Plan(STEPS, STEPS, None, "full")
    space = {"learning_rate": log(1e-3, 0.15)}
    trial = Trial.of({"learning_rate": rate})
    found = hypergradients(bowl, gradlab.sgd, space, [trial], seeds=1, plan=bowl_plan, method=method, horizon=horizon)
    hessian = jax.hessian(lambda x: bowl.loss(x, {}, None, None)[0])(jnp.zeros(2))
    np.testing.assert_allclose(hessian, np.diag(curvature), atol=1e-12)
    end = start * (1 - rate * curvature) ** STEPS
    slope_of_end = -(horizon or STEPS) * curvature * start * (1 - rate * curvature) ** (STEPS - 1)
    np.testing.assert_allclose(found.costs, [0.5 * np.sum(curvature * end**2)], rtol=1e-12)
    np.testing.assert_allclose(found.natural, [[np.sum(curvature * end * slope_of_end)]], rtol=1e-10)


def test_trials_do_not_read_each_other():
    make, space, values = CASES["adamw"]
    many = [Trial.of({**values, "learning_rate": rate}) for rate in (0.01, 0.05, 0.4)]
    together, alone = of(make, space, many), of(make, space, many[1:2])
    np.testing.assert_allclose(together.natural[1], alone.natural[0], rtol=1e-10)
    assert len({*together.natural[:, 0]}) == 3


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_a_diverged_trial_is_inf_and_nan_and_leaves_the_others_alone(method):
    space = {"learning_rate": log(1e-3, 1e200), "momentum": linear(0, 1)}
    calm, wild = [
        [Trial.of({"learning_rate": rate, "momentum": 0.5}) for rate in rates]
        for rates in ((0.1, 0.2, 0.3), (0.1, 1e160, 0.3))
    ]
    calm = of(gradlab.sgd, space, calm, regression(), method=method)
    wild = of(gradlab.sgd, space, wild, regression(), method=method)
    assert wild.costs[1] == np.inf
    assert np.isnan(wild.natural[1]).all()
    assert np.isnan(wild.unit[1]).all()
    for ours, theirs in zip(wild[1:], calm[1:], strict=True):
        np.testing.assert_allclose(ours[[0, 2]], theirs[[0, 2]], rtol=1e-10)


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_a_run_that_ended_at_healthy_weights_has_diverged_all_the_same(method):
    broken = {key: np.array(value) for key, value in regression().train.items()}
    broken["y"][7] = np.nan
    trial, space = Trial.of({"learning_rate": 0.1}), {"learning_rate": log(1e-3, 1.0)}
    broken = dataclasses.replace(regression(), train=broken)
    assert np.isfinite(cost_of_fit(gradlab.sgd, trial.values, task_=broken))
    found = of(gradlab.sgd, space, [trial], broken, method=method)
    assert found.costs.tolist() == [np.inf]
    assert np.isnan(found.unit).all()


def test_a_metric_that_is_maximised_is_turned():
    make, space, values = CASES["sgd"]
    found = of(make, space, [Trial.of(values)], regression(), metric="r2")
    np.testing.assert_allclose(found.costs, [-cost_of_fit(make, values, "r2", regression())], rtol=1e-10)
    expected = -difference(make, values, "learning_rate", metric="r2", task_=regression())
    np.testing.assert_allclose(found.natural, [[expected]], rtol=2e-6)


def test_a_weight_whose_gradient_is_always_zero_is_no_obstacle_to_adam():
    """The pixel at a corner of the digits is dead in every example; Adam takes the root of its second moment, zero."""
    data = {key: {**getattr(task(), key)} for key in ("train", "valid")}
    data = {key: {**value, "x": np.array(value["x"]) * [1, 1, 1, 1, 0]} for key, value in data.items()}
    dead = flax_task(nn.Dense(3, param_dtype=jnp.float64), **data)
    make, space, values = CASES["adamw"]
    for method in ("forward", "reverse"):
        found = of(make, space, [Trial.of(values)], dead, method=method)
        expected = [difference(make, values, name, task_=dead) for name in found.names]
        np.testing.assert_allclose(found.natural, [expected], rtol=5e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "metric 'accuracy' .* has no derivative"),
        ({"metric": "lost"}, "unknown metric 'lost'; did you mean 'loss'"),
        ({"method": "backward"}, "unknown method 'backward'"),
        ({"horizon": 0}, "`horizon` must be .* 1 to the 11 of a run, got 0"),
        ({"horizon": 12}, "`horizon` must be .* 1 to the 11 of a run, got 12"),
        ({"horizon": 2.5}, "`horizon` must be .* got 2.5"),
        ({"space": {"learning_rate": [0.1, 0.2]}}, "no number of the space moves"),
        ({"trials": [Trial.of({"learning_rate": -1.0})]}, "`learning_rate` must be >= 0, got -1"),
        ({"trials": []}, "at least one trial"),
    ],
)
def test_mistakes_are_explained(options, message):
    arguments = {"space": {"learning_rate": log(0.01, 1.0)}, "trials": [Trial.of({"learning_rate": 0.1})], **options}
    with pytest.raises(ValueError, match=message):
        of(gradlab.sgd, **arguments)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (Int8(least=0), "moments in codes"),
        ("bfloat16_residual", "moments in codes"),
        ("bfloat16_stochastic", "moments that are rounded by chance"),
        (None, "residuals of bfloat16 parameters"),
    ],
    ids=str,
)
def test_what_has_no_derivative_is_refused_before_anything_runs(storage, message):
    def make(learning_rate):
        inner = gradlab.sgd(learning_rate, momentum=0.7, storage=storage)
        return gradlab.with_residuals(inner) if storage is None else inner

    line = straight(jnp.bfloat16 if storage is None else jnp.float32)
    space, trial = {"learning_rate": log(0.01, 0.1)}, Trial.of({"learning_rate": 0.05})
    refused = lambda: pytest.raises(ValueError, match=f"hypergradients cannot pass {message}, which have no derivative")
    with refused():
        hypergradients(line, make, space, [trial], seeds=1, plan=Plan(5, 5, None, "full"))
    with refused():
        prepare(line, make, space, trials=2, seeds=1, steps=5, scheduler="hypergrad")


def straight(dtype):
    """A line through points."""
    loss = lambda params, state, batch, key: (jnp.mean((batch["x"] * params[0] - batch["y"]) ** 2), state)
    return make_task(
        lambda key: (jnp.ones(1, dtype), {}), loss, train={"x": np.arange(4.0), "y": np.arange(4.0) ** 2}, name="line"
    )


def test_what_is_rounded_to_the_nearest_has_the_derivative_of_float32_nearly():
    space = {"learning_rate": log(0.001, 0.1), "momentum": linear(0.0, 0.9)}
    trial, plan = Trial.of({"learning_rate": 0.005, "momentum": 0.3}), Plan(5, 5, None, "full")  # ends on the slope
    exact, short = (
        hypergradients(
            straight(jnp.float32), functools.partial(gradlab.sgd, storage=storage), space, [trial], seeds=1, plan=plan
        )
        for storage in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(short.natural, exact.natural, rtol=0.01)


def test_a_metric_that_is_stationary_is_no_mistake():
    bowl = surface_task(quadratic(condition=10.0), start=[0.0, 0.0])
    found = hypergradients(
        bowl, gradlab.sgd, {"learning_rate": log(0.01, 0.1)}, [Trial.of({"learning_rate": 0.05})], seeds=1,
        plan=Plan(5, 5, None, "full"),
    )  # fmt: skip
    assert found.natural.tolist() == [[0.0]]
