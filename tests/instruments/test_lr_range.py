"""The range test: where descent on a quadratic begins to rise is known, and divergence freezes a lane."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.instruments import lr_range

CURVATURES = jnp.array([5.0, 1.0, 0.1])


def bowl(params, batch):
    return 0.5 * jnp.sum(CURVATURES * params**2)


def squares(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def batches(key, steps, examples=16):
    x = jax.random.normal(key, (steps + 1, examples, 3))
    return {"x": x, "y": x @ jnp.array([1.0, -2.0, 3.0]) + 4.0}


LINEAR = {"w": jnp.zeros(3), "b": jnp.zeros(())}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_first_rise_along_an_eigenvector_is_beyond_two_over_its_value(index):
    start = jnp.zeros(3).at[index].set(1.0)
    found = lr_range(gradlab.sgd(1.0), bowl, start, low=1e-3, high=100.0, decay=0.0)
    rises = np.diff([found.initial, *found.losses]) > 0
    critical = 2 / float(CURVATURES[index])
    np.testing.assert_array_equal(
        np.asarray(found.learning_rates)[rises][0], min(found.learning_rates[found.learning_rates > critical])
    )
    kept = np.arange(100) < rises.argmax()
    assert not rises[kept].any()


@pytest.mark.parametrize("steps", [3, 50])
def test_rates_are_geometric(steps):
    found = lr_range(gradlab.sgd(1.0), bowl, jnp.ones(3), low=1e-4, high=1.0, steps=steps)
    np.testing.assert_allclose(found.learning_rates, np.geomspace(1e-4, 1, steps), rtol=1e-12)


def test_a_loss_is_that_after_the_update_with_its_rate():
    found = lr_range(gradlab.sgd(7.0), squares, LINEAR, batches(jax.random.key(0), 5), low=1e-3, high=0.1, steps=5)
    params, data = LINEAR, batches(jax.random.key(0), 5)
    batch = lambda t: jax.tree.map(lambda x: x[t], data)
    assert found.initial == squares(params, batch(0))
    for t, rate in enumerate(np.geomspace(1e-3, 0.1, 5)):
        grads = jax.grad(squares)(params, batch(t))
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
        np.testing.assert_allclose(found.losses[t], squares(params, batch(t + 1)), rtol=1e-10)
    assert found.diverged_at == 5


@pytest.mark.parametrize(
    "tx",
    [
        gradlab.adam(1.0),
        gradlab.sgd(1.0, momentum=0.9),
        gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.adamw(1.0)),
        gradlab.lion(1.0),
        gradlab.muon(1.0),
    ],
    ids=["adam", "momentum", "chain", "lion", "muon"],
)
def test_an_optimizer_keeps_its_state_while_its_rate_grows(tx):
    """The same run as with a schedule of the rates, through `gradlab.replace` at every step."""
    found = lr_range(tx, squares, LINEAR, batches(jax.random.key(0), 20), low=1e-4, high=1e-2, steps=20)
    params, state, data = LINEAR, tx.init(LINEAR), batches(jax.random.key(0), 20)
    losses = []
    for t, rate in enumerate(np.geomspace(1e-4, 1e-2, 20)):
        grads = jax.grad(squares)(params, jax.tree.map(lambda x, t=t: x[t], data))
        updates, state = gradlab.replace(tx, learning_rate=rate).update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(squares(params, jax.tree.map(lambda x, t=t: x[t + 1], data)))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-6)


def test_a_line_search_gets_what_it_reads():
    tx = gradlab.momo(1.0)
    assert jnp.isfinite(lr_range(tx, bowl, jnp.ones(3), high=0.1).losses).all()


@pytest.mark.parametrize("tx", [gradlab.sgd(1.0), gradlab.sgd(1.0, momentum=0.5)], ids=["sgd", "momentum"])
def test_suggestions_on_a_quadratic_are_stable(tx):
    found = lr_range(tx, bowl, jnp.ones(3), low=1e-5, high=10.0)
    for rate in found.suggestions[:3]:
        assert 1e-3 < rate < 2 / 5.0


def test_after_a_divergence_nothing_moves():
    calls = collections.deque()

    def watched(params, batch):
        jax.debug.callback(lambda value: calls.append(float(value)), params[0], ordered=True)
        return bowl(params, batch)

    found = lr_range(gradlab.sgd(1.0), watched, jnp.ones(3), low=0.1, high=100.0, steps=40, decay=0.0)
    at = int(found.diverged_at)
    jax.effects_barrier()
    assert 0 < at < 39
    assert np.isfinite(found.losses[: at + 1]).all() and np.isnan(found.losses[at + 1 :]).all()
    assert np.isnan(found.smoothed[at + 1 :]).all()
    best = min(found.initial, found.losses[:at].min())
    assert found.losses[at] > 5 * best and (np.diff(found.losses[:at]) < 5 * best).all()
    assert np.isfinite(calls).all() and len(set(list(calls)[at + 1 :])) == 1


def test_the_average_that_decides_about_divergence_has_no_bias():
    """With the losses 1, 4, 7.3: the averages are 1, 2.5, 3.3 x 1.15 and so on; a biased one would be 0.5 at first."""
    losses = jnp.array([1.0, 4.0, 7.3, 1.0])
    index = jnp.arange(4)
    told = lambda params, batch: losses[batch] + 0.0 * params
    means = [
        sum(0.5 ** (t - k) * losses[k] for k in range(t + 1)) / sum(0.5**k for k in range(t + 1)) for t in range(4)
    ]
    for margin, expected in ((0.999, 1), (1.001, 3)):
        diverges = margin * float(means[2])
        found = lr_range(gradlab.sgd(1.0), told, jnp.zeros(()), index, steps=3, decay=0.5, diverges=diverges)
        assert found.diverged_at == expected


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_is_a_divergence(bad):
    wall = lambda params, batch: jnp.where(params > 2.0, bad, -params)
    found = lr_range(gradlab.sgd(1.0), wall, jnp.zeros(()), low=0.1, high=10.0, steps=30)
    path = np.cumsum(found.learning_rates)
    assert found.diverged_at == np.argmax(path > 2.0)
    assert np.isfinite(found.suggestions.tenth)


def test_a_negative_loss_diverges_as_a_positive_one():
    losses = jnp.array([-1.0, -2.0, 5.9, 6.1, -2.0])
    told = lambda params, batch: losses[batch] + 0.0 * params
    assert lr_range(gradlab.sgd(1.0), told, jnp.zeros(()), jnp.arange(5), steps=4, decay=0.0).diverged_at == 2


def test_a_flat_loss_suggests_nothing():
    found = lr_range(gradlab.adam(1.0), lambda params, batch: 3.0 + 0.0 * params, jnp.zeros(()))
    assert np.isnan(found.suggestions[:3]).all() and found.diverged_at == 100


def test_lanes_are_runs_of_their_own():
    @jax.jit
    @chex.assert_max_traces(1)
    def band(keys):
        run = lambda key: lr_range(gradlab.adam(1.0), squares, LINEAR, batches(key, 30), high=100.0, steps=30)
        return jax.vmap(run)(keys)

    for seed in (0, 1):
        keys = jax.random.split(jax.random.key(seed), 2)
        found = band(keys)
        for lane, key in enumerate(keys):
            alone = lr_range(gradlab.adam(1.0), squares, LINEAR, batches(key, 30), high=100.0, steps=30)
            chex.assert_trees_all_close(jax.tree.map(lambda x, lane=lane: x[lane], found), alone, rtol=1e-6)


def test_another_rate_of_the_same_optimizer_changes_nothing():
    first, second = (lr_range(gradlab.adam(rate), bowl, jnp.ones(3)) for rate in (1e-3, 5.0))
    chex.assert_trees_all_equal(first, second)


def test_a_number_of_another_name_is_varied():
    tx = gradlab.chain(gradlab.scale_by_adam(), gradlab.scale(-1.0))
    found = lr_range(tx, bowl, jnp.ones(3), name="step_size", high=0.1, steps=10)
    assert found.losses[-1] > found.initial  # a positive step size climbs


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tx": optax.adam(1.0)}, ValueError, "adopted Optax transform are constants"),
        ({"tx": gradlab.sgd(gradlab.cosine_decay_schedule(1.0, 10))}, ValueError, "has the parts"),
        ({"name": "learning_rat"}, ValueError, "no hyperparameter 'learning_rat'; did you mean 'learning_rate'"),
        ({"tx": 0.1}, TypeError, "expected a gradient transformation"),
        ({"loss": lambda params, batch: params}, ValueError, "must return one number"),
        ({"loss": lambda params, batch: jnp.nan * jnp.sum(params)}, ValueError, "the loss is nan at the start"),
        ({"params": jnp.array([1, 2, 3])}, TypeError, "is int"),
        ({"batches": jnp.ones((100, 2))}, ValueError, r"steps \+ 1 = 101"),
        ({"low": 0.0}, ValueError, "`low` must be > 0"),
        ({"low": 1.0, "high": 0.5}, ValueError, "`high` must be > 1"),
        ({"steps": 2}, ValueError, "`steps` must be >= 3"),
        ({"decay": 1.0}, ValueError, "`decay` must be in"),
        ({"diverges": 1.0}, ValueError, "`diverges` must be > 1"),
    ],
)
def test_bad_input_is_explained(changes, error, message):
    arguments = {"tx": gradlab.sgd(1.0), "loss": bowl, "params": jnp.ones(3), **changes}
    with pytest.raises(error, match=message):
        lr_range(**arguments)


def test_a_second_run_with_other_numbers_compiles_nothing():
    traced = collections.deque()

    def counted(params, batch):
        traced.append(None)
        return batch[0] * jnp.sum(params**2)

    def run(scale, rate, high):
        lr_range(gradlab.adam(rate), counted, scale * jnp.ones(3), scale * jnp.ones((11, 1)), high=high, steps=10)
        return len(traced)

    first, second = run(1.0, 0.1, 1.0), run(2.0, 0.3, 5.0)
    assert second - first <= 1  # the check that the loss is a number
