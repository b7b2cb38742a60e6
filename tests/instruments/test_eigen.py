"""Extreme eigenvalues beside closed forms, scipy, matfree and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_max_traces
from jax.tree_util import Partial
from scipy.sparse.linalg import LinearOperator, eigsh

from gradlab.core.curvature import ravel, unravel
from gradlab.instruments import Operator, dense, extreme, hessian
from tests.instruments.problems import LABELS, X, network_loss, network_params, quadratic, symmetric

KEY = jax.random.key(0)
DATA = (X, LABELS)
SPECTRUM = np.array([-9.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 7.0, 7.5])
MATRIX = symmetric(SPECTRUM)


def operator(matrix):
    return hessian(quadratic, jnp.zeros(len(matrix), matrix.dtype), matrix)


@pytest.mark.parametrize(
    ("which", "expected"),
    [("LA", [7.5, 7.0]), ("SA", [-9.0, -2.0]), ("LM", [-9.0, 7.5]), ("both", [7.5, 7.0, -9.0, -2.0])],
)
def test_the_ends_of_a_known_spectrum(which, expected):
    found = extreme(operator(MATRIX), KEY, k=2, which=which)
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(len(expected)), atol=1e-12)
    np.testing.assert_allclose(MATRIX @ found.vectors.T, found.vectors.T * found.values, atol=1e-11)
    assert int(found.matvecs) == 10 and np.all(found.converged) and np.all(found.residuals < 1e-12)


@pytest.mark.parametrize("m", [3, 5, 8])
def test_residuals_are_true_and_bound_the_error(m):
    found = extreme(operator(MATRIX), KEY, k=3, which="LM", m=m)
    rest = np.linalg.norm(MATRIX @ found.vectors.T - found.vectors.T * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, rest, rtol=1e-9)
    off = np.abs(SPECTRUM[:, None] - found.values).min(axis=0)
    assert np.all(off <= found.residuals) and np.any(off > found.residuals / 1e4)
    np.testing.assert_array_equal(found.converged, rest <= 1e-3 * np.abs(found.values[0]))
    np.testing.assert_array_equal(extreme(operator(1e-6 * MATRIX), KEY, 3, "LM", m).converged, found.converged)


def test_the_error_is_the_square_of_the_residual_over_the_gap():
    gap = 0.5
    found = extreme(operator(MATRIX), KEY, m=9)
    assert 0 < 7.5 - found.values[0] <= found.residuals[0] ** 2 / (gap - found.residuals[0])


def test_of_a_repeated_eigenvalue_there_are_as_many_copies_as_it_has():
    matrix = symmetric([2.0] * 3 + [1.0] * 3)
    found = extreme(operator(matrix), KEY, k=6)
    np.testing.assert_allclose(found.values, [2.0] * 3 + [1.0] * 3, rtol=1e-12)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(6), atol=1e-12)
    two = extreme(operator(matrix), KEY, k=2, m=2)
    np.testing.assert_allclose(two.values, [2.0, 1.0], rtol=1e-12)


def test_the_zero_operator_and_a_single_parameter():
    found = extreme(operator(jnp.zeros((3, 3))), KEY, which="both")
    np.testing.assert_array_equal(found.values, [0.0, 0.0])
    assert np.all(found.converged)
    found = extreme(hessian(lambda p, b: 3 * p**2, jnp.array(1.0)), KEY, which="both")
    np.testing.assert_allclose(found.values, [6.0, 6.0])


def test_float32_of_wide_spectrum_invents_no_copies():
    values = jnp.geomspace(1e-6, 1e3, 300, dtype=jnp.float32)
    found = extreme(operator(jnp.diag(values)), KEY, k=5, m=80)
    np.testing.assert_allclose(found.values, values[::-1][:5], rtol=1e-5)


def test_a_network_agrees_with_dense_and_scipy():
    params = network_params(0)
    op = hessian(network_loss, params, DATA)
    matrix = dense(op)
    found = extreme(op, KEY, k=2, which="both", m=40)
    values = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(found.values, [values[-1], values[-2], values[0], values[1]], rtol=1e-6)
    product = jax.jit(lambda v: ravel(op(unravel(v, params))))
    by_scipy = eigsh(LinearOperator(matrix.shape, lambda v: np.asarray(product(v)), dtype=float), k=1, which="SA")[0]
    np.testing.assert_allclose(found.values[2], by_scipy[0], rtol=1e-6)
    assert found.vectors["frozen"] is None and found.vectors["in"]["kernel"].shape == (4, 4, 8)
    images = jax.vmap(op)(found.vectors)
    for image, vector in zip(jax.tree.leaves(images), jax.tree.leaves(found.vectors), strict=True):
        np.testing.assert_allclose(image[0], found.values[0] * vector[0], atol=1e-5)


def test_matfree_finds_the_same_from_the_same_start():
    from matfree import decomp

    matvec = lambda v, a: a @ v
    start = jax.random.normal(jax.random.split(KEY)[0], (10,), MATRIX.dtype)
    tridiag = decomp.tridiag_sym(6, reortho="full")
    result = tridiag(matvec, start / jnp.linalg.norm(start), MATRIX)
    expected = np.linalg.eigvalsh(np.asarray(result.J_small))
    found = extreme(operator(MATRIX), KEY, k=6, which="SA", m=6)
    np.testing.assert_allclose(found.values, expected, rtol=1e-10)


def test_a_warm_start_needs_fewer_products():
    values = np.concatenate([np.linspace(0.0, 9.0, 58), [9.2, 10.0]])
    before, after = symmetric(values), symmetric(values) + 1e-3 * symmetric(np.linspace(-1, 1, 60), seed=1)
    earlier = extreme(operator(before), KEY, m=60)
    exact = np.linalg.eigvalsh(after)[-1]
    cold, warm = (extreme(operator(after), KEY, m=5, v0=v0).values[0] for v0 in (None, earlier))
    assert abs(warm - exact) < 1e-5 < 1e-1 < abs(cold - exact)
    by_vector = extreme(operator(after), KEY, m=5, v0=earlier.vectors[0]).values[0]
    np.testing.assert_allclose(by_vector, warm, rtol=1e-12)


def test_a_warm_start_from_several_vectors_finds_all_of_them():
    earlier = extreme(operator(MATRIX), KEY, which="both", m=10)
    found = extreme(operator(MATRIX), KEY, which="both", m=4, v0=earlier)
    np.testing.assert_allclose(found.values, [7.5, -9.0], rtol=1e-3)


def test_a_warm_start_in_an_invariant_space_still_sees_a_new_top():
    """Without a random part the top could be met by chance only, once the space of two dimensions is exhausted."""
    spectrum = jnp.array([1.0, 0.5] + [0.2] * 20 + [3.0])
    found = extreme(operator(jnp.diag(spectrum)), KEY, m=3, v0=jnp.zeros(23).at[:2].set(1.0))
    assert 2.5 < found.values[0] < 3.0


@pytest.mark.parametrize("start", [0.0, np.nan, np.inf])
def test_an_unusable_warm_start_is_a_cold_one(start):
    found = extreme(operator(MATRIX), KEY, m=6, v0=jnp.full(10, start))
    np.testing.assert_allclose(found.values, extreme(operator(MATRIX), KEY, m=6).values, rtol=1e-12)


def test_nan_comes_out_as_nan_of_that_lane_in_one_trace():
    matrices = jnp.stack([MATRIX, MATRIX.at[0, 0].set(jnp.nan), 2 * MATRIX])

    @jax.jit
    @assert_max_traces(1)
    def lanes(matrices, key):
        return jax.vmap(lambda matrix: extreme(operator(matrix), key, k=2, m=10))(matrices)

    for key in (KEY, jax.random.key(1)):
        found = lanes(matrices, key)
        np.testing.assert_allclose(found.values, [[7.5, 7.0], [np.nan, np.nan], [15.0, 14.0]], rtol=1e-10)
        np.testing.assert_array_equal(found.converged, [[True, True], [False, False], [True, True]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"which": "LR"}, "unknown which 'LR'.*'LA'"),
        ({"k": 11, "m": 40}, "`k` is 11, but 10 products.*the operator has 10 rows"),
        ({"k": 4, "m": 3}, "raise `m`, now 3"),
        ({"k": 0}, "`k` must be >= 1"),
        ({"m": 0}, "`m` must be >= 1"),
        ({"v0": jnp.ones(3)}, r"the vector's leaf at '\(root\)' has the shape \(3,\)"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        extreme(operator(MATRIX), KEY, **arguments)


def test_any_linear_map_will_do():
    op = Operator(Partial(lambda v: {"a": 3 * v["a"]}), {"a": jnp.zeros(2)})
    np.testing.assert_allclose(extreme(op, KEY, k=2).values, [3.0, 3.0], rtol=1e-12)
