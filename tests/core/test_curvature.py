"""Hessian-vector products beside dense Hessians, on every kind of leaf."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.core.across import vdot
from gradlab.core.curvature import free, hessian, hessian_map, hvp, ravel, required_value_fn, unravel
from tests.losses import quartic, quartic_hessian
from tests.trajectories import flat, mixed_tree

jit_hessian = jax.jit(hessian, static_argnums=0)


def mixed_loss(p):
    """Of a complex, a real and a bfloat16 leaf; ``abs(z)^2`` without the kink of ``abs``."""
    z, x, low = p["z"], p["x"], p["low"]
    return jnp.sum((z.real**2 + z.imag**2) * z.real * x) + jnp.sum(z.imag * x**3) + jnp.sum(low**2) * x[0]


MIXED = {
    "low": jnp.array([0.5, -1.5], jnp.bfloat16),
    "none": None,
    "x": jnp.array([0.75, -0.25]),
    "z": jnp.array([1.0 + 2.0j, -0.5 + 0.3j]),
}


def mixed_loss_of_reals(v):
    """`mixed_loss` of the vector (low, x, real parts, imaginary parts)."""
    low, x, re, im = v[:2], v[2:4], v[4:6], v[6:]
    return np.sum((re**2 + im**2) * re * x) + np.sum(im * x**3) + np.sum(low**2) * x[0]


REALS = np.array([0.5, -1.5, 0.75, -0.25, 1.0, -0.5, 2.0, 0.3])


def second_differences(f, v, h=1e-4):
    eye = h * np.eye(len(v))
    corners = [[f(v + a + b) - f(v + a - b) - f(v - a + b) + f(v - a - b) for b in eye] for a in eye]
    return np.array(corners) / (4 * h * h)


def test_the_hessian_of_a_tree_is_that_of_its_vector():
    params = mixed_tree()
    np.testing.assert_allclose(jit_hessian(quartic, params), quartic_hessian(flat(params)), rtol=1e-12, atol=1e-13)


def test_complex_leaves_count_as_two_real_ones():
    np.testing.assert_allclose(ravel(MIXED), REALS)
    np.testing.assert_allclose(
        jit_hessian(mixed_loss, MIXED), second_differences(mixed_loss_of_reals, REALS), rtol=1e-5, atol=2e-6
    )


def test_a_product_is_the_hessian_times_the_vector_in_the_dtypes_of_the_tangents():
    v = np.array([1.0, -2.0, 0.5, 0.25, -1.5, 2.0, 0.75, -0.125])
    tangents = jax.tree.map(lambda t, p: t.astype(p.dtype), unravel(jnp.asarray(v), MIXED), MIXED)
    product = hvp(mixed_loss, MIXED, tangents)
    chex.assert_trees_all_equal_shapes_and_dtypes(product, MIXED)
    exact = second_differences(mixed_loss_of_reals, REALS) @ v
    np.testing.assert_allclose(ravel(product)[2:], exact[2:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ravel(product)[:2], exact[:2], rtol=2**-7)


def test_parameters_without_a_tangent_are_held():
    params = mixed_tree()
    tangents = {"dense": {"kernel": mixed_tree(seed=3)["dense"]["kernel"], "bias": None}, "layers": [None, None]}
    product = hvp(quartic, params, tangents)
    assert jax.tree.structure(product) == jax.tree.structure(tangents)
    block = slice(4, 16)  # the leaves in order: bias (4), kernel (12), two layers
    exact = quartic_hessian(flat(params))[block, block] @ flat(tangents)
    np.testing.assert_allclose(flat(product), exact, rtol=1e-12)


def test_the_loss_sees_its_parameters_in_their_own_dtypes():
    seen = []

    def loss(p):
        seen.append(p["w"].dtype)
        return jnp.sum(p["w"] ** 2)

    hvp(loss, {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.ones(2, jnp.bfloat16)})
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


def test_many_products_differentiate_the_loss_once():
    calls = []

    def loss(x):
        calls.append(1)
        return jnp.sum(x**4)

    product = hessian_map(loss, jnp.arange(3.0))
    for axis in jnp.eye(3):
        np.testing.assert_allclose(product(axis), 12 * jnp.arange(3.0) ** 2 * axis)
    assert len(calls) == 1


@pytest.mark.parametrize("tree", [MIXED, mixed_tree(), {}, None, {"s": jnp.float32(2.0)}])
def test_a_vector_becomes_its_tree_again(tree):
    chex.assert_trees_all_equal(jax.tree.map(lambda a, b: a.astype(b.dtype), unravel(ravel(tree), tree), tree), tree)
    assert ravel(tree).dtype in (jnp.float32, jnp.float64)


def test_the_inner_product_is_that_of_the_vectors():
    other = jax.tree.map(lambda p: (1 + 2 * p).astype(p.dtype), MIXED)
    np.testing.assert_allclose(vdot(MIXED, other), ravel(MIXED) @ ravel(other), rtol=1e-6)


def test_what_is_no_float_is_refused_by_path():
    with pytest.raises(TypeError, match="'dense/steps' is int"):
        ravel({"dense": {"steps": jnp.arange(2)}})


def test_other_trees_are_refused_by_path():
    with pytest.raises(ValueError, match="biass"):
        free(quartic, {"bias": 1.0}, {"biass": 1.0})


def test_a_missing_loss_is_an_error_that_says_how_to_pass_it():
    with pytest.raises(ValueError, match=r"sophia needs the loss.*value_fn="):
        required_value_fn("sophia", None)
