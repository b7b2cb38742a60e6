"""Traces and diagonals beside dense matrices, with the variances that theory gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_max_traces

from gradlab.instruments import dense, diagonal, hessian, trace
from tests.instruments.problems import LABELS, X, network_loss, network_params, quadratic, symmetric

KEYS = jax.random.split(jax.random.key(0), 300)
MATRIX = symmetric(np.linspace(-2.0, 5.0, 12))
FROBENIUS = float(jnp.sum(MATRIX**2))


def operator(matrix):
    return hessian(quadratic, jnp.zeros(len(matrix), matrix.dtype), matrix)


@pytest.mark.parametrize(
    ("probe", "variance"),
    [("signs", 2 * (FROBENIUS - float(jnp.sum(jnp.diag(MATRIX) ** 2)))), ("gaussian", 2 * FROBENIUS)],
)
def test_hutchinson_is_unbiased_with_the_variance_of_theory(probe, variance):
    products = 20
    value, error = jax.vmap(lambda key: trace(operator(MATRIX), key, products, probe=probe))(KEYS)
    exact = np.sqrt(variance / products)
    np.testing.assert_allclose(np.std(value), exact, rtol=0.12)
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), exact, rtol=0.06)
    assert abs(np.mean(value) - 18.0) < 4 * exact / np.sqrt(len(KEYS))


def test_of_a_diagonal_matrix_signs_have_no_variance_and_gaussians_do():
    op = operator(jnp.diag(jnp.array([1.0, -4.0, 10.0])))
    found = trace(op, KEYS[0], 2)
    np.testing.assert_allclose(found.value, 7.0, rtol=1e-14)
    assert found.error < 1e-13 and trace(op, KEYS[0], 5, probe="gaussian").error > 0.1


def test_hutch_plus_plus_is_unbiased_and_far_better_where_the_spectrum_decays():
    matrix = symmetric(10.0 * 0.5 ** np.arange(40.0))
    exact = float(jnp.trace(matrix))
    value, error = jax.vmap(lambda key: trace(operator(matrix), key, 30, "hutch++"))(KEYS)
    plain = jax.vmap(lambda key: trace(operator(matrix), key, 30))(KEYS)
    spread = np.std(value)
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), spread, rtol=0.2)
    assert abs(np.mean(value) - exact) < 4 * spread / np.sqrt(len(KEYS))
    assert spread < 0.02 * np.std(plain.value)


def test_hutch_plus_plus_is_exact_when_the_sketch_has_full_rank():
    found = trace(operator(MATRIX), KEYS[0], 40, "hutch++")
    np.testing.assert_allclose(found.value, 18.0, rtol=1e-11)
    assert found.error < 1e-11


@pytest.mark.parametrize(("products", "chunk"), [(7, 1), (7, 3), (7, 50)])
@pytest.mark.parametrize("method", ["hutch", "hutch++"])
def test_chunks_change_nothing(method, products, chunk):
    one = trace(operator(MATRIX), KEYS[0], products, method)
    np.testing.assert_allclose(trace(operator(MATRIX), KEYS[0], products, method, chunk=chunk), one, rtol=1e-12)


def test_the_diagonal_is_unbiased_with_the_error_of_theory():
    products = 20
    value, error = jax.vmap(lambda key: diagonal(operator(MATRIX), key, products))(KEYS)
    exact = np.sqrt((np.sum(MATRIX**2, axis=1) - np.diag(MATRIX) ** 2) / products)
    np.testing.assert_allclose(np.std(value, axis=0), exact, rtol=0.15)
    np.testing.assert_allclose(np.sqrt(np.mean(error**2, axis=0)), exact, rtol=0.1)
    np.testing.assert_array_less(np.abs(np.mean(value, axis=0) - np.diag(MATRIX)), 4 * exact / np.sqrt(len(KEYS)))


def test_on_a_network_both_agree_with_the_dense_matrix_in_one_trace():
    @jax.jit
    @assert_max_traces(1)
    def measure(params, key):
        op = hessian(network_loss, params, (X, LABELS))
        return dense(op), trace(op, key, 60, "hutch++"), diagonal(op, key, 60)

    for seed in range(2):
        matrix, whole, entries = measure(network_params(seed), KEYS[seed])
        assert abs(whole.value - jnp.trace(matrix)) < 5 * whole.error
        found = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(entries.value)])
        error = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(entries.error)])
        assert np.mean(((found - jnp.diag(matrix)) / error) ** 2) < 2.0
        assert entries.value["frozen"] is None


def test_nan_comes_out_as_nan():
    op = operator(jnp.full((6, 6), jnp.nan))
    for found in (trace(op, KEYS[0], 6), trace(op, KEYS[0], 6, "hutch++"), diagonal(op, KEYS[0], 2)):
        assert np.all(np.isnan(found.value)) and np.all(np.isnan(found.error))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op, key: trace(op, key, 1), "`products` must be >= 2"),
        (lambda op, key: trace(op, key, 5, "hutch++"), "`products` must be >= 6"),
        (lambda op, key: trace(op, key, method="hutch+"), "unknown method 'hutch.'; did you mean 'hutch"),
        (lambda op, key: trace(op, key, probe="sings"), "unknown probe 'sings'; did you mean 'signs'"),
        (lambda op, key: trace(op, key, chunk=0), "`chunk` must be >= 1"),
        (lambda op, key: diagonal(op, key, 1), "`products` must be >= 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(operator(MATRIX), KEYS[0])
