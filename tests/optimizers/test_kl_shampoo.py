"""KL-Shampoo, KL-SOAP and SOAP-Muon against their oracles, and what makes them what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab import kl_shampoo, kl_soap, muon, soap_muon
from gradlab.core.spectral import COEFFICIENTS
from tests.optimizers.test_soap import drawn, walk
from tests.oracles import kronecker as oracle

RATE = 0.02


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"precondition_frequency": 3, "weight_decay": 0.1, "b1": 0.8}, {"every": 3, "decay": 0.1, "b1": 0.8}),
        ({"shampoo_beta": 0.6, "initial_value": 2.0}, {"beta": 0.6, "start": 2.0}),
        ({"max_inverse_root": 0.5}, {"bound": 0.5}),
    ],
)
@pytest.mark.parametrize("adam", [False, True])
def test_they_are_the_loop_in_numpy(adam, ours, theirs, dtype):
    params, grads = drawn(4, 4, dtype=dtype), drawn(20, 4, 4, seed=1, dtype=dtype)
    path, _ = walk((kl_soap if adam else kl_shampoo)(RATE, **ours), params, grads)
    expected = oracle.kl_whitened(np.asarray(grads), np.asarray(params), RATE, adam=adam, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_the_averages_of_kl_soap_are_its_own():
    params, grads = drawn(4, 4), drawn(20, 4, 4, seed=1)
    path, _ = walk(kl_soap(RATE, b2=0.5, eps=0.1), params, grads)
    expected = oracle.kl_whitened(np.asarray(grads), np.asarray(params), RATE, b2=0.5, eps=0.1)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_the_factors_of_kl_shampoo_are_those_of_the_noise():
    """Gradients A^(1/2) Z B^(1/2) with Z standard normal: the estimator's fixed point is A and B, up to a scalar."""
    rng = np.random.default_rng(0)
    a, b = (np.diag(values) for values in ([9.0, 1.0, 0.25], [4.0, 1.0, 0.5, 0.1]))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    a = turn @ a @ turn.T
    grads = np.linalg.cholesky(a) @ rng.normal(size=(4000, 3, 4)) @ np.sqrt(b)
    _, states = walk(kl_shampoo(0.0, shampoo_beta=0.998), jnp.zeros((3, 4)), jnp.asarray(grads))
    inner = states.inner_states["muon"].inner_state[0]
    (left,), (right,) = inner.left.values(), inner.right.values()
    found = np.kron(left[-1, 0], right[-1, 0])
    np.testing.assert_allclose(found, np.kron(a, b), atol=0.08 * np.max(a) * np.max(b))
    (rows,), (columns,) = inner.left_values.values(), inner.right_values.values()
    spectrum = np.sort(np.outer(rows[-1, 0], columns[-1, 0]).ravel())
    np.testing.assert_allclose(spectrum, np.sort(np.outer([9.0, 1.0, 0.25], np.diag(b)).ravel()), rtol=0.12)


def test_kl_shampoo_forgets_the_scale_of_the_gradient_in_time():
    params, grads = drawn(4, 4), drawn(300, 4, 4, seed=1)
    one, other = (np.diff(walk(kl_shampoo(RATE), params, scale * grads)[0], axis=0) for scale in (1.0, 10.0))
    distance = np.linalg.norm(one - other, axis=(1, 2)) / np.linalg.norm(one, axis=(1, 2))
    assert distance[0] > 0.5 and distance[-1] < 1e-3


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"beta": 0.8, "b2": 0.7, "nesterov": False}, {"beta": 0.8, "b2": 0.7, "nesterov": False}),
        ({"precondition_frequency": 3, "weight_decay": 0.1}, {"every": 3, "decay": 0.1}),
        ({"power": 0.25, "shampoo_beta": 0.6, "eps": 1e-3}, {"power": 0.25, "gram": 0.6, "eps": 1e-3}),
    ],
)
def test_soap_muon_is_the_loop_in_numpy(ours, theirs):
    params, grads = drawn(4, 4), drawn(20, 4, 4, seed=1)
    path, _ = walk(soap_muon(RATE, "polar_express", **ours), params, grads)
    coefficients = COEFFICIENTS["polar_express"]
    expected = oracle.soap_muon(np.asarray(grads), np.asarray(params), RATE, coefficients, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 3)])
def test_soap_muon_without_a_power_is_muon(shape):
    params, grads = drawn(*shape), drawn(12, *shape, seed=1)
    path, _ = walk(soap_muon(RATE, power=0.0), params, grads)
    expected, _ = walk(muon(RATE, eps=1e-7, bias_correction=False), params, grads)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", [kl_shampoo, kl_soap, soap_muon])
@pytest.mark.parametrize(("shape", "rank"), [((4, 6), 1), ((5, 2), 2), ((1, 5), 1), ((40, 2), 2)])
def test_gradients_of_low_rank_give_finite_steps(optimizer, shape, rank):
    grads = drawn(12, shape[0], rank) @ drawn(12, rank, shape[1], seed=1)
    path, _ = walk(optimizer(RATE), drawn(*shape), grads)
    assert np.all(np.isfinite(path)) and not np.allclose(path[1], path[-1])


@pytest.mark.parametrize("optimizer", [kl_shampoo, kl_soap, soap_muon])
def test_without_a_gradient_nothing_moves_and_what_is_not_finite_is_not_hidden(optimizer):
    path, states = walk(optimizer(RATE), drawn(4, 6), jnp.zeros((5, 4, 6)))
    np.testing.assert_array_equal(path, np.broadcast_to(drawn(4, 6), path.shape))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(states))
    path, _ = walk(optimizer(RATE), drawn(4, 6), drawn(3, 4, 6).at[1, 0, 0].set(jnp.nan))
    assert np.all(np.isfinite(path[0])) and np.any(np.isnan(path[1]))


@pytest.mark.parametrize(
    ("optimizer", "values", "message"),
    [
        (kl_soap, {"b2": 1.0}, "b2"),
        (kl_soap, {"eps": -1.0}, "eps"),
        (kl_shampoo, {"initial_value": 0.0}, "initial_value"),
        (kl_shampoo, {"max_inverse_root": -1.0}, "max_inverse_root"),
        (kl_shampoo, {"precondition_frequency": 0}, "precondition_frequency"),
        (soap_muon, {"floor": 0.0}, "floor"),
        (soap_muon, {"power": -1.0}, "power"),
        (soap_muon, {"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(optimizer, values, message):
    with pytest.raises(ValueError, match=message):
        optimizer(RATE, **values)
