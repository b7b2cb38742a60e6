"""Lanczos' basis and the inverse of an absolute value, beside dense linear algebra in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.krylov import lanczos, solve_abs

RNG = np.random.default_rng(5)
ROTATION = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
VECTOR = RNG.normal(size=12)


def symmetric(eigenvalues):
    size = len(eigenvalues)
    return ROTATION[:size, :size] @ np.diag(eigenvalues) @ ROTATION[:size, :size].T


INDEFINITE = ROTATION @ np.diag(np.linspace(-3.0, 5.0, 12)) @ ROTATION.T
REPEATED = ROTATION @ np.diag([2.0] * 5 + [-2.0] * 4 + [0.0] * 3) @ ROTATION.T


def krylov_of(matrix, start, rank):
    found = jax.jit(lambda a, v: lanczos(lambda x: a @ x, v, rank))(jnp.asarray(matrix), jnp.asarray(start))
    return found.basis, found.matrix


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_matrix_is_the_operator_seen_from_an_orthonormal_basis(rank):
    basis, matrix = krylov_of(INDEFINITE, VECTOR, rank)
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(matrix, basis @ INDEFINITE @ basis.T, atol=1e-12)
    np.testing.assert_allclose(basis[0], VECTOR / np.linalg.norm(VECTOR), rtol=1e-13)


def test_the_basis_spans_the_powers():
    basis, _ = krylov_of(INDEFINITE, VECTOR, 4)
    powers = np.stack([np.linalg.matrix_power(INDEFINITE, k) @ VECTOR for k in range(4)])
    np.testing.assert_allclose(powers @ basis.T @ basis, powers, rtol=1e-9, atol=1e-9)


def test_an_exhausted_space_ends_in_zeros():
    start = ROTATION[:, [0, 6, 11]] @ np.array([1.0, 2.0, -1.0])
    basis, matrix = krylov_of(INDEFINITE, start, 8)
    np.testing.assert_allclose(np.diag(basis @ basis.T), [1.0] * 3 + [0.0] * 5, atol=1e-13)
    np.testing.assert_allclose(matrix[3:], 0.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix[:3, :3]), np.linspace(-3.0, 5.0, 12)[[0, 6, 11]], rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 5, 8])
def test_what_lies_outside_of_the_space_is_reported(rank):
    found = jax.jit(lambda v: lanczos(lambda x: INDEFINITE @ x, v, rank))(VECTOR)
    rest = INDEFINITE @ found.basis.T - found.basis.T @ found.matrix
    np.testing.assert_allclose(found.outside, np.linalg.norm(rest, axis=0), atol=1e-12)
    assert found.outside[-1] > 0.1


def test_with_a_key_an_exhausted_space_goes_on_and_finds_every_copy():
    start = ROTATION[:, [0, 6, 11]] @ np.array([1.0, 2.0, -1.0])
    found = jax.jit(lambda a, v: lanczos(lambda x: a @ x, v, 12, jax.random.key(0)))(REPEATED, start)
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(found.matrix), np.linalg.eigvalsh(REPEATED), atol=1e-12)
    assert np.all(found.outside < 1e-12)


def test_float32_keeps_a_basis_of_wide_spectrum_orthogonal():
    matrix = jnp.diag(jnp.geomspace(1e-5, 1e3, 200, dtype=jnp.float32))
    basis, _ = krylov_of(matrix, jnp.ones(200, jnp.float32), 60)
    np.testing.assert_allclose(basis @ basis.T, np.eye(60), atol=1e-5)


def test_from_zero_there_is_nothing():
    basis, matrix = krylov_of(INDEFINITE, np.zeros(12), 3)
    assert not np.any(basis) and not np.any(matrix)


@pytest.mark.parametrize("matrix", [INDEFINITE, REPEATED], ids=["indefinite", "repeated"])
def test_the_absolute_value_is_that_of_the_singular_value_decomposition(matrix):
    _, s, v = np.linalg.svd(matrix)
    exact = v.T @ (v @ VECTOR / (s + 0.1))
    np.testing.assert_allclose(solve_abs(jnp.asarray(matrix), 0.1, jnp.asarray(VECTOR)), exact, rtol=1e-10)


def test_without_damping_directions_of_curvature_zero_are_left_out():
    u = solve_abs(jnp.diag(jnp.array([2.0, 0.0])), 0.0, jnp.ones(2))
    np.testing.assert_allclose(u, [0.5, 0.0])


@pytest.mark.parametrize("matrix", [INDEFINITE, REPEATED[:9, :9] + np.diag([0.0] * 8 + [1.0])], ids=["simple", "cut"])
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_its_derivative_is_that_of_finite_differences(matrix, argument):
    size = len(matrix)
    arguments = (jnp.asarray(matrix), jnp.asarray(0.3), jnp.asarray(VECTOR[:size]))
    turned = RNG.normal(size=(size, size))
    direction = [turned + turned.T, 1.0, RNG.normal(size=size)][argument]
    moved = lambda t: tuple(a + t * direction if i == argument else a for i, a in enumerate(arguments))
    weights = jnp.asarray(RNG.normal(size=size))
    f = jax.jit(lambda t: weights @ solve_abs(*moved(t)))
    h = 1e-6
    np.testing.assert_allclose(jax.jit(jax.grad(f))(0.0), (f(h) - f(-h)) / (2 * h), rtol=1e-6)


def test_its_derivative_at_a_multiple_of_the_identity_is_that_of_the_inverse():
    """Every direction is an eigenvector: here the derivative of the eigenvectors themselves does not exist."""
    size, c = 6, 2.0
    turned = RNG.normal(size=(size, size))
    turned = turned + turned.T
    _, slope = jax.jvp(
        lambda a: solve_abs(a, 0.5, jnp.asarray(VECTOR[:size])), (c * jnp.eye(size),), (jnp.asarray(turned),)
    )
    np.testing.assert_allclose(slope, -turned @ VECTOR[:size] / (c + 0.5) ** 2, rtol=1e-12)
