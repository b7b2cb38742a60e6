"""Barriers and curves between minima: double wells, rings, and trained networks in another order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.instruments.connectivity import barrier, bezier, connect
from gradlab.instruments.symmetry import align, chain, permute

KEY = jax.random.key(1)
A, B = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])


def ring(p, batch):
    return (jnp.sum(p**2) - 1) ** 2


def tilted(p, batch):
    """A double well whose minima differ by 2 * batch: the barrier is over the line between them."""
    return (p**2 - 1) ** 2 + batch * p


def test_barriers_are_above_the_line_between_the_ends():
    found = barrier(tilted, jnp.array(-1.0), jnp.array(1.0), 0.3, points=41)
    np.testing.assert_allclose(found.height, 1.0)
    np.testing.assert_allclose(found.place, 0.5)
    np.testing.assert_allclose(found.losses[::20], [-0.3, 1.0, 0.3])
    assert found.error == 0
    coarse = barrier(tilted, jnp.array(-1.0), jnp.array(1.0), 0.3, points=7)  # every second one: 0, 1/3, ...
    between = lambda x: (1 - (2 * x - 1) ** 2) ** 2
    np.testing.assert_allclose([coarse.height, coarse.error], [1.0, 1.0 - between(1 / 3)])


def test_a_convex_loss_has_no_barrier():
    found = barrier(lambda p, batch: jnp.sum(p**2), A, 3 * B, None)
    assert found.height == 0 and found.error == 0 and np.all(found.losses <= found.losses[0] + 8 * found.xs + 1e-12)


def test_nan_and_infinite_losses_are_no_number():
    for bad in (jnp.nan, jnp.inf):
        found = barrier(
            lambda p, batch, bad=bad: jnp.where(jnp.abs(p) < 0.05, bad, p**2), jnp.array(-1.0), jnp.array(1.0), 0
        )
        assert not np.isfinite(found.height) and found.place == 0.5 and np.isfinite(found.losses[0])


def test_bezier_meets_both_ends_and_its_tangents():
    middle = jnp.array([0.3, 2.0])
    np.testing.assert_array_equal(bezier(A, middle, B, 0.0), A)
    np.testing.assert_array_equal(bezier(A, middle, B, 1.0), B)
    slope = jax.jacfwd(lambda x: bezier(A, middle, B, x))
    np.testing.assert_allclose([slope(0.0), slope(1.0)], [2 * (middle - A), 2 * (B - middle)])
    np.testing.assert_allclose(bezier(A, (A + B) / 2, B, 0.3), 0.7 * A + 0.3 * B)


def best_height():
    """The lowest barrier of all quadratic curves on the ring, whose middles are (0, y) by symmetry."""
    xs = np.linspace(0, 1, 1001)
    heights = []
    for y in np.linspace(1, 3, 401):
        point = np.stack([xs**2 - (1 - xs) ** 2, 2 * xs * (1 - xs) * y])
        heights.append(np.mean((np.sum(point**2, 0) - 1) ** 2))
    y = np.linspace(1, 3, 401)[np.argmin(heights)]
    point = np.stack([xs**2 - (1 - xs) ** 2, 2 * xs * (1 - xs) * y])
    return y, np.max((np.sum(point**2, 0) - 1) ** 2)


@pytest.mark.parametrize("tx", [optax.adam(0.05), gradlab.adam(0.05)])
def test_a_curve_goes_around_the_barrier(tx):
    curve = jax.jit(lambda key: _curve(key, tx))(KEY)
    y, height = best_height()
    np.testing.assert_allclose(curve.middle, [0.0, y], atol=0.03)
    np.testing.assert_allclose(curve.barrier.height, height, atol=0.03)
    assert curve.barrier.height < 0.1 * barrier(ring, A, B, None).height
    np.testing.assert_array_equal(curve.barrier.losses[::100], [0, 0])
    assert curve.history.shape == (200,) and curve.history[-1] < 0.1 * curve.history[0]


def _curve(key, tx):
    return connect(ring, A, B, None, key, tx, middle=jnp.array([0.1, 0.1]), draws=32, points=101)


def test_halfway_is_where_it_begins():
    curve = connect(ring, A, B, None, KEY, optax.sgd(0.0), steps=1, points=5)
    np.testing.assert_array_equal(curve.middle, [0.0, 0.0])
    np.testing.assert_allclose(curve.barrier.losses, barrier(ring, A, B, None, points=5).losses)


def net(params, x):
    return jnp.tanh(x @ params["one"]["kernel"] + params["one"]["bias"]) @ params["two"]["kernel"]


def net_loss(params, batch):
    return jnp.mean((net(params, batch) - jnp.sin(3 * batch)) ** 2)


height = jax.jit(lambda first, second, x: barrier(net_loss, first, second, x).height)


def test_trained_networks_in_another_order_are_connected_after_the_alignment():
    x = jnp.linspace(-1, 1, 32)[:, None]
    first, second = jax.random.split(KEY)
    params = {
        "one": {"kernel": 2 * jax.random.normal(first, (1, 16)), "bias": jnp.linspace(-1, 1, 16)},
        "two": {"kernel": 0.3 * jax.random.normal(second, (16, 1))},
    }
    tx = optax.adam(0.02)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(net_loss)(params, x), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 500))((params, tx.init(params)))
    assert net_loss(params, x) < 1e-2
    spec = chain(params, ["one", "two"])
    moved = permute(params, spec, {"one": jax.random.permutation(KEY, 16)})
    assert height(params, moved, x) > 0.1
    aligned = align(params, moved, spec).params
    np.testing.assert_allclose(height(params, aligned, x), 0, atol=1e-12)
    curve = jax.jit(lambda key: connect(net_loss, params, moved, x, key, optax.adam(0.02), steps=400))(KEY)
    assert curve.barrier.height < 0.2 * height(params, moved, x)


def test_vmaps_and_jits_with_one_trace():
    def one(start, key):
        return barrier(ring, start, B, None, batch_size=5), connect(ring, start, B, None, key, optax.sgd(0.1), steps=3)

    both = jax.jit(jax.vmap(chex.assert_max_traces(one, n=1)))
    starts, keys = jnp.stack([A, jnp.array([0.0, -1.0])]), jax.random.split(KEY)
    both(starts + 1, keys)
    many = both(starts, keys)
    chex.clear_trace_counter()
    here = one(starts[1], keys[1])
    chex.assert_trees_all_close(here, jax.tree.map(lambda x: x[1], many), rtol=1e-9, atol=1e-12)


def test_bad_input_says_why():
    with pytest.raises(ValueError, match="`points` must be odd, got 10"):
        barrier(ring, A, B, None, points=10)
    with pytest.raises(ValueError, match="`points` must be >= 5, got 3"):
        barrier(ring, A, B, None, points=3)
    with pytest.raises(ValueError, match="must return one number"):
        barrier(lambda p, batch: p, A, B, None)
    with pytest.raises(ValueError, match="`steps` must be"):
        connect(ring, A, B, None, KEY, optax.sgd(0.1), steps=0)
    with pytest.raises(TypeError, match="connect: the parameter at '.root.' is int"):
        connect(ring, jnp.arange(2), B, None, KEY, optax.sgd(0.1))
