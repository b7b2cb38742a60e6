"""Singular values against NumPy's, and matrix powers against eigenvalues."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments.jacobian import jacobian_singular_values, matrix_powers

KEY = jax.random.key(0)


def network(x):
    weights = jax.random.normal(jax.random.key(1), (6, 9)), jax.random.normal(jax.random.key(2), (4, 6))
    return {"out": weights[1] @ jnp.tanh(weights[0] @ jnp.concatenate([x["a"], x["b"].ravel()]))}


X = {"a": jnp.linspace(-0.2, 0.3, 5), "b": jnp.full((2, 2), 0.1)}


def dense_values(f, x):
    flat, unravel = jax.flatten_util.ravel_pytree(x)
    jacobian = jax.jacobian(lambda v: jax.flatten_util.ravel_pytree(f(unravel(v)))[0])(flat)
    return np.linalg.svd(np.asarray(jacobian), compute_uv=False)


def test_singular_values_agree_with_a_dense_decomposition():
    exact = dense_values(network, X)
    found = jacobian_singular_values(network, X, KEY, k=4)
    np.testing.assert_allclose(found.values, exact, rtol=1e-10)
    assert (found.errors < 1e-6 * found.values).all()


def test_orthogonal_layers_keep_every_direction_and_gaussian_ones_lose_most(width=8, depth=12):
    """Saxe et al., arXiv 1312.6120."""
    keys = jax.random.split(KEY, depth)

    def through(layers):
        f = lambda x: jax.lax.scan(lambda h, layer: (layer @ h, None), x, layers)[0]
        return jacobian_singular_values(f, jnp.ones(width), KEY, k=width).values

    orthogonal = through(jax.vmap(lambda key: 0.8 * jax.random.orthogonal(key, width))(keys))
    np.testing.assert_allclose(orthogonal[0], 0.8**depth, rtol=1e-10)
    assert np.isnan(orthogonal[1:]).all()
    gaussian = through(jax.random.normal(KEY, (depth, width, width)) / width**0.5)
    assert gaussian[0] > 100 * gaussian[3]


def test_few_steps_err_by_less_than_they_say():
    exact = np.sqrt(np.arange(1.0, 41.0))
    f = lambda x: jnp.asarray(exact) * x
    for steps in (3, 5, 8, 12):
        found = jacobian_singular_values(f, jnp.ones(40), KEY, k=3, lanczos_steps=steps)
        distance = np.abs(np.asarray(found.values)[:, None] - exact).min(1)
        assert (distance <= np.asarray(found.errors) + 1e-12).all()
        assert (np.diff(found.values) < 0).all()
    assert found.errors[0] < 0.1 < jacobian_singular_values(f, jnp.ones(40), KEY, lanczos_steps=3).errors[0]


def test_repeated_values_are_found_once_and_missing_ones_are_nan():
    found = jacobian_singular_values(lambda x: 3.0 * x, jnp.ones(5), KEY, k=3)
    np.testing.assert_allclose(found.values, [3, np.nan, np.nan])
    found = jacobian_singular_values(lambda x: jnp.array([2.0, 2.0, 1.0]) * x, jnp.ones(3), KEY, k=3)
    np.testing.assert_allclose(found.values, [2, 1, np.nan])
    found = jacobian_singular_values(lambda x: 3.0 * x, jnp.ones(1), KEY, k=2)
    np.testing.assert_allclose(found.values, [3, np.nan])
    found = jacobian_singular_values(lambda x: jnp.stack([x[0], 0 * x[0]]), jnp.ones(2), KEY, k=2)
    np.testing.assert_allclose(found.values, [1, 0], atol=1e-7)
    assert found.errors[1] >= found.values[1]


def test_singular_values_jit_and_vmap_with_one_trace():
    f = lambda x: x**2

    @jax.jit
    @chex.assert_max_traces(1)
    def values(xs, key):
        return jax.vmap(lambda x: jacobian_singular_values(f, x, key, k=2))(xs)

    xs = jnp.array([[1.0, 2.0, 3.0], [1.0, jnp.nan, 3.0], [0.5, 0.25, 5.0]])
    values(xs, jax.random.key(5))
    found = values(xs, KEY).values
    np.testing.assert_allclose(found[0], [6, 4], rtol=1e-9)
    np.testing.assert_allclose(found[2], [10, 1], rtol=1e-9)
    assert np.isnan(found[1]).all()


def test_powers_follow_the_eigenvalues():
    vectors = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    matrix = vectors @ jnp.diag(jnp.array([0.5, 1.1])) @ jnp.linalg.inv(vectors)
    start = jnp.array([2.0, 1.0])
    powers = matrix_powers(matrix, start, 60)
    coordinates = np.linalg.solve(vectors, start)
    exact = [np.linalg.norm(vectors @ (np.array([0.5, 1.1]) ** t * coordinates)) for t in range(61)]
    np.testing.assert_allclose(powers.log_norms, np.log(exact), atol=1e-12)
    assert powers.growth[-1] == pytest.approx(powers.spectral_radius) == pytest.approx(1.1)
    assert powers.largest_singular_value == pytest.approx(np.linalg.norm(matrix, 2))
    assert (powers.growth <= powers.largest_singular_value + 1e-12).all()


def test_powers_explode_vanish_and_end_without_overflow():
    steps = 3000
    exploding = matrix_powers(2 * jnp.eye(2), jnp.ones(2), steps)
    np.testing.assert_allclose(exploding.log_norms[-1], steps * np.log(2) + np.log(2) / 2)
    nilpotent = matrix_powers(jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([0.0, 1.0]), 3)
    np.testing.assert_array_equal(nilpotent.log_norms, [0, 0, -np.inf, -np.inf])


def test_bad_input_says_why():
    with pytest.raises(ValueError, match="`lanczos_steps` must be >= 3, got 2"):
        jacobian_singular_values(network, X, KEY, k=3, lanczos_steps=2)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2,\)"):
        matrix_powers(jnp.ones((2, 3)), jnp.ones(2), 3)
    with pytest.raises(ValueError, match="`steps` must be >= 1"):
        matrix_powers(jnp.eye(2), jnp.ones(2), 0)
