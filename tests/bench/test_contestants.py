"""Every contestant does the work that it is timed for: AdamW as a loop in float64 NumPy."""

import chex
import jax
import numpy as np
import pytest

from gradlab.bench.contestants import BUCKETS, FLAT, LEARNING_RATE, LIBRARIES, MAX_NORM, WEIGHT_DECAY, trainings
from gradlab.bench.trees import normal

SHAPES = {"kernel": (3, 4), "bias": (4,)}
STEPS = 5


def expected_params(clip):
    params, grads = normal(SHAPES, seed=0, scale=0.02), normal(SHAPES, seed=1)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
    assert norm > MAX_NORM
    return {name: adamw_loop(params[name], grads[name] * (MAX_NORM / norm if clip else 1.0)) for name in SHAPES}


def adamw_loop(p, g, b1=0.9, b2=0.999, eps=1e-8):
    p, g = np.float64(p), np.float64(g)
    mu, nu = np.zeros_like(p), np.zeros_like(p)
    for t in range(1, STEPS + 1):
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        direction = mu / (1 - b1**t) / (np.sqrt(nu / (1 - b2**t)) + eps)
        p = p - LEARNING_RATE * (direction + WEIGHT_DECAY * p)
    return p.astype(np.float32)


def trained(name, clip):
    training = trainings(SHAPES, clip)[name]
    for _ in range(STEPS):
        training.step()
    return jax.tree.map(np.asarray, training.params)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["gradlab", "optax", pytest.param("torch", marks=pytest.mark.peers)])
def test_steps_are_those_of_adamw(name, clip):
    chex.assert_trees_all_close(trained(name, clip), expected_params(clip), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gradlab", "optax"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_first_moment_sees_the_clipped_gradient(name, clip):
    grads = normal(SHAPES, seed=1)
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
    _, state = trainings(SHAPES, clip)[name].update()
    (mu,) = {id(mu): mu for mu in _fields(state, "mu")}.values()
    scale = 0.1 * (MAX_NORM / norm if clip else 1.0)
    chex.assert_trees_all_close(mu, {key: np.float32(scale * g) for key, g in grads.items()}, rtol=1e-5)


def _fields(state, name):
    nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, name))
    return [getattr(node, name) for node in nodes if hasattr(node, name)]


@pytest.mark.peers
@pytest.mark.parametrize("clip", [False, True])
def test_torch_clips_where_asked(clip):
    training = trainings(SHAPES, clip)["torch"]
    training.step()
    norm = np.sqrt(sum(np.sum(np.square(leaf.grad.numpy())) for leaf in training.leaves))
    unclipped = np.sqrt(sum(np.sum(np.square(g)) for g in normal(SHAPES, seed=1).values()))
    np.testing.assert_allclose(norm, MAX_NORM if clip else unclipped, rtol=1e-5)


def test_an_update_outside_of_jit_moves_nothing():
    training = trainings(SHAPES, clip=False)["gradlab"]
    before = jax.tree.map(np.asarray, training.params)
    training.update()
    chex.assert_trees_all_equal(training.params, before)


def test_one_vector_of_averages_makes_the_steps_of_the_tree():
    flat, plain = (trainings(SHAPES, False, libraries)["gradlab"] for libraries in (FLAT, LIBRARIES))
    for _ in range(3):
        chex.assert_trees_all_close(flat.step(), plain.step(), rtol=1e-6)


def test_buckets_make_the_steps_of_the_tree():
    buckets, plain = (trainings(SHAPES, False, libraries)["gradlab"] for libraries in (BUCKETS, LIBRARIES))
    for _ in range(3):
        buckets.step()
        chex.assert_trees_all_close(buckets.params, plain.step(), rtol=1e-6)
