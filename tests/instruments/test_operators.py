"""Operators beside closed forms and dense second derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_max_traces
from jax.tree_util import Partial

from gradlab.core.curvature import ravel
from gradlab.instruments import Operator, dense, fisher, ggn, hessian, preconditioned, restrict
from tests.instruments import problems
from tests.instruments.problems import (
    CLASSES,
    EXAMPLES,
    LABELS,
    RNG,
    SOFTMAX_PARAMS,
    TARGETS,
    X,
    network,
    network_loss,
    network_losses,
    network_params,
    symmetric,
)
from tests.jaxprs import count_equations

DATA = (X, LABELS)


@partial(jax.jit, static_argnums=0)
def full(function, params, batch):
    """The dense Hessian by nested differentiation, in the order of the leaves."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda flat: function(unravel(flat), batch))(flat)


def test_linear_regression_has_twice_the_second_moment_of_the_inputs():
    found = dense(hessian(lambda p, b: jnp.mean(problems.squares(p, b)), RNG.normal(size=4), (X, TARGETS)))
    np.testing.assert_allclose(found, 2 / EXAMPLES * X.T @ X, rtol=1e-12, atol=1e-14)


def test_logistic_regression_has_the_weighted_second_moment():
    p = RNG.normal(size=4)
    s = jax.nn.sigmoid(X @ p)
    found = dense(hessian(problems.logistic, p, (X, problems.BITS)))
    np.testing.assert_allclose(found, X.T @ ((s * (1 - s))[:, None] * X) / EXAMPLES, rtol=1e-11, atol=1e-14)


def softmax_hessian(params):
    """The mean of ``(diag q - q q') kron x x'`` with x extended by a one for the bias, which comes first."""
    q = np.asarray(jax.nn.softmax(problems.logits(params, DATA)))
    inputs = np.concatenate([np.ones((EXAMPLES, 1)), X], axis=1)
    blocks = [np.kron(np.outer(x, x), np.diag(row) - np.outer(row, row)) for x, row in zip(inputs, q, strict=True)]
    return np.mean(blocks, axis=0)


@pytest.mark.parametrize(
    "operator",
    [
        hessian(problems.softmax_regression, SOFTMAX_PARAMS, DATA),
        ggn(problems.logits, problems.mean_cross_entropy, SOFTMAX_PARAMS, DATA),
    ],
    ids=["hessian", "ggn"],
)
def test_softmax_regression_has_its_closed_form_and_there_both_are_one(operator):
    np.testing.assert_allclose(dense(operator), softmax_hessian(SOFTMAX_PARAMS), rtol=1e-10, atol=1e-14)


def test_at_weights_of_zero_the_top_is_that_of_the_inputs_over_the_classes():
    zeros = jnp.zeros((problems.FEATURES, CLASSES))
    loss = lambda w, b: problems.mean_cross_entropy(b[0] @ w, b)
    values = np.linalg.eigvalsh(dense(hessian(loss, zeros, DATA)))
    np.testing.assert_allclose(values[-1], np.linalg.eigvalsh(X.T @ X / EXAMPLES)[-1] / CLASSES, rtol=1e-12)
    assert np.sum(np.abs(values) < 1e-12) == problems.FEATURES


def test_weight_decay_adds_its_constant():
    decayed = lambda p, b: network_loss(p, b) + 0.15 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
    params = network_params(0)
    plain, more = dense(hessian(network_loss, params, DATA)), dense(hessian(decayed, params, DATA))
    np.testing.assert_allclose(more, plain + 0.3 * np.eye(len(plain)), atol=1e-12)


def test_on_a_network_they_are_what_dense_jacobians_give():
    params = network_params(1)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    np.testing.assert_allclose(dense(hessian(network_loss, params, DATA)), full(network_loss, params, DATA), atol=1e-12)
    jacobian = jax.jacobian(lambda flat: network(unravel(flat), DATA))(flat)
    curved = jax.hessian(problems.mean_cross_entropy)(network(params, DATA), DATA)
    gauss_newton = jnp.einsum("abi,abcd,cdj->ij", jacobian, curved, jacobian)
    np.testing.assert_allclose(dense(ggn(network, problems.mean_cross_entropy, params, DATA)), gauss_newton, atol=1e-12)
    gradients = jax.jacobian(lambda flat: network_losses(unravel(flat), DATA))(flat)
    np.testing.assert_allclose(
        dense(fisher(network_losses, params, DATA)), gradients.T @ gradients / EXAMPLES, atol=1e-12
    )


def test_the_preconditioned_operator_is_symmetric_with_the_eigenvalues_of_the_quotient():
    a, p = symmetric([-2.0, 1.0, 3.0, 5.0]), jnp.array([0.1, 1.0, 3.0, 10.0])
    found = dense(preconditioned(hessian(problems.quadratic, jnp.zeros(4), a), p))
    np.testing.assert_allclose(found, found.T, atol=1e-14)
    quotient = np.sort(np.linalg.eigvals(np.diag(1 / p) @ a).real)
    np.testing.assert_allclose(np.linalg.eigvalsh(found), quotient, rtol=1e-10)


def test_the_restricted_operator_is_the_diagonal_block():
    params = network_params(2)
    whole = full(network_loss, params, DATA)
    named, _ = jax.tree_util.tree_flatten_with_path(params)
    owner = np.concatenate([np.full(leaf.size, i) for i, (_, leaf) in enumerate(named)])
    op = hessian(network_loss, params, DATA)
    for pattern, leaves in [("^in/", [0, 1]), ("kernel", [1]), (["bias$", "^out$"], [0, 2])]:
        rows = np.isin(owner, leaves)
        block = restrict(op, pattern)
        assert block.size == rows.sum()
        np.testing.assert_allclose(dense(block), whole[rows][:, rows], atol=1e-12)


def test_a_product_costs_what_forward_over_reverse_costs():
    params, batch = network_params(0), DATA
    bare = lambda p, v: jax.jvp(jax.grad(lambda p: network_loss(p, batch)), (p,), (v,))[1]
    ours = lambda p, v: hessian(network_loss, p, batch)(v)
    assert count_equations(ours, params, params) <= count_equations(bare, params, params)


def test_they_vmap_and_jit_with_one_trace_also_for_fresh_closures():
    @jax.jit
    @assert_max_traces(1)
    def first_row(op):
        return ravel(op(jax.tree.map(jnp.ones_like, op.like)))

    for seed in range(3):
        shift = RNG.normal()
        scaled = jnp.float64(1 + shift)
        loss = lambda p, b, scaled=scaled: scaled * network_loss(p, b)
        params = network_params(seed)
        expected = scaled * full(network_loss, params, DATA).sum(1)
        np.testing.assert_allclose(first_row(hessian(loss, params, DATA)), expected, atol=1e-11)
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(network_params(seed) for seed in range(3)))
    found = jax.vmap(lambda p: dense(hessian(network_loss, p, DATA)))(lanes)
    ops = jax.vmap(lambda p: hessian(network_loss, p, DATA))(lanes)
    np.testing.assert_allclose(jax.vmap(dense)(ops), found, atol=1e-13)
    np.testing.assert_allclose(found[2], full(network_loss, network_params(2), DATA), atol=1e-12)


def test_half_precision_is_measured_in_float32():
    op = hessian(lambda p, b: jnp.sum(jnp.float32(p) ** 2), jnp.ones(2, "bfloat16"))
    assert op(jnp.ones(2)).dtype == jnp.float32 and op.like.dtype == jnp.float32


def test_nan_comes_out_as_nan():
    op = hessian(lambda p, b: jnp.sum(b * p**2), jnp.ones(2), jnp.array([1.0, jnp.nan]))
    np.testing.assert_array_equal(op(jnp.ones(2)), [2.0, np.nan])


P, V = {"a": jnp.ones(2)}, {"a": jnp.ones(3)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hessian(lambda p, b: p, jnp.ones(2)), ValueError, r"hessian: the loss must return one number.*\(2,\)"),
        (lambda: hessian(lambda p, b: (p, p), 1.0), ValueError, "the loss must return one number"),
        (lambda: hessian(lambda p, b: 1j * p, 1.0), TypeError, "must be real and floating-point, got complex"),
        (lambda: hessian(lambda p, b: p["a"], {"a": 1}), TypeError, "at 'a' is int.*put it into the batch"),
        (lambda: fisher(lambda p, b: p, 1j), TypeError, r"fisher: the parameter at '\(root\)' is complex"),
        (lambda: fisher(lambda p, b: p, 1.0), ValueError, "one number for each example"),
        (lambda: ggn(lambda p, b: p, lambda o, b: o, jnp.ones(2)), ValueError, "ggn: the loss must return one number"),
        (lambda: hessian(lambda p, b: p["a"].sum(), P)(V), ValueError, r"at 'a' has the shape \(3,\).*\(2,\)"),
        (lambda: hessian(lambda p, b: p["a"].sum(), P)({"b": 1}), ValueError, r"only the vector have \['b'\]"),
        (lambda: hessian(lambda p, b: p["a"].sum(), P)({"a": None}), ValueError, "None where the operator has a leaf"),
        (lambda: restrict(hessian(lambda p, b: p["a"].sum(), P), "bias"), ValueError, r"\['bias'\] match no parameter"),
        (lambda: restrict(hessian(lambda p, b: p["a"].sum(), P), "("), ValueError, "no regular expression"),
        (lambda: preconditioned(Operator(Partial(lambda v: v), 1.0), 0.0), ValueError, "`diagonal` must be > 0"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
