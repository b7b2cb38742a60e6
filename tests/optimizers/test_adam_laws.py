"""Laws of the Adam family: closed forms of single steps, limits in which two optimizers are one, RAdam's clock."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.optimizers.adam import adam, adamw
from gradlab.optimizers.adamax import adamax, adamaxw
from gradlab.optimizers.amsgrad import amsgrad
from gradlab.optimizers.nadam import nadam, nadamw
from gradlab.optimizers.radam import effective_length, radam, scale_by_radam
from gradlab.optimizers.sadam import sadam, samsgrad, scale_by_sadam
from gradlab.optimizers.sign import sign_sgd
from tests.oracles import adam_family as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01


def on_one(tx, gradients):
    """The updates of a single parameter for a sequence of gradients."""
    state, updates = tx.init(jnp.zeros(1)), []
    for g in gradients:
        update, state = tx.update(jnp.array([g]), state, jnp.zeros(1))
        updates.append(float(update[0]))
    return np.array(updates)


@pytest.mark.parametrize("make", [adam, nadam, amsgrad, adamax], ids=lambda make: make.__name__)
def test_without_eps_the_step_ignores_the_scale_of_the_gradient(make):
    grads, tx = mixed_grads(), make(LR, eps=0.0)
    plain, _ = run(tx, mixed_tree(), grads)
    scaled, _ = run(tx, mixed_tree(), jax.tree.map(lambda g: 1e6 * g, grads))
    chex.assert_trees_all_close(scaled, plain, rtol=1e-11)


@pytest.mark.parametrize("make", [adam, amsgrad, adamax], ids=lambda make: make.__name__)
def test_on_a_constant_gradient_every_step_has_the_length_of_the_learning_rate(make):
    np.testing.assert_allclose(on_one(make(LR, eps=0.0), [-3e-5] * 20), LR, rtol=1e-11)


def test_the_first_step_of_nadam_is_longer_by_its_look_ahead():
    b1 = 0.8
    np.testing.assert_allclose(on_one(nadam(LR, b1=b1, eps=0.0), [7.0]), -LR * (1 + b1 / (1 + b1)), rtol=1e-13)


def test_the_longest_step_of_adam_follows_a_rest():
    b1, b2, rest = 0.9, 0.999, 500
    last = on_one(adam(LR, b1=b1, b2=b2, eps=1e-30), [0.0] * rest + [-2.0])[-1]
    corrections = math.sqrt(1 - b2 ** (rest + 1)) / (1 - b1 ** (rest + 1))
    np.testing.assert_allclose(last, LR * (1 - b1) / math.sqrt(1 - b2) * corrections, rtol=1e-11)


def test_without_averages_adam_is_sign_sgd():
    with_eps_zero, _ = run(adam(LR, b1=0.0, b2=0.0, eps=0.0), mixed_tree(), mixed_grads())
    signs, _ = run(sign_sgd(LR), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(with_eps_zero, signs, rtol=1e-12)


@pytest.mark.parametrize("decay, rate", [("decoupled", LR * 0.1), ("independent", 0.1)])
def test_without_a_gradient_decay_is_geometric(decay, rate):
    params, grads = mixed_tree(), jax.tree.map(jnp.zeros_like, mixed_grads())
    for make in (adamw, nadamw, adamaxw):
        positions, _ = run(make(LR, weight_decay=0.1, decay=decay), params, grads)
        np.testing.assert_allclose(positions[-1], flat(params) * (1 - rate) ** STEPS, rtol=1e-12)


def test_amsgrad_converges_where_adam_goes_the_wrong_way():
    """Theorem 1 of 1904.09237: f_t(x) = 3x at every third step, else -x, on [-1, 1]; the best point is -1."""

    def last(make):
        tx = make(lambda count: 0.5 / jnp.sqrt(count + 1), b1=0.0, b2=0.1, eps=0.0)

        def step(carry, t):
            x, state = carry
            update, state = tx.update(jnp.where(t % 3 == 1, 3.0, -1.0), state, x)
            return (jnp.clip(x + update, -1.0, 1.0), state), None

        (x, _), _ = jax.lax.scan(step, (jnp.array(0.0), tx.init(jnp.array(0.0))), jnp.arange(1, 20_001))
        return float(x)

    assert last(adam) > 0.99
    assert last(amsgrad) < -0.99


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_the_first_rectified_step_of_radam_is_the_sixth(b2, dtype):
    tx = scale_by_radam(b2=b2, unrectified="skip")
    state = tx.init(jnp.zeros(1, dtype))
    for count in range(1, 10):
        updates, state = tx.update(jnp.ones(1, dtype), state)
        assert (updates[0] > 0) == (count >= 6), count


@pytest.mark.parametrize("b2", [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999])
def test_rho_is_accurate_in_both_precisions(b2):
    counts = [1, 2, 3, 5, 6, 10, 19, 20, 21, 50, 199, 201, 1000, 3000]
    for dtype, rtol in [(jnp.float32, 3e-6), (jnp.float64, 1e-12)]:
        decay = dtype(b2)
        exact = [oracle.rho(count, float(decay)) for count in counts]
        np.testing.assert_allclose(effective_length(jnp.array(counts, dtype), decay), exact, rtol=rtol)


def test_rectification_ends_in_adam():
    steps = np.ones(3000)
    rectified, plain = on_one(radam(LR, b2=0.99), steps), on_one(adam(LR, b2=0.99), steps)
    np.testing.assert_allclose(rectified[-1], plain[-1], rtol=1e-9)
    assert np.all(np.diff(-rectified[6:1000]) > 0)


def test_radam_differentiates_through_its_unrectified_steps():
    def travelled(b2):
        tx = radam(LR, b2=b2)

        def step(carry, _):
            p, state = carry
            updates, state = tx.update(2 * p, state, p)
            return (p + updates, state), None

        (p, _), _ = jax.lax.scan(step, (jnp.ones(2), tx.init(jnp.ones(2))), length=8)
        return jnp.sum(p)

    travelled = jax.jit(travelled)
    h = 1e-5
    slope = (travelled(0.99 + h) - travelled(0.99 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(travelled)(0.99), slope, rtol=1e-6)


@pytest.mark.parametrize("beta", [5.0, 50.0])
def test_the_denominator_of_sadam_is_at_least_log_2_over_beta(beta):
    update = on_one(scale_by_sadam(beta=beta, convention="paper"), [1e-15])
    np.testing.assert_allclose(update, 0.1 * 1e-15 / (math.log(2) / beta), rtol=1e-11)


def test_for_large_gradients_sadam_is_adam_and_samsgrad_amsgrad():
    grads = jax.tree.map(lambda g: 1e6 * g, mixed_grads())
    for soft, sharp in [(sadam(LR), adam(LR, eps=0.0)), (samsgrad(LR), amsgrad(LR, eps=0.0, max_of="nu"))]:
        expected, _ = run(sharp, mixed_tree(), grads)
        positions, _ = run(soft, mixed_tree(), grads)
        chex.assert_trees_all_close(positions, expected, rtol=1e-11)
