"""Norms against NumPy in float64, at the edges of the float range, and their gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradlab
from gradlab.core.norms import global_norm, norm

FLOAT32 = st.floats(-(2.0**120), 2.0**120, width=32, allow_subnormal=False)  # XLA flushes those to zero


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 5), elements=FLOAT32))
def test_norms_equal_float64_norms_wherever_float32_holds_them(x):
    expected = np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)


@settings(deadline=None)
@given(hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-1e300, 1e300)), st.sampled_from([0, (0, 1), (1, 2), -1]))
def test_norms_over_axes_do_not_mix_slices(x, axis):
    x = np.where(np.abs(x) < 1e-300, 0, x)
    largest = np.max(np.abs(x))
    scale = largest if largest > 0 else 1.0
    expected = np.sqrt(np.sum((x / scale) ** 2, axis=axis)) * scale
    compiled = jax.jit(norm, static_argnums=1)
    np.testing.assert_allclose(compiled(jnp.asarray(x), axis), expected, rtol=1e-12, atol=1e-160 * scale)
    assert compiled(jnp.asarray(x), axis).shape == expected.shape


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_global_norms_equal_float64_norms(x):
    expected = np.linalg.norm(x.astype(np.float64))
    np.testing.assert_allclose(global_norm([jnp.asarray(x), None, {}]), expected, rtol=1e-5, atol=1e-18)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 4e4), ("bfloat16", 1e18), ("float32", 1e18), ("float64", 1e150)]
)
def test_the_global_norm_has_the_range_of_its_accumulator(dtype, value):
    x = jnp.full(300, value, dtype)
    np.testing.assert_allclose(float(global_norm({"x": x})), float(x[0]) * np.sqrt(300), rtol=1e-6)


def test_squares_beyond_float32_are_seen_as_infinite():
    assert float(global_norm(jnp.full(2, 1e30, "float32"))) == np.inf


def test_the_accumulator_is_at_least_float32_and_float64_if_a_leaf_is():
    assert global_norm([jnp.ones(2, "float16"), jnp.ones(2, "bfloat16")]).dtype == jnp.float32
    assert global_norm([jnp.ones(2, "float16"), jnp.ones(2, "float64")]).dtype == jnp.float64
    assert global_norm([jnp.ones(2, "complex64")]).dtype == jnp.float32


def test_empty_trees_and_empty_arrays_have_norm_zero():
    assert float(global_norm({})) == float(global_norm([None, optax.MaskedNode()])) == 0.0
    assert float(global_norm([jnp.zeros((0, 3))])) == 0.0
    assert norm(jnp.zeros((0, 3)), 0).tolist() == [0.0, 0.0, 0.0]


def test_complex_entries_count_with_both_parts():
    np.testing.assert_allclose(global_norm([jnp.array([3 + 4j]), jnp.array([12.0])]), 13.0, rtol=1e-15)


def test_entries_that_are_not_finite_show_in_the_norm():
    assert float(global_norm([jnp.array([1.0, jnp.inf]), jnp.ones(2)])) == np.inf
    assert np.isnan(float(global_norm([jnp.array([1.0, jnp.nan])])))
    assert np.isnan(float(global_norm([jnp.array([jnp.inf, jnp.nan])])))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-100, 1e100])
def test_the_gradient_is_the_unit_vector_and_zero_at_zero(value):
    x = jnp.array([3.0, -4.0]) * value
    expected = jnp.array([0.6, -0.8]) if value else jnp.zeros(2)
    for function in (norm, global_norm):
        chex.assert_trees_all_close(jax.grad(function)(x), expected, rtol=1e-12)
        chex.assert_trees_all_close(jax.vmap(jax.grad(function))(x[None])[0], expected, rtol=1e-12)


def test_lanes_do_not_share_their_range():
    x = jnp.array([[3.0, 4.0], [3e100, 4e100], [0.0, 0.0], [3e-100, 4e-100], [jnp.inf, 0.0]])
    np.testing.assert_allclose(jax.vmap(global_norm)(x), [5.0, 5e100, 0.0, 5e-100, np.inf], rtol=1e-12)


def test_norms_of_complex_numbers_are_finite_in_whatever_program_they_are_fused():
    """The sum is computed together with what it sums: a complex division by the scale would square it there."""
    x, divisor = jnp.array([0, 4.5e-38j, 0], jnp.complex64), jnp.array([0.004, 0.25, 0.1], jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda x, d: norm(x / jnp.sqrt(d)))(x, divisor), 9e-38, rtol=1e-6)
    np.testing.assert_allclose(norm(jnp.array([3e37 + 4e37j, 0], jnp.complex64)), 5e37, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_zeros_that_are_a_constant_of_the_program_have_norm_zero(dtype):
    assert jax.jit(lambda: norm(jnp.zeros((4, 6), dtype)))() == 0


STAGES = {
    "adaptive_grad_clip": gradlab.adaptive_grad_clip(0.01),
    "clip_by_block_rms": gradlab.clip_by_block_rms(1.0),
    "clip_by_global_norm": gradlab.clip_by_global_norm(1.0),
    "floor_updates": gradlab.floor_updates(),
    "normalize_columns": gradlab.normalize_columns(),
    "relative_updates": gradlab.relative_updates(),
    "scale_by_trust_ratio": gradlab.scale_by_trust_ratio(),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_parameter_that_the_loss_does_not_use_stays(name):
    params = {"kernel": jnp.ones((4, 6), jnp.float32), "unused": jnp.ones((6, 4), jnp.float32)}
    gradient = jax.grad(lambda params: jnp.sum(params["kernel"] ** 2))
    updates, _ = jax.jit(lambda params, state: STAGES[name].update(gradient(params), state, params))(
        params, STAGES[name].init(params)
    )
    chex.assert_trees_all_equal(updates["unused"], jnp.zeros((6, 4), jnp.float32))
    assert jnp.all(updates["kernel"] != 0)
