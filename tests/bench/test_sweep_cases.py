"""The ways to run a sweep agree with one another, on the same minibatches."""

import numpy as np
import pytest

from gradlab.bench import sweep_cases as cases
from gradlab.tasks.catalogue import digits_mlp

STEPS, BATCH = 25, 64  # more than one epoch of 1259 // 64 = 19 batches


@pytest.fixture(scope="module")
def sweep():
    return cases.Sweep(digits_mlp(hidden=(4,)), np.array([1e-3, 1e-2, 1e-1]), STEPS, BATCH)


@pytest.fixture(scope="module")
def loop_losses(sweep):
    return cases.optax_loop(sweep)


def test_the_default_is_the_sweep_of_the_goal():
    sweep = cases.digits_sweep()
    assert (len(sweep.learning_rates), sweep.steps, sweep.batch_size) == (64, 500, 64)
    assert sweep.task.num_params == 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    np.testing.assert_allclose(sweep.learning_rates[[0, -1]], [1e-4, 1e-1])


@pytest.mark.parametrize("run", [cases.optax_scans, cases.optax_vmap, cases.gradlab_lanes])
def test_all_ways_reach_the_losses_of_the_python_loop(run, sweep, loop_losses):
    np.testing.assert_allclose(run(sweep), loop_losses, rtol=1e-4)


def test_the_loop_reaches_the_losses_of_adam_in_numpy(sweep, loop_losses):
    fixture = cases.fixture_of(sweep)
    expected = [numpy_run(sweep, fixture, learning_rate) for learning_rate in sweep.learning_rates]
    np.testing.assert_allclose(loop_losses, expected, rtol=1e-4)
    assert len(np.unique(np.round(expected, 2))) == 3


def numpy_run(sweep, fixture, learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam on a network with one hidden layer, its gradient by hand, in float64."""
    x, y = np.float64(sweep.task.train["x"]), np.asarray(sweep.task.train["y"])
    layers = [fixture.params[name] for name in ("Dense_0", "Dense_1")]
    params = [np.float64(layer[part]) for layer in layers for part in ("kernel", "bias")]
    mu, nu = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for t, rows in enumerate(np.asarray(fixture.rows), start=1):
        loss, grads = numpy_loss_and_grads(params, x[rows], y[rows])
        for i, g in enumerate(grads):
            mu[i], nu[i] = b1 * mu[i] + (1 - b1) * g, b2 * nu[i] + (1 - b2) * g**2
            root = np.sqrt(nu[i] / (1 - b2**t)) + eps
            params[i] = params[i] - learning_rate * mu[i] / (1 - b1**t) / root
    return loss


def numpy_loss_and_grads(params, x, y):
    w1, c1, w2, c2 = params
    hidden = np.maximum(x @ w1 + c1, 0)
    logits = hidden @ w2 + c2
    logits = logits - logits.max(1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.mean(np.log(probabilities[np.arange(len(y)), y]))
    at_logits = (probabilities - np.eye(10)[y]) / len(y)
    at_hidden = (at_logits @ w2.T) * (hidden > 0)
    return loss, [x.T @ at_hidden, at_hidden.sum(0), hidden.T @ at_logits, at_logits.sum(0)]


def test_an_epoch_shows_no_example_twice_and_the_next_one_another_order(sweep):
    rows = np.asarray(cases.fixture_of(sweep).rows)
    per_epoch = sweep.task.num_examples // BATCH
    assert rows.shape == (STEPS, BATCH)
    first, second = rows[:per_epoch].ravel(), rows[per_epoch : 2 * per_epoch].ravel()
    assert len(np.unique(first)) == first.size
    assert len(np.unique(second)) == second.size
    assert not np.array_equal(first[: second.size], second)


def test_goals():
    assert {case.name: case.at_most for case in cases.sweep_cases()} == {
        "sweep/loop": 1 / 10,
        "sweep/scan": 1 / 6,
        "sweep/vmap": 1.0,
    }


@pytest.mark.parametrize("quick", [False, True])
def test_quick_runs_slow_baselines_in_part_scales_their_time_and_says_so(quick, sweep, monkeypatch):
    ran = []

    def fake_paired(contestants, rounds, warmup):
        ran.append([len(contestant.run.args[0].learning_rates) for contestant in contestants.values()])
        return {"gradlab": [2.0] * rounds, "optax": [5.0] * rounds}

    monkeypatch.setattr(cases, "paired", fake_paired)
    sweep = sweep._replace(learning_rates=np.geomspace(1e-3, 1e-1, 12))
    for case in cases.sweep_cases(lambda: sweep, quick=quick):
        samples = case.measure(2)
        (lanes, configurations), scaled = ran.pop(), quick and case.name != "sweep/vmap"
        assert (lanes, configurations) == (12, 3 if scaled else 12)
        assert samples == {"gradlab": [2.0, 2.0], "optax": [20.0, 20.0] if scaled else [5.0, 5.0]}
        assert ("measured on 3 configurations" in case.note) == scaled
