"""Batches that grow during a run: `fit(..., micro_batches=...)` and the schedules that go with it."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.schedules import seesaw_schedules
from gradlab.tasks import make_task
from gradlab.training import segment


def _at_three(key):
    return {"x": jnp.full((1,), 3.0)}, {}


def _distance(params, model_state, batch, key):
    return 0.5 * jnp.mean((params["x"] - batch["y"]) ** 2), model_state


DATA = {"y": np.random.default_rng(0).normal(size=(64, 1))}
TASK = make_task(_at_three, _distance, train=DATA, name="mean")
SETTINGS = {"sampling": "ordered", "eval_every": 100}


def fit(tx=None, **options):
    return gradlab.fit(TASK, gradlab.sgd(0.1) if tx is None else tx, **{**SETTINGS, **options})


def test_micro_batches_are_one_larger_batch():
    parts = fit(steps=12, batch_size=4, micro_batches=3)
    whole = fit(steps=12, batch_size=12)
    in_order = np.resize(DATA["y"], (144, 1))  # 64 is no multiple of 12: parts read on where whole starts anew
    assert not np.allclose(parts.loss[-1], whole.loss[-1])
    x, losses = 3.0, []
    for step in range(12):
        y = in_order[12 * step : 12 * step + 12]
        losses.append(0.5 * np.mean((x - y) ** 2))
        x -= 0.1 * np.mean(x - y)
    np.testing.assert_allclose(parts.loss, losses, rtol=2e-6)
    np.testing.assert_allclose(parts.params["x"], x, rtol=2e-6)


def test_one_micro_batch_is_a_step_without():
    chex.assert_trees_all_close(
        fit(steps=40, batch_size=4, micro_batches=1).params, fit(steps=40, batch_size=4).params, rtol=1e-13
    )


def test_a_batch_that_grows_reads_on_where_it_stood():
    learning_rate, micro_batches, steps = seesaw_schedules(0.1, boundaries=[8, 16], exponent=0.5)
    assert steps == (8, 12)
    history = fit(gradlab.sgd(learning_rate), steps=14, batch_size=4, micro_batches=micro_batches, eval_every=5)
    y, x, read = np.resize(DATA["y"], (400, 1)), 3.0, 0
    for step in range(14):
        phase = sum(step >= boundary for boundary in steps)
        examples = 4 * 2**phase
        x -= 0.1 * 2 ** (-phase / 2) * np.mean(x - y[read : read + examples])
        read += examples
    np.testing.assert_allclose(history.params["x"], x, rtol=2e-6)
    assert read == 4 * (8 + 4 * 2 + 2 * 4)


def test_other_numbers_of_micro_batches_are_the_same_program():
    segment.run_segment.clear_cache()
    for peak in (1.0, 2.0, 3.0):
        growing = gradlab.piecewise_constant_schedule(peak, {3: 2.0})
        fit(steps=6, batch_size=4, micro_batches=growing, eval_every=6)
    assert segment.run_segment._cache_size() == 1


def _at_zero_400_times(key):
    return {"x": jnp.zeros(400)}, {}


def _distance_400_times(params, model_state, batch, key):
    return 0.5 * jnp.sum(jnp.mean((params["x"] - batch["y"]) ** 2, axis=0)), model_state


def test_sgd_with_a_growing_batch_has_the_noise_of_a_falling_learning_rate():
    """Smith et al.: the noise of SGD depends on learning_rate / batch; over 400 means, to 5 standard errors."""
    noise = {"y": np.random.default_rng(1).normal(size=(4096, 400))}
    task = make_task(_at_zero_400_times, _distance_400_times, train=noise, name="noise")

    def variance(learning_rate, micro_batches, steps):
        options = {"batch_size": 1, "micro_batches": micro_batches, "eval_every": steps}
        return np.var(gradlab.fit(task, gradlab.sgd(learning_rate), steps=steps, **options).params["x"])

    grown, fallen, neither = variance(0.2, 4, 60), variance(0.05, 1, 240), variance(0.2, 1, 60)
    standard_error = fallen * np.sqrt(2 / 400)
    assert abs(grown - fallen) < 5 * np.hypot(standard_error, standard_error)
    assert neither > 3 * grown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "micro_batches": 2}, "micro_batches does not go with epochs; give steps"),
        (
            {"steps": 4, "micro_batches": 2, "accumulate": 2},
            "micro_batches does not go with accumulate; lower batch_size",
        ),
        ({"steps": 4, "micro_batches": 0}, "`micro_batches` must be >= 1, got 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(batch_size=4, **options)


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([], "must be positive and ascend"),
        ([4, 4], "must be positive and ascend"),
        ([4, 7], "phase 1 .* reads 3 batches"),
    ],
)
def test_phases_that_make_no_steps_are_refused(boundaries, message):
    with pytest.raises(ValueError, match=message):
        seesaw_schedules(0.1, boundaries)
