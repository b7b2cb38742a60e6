"""Spectral maps: what every set of coefficients does to singular values, and the matrices that have only few."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.spectral import (
    COEFFICIENTS,
    SCALINGS,
    bounded,
    gram_newton_schulz,
    newton_schulz,
    newton_schulz_bf16,
    polar_factor,
)
from tests.oracles import muon as oracle

# Where singular values in [0.01, 1] end, to two digits.
RANGES = {
    "standard": (0.68, 1.13),
    "dion": (0.98, 1.03),
    "polar_express": (0.88, 1.12),
    "polar_express_8": (1.0, 1.0),
    "cans": (0.88, 1.12),
    "deepseek": (1.0, 1.0),
    "simple_12": (1.0, 1.0),
    "polar_express_safe": (0.86, 1.14),
    "aol_4": (0.77, 1.08),
    "cubic_5": (0.77, 1.30),
}
TURBO_MUON = [  # arXiv 2512.04632 as its authors tabulate it
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
]


def matrix(m, n, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, n))
    return x + 1j * rng.normal(size=(m, n)) if np.issubdtype(dtype, np.complexfloating) else x


@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_singular_values_stay_positive_and_end_in_the_stated_range(name):
    everywhere = oracle.polynomial(np.geomspace(1e-9, 1, 200_001), COEFFICIENTS[name])
    assert np.all(everywhere > 0)
    ends = oracle.polynomial(np.geomspace(1e-2, 1, 200_001), COEFFICIENTS[name])
    np.testing.assert_allclose((ends.min(), ends.max()), RANGES[name], atol=6e-3)


def test_the_coefficients_of_turbo_muon_turn_a_matrix_of_rank_one_uphill():
    """Why the set of their name contracts them: their own scaling makes one of such a matrix's singular value."""
    assert oracle.polynomial(1.0, TURBO_MUON) < -0.99
    g = np.outer(matrix(4, 1)[:, 0], matrix(1, 6, seed=1)[0])
    step = newton_schulz(bounded(jnp.asarray(g), 1e-8, "aol"), jnp.asarray(TURBO_MUON))
    cosine = np.sum(step * g) / np.linalg.norm(step) / np.linalg.norm(g)
    assert cosine < -0.9
    contracted = newton_schulz(bounded(jnp.asarray(g), 1e-8, "aol"), jnp.asarray(COEFFICIENTS["aol_4"]))
    assert np.sum(contracted * g) / np.linalg.norm(contracted) / np.linalg.norm(g) > 0.9


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("m", "n"), [(1, 5), (4, 4), (3, 40)])
@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_the_iteration_in_the_gram_matrix_is_the_iteration(name, m, n, dtype):
    x = jnp.asarray(matrix(m, n, dtype=dtype))
    x, rows = x / jnp.linalg.norm(x), jnp.asarray(COEFFICIENTS[name])
    np.testing.assert_allclose(gram_newton_schulz(x, rows), newton_schulz(x, rows), atol=1e-11)
    np.testing.assert_allclose(gram_newton_schulz(x, rows[:1]), newton_schulz(x, rows[:1]), atol=1e-12)


def test_the_iteration_in_the_gram_matrix_costs_less_on_long_matrices():
    """Twenty products of (8, 8) and four with the long side, for ten of those with the long side and five more."""
    x, rows = jnp.ones((8, 512)), jnp.asarray(COEFFICIENTS["standard"])

    def multiplications(f):
        products = [
            e for e in equations(jax.make_jaxpr(f)(x, rows).jaxpr, times=1) if e[0].primitive.name == "dot_general"
        ]
        return sum(times * math.prod(e.outvars[0].aval.shape) * e.invars[0].aval.shape[1] for e, times in products)

    assert multiplications(newton_schulz) == 10 * 8 * 8 * 512 + 5 * 8**3
    assert multiplications(gram_newton_schulz) == 4 * 8 * 8 * 512 + 5 * 4 * 8**3


def equations(jaxpr, times):
    """Every equation with how often it runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from equations(inner, times * equation.params.get("length", 1))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize(("m", "n"), [(1, 5), (4, 4), (3, 40)])
def test_all_iterations_tend_to_the_polar_factor(m, n, dtype):
    x = matrix(m, n, dtype=dtype)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(polar_factor(jnp.asarray(x), None), u @ vh, atol=1e-12)
    limit = newton_schulz(jnp.asarray(x) / np.linalg.norm(x), jnp.asarray(COEFFICIENTS["simple_12"] * 3))
    np.testing.assert_allclose(limit, u @ vh, atol=1e-9)


def test_the_polar_factor_leaves_out_what_is_zero():
    u, v = np.ones(3) / np.sqrt(3), np.array([0.0, 0.6, 0.8, 0.0])
    got = polar_factor(jnp.asarray(5 * np.outer(u, v)), None)
    np.testing.assert_allclose(got, np.outer(u, v), atol=1e-12)
    np.testing.assert_array_equal(polar_factor(jnp.zeros((2, 3)), None), np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_the_iteration_maps_singular_values_and_keeps_the_vectors(name, dtype):
    x = matrix(4, 7, dtype=dtype)
    x = x / np.linalg.norm(x)
    u, sigma, vh = np.linalg.svd(x, full_matrices=False)
    expected = u @ np.diag(oracle.polynomial(sigma, COEFFICIENTS[name])) @ vh
    np.testing.assert_allclose(newton_schulz(jnp.asarray(x), jnp.asarray(COEFFICIENTS[name])), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_no_singular_value_of_a_bounded_matrix_exceeds_one(scaling, dtype):
    for m, n in ((1, 5), (4, 4), (3, 9)):
        x = 7 * matrix(m, n, seed=m, dtype=dtype)
        got = bounded(jnp.asarray(x), 1e-8, scaling)
        np.testing.assert_allclose(got, oracle.bounded(x, 1e-8, scaling), rtol=1e-7)
        assert np.linalg.norm(got, 2) <= 1 + 1e-12


@pytest.mark.parametrize("scaling", SCALINGS)
def test_zero_stays_zero(scaling):
    np.testing.assert_array_equal(bounded(jnp.zeros((2, 3)), 1e-8, scaling), np.zeros((2, 3)))


def test_the_derivative_at_zero_is_finite():
    loss = lambda x: jnp.sum(newton_schulz(bounded(x, 1e-8), jnp.asarray(COEFFICIENTS["standard"])) ** 2)
    assert jnp.all(jnp.isfinite(jax.grad(loss)(jnp.zeros((2, 3)))))


def test_the_iteration_in_bfloat16_is_the_iteration_but_for_rounding():
    x = jnp.asarray(matrix(48, 64))
    x, rows = x / jnp.linalg.norm(x), jnp.asarray(COEFFICIENTS["standard"])
    gap = np.abs(newton_schulz_bf16(x, rows) - newton_schulz(x, rows))
    assert 1e-4 < np.max(gap) < 0.03
    z = jnp.asarray(matrix(3, 4, dtype=np.complex128)) / 10
    np.testing.assert_array_equal(newton_schulz_bf16(z, rows), newton_schulz(z, rows))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_decompositions_of_what_is_not_finite_end(bad):
    x = jnp.asarray(matrix(3, 4)).at[1, 2].set(bad)
    assert np.all(np.isnan(polar_factor(x, None)))
    assert np.any(np.isnan(bounded(x, 1e-8, "spectral")))
