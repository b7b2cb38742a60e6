"""Clipping example by example: beside Optax, a NumPy loop, and the whole batch at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradlab
from gradlab.transforms.per_example import (
    clipped_grad_sum,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)
from tests.trajectories import flat, mixed_tree

N = 12
STACKED = mixed_tree(seed=3, steps=N)  # gradients of 12 examples whose sizes differ by orders of magnitude
ROWS = flat(STACKED, rows=N)
CLIPS = [0.0, 0.3, 3.0, np.inf]


@pytest.mark.parametrize("clip", CLIPS)
def test_the_global_clip_is_optaxs_and_that_of_a_loop(clip):
    ours = per_example_global_norm_clip(STACKED, clip)
    norms = np.linalg.norm(ROWS, axis=1)
    np.testing.assert_allclose(flat(ours[0]), np.minimum(clip / norms, 1) @ ROWS, rtol=1e-12, atol=1e-13)
    assert int(ours[1]) == np.sum(norms > clip)
    chex.assert_trees_all_close(ours, optax.per_example_global_norm_clip(STACKED, clip), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("clip", CLIPS)
def test_the_clip_by_layer_is_optaxs_and_that_of_a_loop(clip, uniform):
    ours = per_example_layer_norm_clip(STACKED, clip, uniform)
    leaves = [np.asarray(leaf).reshape(N, -1) for leaf in jax.tree.leaves(STACKED)]
    bounds = [clip * np.sqrt(1 / 4 if uniform else leaf.shape[1] / ROWS.shape[1]) for leaf in leaves]
    norms = [np.linalg.norm(leaf, axis=1) for leaf in leaves]
    sums = [np.minimum(b / n, 1) @ leaf for b, n, leaf in zip(bounds, norms, leaves, strict=True)]
    np.testing.assert_allclose(flat(ours[0]), np.concatenate(sums), rtol=1e-12, atol=1e-13)
    assert [int(c) for c in jax.tree.leaves(ours[1])] == [np.sum(n > b) for b, n in zip(bounds, norms, strict=True)]
    chex.assert_trees_all_close(ours, optax.per_example_layer_norm_clip(STACKED, clip, uniform), rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=30)
@given(left_out=st.integers(0, N - 1), clip=st.floats(1e-3, 1e3), by_layer=st.booleans())
def test_one_example_moves_the_sum_by_at_most_the_bound(left_out, clip, by_layer):
    clipped_sum = per_example_layer_norm_clip if by_layer else per_example_global_norm_clip
    others = jax.tree.map(lambda leaf: leaf.at[left_out].set(0), STACKED)
    moved = flat(clipped_sum(STACKED, clip)[0]) - flat(clipped_sum(others, clip)[0])
    assert np.linalg.norm(moved) <= clip * (1 + 1e-9)


def test_float16_gradients_whose_squares_overflow_are_clipped():
    grads = [jnp.full((2, 300), 4e4, "float16")]
    clipped_sum, clipped = per_example_global_norm_clip(grads, 1.0)
    np.testing.assert_allclose(clipped_sum[0], 2 / np.sqrt(300), rtol=1e-3)
    assert int(clipped) == 2 and clipped_sum[0].dtype == jnp.float16
    assert not np.any(optax.per_example_global_norm_clip(grads, 1.0)[0][0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stays_visible(bad):
    clipped_sum, _ = per_example_global_norm_clip([jnp.array([[1.0, bad], [1.0, 2.0]])], 1.0)
    assert np.all(np.isnan(clipped_sum[0]))


def test_zero_gradients_have_a_derivative():
    slope = jax.grad(lambda g: jnp.sum(per_example_global_norm_clip([g], 1.0)[0][0]))(jnp.zeros((2, 3)))
    np.testing.assert_allclose(slope, 1.0)


@pytest.mark.parametrize("clip", [per_example_global_norm_clip, per_example_layer_norm_clip])
def test_leaves_that_do_not_share_their_first_axis_are_named(clip):
    for b in (jnp.ones(3), jnp.array(1.0)):
        with pytest.raises(ValueError, match=f"{clip.__name__} needs gradients of single examples.*'a/b'"):
            clip({"a": {"b": b}, "c": jnp.ones((2, 2))}, 1.0)


INPUTS = np.random.default_rng(6).normal(size=(N, 3))
BATCH = {"x": jnp.asarray(INPUTS), "y": jnp.arange(N) % 2}
PARAMS = {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array(0.1), "none": None}


def logistic(params, example):
    return jnp.logaddexp(0.0, (1 - 2 * example["y"]) * (example["x"] @ params["w"] + params["b"]))


@pytest.mark.parametrize("size", [None, 1, 3, 5, 12, 100])
def test_micro_batches_give_the_sum_of_the_whole_batch(size):
    grads = jax.vmap(jax.grad(logistic), (None, 0))(PARAMS, BATCH)
    expected = per_example_global_norm_clip(grads, 0.5)
    got = jax.jit(lambda params, batch: clipped_grad_sum(logistic, params, batch, 0.5, size))(PARAMS, BATCH)
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    assert 0 < int(got[1]) < N


def largest_buffer(size):
    """Elements of the largest array in the program for 512 examples of a loss with 4096 parameters."""
    examples = jnp.ones((512, 8))
    loss = lambda w, x: jnp.sum((x @ w) ** 2)
    program = jax.make_jaxpr(lambda w: clipped_grad_sum(loss, w, examples, 1.0, size))(jnp.ones((8, 512)))
    return max(_sizes(program.jaxpr))


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from _sizes(inner)


def test_micro_batches_hold_their_own_gradients_alone():
    assert largest_buffer(None) == 512 * 4096
    assert largest_buffer(8) == 8 * 4096


def test_bfloat16_gradients_add_up_in_float32():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    total, _ = clipped_grad_sum(logistic, params, BATCH, 0.5, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(total)} == {jnp.dtype("float32")}


def test_with_noise_it_is_dpsgd():
    """The recipe of the docstring: the same mean, and noise of the same size."""
    clip, multiplier, draws = 0.5, 1.5, 4000
    grads = jax.vmap(jax.grad(logistic), (None, 0))(PARAMS, BATCH)
    mean = jax.tree.map(lambda total: total / N, clipped_grad_sum(logistic, PARAMS, BATCH, clip, 4)[0])
    keys = jax.vmap(jax.random.key_data)(jax.random.split(jax.random.key(1), draws))
    noise = gradlab.add_noise(eta=(multiplier * clip / N) ** 2, gamma=0.0, key=0)
    by_sum = jax.jit(jax.vmap(lambda key: noise.update(mean, noise.init(PARAMS)._replace(rng_key=key))[0]))(keys)
    whole = gradlab.differentially_private_aggregate(clip, multiplier, key=0)
    at_once = jax.jit(jax.vmap(lambda key: whole.update(grads, whole.init(PARAMS)._replace(rng_key=key))[0]))(keys)
    for updates in (flat(by_sum, rows=draws), flat(at_once, rows=draws)):
        error = multiplier * clip / N / np.sqrt(draws)
        assert np.max(np.abs(updates.mean(0) - flat(mean))) < 4.5 * error
        np.testing.assert_allclose(updates.std(0), multiplier * clip / N, rtol=4.5 / np.sqrt(2 * draws))
