"""Back-propagated signals: linear chains in closed form, orthogonal and Gaussian layers, Flax models, clipping."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from gradlab.instruments.depth import backprop_profile, clip_effect, layer_taps, time_profile
from gradlab.instruments.taps import linen_taps, nnx_taps
from gradlab.transforms import clip, clip_by_global_norm

KEY = jax.random.key(0)
DEPTH = 12


def chain_of(layer):
    return layer_taps([layer] * DEPTH, lambda output, batch: jnp.sum(output * jnp.asarray(batch["y"])))


def linear(matrix, h):
    return h @ matrix.T


def relative(profile):
    return np.asarray(profile.grad_norms / profile.grad_norms[-1])


def test_a_linear_chain_multiplies_by_the_eigenvalue():
    symmetric = jnp.array([[2.0, 1.0], [1.0, 2.0]])  # eigenvalue 3 along (1, 1), 1 along (1, -1)
    for direction, eigenvalue in (([1.0, 1.0], 3.0), ([1.0, -1.0], 1.0)):
        batch = {"x": jnp.array([direction]), "y": direction}
        profile = backprop_profile(chain_of(linear), [symmetric] * DEPTH, batch)
        np.testing.assert_allclose(relative(profile), eigenvalue ** np.arange(DEPTH, -1.0, -1), rtol=1e-12)
        np.testing.assert_allclose(profile.value_norms, 2**0.5 * eigenvalue ** np.arange(DEPTH + 1.0), rtol=1e-12)
        np.testing.assert_allclose(profile.loss, 2 * eigenvalue**DEPTH, rtol=1e-12)
    assert profile.names == ("input", *map(str, range(1, DEPTH + 1)))


def test_scaled_orthogonal_layers_multiply_by_the_scale(width=8):
    keys = jax.random.split(KEY, DEPTH)
    batch = {"x": jax.random.normal(KEY, (5, width)), "y": jnp.ones(width)}
    orthogonal = [0.8 * jax.random.orthogonal(key, width) for key in keys]
    profile = backprop_profile(chain_of(linear), orthogonal, batch)
    np.testing.assert_allclose(relative(profile), 0.8 ** np.arange(DEPTH, -1.0, -1), rtol=1e-10)


def test_tanh_at_zero_is_linear():
    batch = {"x": jnp.zeros((1, 2)), "y": jnp.ones(2)}
    profile = backprop_profile(chain_of(lambda scale, h: jnp.tanh(scale * h)), [0.5] * DEPTH, batch)
    np.testing.assert_allclose(relative(profile), 0.5 ** np.arange(DEPTH, -1.0, -1), rtol=1e-12)


def test_linen_models_are_tapped_by_path():
    model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(3)])
    x = jax.random.normal(KEY, (5, 2))
    params = model.init(KEY, x)["params"]
    loss = lambda params, x: jnp.mean(model.apply({"params": params}, x) ** 2)
    profile = backprop_profile(linen_taps(loss), params, x)
    assert profile.names == ("layers_0", "layers_2", "(root)")

    def rest(hidden):
        return jnp.mean((jnp.tanh(hidden) @ params["layers_2"]["kernel"] + params["layers_2"]["bias"]) ** 2)

    hidden = x @ params["layers_0"]["kernel"] + params["layers_0"]["bias"]
    outputs = model.apply({"params": params}, x)
    expected = [jax.grad(rest)(hidden), 2 * outputs / outputs.size, 2 * outputs / outputs.size]
    np.testing.assert_allclose(profile.grad_norms, [jnp.linalg.norm(grad) for grad in expected], rtol=1e-6)
    np.testing.assert_allclose(profile.value_norms, [jnp.linalg.norm(h) for h in (hidden, outputs, outputs)], rtol=1e-6)
    np.testing.assert_allclose(profile.loss, loss(params, x), rtol=1e-6)
    assert backprop_profile(linen_taps(loss, "2$"), params, x).names == ("layers_2",)


def test_a_layer_used_again_has_a_value_for_each_use():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.Dense(2, name="dense", use_bias=False)
            return dense(dense(dense(x)))

    params = {"params": {"dense": {"kernel": 3 * jnp.eye(2)}}}
    profile = backprop_profile(linen_taps(lambda p, x: jnp.sum(Twice().apply(p, x))), params, jnp.ones((1, 2)))
    assert profile.names == ("dense", "dense#2", "dense#3", "(root)")
    np.testing.assert_allclose(profile.grad_norms, 2**0.5 * np.array([9, 3, 1, 1]), rtol=1e-6)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(2, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.norm(self.first(x))))


def test_nnx_models_are_tapped_by_path_and_left_as_they_were():
    model, other = Block(nnx.Rngs(0)), nnx.Linear(3, 3, rngs=nnx.Rngs(1))
    x = jax.random.normal(KEY, (5, 2), "float32")
    before = nnx.to_pure_dict(nnx.state(model))
    profile = backprop_profile(nnx_taps(lambda model, x: jnp.mean(other(model(x)) ** 2)), model, x)
    assert profile.names == ("first", "norm", "second", "(root)")
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(model)), before)
    assert type(model) is Block and type(model.first) is nnx.Linear
    rest = lambda outputs: jnp.mean(other(outputs) ** 2)
    np.testing.assert_allclose(profile.grad_norms[-1], jnp.linalg.norm(jax.grad(rest)(model(x))), rtol=1e-5)
    assert profile.grad_norms[2] == profile.grad_norms[3]
    assert backprop_profile(nnx_taps(lambda m, x: jnp.sum(m(x)), "^norm$"), model, x).names == ("norm",)
    copied = nnx_taps(lambda m, x: jnp.sum(m(x)) + jnp.sum(nnx.clone(m)(x)))
    assert backprop_profile(copied, model, x).names == profile.names


def test_profiles_jit_and_vmap_with_one_trace():
    tapped = chain_of(linear)

    @jax.jit
    @chex.assert_max_traces(1)
    def profiles(params, x):
        return jax.vmap(lambda matrix: backprop_profile(tapped, [matrix] * DEPTH, {"x": x, "y": jnp.ones(2)}))(params)

    matrices = jnp.stack([jnp.eye(2), 2 * jnp.eye(2), jnp.full((2, 2), jnp.nan)])
    profiles(matrices, jnp.zeros((1, 2)))
    found = profiles(matrices, jnp.ones((1, 2)))
    np.testing.assert_allclose(found.grad_norms[:2, 0], 2**0.5 * np.array([1, 2.0**DEPTH]))
    assert np.isnan(found.grad_norms[2, 0]) and np.isfinite(found.grad_norms[:2]).all()


def test_time_profile_agrees_with_layers_and_counts_losses_at_every_step():
    matrix, start = jnp.array([[0.5, 0.3], [0.0, 1.2]]), jnp.array([1.0, -1.0])
    step = lambda h, x: jnp.tanh(matrix @ h + x)
    inputs = jax.random.normal(KEY, (DEPTH, 2))
    profile = time_profile(step, lambda states: jnp.sum(states[-1]), start, inputs)
    layers = [step_with_input(step)] * DEPTH
    tapped = layer_taps(layers, lambda output, batch: jnp.sum(output))
    expected = backprop_profile(tapped, list(inputs), start)
    np.testing.assert_allclose(profile.grad_norms, expected.grad_norms, rtol=1e-12)
    np.testing.assert_allclose(profile.value_norms, expected.value_norms, rtol=1e-12)
    everywhere = time_profile(lambda h, x: 0.5 * h, jnp.sum, jnp.ones(1), steps=3)
    np.testing.assert_allclose(everywhere.grad_norms, [0.875, 1.75, 1.5, 1.0])


def step_with_input(step):
    return lambda x, h: step(h, x)


def test_time_profile_vmaps():
    factors = jnp.array([0.5, 2.0])
    profile = jax.vmap(lambda a: time_profile(lambda h, x: a * h, lambda s: s[-1], jnp.ones([]), steps=4))(factors)
    np.testing.assert_allclose(profile.grad_norms, factors[:, None] ** jnp.arange(4, -1, -1))


def test_clipping_by_norm_keeps_the_direction_and_clipping_elements_does_not():
    grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.array([12.0])}
    for bound, after in ((1.0, 1.0), (13.0, 13.0), (20.0, 13.0)):
        tx = clip_by_global_norm(bound)
        clipped, _ = tx.update(grads, tx.init(grads))
        np.testing.assert_allclose(clip_effect(grads, clipped), [1, 13, after], rtol=1e-12)
        if bound > 13:
            chex.assert_trees_all_equal(clipped, grads)
    turned, _ = clip(4.0).update(grads, clip(4.0).init(grads))
    assert clip_effect(grads, turned).cosine == pytest.approx((9 + 16 + 48) / 13 / 41**0.5)
    opposite = jax.tree.map(jnp.negative, grads)
    assert clip_effect(grads, opposite).cosine == pytest.approx(-1)
    assert np.isnan(clip_effect(grads, jax.tree.map(jnp.zeros_like, grads)).cosine)


def test_bad_input_says_why():
    with pytest.raises(ValueError, match="taps nothing"):
        backprop_profile(lambda tap, x: jnp.sum(x), jnp.ones(2))
    with pytest.raises(TypeError, match=r"must be one real number, got float64\[2\]"):
        backprop_profile(lambda tap, x: tap("x", x), jnp.ones(2))
    with pytest.raises(TypeError, match="the value 'x' has int64 in it"):
        backprop_profile(lambda tap, x: jnp.sum(1.0 * tap("x", x)), jnp.ones(2, int))
    with pytest.raises(ValueError, match="'h' is tapped inside of scan"):
        loop = lambda tap: lambda h, _: (tap("h", h), None)
        backprop_profile(lambda tap, x: jax.lax.scan(loop(tap), x, length=2)[0], jnp.ones([]))
    with pytest.raises(ValueError, match="12 layers need as many entries of `params`, got 1"):
        backprop_profile(chain_of(linear), [jnp.eye(2)], {"x": jnp.ones((1, 2)), "y": 1.0})
    with pytest.raises(ValueError, match="needs `steps`"):
        time_profile(lambda h, x: h, jnp.sum, jnp.ones(1))
    with pytest.raises(TypeError, match="the state has int64"):
        time_profile(lambda h, x: h, jnp.sum, jnp.ones(1, int), steps=2)
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        linen_taps(lambda: 0.0, "(")
