"""Complex parameters in two real parts: beside Optax, and beside rules that treat complex numbers themselves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.transforms.complex import split_real_and_imaginary
from tests.trajectories import mixed_grads, mixed_tree, run

COMPLEX = {"params": mixed_tree(dtype=np.complex128), "grads": mixed_grads(dtype=np.complex128)}
MIXED = jax.tree.map(lambda x: x, COMPLEX)
for part in MIXED.values():
    part["dense"]["bias"] = part["dense"]["bias"].real


@pytest.mark.parametrize("inner", ["adam", "lion", "sgd"])
def test_positions_and_states_are_those_of_optax(inner):
    ours = run(split_real_and_imaginary(getattr(gradlab, inner)(0.01)), **MIXED)
    optaxs = run(optax.contrib.split_real_and_imaginary(getattr(optax, inner)(0.01)), **MIXED)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(optaxs[1])


def test_linear_rules_do_not_notice():
    tx = gradlab.momentum_sgd(0.01)
    split, _ = run(split_real_and_imaginary(tx), **COMPLEX)
    chex.assert_trees_all_close(split, run(tx, **COMPLEX)[0], rtol=1e-12)


def quartic(p):
    return jnp.sum(p.real**4 + 2 * p.real * p.imag + 3 * p.imag**4)


def quartic_of_parts(p):
    return jnp.sum(p["re"] ** 4 + 2 * p["re"] * p["im"] + 3 * p["im"] ** 4)


def two_steps(tx, params, loss, name):
    state = tx.init(params)
    for _ in range(2):
        grads = jax.tree.map(jnp.conj, jax.grad(loss)(params))
        updates, state = tx.update(grads, state, params, **{name: loss})
        params = optax.apply_updates(params, updates)
    return params


Z = jnp.array([1.0 + 2.0j, -0.5 + 1.0j])


@pytest.mark.parametrize("name", ["value_fn", "obj_fn"])
def test_a_loss_becomes_one_of_the_parts(name):
    tx = gradlab.sophia(0.01, weight_decay=0.0)
    moved = two_steps(split_real_and_imaginary(tx), Z, quartic, name)
    parts = two_steps(tx, {"re": Z.real, "im": Z.imag}, quartic_of_parts, name)
    np.testing.assert_array_equal(jnp.sign(moved.real - Z.real), jnp.sign(parts["re"] - Z.real))
    np.testing.assert_array_equal(jnp.sign(moved.imag - Z.imag), jnp.sign(parts["im"] - Z.imag))


def test_newton_sees_the_same_curvature_either_way():
    split, whole = (two_steps(tx, Z, quartic, "value_fn") for tx in (split_real_and_imaginary(NEWTON), NEWTON))
    np.testing.assert_allclose(split, whole, rtol=1e-12)


NEWTON = gradlab.newton()


def test_the_raw_gradient_is_split_as_well():
    seen = {}

    def _spy_update(updates, state, params=None, *, grad=None, **extra):
        seen["grad"] = grad
        return updates, state

    spy = gradlab.transform(lambda params: optax.EmptyState(), _spy_update)
    tx = gradlab.chain(gradlab.scale(2.0), split_real_and_imaginary(spy))
    tx.update(jnp.array([1.0 + 2.0j]), tx.init(jnp.zeros(1, complex)))
    assert [leaf.dtype for leaf in seen["grad"]] == [jnp.float64] * 2


def test_the_weights_to_evaluate_are_found_and_joined():
    plain = gradlab.nesterov_sgd(0.01)
    params = COMPLEX["params"]
    for tx in (split_real_and_imaginary(plain), gradlab.chain(split_real_and_imaginary(plain))):
        _, state = run(tx, **COMPLEX)
        _, expected = run(plain, **COMPLEX)
        chex.assert_trees_all_close(
            gradlab.eval_params(tx, state, params), gradlab.eval_params(plain, expected, params), rtol=1e-12
        )


def test_without_such_weights_it_claims_none():
    tx = gradlab.chain(split_real_and_imaginary(gradlab.scale(1.0)), gradlab.nesterov_sgd(0.01))
    _, state = run(tx, **COMPLEX)
    _, expected = run(gradlab.nesterov_sgd(0.01), **COMPLEX)
    params = COMPLEX["params"]
    chex.assert_trees_all_close(gradlab.eval_params(tx, state, params), gradlab.eval_params(tx, expected, params))


def test_groups_of_a_partition_each_have_weights_of_their_own():
    split = split_real_and_imaginary(gradlab.nesterov_sgd(0.01))
    tx = gradlab.partition({"a": split, "b": split}, gradlab.by_path(("dense", "a"), (".", "b")))
    _, state = run(tx, **COMPLEX)
    _, expected = run(gradlab.nesterov_sgd(0.01), **COMPLEX)
    params = COMPLEX["params"]
    weights = gradlab.eval_params(tx, state, params)
    chex.assert_trees_all_close(weights, gradlab.eval_params(None, expected, params), rtol=1e-12)


def test_none_leaves_dtypes_and_abstract_parameters():
    tx = split_real_and_imaginary(gradlab.adam(0.1))
    params = {"z": jnp.ones(2, jnp.complex64), "x": jnp.ones(2, jnp.bfloat16), "none": None}
    structs = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(structs), tx.init(params))
    updates, state = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, state), (params, tx.init(params)))
    doubled = optax.tree.map_params(tx, lambda leaf: leaf + 1, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(doubled, state)
