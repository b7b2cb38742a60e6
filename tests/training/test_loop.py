"""`fit`: the same numbers as a plain loop, the documents' stop rules, and errors that say what to do."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab import Patience, Threshold, Tolerance, fit
from gradlab.tasks import TASKS, flax_task, make_task, quadratic, surface_task
from gradlab.training.batches import draw, make_feed
from gradlab.training.segment import DATA, INIT


def parabola():
    """f(x) = x^2 from x = 2, the documents' one-dimensional example."""
    return make_task(_start_at_two, _square, name="parabola")


def _start_at_two(key):
    return jnp.array([2.0]), {}


def _square(params, model_state, batch, key):
    return jnp.sum(params**2), model_state


def line():
    """y = 3 x + noise, 12 examples, one weight."""
    x = np.linspace(-1.0, 1.0, 12)
    data = {"x": x, "y": 3 * x + 0.1 * np.sin(40 * x)}
    return make_task(_start_at_two, _squared_error, train=data, name="line")


def _squared_error(params, model_state, batch, key):
    return jnp.mean((params[0] * batch["x"] - batch["y"]) ** 2), model_state


def test_descent_on_the_parabola_follows_its_closed_form():
    history = fit(parabola(), gradlab.sgd(0.1), steps=20, trajectory=True)
    t = np.arange(20)
    np.testing.assert_allclose(history.trajectory[:, 0], 2 * (1 - 2 * 0.1) ** t, rtol=1e-12)
    np.testing.assert_allclose(history.loss, (2 * 0.8**t) ** 2, rtol=1e-12)
    np.testing.assert_allclose(history.params, [2 * 0.8**20], rtol=1e-12)


def test_a_learning_rate_of_one_oscillates_between_two_and_minus_two():
    history = fit(parabola(), gradlab.sgd(1.0), steps=6, trajectory=True)
    np.testing.assert_allclose(history.trajectory[:, 0], [2, -2, 2, -2, 2, -2])


def test_a_complex_parameter_walks_to_its_minimum():
    history = fit(make_task(_start_at_one, _distance_to_point, name="point"), gradlab.sgd(0.1), steps=8)
    np.testing.assert_allclose(history.params, (3 + 4j) + 0.8**8 * (1 - (3 + 4j)), rtol=1e-12)


def _start_at_one(key):
    return jnp.array(1 + 0j), {}


def _distance_to_point(params, model_state, batch, key):
    return jnp.abs(params - (3 + 4j)) ** 2, model_state


def test_minibatches_equal_a_plain_numpy_loop():
    task, lr, size = line(), 0.3, 5
    history = fit(task, gradlab.sgd(lr), steps=7, key=3, batch_size=size)
    key = jax.random.fold_in(jax.random.key(3), DATA)
    w, losses = 2.0, []
    for step in range(7):
        epoch, position = divmod(step, 12 // size)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 12))
        index = order[position * size : (position + 1) * size]
        x, y = task.train["x"][index], task.train["y"][index]
        losses.append(np.mean((w * x - y) ** 2))
        w -= lr * np.mean(2 * x * (w * x - y))
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)
    np.testing.assert_allclose(history.params, [w], rtol=1e-12)


@pytest.mark.parametrize("segment", [1, 3, 7, 50])
def test_segments_do_not_change_the_numbers(segment):
    whole = fit(line(), gradlab.adam(0.1), steps=20, batch_size=4, eval_every=20)
    parts = fit(line(), gradlab.adam(0.1), steps=20, batch_size=4, eval_every=segment)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-12)
    np.testing.assert_array_equal(parts.eval_step[-1], 20)


@pytest.mark.parametrize("sampling", ["epoch", "once"])
def test_an_epoch_shows_every_example_once(sampling):
    data = {"index": np.arange(12)}
    feed = make_feed(data, jax.random.key(0))
    epochs = []
    for step in range(6):
        feed, batch = draw(feed, jax.tree.map(jnp.asarray, data), jnp.int32(step), batch_size=4, sampling=sampling)
        epochs.append(np.asarray(batch["index"]))
    first, second = np.concatenate(epochs[:3]), np.concatenate(epochs[3:])
    np.testing.assert_array_equal(np.sort(first), np.arange(12))
    np.testing.assert_array_equal(np.sort(second), np.arange(12))
    assert not np.array_equal(first, np.arange(12))
    assert np.array_equal(first, second) == (sampling == "once")


def test_ordered_batches_are_not_shuffled_and_replacement_repeats():
    data = {"index": jnp.arange(12)}
    feed = make_feed(data, jax.random.key(0))
    _, batch = draw(feed, data, jnp.int32(1), batch_size=4, sampling="ordered")
    np.testing.assert_array_equal(batch["index"], [4, 5, 6, 7])
    drawn = [draw(feed, data, jnp.int32(step), batch_size=12, sampling="replacement")[1]["index"] for step in range(4)]
    assert all(len(np.unique(index)) < 12 for index in drawn)
    assert not np.array_equal(drawn[0], drawn[1])


def test_accumulated_micro_batches_are_the_whole_batch():
    whole = fit(line(), gradlab.adam(0.1), steps=9, batch_size=6)
    micro = fit(line(), gradlab.adam(0.1), steps=9, batch_size=6, accumulate=3)
    np.testing.assert_allclose(micro.loss, whole.loss, rtol=1e-12)
    chex.assert_trees_all_close(micro.params, whole.params, rtol=1e-12)


def test_another_learning_rate_compiles_nothing():
    task = line()
    fit(task, gradlab.adam(0.1), steps=8, batch_size=4, eval_every=4)
    with jax.no_tracing():
        fit(task, gradlab.adam(0.2), steps=8, batch_size=4, eval_every=4)


def test_tolerance_stops_at_the_first_small_change():
    """The documents' do-while on |f(x_{k+1}) - f(x_k)| <= eps; their text reads x_{k+1} before it exists."""
    x, losses = 2.0, []
    while len(losses) < 2 or abs(losses[-1] - losses[-2]) > 1e-3:
        losses.append(x**2)
        x -= 0.1 * 2 * x
    history = fit(parabola(), gradlab.sgd(0.1), steps=100, stop=Tolerance(1e-3), eval_every=7)
    assert history.reason == "Tolerance(eps=0.001)"
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)
    np.testing.assert_allclose(history.params**2, [losses[-1]], rtol=1e-12)


def test_threshold_stops_at_the_first_low_loss():
    history = fit(parabola(), gradlab.sgd(0.1), steps=100, stop=[Threshold(0.5)])
    assert history.loss[-1] <= 0.5 < history.loss[-2]
    assert history.reason == "Threshold(loss=0.5)"


def test_the_first_rule_that_holds_is_the_reason():
    history = fit(parabola(), gradlab.sgd(0.1), steps=100, stop=[Tolerance(1e-6), Threshold(0.5)])
    assert history.reason == "Threshold(loss=0.5)"


def test_patience_stops_when_the_metric_stalls():
    history = fit(parabola(), gradlab.sgd(1.0), steps=100, eval_every=2, stop=Patience(3))
    assert history.steps == 6
    np.testing.assert_allclose(history.metrics["loss"], 4.0)


def test_divergence_ends_the_run_and_keeps_finite_parameters():
    history = fit(parabola(), gradlab.sgd(1e30), steps=100, eval_every=10)
    assert history.reason == "diverged"
    assert history.steps < 10
    assert not np.isfinite(history.loss[-1])
    assert np.isfinite(history.loss[:-1]).all()
    assert np.isfinite(history.params).all()
    frozen = 2.0 * (1 - 2 * 1e30) ** (history.steps - 1)  # where the loss was first infinite, not a step further
    np.testing.assert_allclose(history.params, [frozen], rtol=1e-10)


def test_epochs_count_whole_batches():
    assert fit(line(), gradlab.sgd(0.1), epochs=3, batch_size=5).steps == 3 * (12 // 5)


def test_progress_counts_up_to_the_end():
    seen = []
    fit(line(), gradlab.sgd(0.1), steps=10, batch_size=4, eval_every=4, progress=seen.append)
    assert [item.step for item in seen] == [4, 8, 10]
    assert seen[-1].remaining == 0
    assert set(seen[0].metrics) == {"loss"}


def test_evaluation_uses_the_weights_that_the_optimizer_reports():
    ahead = fit(parabola(), gradlab.nesterov_sgd(0.05, 0.9), steps=30)
    theta = np.asarray(gradlab.eval_params(gradlab.nesterov_sgd(0.05, 0.9), ahead.run.opt_state, ahead.run.params))
    np.testing.assert_allclose(ahead.metrics["loss"][-1], theta[0] ** 2, rtol=1e-12)
    assert abs(theta[0] - float(ahead.run.params[0])) > 1e-6


def test_a_line_search_of_optax_gets_what_it_asks_for():
    search = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=40))
    history = fit(surface_task(quadratic(condition=100.0)), search, steps=60)
    assert np.all(np.diff(history.loss) <= 1e-12)


def test_optax_optimizers_train_a_flax_model():
    history = fit(TASKS["digits_mlp"](), optax.adam(1e-3), steps=150, batch_size=64)
    assert history.final["accuracy"] > 0.85


def test_a_users_model_in_three_lines():
    import flax.linen as nn

    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 5)).astype(np.float32)
    task = flax_task(nn.Dense(1), {"x": x, "y": x @ np.ones((5, 1), np.float32)}, loss="squared_error")
    assert fit(task, gradlab.adam(0.1), steps=200).loss[-1] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either steps or epochs"),
        ({"steps": 5, "epochs": 1}, "either steps or epochs"),
        ({"steps": 0}, "`steps` must be >= 1, got 0"),
        ({"steps": 5, "batch_size": 13}, "batch_size=13 is larger than the data set of 12 examples"),
        ({"steps": 5, "batch_size": 0}, "`batch_size` must be >= 1, got 0"),
        ({"steps": 5, "batch_size": 4, "accumulate": 3}, "does not divide into accumulate=3"),
        ({"steps": 5, "sampling": "epochs"}, "did you mean 'epoch'"),
        ({"steps": 5, "eval_every": -1}, "`eval_every` must be >= 1"),
        ({"steps": 5, "eval_every": 0}, "`eval_every` must be >= 1, got 0"),
        ({"steps": 5, "stop": Patience(2, "accuracy")}, "does not report"),
        ({"steps": 5, "stop": Patience(0)}, "`patience` must be >= 1"),
        ({"steps": 5, "stop": [Patience(1), Patience(2)]}, "one Patience rule"),
        ({"steps": 5, "stop": Tolerance(-1.0)}, "`eps` must be >= 0"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(line(), gradlab.sgd(0.1), **arguments)


def test_a_stop_rule_must_be_one():
    with pytest.raises(TypeError, match="Tolerance, Threshold or Patience"):
        fit(line(), gradlab.sgd(0.1), steps=3, stop=[0.5])


def test_a_name_is_no_task():
    with pytest.raises(TypeError, match="`task` must be a Task, got str: 'digits'; make one"):
        fit("digits", gradlab.sgd(0.1), steps=1)


def test_epochs_and_batches_need_data():
    with pytest.raises(ValueError, match="needs a task with training data"):
        fit(parabola(), gradlab.sgd(0.1), epochs=1)
    with pytest.raises(ValueError, match="no training data"):
        fit(parabola(), gradlab.sgd(0.1), steps=1, batch_size=4)


def test_initialisation_data_and_noise_have_streams_of_their_own():
    key = jax.random.key(0)
    task = TASKS["digits_mlp"]()
    params, _ = task.init(jax.random.fold_in(key, INIT))
    history = fit(task, gradlab.sgd(0.0), steps=1, key=0, batch_size=8)
    chex.assert_trees_all_close(history.params, params, rtol=1e-6)


def documents_regression():
    """y = 3 x + U(0, 1) on 100 points, NumPy's seed 1: the documents call its full-batch descent stochastic."""
    random = np.random.RandomState(1)
    x = random.rand(100)
    return make_task(
        _start_at_origin, _affine_error, train={"x": x, "y": 3 * x + random.rand(100)}, name="documents' regression"
    )


def _start_at_origin(key):
    return jnp.zeros(2), {}


def _affine_error(params, model_state, batch, key):
    return jnp.mean((params[0] * batch["x"] + params[1] - batch["y"]) ** 2), model_state


def test_full_batch_descent_contracts_towards_the_least_squares_solution():
    task = documents_regression()
    design = np.stack([task.train["x"], np.ones(100)], axis=1)
    hessian = 2 * design.T @ design / 100
    solution = np.linalg.lstsq(design, task.train["y"], rcond=None)[0]
    history = fit(task, gradlab.sgd(0.01), steps=1000)
    contraction = np.linalg.matrix_power(np.eye(2) - 0.01 * hessian, 1000)
    np.testing.assert_allclose(history.params, solution - contraction @ solution, rtol=1e-9)
    shuffled = fit(task, gradlab.sgd(0.01), steps=1000, batch_size=1)
    assert np.abs(np.asarray(shuffled.params) - np.asarray(history.params)).max() > 1e-3


def test_descent_lowers_the_loss_at_every_step_only_below_two_over_the_curvature():
    task = documents_regression()
    design = np.stack([task.train["x"], np.ones(100)], axis=1)
    limit = 2 / np.linalg.eigvalsh(2 * design.T @ design / 100)[-1]
    below, above = (fit(task, gradlab.sgd(factor * limit), steps=40).loss for factor in (0.99, 1.01))
    assert np.all(np.diff(below) < 0)
    assert np.all(np.diff(above[-20:]) > 0)
