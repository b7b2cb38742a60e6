"""Running moments against those of the whole series at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.instruments import merge, observe, running, standard_error, variance

SERIES = {"a": jax.random.normal(jax.random.key(0), (50, 3)) + 5.0, "b": jnp.linspace(0.0, 1.0, 50) ** 2}
EMPTY = running({"a": jnp.zeros(3), "b": jnp.zeros(())})


def after(series, decay=1.0, state=EMPTY):
    return jax.lax.scan(lambda state, x: (observe(state, x, decay), None), state, series)[0]


def weights(decay):
    return decay ** np.arange(49.0, -1.0, -1.0)


@pytest.mark.parametrize("name", ["a", "b"])
def test_without_decay_they_are_numpys(name):
    state, whole = after(SERIES), np.asarray(SERIES[name])
    assert state.weight == 50
    np.testing.assert_allclose(state.mean[name], whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance(state)[name], whole.var(0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(standard_error(state)[name], whole.std(0, ddof=1) / np.sqrt(50), rtol=1e-10)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_with_decay_they_are_weighted_moments(decay):
    state, x, w = after(SERIES, decay), np.asarray(SERIES["b"]), weights(decay)
    mean = np.average(x, weights=w)
    np.testing.assert_allclose([state.weight, state.squared_weight], [w.sum(), (w**2).sum()], rtol=1e-12)
    np.testing.assert_allclose(state.mean["b"], mean, rtol=1e-12)
    spread = (w * (x - mean) ** 2).sum()
    np.testing.assert_allclose(variance(state)["b"], spread / (w.sum() - (w**2).sum() / w.sum()), rtol=1e-10)


def test_the_first_mean_is_the_first_observation():
    """The exponential average has no bias towards zero from the start on."""
    state = observe(running(jnp.zeros(())), 7.0, 0.99)
    assert state.mean == 7.0 and np.isnan(variance(state))


def test_a_variance_far_below_the_mean_is_kept():
    x = jnp.array([1e8 + 1, 1e8 + 2, 1e8 + 3])
    state = jax.lax.scan(lambda state, x: (observe(state, x), None), running(jnp.zeros(())), x)[0]
    assert variance(state) == 1.0


def test_standard_errors_cover():
    """A decayed mean of independent numbers is as far from the truth as its standard error says."""
    x = jax.random.normal(jax.random.key(3), (100, 4000))
    state = jax.lax.scan(lambda state, x: (observe(state, x, 0.9), None), running(jnp.zeros(4000)), x)[0]
    np.testing.assert_allclose(jnp.mean(variance(state)), 1.0, rtol=0.03)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(standard_error(state) ** 2)), jnp.std(state.mean), rtol=0.05)


def test_parts_are_merged():
    first, second = (jax.tree.map(lambda x, part=part: x[part], SERIES) for part in (slice(0, 13), slice(13, 50)))
    chex.assert_trees_all_close(merge(after(first), after(second)), after(SERIES), rtol=1e-10)
    chex.assert_trees_all_close(merge(EMPTY, after(second)), after(second))
    chex.assert_trees_all_equal(merge(EMPTY, EMPTY), EMPTY)


def test_a_nan_stays_in_its_entry():
    state = observe(observe(running(jnp.zeros(2)), jnp.array([jnp.nan, 1.0])), jnp.array([1.0, 3.0]))
    np.testing.assert_array_equal(state.mean, [np.nan, 2.0])


def test_low_precision_is_kept_in_float32():
    state = observe(running(jnp.zeros(1, "bfloat16")), jnp.ones(1, "bfloat16"), 0.9)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32"}
    assert running(jax.ShapeDtypeStruct((2,), "bfloat16")).mean.shape == (2,)


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(decays):
        return jax.vmap(lambda decay: after(SERIES, decay))(decays)

    for decays in (jnp.array([0.5, 1.0]), jnp.array([0.9, 0.1])):
        alone = [after(SERIES, decay) for decay in decays]
        chex.assert_trees_all_close(lanes(decays), jax.tree.map(lambda *x: jnp.stack(x), *alone))


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match=r"`decay` must be in \[0, 1\], got 1.5"):
        observe(EMPTY, {"a": jnp.zeros(3), "b": 0.0}, 1.5)
    with pytest.raises(ValueError, match="the observation and the state have different trees"):
        observe(EMPTY, {"a": jnp.zeros(3)})


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_noise_floor_of_descent(momentum):
    """Descent with gradients ``h x + noise`` settles at a variance that a Lyapunov equation gives in closed form."""
    rate, h, size = 0.2, 1.5, 0.7
    tx, x = gradlab.heavy_ball(rate, momentum), jnp.zeros(20000)

    def step(carry, key):
        x, state, seen = carry
        updates, state = tx.update(h * x + size * jax.random.normal(key, x.shape), state, x)
        x = gradlab.apply_updates(x, updates)
        return (x, state, observe(seen, x, 0.9)), None

    keys = jax.random.split(jax.random.key(4), 200)
    (x, _, seen), _ = jax.lax.scan(step, (x, tx.init(x), running(x)), keys)
    floor = rate * (1 + momentum) * size**2 / ((1 - momentum) * h * (2 * (1 + momentum) - rate * h))
    np.testing.assert_allclose(jnp.var(x), floor, rtol=0.05)
    np.testing.assert_allclose(jnp.mean(seen.mean**2 + seen.spread / seen.weight), floor, rtol=0.05)
