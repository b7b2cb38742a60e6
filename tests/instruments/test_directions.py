"""Random directions on Flax's axes, principal components of a path, and the random walk they must be held against."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments import directions as module
from gradlab.instruments.directions import path_directions, random_directions, random_walk_shares

KEY = jax.random.key(2)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (2, 2))(x))
        return nn.Dense(2)(x.reshape(len(x), -1))


PARAMS = jax.tree.map(
    lambda p: jnp.asarray(p + 0.1, float), Net().init(KEY, jnp.ones((1, 4, 4, 1)))["params"]
)  # biases too


def norms(array, axes):
    return np.sqrt(np.sum(np.square(array), axis=axes))


def test_filters_of_flax_are_the_last_axis():
    found = random_directions(KEY, PARAMS, 3, biases=True)
    for name, axes in [("Conv_0", (0, 1, 2)), ("Dense_0", (0,))]:
        kernel = PARAMS[name]["kernel"]
        for direction in found[name]["kernel"]:
            np.testing.assert_allclose(norms(direction, axes), norms(kernel, axes), rtol=1e-12)
            first = tuple(range(1, kernel.ndim))  # PyTorch's filters do not come out alike
            assert not np.allclose(norms(direction, first), norms(kernel, first), rtol=0.02)
        np.testing.assert_allclose(np.abs(found[name]["bias"]), np.tile(np.abs(PARAMS[name]["bias"]), (3, 1)))


def test_leaves_and_layers_have_the_norm_of_the_parameters():
    leaves = random_directions(KEY, PARAMS, scale="leaf", biases=True)
    jax.tree.map(lambda d, p: np.testing.assert_allclose([norms(x, None) for x in d], norms(p, None)), leaves, PARAMS)
    for biases in (True, False):
        layers = random_directions(KEY, PARAMS, scale="layer", biases=biases)
        for name, layer in PARAMS.items():
            whole = np.sqrt(sum(np.sum(np.square(p)) for p in layer.values()))
            for index in range(2):
                parts = [np.sum(np.square(d[index])) for d in layers[name].values()]
                np.testing.assert_allclose(np.sqrt(sum(parts)), whole)
                assert (parts[0] > 0) == biases  # the bias comes first


def test_biases_stay_by_default_and_zero_filters_too():
    params = {**PARAMS, "Dense_0": jax.tree.map(lambda p: p.at[..., 1].set(0), PARAMS["Dense_0"])}
    found = random_directions(KEY, params)
    assert not np.any(found["Conv_0"]["bias"]) and not np.any(found["Dense_0"]["bias"])
    assert not np.any(found["Dense_0"]["kernel"][..., 1]) and np.all(found["Dense_0"]["kernel"][..., 0])


def test_unscaled_directions_are_isotropic_and_keys_decide():
    found = random_directions(KEY, {"a": jnp.zeros((100, 50))}, 2, scale="none")["a"]
    assert abs(float(found.mean())) < 0.03 and abs(float(found.std()) - 1) < 0.03
    assert abs(float(jnp.sum(found[0] * found[1])) / 5000) < 0.05
    again = random_directions(KEY, {"a": jnp.zeros((100, 50))}, 2, scale="none")["a"]
    other = random_directions(jax.random.key(3), {"a": jnp.zeros((100, 50))}, 2, scale="none")["a"]
    np.testing.assert_array_equal(found, again)
    assert not np.any(found == other)
    alike = random_directions(KEY, {"a": jnp.zeros((3, 3)), "b": jnp.zeros((3, 3))}, scale="none")
    assert not np.any(alike["a"] == alike["b"])


@pytest.mark.parametrize("center", ["mean", "last"])
def test_principal_components_are_those_of_the_svd(center):
    path = {"a": jax.random.normal(KEY, (7, 3, 2)) * 3 + 1, "b": jax.random.normal(jax.random.key(4), (7, 2))}
    flat = np.concatenate([np.reshape(path["a"], (7, 6)), path["b"]], axis=1)
    middle = flat.mean(0) if center == "mean" else flat[-1]
    _, singular, rows = np.linalg.svd(flat - middle)
    found = path_directions(path, 3, center=center)
    mine = np.concatenate([np.reshape(found.directions["a"], (3, 6)), found.directions["b"]], axis=1)
    np.testing.assert_allclose(np.abs(np.sum(mine * rows[:3], axis=1)), 1, rtol=1e-10)
    np.testing.assert_allclose(norms(mine, 1), 1, rtol=1e-12)
    assert np.all(mine @ (flat[0] - middle) > 0)
    np.testing.assert_allclose(found.shares, singular[:3] ** 2 / np.sum(singular**2))
    np.testing.assert_allclose(np.concatenate([found.center["a"].ravel(), found.center["b"]]), middle)
    np.testing.assert_array_equal(found.null, random_walk_shares(7, 3, center=center))


@pytest.mark.parametrize("center", ["mean", "last"])
def test_the_null_is_the_spectrum_of_a_walk(center):
    walk = np.minimum.outer(np.arange(9), np.arange(9)).astype(float)  # the covariance of points 0 to 8
    seen = np.eye(9) - (np.full((9, 9), 1 / 9) if center == "mean" else np.eye(9)[8])
    values = np.linalg.eigvalsh(seen @ walk @ seen.T)[::-1]
    np.testing.assert_allclose(random_walk_shares(9, 8, center=center), values[:8] / values.sum(), atol=1e-14)


def test_long_random_walks_have_the_published_shares():
    """60.8 and 15.2 % from the mean (arXiv 1806.08805), but 81.1 and 9.0 % from the last point."""
    k = np.arange(1, 4)
    np.testing.assert_allclose(random_walk_shares(5000, 3, center="mean"), 6 / (np.pi * k) ** 2, rtol=1e-6)
    np.testing.assert_allclose(random_walk_shares(5000, 3), 8 / (np.pi * (2 * k - 1)) ** 2, rtol=1e-3)
    walk = jnp.cumsum(jax.random.normal(KEY, (120, 4000)), axis=0)
    for center, shares in [("mean", [0.608, 0.152]), ("last", [0.811, 0.090])]:
        np.testing.assert_allclose(path_directions(walk, center=center).shares, shares, rtol=0.08)


def test_a_straight_path_has_one_direction():
    straight = jnp.linspace(0, 1, 6)[:, None] * jnp.array([3.0, 4.0])
    found = path_directions(straight)
    np.testing.assert_allclose(found.directions[0], [-0.6, -0.8])
    assert np.isnan(found.directions[1]).all()
    np.testing.assert_allclose(found.shares, [1, 0], atol=1e-12)


def test_nan_and_infinity_come_out_as_nan():
    for bad in (np.nan, np.inf):
        found = path_directions(jnp.array([[1.0, 2.0], [bad, 0.0], [0.0, 1.0]]))
        assert np.isnan(found.directions).all() and np.isnan(found.shares).all()


def test_vmaps_and_jits_with_one_trace():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(keys, paths):
        return jax.vmap(lambda key, path: (random_directions(key, PARAMS), path_directions(path)))(keys, paths)

    keys = jax.random.split(KEY)
    paths = jax.random.normal(KEY, (2, 5, 4))
    both(keys, paths + 1)
    many = both(keys, paths)
    for index in range(2):
        one = random_directions(keys[index], PARAMS), path_directions(paths[index])
        chex.assert_trees_all_close(one, jax.tree.map(lambda x, i=index: x[i], many), rtol=1e-9, atol=1e-12)


def test_bad_input_says_why():
    with pytest.raises(ValueError, match="unknown scale 'filters'; did you mean 'filter'"):
        random_directions(KEY, PARAMS, scale="filters")
    with pytest.raises(ValueError, match="`count` must be"):
        random_directions(KEY, PARAMS, 0)
    with pytest.raises(TypeError, match="the parameter at 'a' is int"):
        random_directions(KEY, {"a": jnp.arange(3)})
    with pytest.raises(ValueError, match="unknown center 'first'"):
        path_directions(jnp.ones((3, 2)), center="first")
    with pytest.raises(ValueError, match=r"`count` must be in \[1, 2\], got 3"):
        path_directions(jnp.ones((3, 2)), 3)
    with pytest.raises(ValueError, match=r"share a first axis of points, got lengths \{'a': \(3,\), 'b': \(2,\)\}"):
        path_directions({"a": jnp.ones(3), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"at 'a' must have the shape \(2, 3\)"):
        module.direction_count("plane", {"a": jnp.ones((3, 3))}, {"a": jnp.ones(3)}, 2)
