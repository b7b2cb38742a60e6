"""Clipping: bounds hold, directions stay, Optax agrees, and nothing is lost at the edges of the float range."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradlab
from gradlab.core.norms import global_norm
from gradlab.transforms.clip import adaptive_grad_clip, clip, clip_by_block_rms, clip_by_global_norm

ELEMENTS = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)  # their squares fit into float32
LIMITS = st.floats(2.0**-10, 2.0**10, width=32)
SHAPES = st.tuples(hnp.arrays(np.float32, (3, 4), elements=ELEMENTS), hnp.arrays(np.float32, (5,), elements=ELEMENTS))
ALL = [clip(1.0), clip_by_global_norm(1.0), clip_by_block_rms(1.0), adaptive_grad_clip(1.0)]


def _apply(tx, grads, params=None):
    return tx.update(grads, tx.init(grads), grads if params is None else params)[0]


def _norm64(tree):
    return np.sqrt(sum(np.sum(np.abs(np.asarray(leaf, np.complex128)) ** 2) for leaf in jax.tree.leaves(tree)))


def _grads(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "conv": (3, 3, 2, 4), "bias": (4,), "scalar": ()}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


@settings(deadline=None)
@given(SHAPES, LIMITS)
def test_clipping_by_norm_bounds_the_norm_keeps_the_direction_and_leaves_short_updates_alone(grads, limit):
    before = _norm64(grads)
    updates = _apply(clip_by_global_norm(limit), tuple(map(jnp.asarray, grads)))
    assert _norm64(updates) <= limit * (1 + 1e-5)
    factor = min(1.0, limit / before) if before > 0 else 1.0
    if factor == 1.0 and before < limit * (1 - 1e-5):
        chex.assert_trees_all_equal(updates, grads)
    for u, g in zip(updates, grads, strict=True):
        np.testing.assert_allclose(u, factor * g.astype(np.float64), rtol=1e-5, atol=1e-30)


@settings(deadline=None)
@given(SHAPES, LIMITS)
def test_clipping_twice_is_clipping_once(grads, limit):
    grads = tuple(map(jnp.asarray, grads))
    for make in (clip, clip_by_global_norm, clip_by_block_rms):
        once = _apply(make(limit), grads)
        chex.assert_trees_all_close(_apply(make(limit), once), once, rtol=1e-5)


@settings(deadline=None)
@given(SHAPES, LIMITS)
def test_clip_and_block_rms_bound_what_they_say(grads, limit):
    grads = tuple(map(jnp.asarray, grads))
    for u, g in zip(_apply(clip(limit), grads), grads, strict=True):
        np.testing.assert_array_equal(u, np.clip(g, -np.float32(limit), np.float32(limit)))
    for u in _apply(clip_by_block_rms(limit), grads):
        assert np.sqrt(np.mean(np.asarray(u, np.float64) ** 2)) <= limit * (1 + 1e-5)


@pytest.mark.parametrize("limit", [1e-3, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("name", ["clip", "clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip"])
def test_equals_optax(name, limit):
    grads, params = _grads(0), _grads(1)
    ours, theirs = getattr(gradlab, name)(limit), getattr(optax, name)(limit)
    chex.assert_trees_all_close(_apply(ours, grads, params), _apply(theirs, grads, params), rtol=1e-12)


def test_float16_gradients_whose_squares_overflow_are_clipped_not_zeroed():
    grads = [jnp.full(300, 4e4, "float16")]
    updates = _apply(clip_by_global_norm(1.0), grads)
    assert updates[0].dtype == jnp.float16
    np.testing.assert_allclose(_norm64(updates), 1.0, rtol=1e-3)


@pytest.mark.parametrize("make", [clip_by_block_rms, adaptive_grad_clip])
def test_float32_gradients_whose_squares_overflow_are_clipped_not_zeroed(make):
    grads = {"a": jnp.full((2, 2), 1e30, "float32")}
    updates = _apply(make(1.0), grads, {"a": jnp.ones((2, 2), "float32")})
    np.testing.assert_allclose(updates["a"], np.ones((2, 2)), rtol=1e-6)


def test_a_global_norm_beyond_float32_is_visible_where_optax_loses_the_step():
    grads = {"a": jnp.full((2, 2), 1e30, "float32")}
    assert np.isnan(_apply(clip_by_global_norm(1.0), grads)["a"]).all()
    assert (np.asarray(_apply(optax.clip_by_global_norm(1.0), grads)["a"]) == 0).all()


@pytest.mark.parametrize("tx", [clip(0.0), clip_by_global_norm(0.0), clip_by_block_rms(0.0), adaptive_grad_clip(0.0)])
def test_a_bound_of_zero_gives_zero_and_never_nan(tx):
    for grads in ({"a": jnp.zeros(3)}, {"a": jnp.ones(3)}, {"a": jnp.zeros(3, "complex64")}):
        assert np.all(np.asarray(_apply(tx, grads)["a"]) == 0)


def test_an_infinite_bound_never_clips():
    grads = _grads()
    for make in (clip, clip_by_global_norm, clip_by_block_rms):
        chex.assert_trees_all_equal(_apply(make(np.inf), grads), grads)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_stay_visible(bad):
    grads = {"good": jnp.array([1.0, 2.0]), "bad": jnp.array([1.0, bad])}
    updates = _apply(clip_by_global_norm(1.0), grads)
    assert np.all(np.isnan(updates["good"])) and np.all(np.isnan(updates["bad"]))
    for tx in (clip_by_block_rms(1.0), adaptive_grad_clip(1.0)):
        updates = _apply(tx, grads, {"good": jnp.ones(2), "bad": jnp.ones(2)})
        assert np.all(np.isfinite(updates["good"])) and np.all(np.isnan(updates["bad"]))
    updates = _apply(clip(1.0), grads)["bad"]
    np.testing.assert_array_equal(updates, [1.0, np.nan if np.isnan(bad) else 1.0])


def test_complex_leaves_are_clipped_by_modulus_and_keep_their_phase():
    grads = {"z": jnp.array([3 + 4j, 0.1j, 0.0]), "x": jnp.array([12.0])}
    updates = _apply(clip(1.0), grads)
    np.testing.assert_allclose(updates["z"], [0.6 + 0.8j, 0.1j, 0.0], rtol=1e-12)
    updates = _apply(clip_by_global_norm(1.3), {"z": grads["z"][:1], "x": grads["x"]})
    np.testing.assert_allclose(updates["z"], [0.3 + 0.4j], rtol=1e-12)
    np.testing.assert_allclose(updates["x"], [1.2], rtol=1e-12)
    updates = _apply(clip_by_block_rms(1.0), {"z": grads["z"][:1]})
    np.testing.assert_allclose(updates["z"], [0.6 + 0.8j], rtol=1e-12)


def test_none_leaves_masked_nodes_empty_trees_and_empty_arrays_pass():
    grads = {"a": None, "b": optax.MaskedNode(), "c": jnp.array([3.0, 4.0]), "d": jnp.zeros((0, 2))}
    for tx in ALL:
        updates = _apply(tx, grads, {**grads, "a": jnp.ones(2)})
        chex.assert_trees_all_equal_structs(updates, grads)
        assert _apply(tx, {}) == {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("tx", ALL)
def test_dtypes_stay(tx, dtype):
    assert _apply(tx, jnp.full(3, 2, dtype)).dtype == dtype


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_flow_through_clipping_also_at_zero(scale, dtype):
    direction = jnp.array([1.0, -2.0, 2.0], dtype)

    def length(tx, s):
        return jnp.sum(jnp.abs(_apply(tx, s * direction, jnp.array([1.0, 2.0, 2.0]))))

    for tx in ALL:
        slope = jax.grad(lambda s, tx=tx: length(tx, s))(scale)
        assert np.isfinite(slope)
        if scale > 0:
            step = 1e-6
            numeric = (length(tx, scale + step) - length(tx, scale - step)) / (2 * step)
            np.testing.assert_allclose(slope, numeric, atol=1e-7)


def test_gradient_with_respect_to_the_bound():
    g = jnp.array([3.0, 4.0])
    clipped = jax.grad(lambda limit: jnp.sum(_apply(clip_by_global_norm(limit), g)))(1.0)
    np.testing.assert_allclose(clipped, 7 / 5, rtol=1e-12)
    assert float(jax.grad(lambda limit: jnp.sum(_apply(clip_by_global_norm(limit), g)))(10.0)) == 0.0


def test_one_scalar_factor_and_no_choice_between_trees():
    tx, grads = clip_by_global_norm(1.0), {"a": jnp.ones((4, 5), "float32"), "b": jnp.ones((2, 3), "float32")}
    compiled = jax.jit(lambda g: tx.update(g, optax.EmptyState())[0]).lower(grads).as_text()
    assert "stablehlo.multiply" in compiled
    selects = [line for line in compiled.splitlines() if "stablehlo.select" in line]
    assert selects and not any("4x5" in line or "2x3" in line for line in selects)


def test_lanes_have_their_own_bounds_and_one_trace():
    grads = jnp.array([3.0, 4.0])
    lanes = gradlab.population(clip_by_global_norm, max_norm=jnp.array([1.0, 5.0, 10.0]))
    updates = jax.vmap(lambda tx: _apply(tx, grads))(lanes)
    np.testing.assert_allclose(updates, [[0.6, 0.8], [3.0, 4.0], [3.0, 4.0]], rtol=1e-6)
    jitted = jax.jit(chex.assert_max_traces(lambda tx: _apply(tx, grads), n=1))
    for limit in (0.1, 1.0, 10.0):
        np.testing.assert_allclose(global_norm(jitted(clip_by_global_norm(limit))), min(limit, 5.0), rtol=1e-6)


def test_bounds_may_be_schedules_and_prefix_trees():
    tx = clip_by_global_norm(lambda count: 1.0 + count)
    state = tx.init(jnp.ones(()))
    seen = []
    for _ in range(3):
        updates, state = tx.update(jnp.array(10.0), state)
        seen.append(round(float(updates), 6))
    assert seen == [1.0, 2.0, 3.0]
    grads = {"a": jnp.full(2, 9.0), "b": {"c": jnp.full(2, 9.0)}}
    updates = _apply(clip({"a": 1.0, "b": 2.0}), grads)
    chex.assert_trees_all_close(updates, {"a": jnp.ones(2), "b": {"c": jnp.full(2, 2.0)}})


def test_units_of_flax_layers_are_what_feeds_one_output():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(4, (3, 3))(x)
            x = linen.Dense(5)(x)
            return linen.DenseGeneral((2, 3))(x)

    params = Net().init(jax.random.key(0), jnp.ones((1, 6, 6, 2)))["params"]
    params = jax.tree.map(lambda p: p.astype("float64") + 0.5, params)
    rng = np.random.default_rng(3)
    grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    inputs = {"Conv_0": (0, 1, 2), "Dense_0": (0,), "DenseGeneral_0": (0,)}
    updates = _apply(adaptive_grad_clip(0.05), grads, params)
    for layer, axes in inputs.items():
        g, p = np.asarray(grads[layer]["kernel"]), np.asarray(params[layer]["kernel"])
        size, limit = (np.sqrt(np.sum(x**2, axis=axes, keepdims=True)) for x in (g, p))
        expected = g * np.minimum(1, 0.05 * np.maximum(limit, 1e-3) / size)
        np.testing.assert_allclose(updates[layer]["kernel"], expected, rtol=1e-12)
        assert size.size == np.prod([n for axis, n in enumerate(g.shape) if axis not in axes])
    bias = np.asarray(grads["Dense_0"]["bias"])
    limit = 0.05 * np.linalg.norm(params["Dense_0"]["bias"])
    np.testing.assert_allclose(np.linalg.norm(updates["Dense_0"]["bias"]), min(limit, np.linalg.norm(bias)), rtol=1e-12)


def test_the_axes_of_units_can_be_named():
    g, p = jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4))
    updates = _apply(adaptive_grad_clip(0.1, axis=(0, 1)), 10 * g, p)
    np.testing.assert_allclose(updates, np.full((2, 3, 4), 0.1), rtol=1e-12)
    g = g.at[0].set(0.0)
    default = _apply(adaptive_grad_clip(0.1), 10 * g, p)[1, 0, 0]
    np.testing.assert_allclose(default, 0.1 * np.sqrt(2), rtol=1e-12)  # each of (heads, head_dim) is a unit of two
    named = _apply(adaptive_grad_clip(0.1, axis=(0, 1)), 10 * g, p)[1, 0, 0]
    np.testing.assert_allclose(named, 0.1 * np.sqrt(6 / 3), rtol=1e-12)  # six parameters, three of them with gradient
    chex.assert_trees_all_close(
        _apply(adaptive_grad_clip(0.1, axis=1), g, p), _apply(optax.adaptive_grad_clip(0.1, axis=1), g, p), rtol=1e-12
    )


def test_units_that_start_at_zero_can_move():
    updates = _apply(adaptive_grad_clip(0.1, eps=0.5), jnp.array([3.0, 4.0]), jnp.zeros(2))
    np.testing.assert_allclose(np.linalg.norm(updates), 0.1 * 0.5, rtol=1e-12)


def test_adaptive_clipping_needs_parameters():
    tx = adaptive_grad_clip(0.1)
    with pytest.raises(ValueError, match="adaptive_grad_clip needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.parametrize("make", [clip, clip_by_global_norm, clip_by_block_rms, adaptive_grad_clip])
def test_negative_bounds_are_refused(make):
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        make(-1.0)


def test_any_state_will_do_for_stages_without_state():
    for tx in ALL:
        for state in (None, {}):
            assert tx.update(jnp.ones(2), state, jnp.ones(2))[1] == state
