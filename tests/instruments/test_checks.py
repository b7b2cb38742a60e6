"""What `check_operator` and `check_loss` let pass and what they name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from gradlab.instruments import Operator, check_loss, check_operator, fisher, hessian, operator_errors
from tests.instruments.problems import LABELS, X, network_loss, network_losses, network_params, symmetric

KEY = jax.random.key(0)
DATA = (X, LABELS)
NOISE = np.random.default_rng(0)


def of(function, dtype=float):
    return Operator(Partial(function), jnp.zeros(6, dtype))


@pytest.mark.parametrize(
    "op",
    [
        hessian(network_loss, network_params(0), DATA),
        fisher(network_losses, jax.tree.map(lambda p: p.astype("float32"), network_params(0)), DATA),
        of(lambda v: 0 * v),
    ],
    ids=["hessian", "float32", "zero"],
)
def test_true_operators_pass(op):
    errors = check_operator(op, KEY)
    assert all(0 <= error < 1e-5 for error in errors)


SYMMETRIC = symmetric(np.linspace(-2.0, 3.0, 6))
SKEW = np.triu(np.ones((6, 6)), 1) - np.tril(np.ones((6, 6)), -1)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 10.0])
def test_the_asymmetry_is_measured_relative_to_the_operator(size):
    """For u'Av - v'Au = 2 size u'Kv the relative error is about the ratio of the Frobenius norms."""
    found = operator_errors(of(lambda v: (SYMMETRIC + size * SKEW) @ v), KEY, probes=200).symmetry
    u, v = np.random.default_rng(1).normal(size=(2, 4000, 6))
    skew, sym = (np.einsum("ki,ij,kj->k", u, m, v) for m in (size * SKEW, SYMMETRIC))
    exact = np.sqrt(np.mean(4 * skew**2) / np.mean((abs(sym + skew) + abs(sym - skew)) ** 2))
    np.testing.assert_allclose(found, exact, rtol=0.3)


def test_a_loss_with_dropout_of_its_own_is_found():
    def noisy(p, batch):
        return jnp.mean(NOISE.normal(size=4) * p**2)

    with pytest.raises(ValueError, match="the loss is stochastic: evaluated twice, its value differs"):
        check_loss(noisy, jnp.ones(4))
    with pytest.raises(ValueError, match="the operator is not repeatable.*random numbers"):
        check_operator(hessian(noisy, jnp.ones(4)), KEY)


def test_noise_in_the_gradient_only_is_found():
    noisy = lambda p, batch: jnp.sum(NOISE.normal(size=4) * (p["a"] - jax.lax.stop_gradient(p["a"])))
    with pytest.raises(ValueError, match="evaluated twice, its gradient at 'a' differs"):
        check_loss(noisy, {"a": jnp.ones(4)})


def test_a_good_loss_passes():
    check_loss(network_loss, network_params(0), DATA)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: jnp.abs(v), "the operator is not linear"),
        (lambda v: v + 1e-3, "the operator is not linear"),
        (lambda v: (SYMMETRIC + 1e-3 * SKEW) @ v, "the operator is not symmetric.*P\\^-1/2"),
        (lambda v: jnp.arange(6.0)[::-1] * jnp.roll(v, 1), "the operator is not symmetric"),
        (lambda v: v / jnp.zeros(6), "products are not finite"),
    ],
)
def test_false_operators_are_named(function, message):
    with pytest.raises(ValueError, match=message):
        check_operator(of(function), KEY)


def test_the_tolerance_decides():
    op = of(lambda v: (SYMMETRIC + 1e-3 * SKEW) @ v)
    assert 1e-4 < check_operator(op, KEY, tolerance=0.1).symmetry < 1e-2
    with pytest.raises(ValueError, match="`tolerance` must be > 0"):
        check_operator(op, KEY, tolerance=0.0)


@pytest.mark.parametrize(
    ("loss", "params", "error", "message"),
    [
        (lambda p, b: p, jnp.ones(2), ValueError, "must return one number"),
        (lambda p, b: p, 1, TypeError, "cast it, or put it into the batch"),
        (lambda p, b: jnp.log(p), -1.0, ValueError, "the loss is nan at these parameters"),
        (lambda p, b: jnp.sum(jnp.sqrt(p["a"])), {"a": jnp.zeros(3)}, ValueError, "at 'a' has 3 entries that are not"),
    ],
)
def test_bad_losses_are_named(loss, params, error, message):
    with pytest.raises(error, match=message):
        check_loss(loss, params)


def test_errors_are_measured_under_jit_and_vmap():
    run = jax.jit(jax.vmap(lambda a: operator_errors(of(lambda v: (SYMMETRIC + a * SKEW) @ v), KEY)))
    found = run(jnp.array([0.0, 1.0]))
    assert found.symmetry[0] < 1e-12 and found.symmetry[1] > 0.1
    assert np.all(found.linearity < 1e-12) and np.all(found.repeat == 0)
