"""The ways to run a sweep agree with one another, on the same minibatches."""

import jax
import numpy as np
import pytest

from gradlab.bench import sweep_contenders as contenders
from gradlab.bench.sweep_contenders import DoesNotFit
from gradlab.bench.sweep_problem import PROBLEMS, Problem, Sweep, fixture_of, learning_rates
from gradlab.bench.sweep_timing import CONTENDERS
from gradlab.sweeps.engine.clock import compile_seconds
from gradlab.tasks.catalogue import digits_mlp

STEPS, BATCH = 25, 64  # more than one epoch of 1259 // 64 = 19 batches


@pytest.fixture(scope="module")
def sweep():
    return Sweep(digits_mlp(hidden=(4,)), np.array([1e-3, 1e-2, 1e-1]), STEPS, BATCH)


@pytest.fixture(scope="module")
def loop_losses(sweep):
    return contenders.optax_loop(sweep)()


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ("loop", "optuna", "processes")])
def test_all_ways_reach_the_losses_of_the_python_loop_and_again(name, sweep, loop_losses):
    with CONTENDERS[name].start(sweep) as started:
        np.testing.assert_allclose(started.run(), loop_losses, rtol=1e-4)
        np.testing.assert_allclose(started.run(), loop_losses, rtol=1e-4)


def test_processes_share_the_configurations_and_reach_the_same_losses(sweep, loop_losses, monkeypatch):
    monkeypatch.setattr("gradlab.bench.sweep_timing.usable_cores", lambda: 2)
    compiled = compile_seconds()
    with CONTENDERS["processes"].start(sweep) as started:
        np.testing.assert_allclose(started.run(), loop_losses, rtol=1e-4)
        first = started.compiled()
        np.testing.assert_allclose(started.run(), loop_losses, rtol=1e-4)
        assert started.compiled() == first > 0
    assert compile_seconds() == compiled


def test_optuna_runs_all_trials_and_returns_those_of_the_first_learning_rates(sweep, loop_losses, monkeypatch):
    import optuna

    studies, create = [], optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **options: studies.append(create(**options)) or studies[-1])
    monkeypatch.setattr(contenders, "ENQUEUED", 2)
    losses = contenders.optuna_study(sweep)()
    np.testing.assert_allclose(losses, loop_losses[:2], rtol=1e-4)
    (study,) = studies
    rates = [trial.params["learning_rate"] for trial in study.trials]
    np.testing.assert_allclose(rates[:2], sweep.learning_rates[:2])
    assert len(rates) == 3 and 1e-3 <= rates[2] <= 0.1 and rates[2] not in sweep.learning_rates


def test_optuna_compiles_its_objective_once(sweep):
    run = contenders.optuna_study(sweep)
    run()
    compiled = compile_seconds()
    run()
    assert compile_seconds() == compiled


def test_the_loop_reaches_the_losses_of_adam_in_numpy(sweep, loop_losses):
    fixture = fixture_of(sweep)
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
    rows = np.asarray(fixture_of(sweep).rows)
    per_epoch = sweep.task.num_examples // BATCH
    assert rows.shape == (STEPS, BATCH)
    first, second = rows[:per_epoch].ravel(), rows[per_epoch : 2 * per_epoch].ravel()
    assert len(np.unique(first)) == first.size
    assert len(np.unique(second)) == second.size
    assert not np.array_equal(first[: second.size], second)


def test_a_program_that_does_not_fit_is_not_run(sweep, monkeypatch):
    planned = contenders.hand_written(sweep).planned_bytes
    assert planned > 3 * 3 * 4 * sweep.task.num_params  # three lanes of parameters and both averages
    monkeypatch.setattr(contenders, "memory_budget", lambda limit: planned)
    contenders.hand_written(sweep)
    monkeypatch.setattr(contenders, "memory_budget", lambda limit: planned - 1)
    with pytest.raises(DoesNotFit, match="does not fit: .* GB planned, .* GB allowed"):
        contenders.hand_written(sweep)


def test_a_longer_sweep_begins_with_the_learning_rates_of_a_shorter_one():
    rates = learning_rates(1024)
    np.testing.assert_array_equal(learning_rates(8), rates[:8])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2
    share = np.histogram(np.log10(rates), bins=8, range=(-4, -2))[0]
    assert share.max() - share.min() <= 4


def test_a_problem_evaluates_on_one_batch_and_takes_its_own_steps_unless_told():
    problem = Problem(digits_mlp, steps=7, batch_size=16, parity_lanes=(16, 64))
    sweep = problem.sweep()(5)
    assert (len(sweep.learning_rates), sweep.steps, sweep.batch_size) == (5, 7, 16)
    assert problem.sweep(3)(1).steps == 3
    assert len(jax.tree.leaves(sweep.task.valid)[0]) == 16
    assert sweep.task.num_examples == digits_mlp().num_examples


def test_the_tasks_are_an_mlp_a_cnn_and_a_transformer():
    names = {
        name: problem.make.__name__ if name != "chars" else problem.make.func.__name__
        for name, problem in PROBLEMS.items()
    }
    assert names == {"mlp": "digits_mlp", "cnn": "digits_cnn", "chars": "chars"}
