"""Sizes and units: planted zeros, infinities and dead units are counted, nothing else is."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.instruments import health, leaf_names, sizes, units

PARAMS = {"dense": {"kernel": jnp.array([[3.0, 0.0], [0.0, -4.0]]), "bias": jnp.zeros(2)}, "frozen": None}


def grads(scale=1.0):
    return {
        "dense": {"kernel": scale * jnp.array([[1.0, 2.0], [2.0, 0.0]]), "bias": jnp.array([0.0, scale])},
        "frozen": None,
    }


def test_names_and_numbers_have_one_order():
    assert leaf_names(PARAMS) == ["dense/bias", "dense/kernel"]
    found = health(PARAMS, grads(), grads(-0.1), previous_grads=grads(5.0), start=grads())
    np.testing.assert_allclose(found.params.norm, [0, 5])
    np.testing.assert_allclose(found.params.largest, [0, 4])
    np.testing.assert_array_equal(found.params.zeros, [2, 2])
    np.testing.assert_allclose(found.grads.norm, [1, 3])
    np.testing.assert_array_equal(found.grads.zeros, [1, 1])
    np.testing.assert_allclose(found.ratio, [np.inf, 0.06])
    np.testing.assert_allclose(found.cosine, [1, 1])
    np.testing.assert_allclose(found.distance, [1, np.sqrt(4 + 4 + 4 + 16)])


def test_what_is_not_known_is_nan():
    found = health(PARAMS, grads(), grads())
    assert np.isnan(found.cosine).all() and np.isnan(found.distance).all()
    same = health(PARAMS, grads(), grads(), previous_grads=jax.tree.map(jnp.zeros_like, grads()))
    assert np.isnan(same.cosine).all()


@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, np.pi])
def test_cosines_are_those_of_the_angle(angle):
    turned = jnp.array([jnp.cos(angle), jnp.sin(angle)])
    found = health(turned, turned * 1e-25, turned, previous_grads=jnp.array([1e25, 0.0]))
    np.testing.assert_allclose(found.cosine, [np.cos(angle)], atol=1e-12)


def test_lengths_of_float32_do_not_overflow():
    large = jnp.array([3e30, 4e30], "float32")
    found = health(large, large, large, previous_grads=-large)
    np.testing.assert_allclose(found.grads.norm, [5e30], rtol=1e-6)
    np.testing.assert_allclose(found.cosine, [-1.0], rtol=1e-6)


def test_infinities_and_nans_are_counted():
    found = sizes({"a": jnp.array([1.0, jnp.inf, -jnp.inf]), "b": jnp.array([jnp.nan, 0.0]), "c": jnp.ones(2)})
    np.testing.assert_array_equal(found.nonfinite, [2, 1, 0])
    np.testing.assert_array_equal(found.zeros, [0, 1, 0])
    np.testing.assert_allclose(found.largest, [np.inf, np.nan, 1])
    assert found.norm[0] == np.inf or np.isnan(found.norm[0])
    assert np.isnan(found.norm[1]) and found.norm[2] == np.sqrt(2)


def test_the_update_of_adam_for_a_constant_gradient_is_the_learning_rate():
    tx, params = gradlab.adam(1e-3, eps=0.0), {"w": jnp.full(4, 2.0)}
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update({"w": jnp.array([1.0, -10.0, 1e-3, 5.0])}, state, params)
    found = health(params, updates, updates)
    np.testing.assert_allclose(found.updates.largest, [1e-3], rtol=1e-9)
    np.testing.assert_allclose(found.updates.norm, [2e-3], rtol=1e-9)
    np.testing.assert_allclose(found.ratio, [5e-4], rtol=1e-9)


def test_a_planted_column_is_one_dead_unit():
    x = jnp.abs(jax.random.normal(jax.random.key(0), (6, 5, 4))) + 0.1
    found = units({"conv": x.at[..., 2].set(0.0), "dense": x[:, 0].at[3, 1].set(0.0)})
    np.testing.assert_array_equal(found.units, [4, 4])
    np.testing.assert_array_equal(found.dead, [1, 0])
    np.testing.assert_allclose(found.zero_share, [1 / 4, 1 / 24])
    np.testing.assert_array_equal(found.saturated, [0, 0])


def test_saturated_units_lie_near_either_bound_for_every_example():
    x = jnp.array([[0.96, -0.97, 0.99, 0.94], [0.99, -0.99, -0.99, 0.99], [1.0, -1.0, 1.0, 1.0]])
    both = units(x, low=-1.0, high=1.0)
    assert (int(both.saturated[0]), float(both.saturated_share[0])) == (3, 11 / 12)
    assert int(units(x, high=1.0).saturated[0]) == 1
    assert int(units(x, low=-1.0).saturated[0]) == 1
    assert int(units(x, low=-1.0, high=1.0, margin=0.07).saturated[0]) == 4
    assert int(units(x).saturated[0]) == 0


def test_a_nan_is_neither_dead_nor_saturated():
    found = units(jnp.array([[0.0, 1.0], [jnp.nan, jnp.nan]]), high=1.0)
    assert [int(number[0]) for number in (found.dead, found.saturated, found.nonfinite)] == [0, 0, 2]


def test_units_of_a_flax_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(4, name="hidden")(x))
            self.sow("intermediates", "relu", x)
            return nn.Dense(1)(x)

    x = jax.random.normal(jax.random.key(0), (32, 3))
    params = Net().init(jax.random.key(1), x)["params"]
    params["hidden"]["bias"] = params["hidden"]["bias"].at[1].set(-100.0)
    _, captured = Net().apply({"params": params}, x, mutable="intermediates")
    found = units(captured)
    assert leaf_names(captured) == ["intermediates/relu/0"]
    np.testing.assert_array_equal(found.dead, [1])


def test_it_is_traced_once_for_all_lanes():
    @jax.jit
    @chex.assert_max_traces(1)
    def lanes(scales):
        measured = lambda s: health(PARAMS, grads(s), grads(-s), previous_grads=grads(s), start=PARAMS)
        return jax.vmap(measured)(scales), jax.vmap(lambda s: units(s * jnp.ones((2, 3))))(scales)

    for scales in (jnp.array([0.0, 1.0]), jnp.array([2.0, jnp.nan])):
        found, counted = lanes(scales)
        chex.assert_trees_all_close(found.grads, jax.vmap(lambda s: sizes(grads(s)))(scales))
        np.testing.assert_array_equal(counted.dead[:, 0], [3 * (s == 0) for s in scales.tolist()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: health(PARAMS, {"dense": PARAMS["dense"]}, PARAMS), "`grads` and `params` have different trees"),
        (lambda: health(PARAMS, PARAMS, {"dense": PARAMS["dense"], "frozen": jnp.ones(1)}), "`updates` has None"),
        (lambda: health(PARAMS, PARAMS, PARAMS, start={"dense": None, "frozen": None}), "`start`"),
        (lambda: sizes({"a": None}), "at least one array"),
        (lambda: units(jnp.ones(3)), r"must have the shape \(examples, ..., units\), got \(3,\)"),
        (lambda: units({"relu": jnp.ones((0, 3))}), "at 'relu' must have the shape"),
        (lambda: units(jnp.ones((2, 3)), margin=-1.0), "`margin` must be >= 0"),
        (lambda: units(jnp.ones((2, 3)), low=1.0, high=1.0), "`high`"),
    ],
)
def test_bad_input_is_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
