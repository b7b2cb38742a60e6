"""Lanczos quadrature beside dense spectra, its exactness, and the law of Marchenko and Pastur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_max_traces

from gradlab.instruments import Quadrature, density, fraction, hessian, log_density, quadrature, slq
from tests.instruments.problems import quadratic, symmetric

KEY = jax.random.key(0)
SPECTRUM = np.array([-9.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 7.0, 7.5])
MATRIX = symmetric(SPECTRUM)


def operator(matrix):
    return hessian(quadratic, jnp.zeros(len(matrix), matrix.dtype), matrix)


def integral(values, grid):
    return float(np.trapezoid(values, grid))


def test_m_products_are_exact_to_degree_2m_minus_1_and_not_beyond():
    v, m = np.random.default_rng(1).normal(size=10), 4
    nodes, weights = quadrature(operator(MATRIX), jnp.asarray(v), m)
    exact = [v @ np.linalg.matrix_power(MATRIX, k) @ v / (v @ v) for k in range(2 * m + 1)]
    found = [np.sum(weights * nodes**k) for k in range(2 * m + 1)]
    np.testing.assert_allclose(found[: 2 * m], exact[: 2 * m], rtol=1e-11)
    assert abs(found[2 * m] / exact[2 * m] - 1) > 1e-3
    np.testing.assert_allclose(exact[0], 1.0)


def test_few_different_eigenvalues_are_the_nodes_with_their_multiplicities_as_weights():
    found = slq(operator(symmetric([3.0] * 8 + [1.0] * 12, seed=2)), KEY, probes=200, m=5)
    heavy = found.weights > 1e-10
    assert np.all(heavy.sum(axis=1) == 2)
    np.testing.assert_allclose(found.nodes[heavy].reshape(-1, 2), [[1.0, 3.0]] * 200, rtol=1e-9)
    share = fraction(found, 2.0, 4.0)
    assert 0 < share.error < 0.02
    assert abs(share.value - 0.4) < 4 * share.error
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3])
def test_of_a_diagonal_matrix_every_probe_knows_the_counts(chunk):
    found = slq(operator(jnp.diag(SPECTRUM)), KEY, probes=4, m=10, chunk=chunk)
    np.testing.assert_allclose(found.nodes, np.tile(SPECTRUM, (4, 1)), atol=1e-10)
    negative, zero = fraction(found, high=-0.1), fraction(found, -1e-6, 1e-6)
    np.testing.assert_allclose([negative.value, zero.value], [0.3, 0.1], rtol=1e-9)
    np.testing.assert_allclose([negative.error, zero.error], 0.0, atol=1e-9)


@pytest.mark.parametrize("m", [3, 6])
def test_whole_nodes_hide_no_more_than_the_resolution(m):
    v = np.random.default_rng(1).normal(size=10)
    seen = (v @ np.linalg.eigh(MATRIX)[1]) ** 2 / (v @ v)
    found = quadrature(operator(MATRIX), jnp.asarray(v), m)
    ends = np.linspace(-10.0, 8.0, 61)
    exact = np.array([seen[end >= SPECTRUM].sum() for end in ends])
    value, _, resolution = jax.vmap(lambda end: fraction(found, high=end))(ends)
    off = np.abs(value - exact)
    assert np.all(off <= resolution + 1e-12) and np.any(off > resolution / 3)
    between = fraction(found, -1.5, 3.0)
    sides = fraction(found, high=-1.5).resolution + fraction(found, high=3.0).resolution
    np.testing.assert_allclose(between.resolution, sides)
    np.testing.assert_allclose(fraction(found)[0::2], [1.0, 0.0], atol=1e-12)


def test_the_standard_error_is_that_of_many_runs():
    op = operator(symmetric([3.0] * 8 + [1.0] * 12, seed=2))
    shares = [fraction(slq(op, key, probes=20, m=2), 2.0, 4.0) for key in jax.random.split(KEY, 60)]
    spread = np.std([share.value for share in shares])
    np.testing.assert_allclose(np.mean([share.error for share in shares]), spread, rtol=0.3)


def test_a_sample_covariance_has_the_edges_and_the_density_of_marchenko_and_pastur():
    rows, columns = 800, 200
    x = np.random.default_rng(0).normal(size=(rows, columns))
    found = slq(operator(jnp.asarray(x.T @ x / rows)), KEY, probes=16, m=40)
    low, high = (1 - 0.5) ** 2, (1 + 0.5) ** 2
    nodes = found.nodes[found.weights > 1e-8]
    np.testing.assert_allclose([nodes.min(), nodes.max()], [low, high], rtol=0.05)
    at = np.linspace(low, high, 2001)
    law = np.sqrt((high - at) * (at - low)) / (2 * np.pi * (columns / rows) * at)
    np.testing.assert_allclose(integral(law, at), 1.0, rtol=1e-3)
    grid = np.array([0.5, 0.8, 1.2, 1.8])
    kernel = np.exp(-(((grid[:, None] - at) / 0.1) ** 2) / 2) / (0.1 * np.sqrt(2 * np.pi))
    smooth = density(found, grid, 0.1)
    expected = np.trapezoid(kernel * law, at, axis=1)
    assert np.all(smooth.error < 0.1 * expected)
    np.testing.assert_array_less(np.abs(smooth.value - expected), 4 * smooth.error)


def test_densities_are_the_smoothed_nodes_and_integrate_to_their_mass():
    found = slq(operator(jnp.diag(SPECTRUM)), KEY, probes=3, m=10)
    grid = np.linspace(-12.0, 11.0, 2001)
    smooth = density(found, grid, 0.3).value
    by_hand = np.exp(-(((grid[:, None] - SPECTRUM) / 0.3) ** 2) / 2).mean(1) / (0.3 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(smooth, by_hand, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(integral(smooth, grid), 1.0, rtol=1e-9)
    np.testing.assert_allclose(density(found, grid).value, density(found, grid, 0.09).value, rtol=1e-7, atol=1e-12)
    logs = np.linspace(-3.0, 3.0, 1001)
    masses = [integral(log_density(found, logs, sign=sign).value, logs) for sign in (-1, 1)]
    np.testing.assert_allclose(masses, [0.3, 0.6], rtol=1e-6)
    peak = logs[np.argmax(log_density(found, logs, 0.01, sign=-1).value)]
    assert min(abs(peak - np.log10([9.0, 2.0, 1.0]))) < 0.01


def test_one_probe_has_no_standard_error():
    assert np.isnan(fraction(slq(operator(MATRIX), KEY, probes=1, m=3), 0.0, 1.0).error)


def test_nan_comes_out_as_nan_of_that_lane_in_one_trace():
    matrices = jnp.stack([jnp.diag(SPECTRUM), jnp.full((10, 10), jnp.nan)])

    @jax.jit
    @assert_max_traces(1)
    def lanes(matrices, key):
        found = jax.vmap(lambda matrix: slq(operator(matrix), key, probes=2, m=10))(matrices)
        each = lambda found: (
            fraction(found, high=-0.1).value,
            density(found, jnp.zeros(1)).value[0],
            log_density(found, jnp.zeros(1)).value[0],
        )
        return jnp.stack(jax.vmap(each)(found))

    for key in (KEY, jax.random.key(1)):
        found = lanes(matrices, key)
        np.testing.assert_allclose(found[0, 0], 0.3, rtol=1e-9)
        assert np.all(np.isfinite(found[:, 0])) and np.all(np.isnan(found[:, 1]))


FOUND = Quadrature(jnp.ones((1, 1)), jnp.ones((1, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slq(operator(MATRIX), KEY, probes=0), "`probes` must be >= 1"),
        (lambda: slq(operator(MATRIX), KEY, m=0), "`m` must be >= 1"),
        (lambda: slq(operator(MATRIX), KEY, chunk=0), "`chunk` must be >= 1"),
        (lambda: quadrature(operator(MATRIX), jnp.ones(10), 0), "`m` must be >= 1"),
        (lambda: quadrature(operator(MATRIX), jnp.ones(3), 2), r"shape \(3,\)"),
        (lambda: density(FOUND, jnp.ones(1), 0.0), "`sigma` must be > 0"),
        (lambda: log_density(FOUND, jnp.ones(1), -1.0), "`sigma` must be > 0"),
        (lambda: log_density(FOUND, jnp.ones(1), sign=0), "unknown sign 0"),
        (lambda: fraction(FOUND, 1.0, 0.0), "`high` must be >= 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
