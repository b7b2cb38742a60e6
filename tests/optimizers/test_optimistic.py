"""Optimistic descent and noisy descent: NumPy oracles, Optax, and a game in which plain descent diverges."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.optimizers.noisy import noisy_sgd
from gradlab.optimizers.optimistic import (
    optimistic_adam,
    optimistic_adam_v2,
    optimistic_gradient_descent,
    scale_by_optimistic_gradient,
)
from gradlab.optimizers.sgd import sgd
from tests.oracles import optimistic as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01


def falling(count):
    return 0.1 / (1 + count)


def given():
    return flat(mixed_tree()), flat(mixed_grads(), rows=STEPS)


@pytest.mark.parametrize("alpha, beta", [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_optimistic_descent_is_the_papers(alpha, beta):
    positions, _ = run(optimistic_gradient_descent(LR, alpha, beta), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(positions, oracle.extrapolated(*given(), LR * alpha, LR * beta), rtol=1e-11)


ADAM = {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3}
ADAM_MODES = [
    (optimistic_adam(LR), LR, {}),
    (optimistic_adam(LR, 0.03, **ADAM), 0.03, ADAM),
    (optimistic_adam(LR, nesterov=False), LR, {"nesterov": False}),
    (optimistic_adam_v2(LR), LR, {}),
    (optimistic_adam_v2(2 * LR, alpha=0.5, beta=1.5, **ADAM), 0.03, ADAM),
    (optimistic_adam_v2(LR, nesterov=False), LR, {"nesterov": False}),
]


@pytest.mark.parametrize(("tx", "optimism", "mode"), ADAM_MODES, ids=range(len(ADAM_MODES)))
def test_optimistic_adam_is_the_papers(tx, optimism, mode):
    p, grads = given()
    positions, _ = run(tx, mixed_tree(), mixed_grads())
    expected = oracle.extrapolated(p, oracle.nadam_directions(grads, **mode), LR, optimism)
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


def same_as_optax(tx, theirs):
    ours, expected = run(tx, mixed_tree(), mixed_grads()), run(theirs, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(ours, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], expected[1])


OPTAX = [
    (optimistic_gradient_descent(falling, 0.5, 2.0), optax.optimistic_gradient_descent(falling, 0.5, 2.0)),
    (scale_by_optimistic_gradient(), optax.scale_by_optimistic_gradient()),
    (
        optimistic_adam_v2(falling, alpha=0.5, beta=2.0, nesterov=False, **ADAM),
        optax.optimistic_adam_v2(falling, alpha=0.5, beta=2.0, nesterov=False, **ADAM),
    ),
]


@pytest.mark.parametrize(("tx", "theirs"), OPTAX, ids=range(len(OPTAX)))
def test_positions_and_states_are_those_of_optax(tx, theirs):
    same_as_optax(tx, theirs)


@pytest.mark.parametrize("optimism", [None, 0.03])
def test_the_name_that_optax_deprecates_keeps_its_numbers(optimism):
    with pytest.warns(DeprecationWarning, match="optimistic_adam_v2"):
        theirs = optax.optimistic_adam(LR, optimism, **ADAM)
    same_as_optax(optimistic_adam(LR, optimism, **ADAM), theirs)


def test_a_schedule_moves_the_optimism_that_follows_the_learning_rate():
    old, new = (run(make(falling), mixed_tree(), mixed_grads())[0] for make in (optimistic_adam, optimistic_adam_v2))
    chex.assert_trees_all_close(old, new, rtol=1e-12)
    assert list(gradlab.hyperparams(optimistic_adam(LR))) == ["b1", "b2", "eps", "eps_root", "learning_rate"]
    assert gradlab.hyperparams(optimistic_adam(LR, 0.5))["optimism"] == 0.5


def distances(tx, steps):
    """The distance from the equilibrium of ``min over x, max over y of x * y`` after every simultaneous step."""

    def step(carry, _):
        (x, y), state = carry
        updates, state = tx.update((y, -x), state)
        x, y = gradlab.apply_updates((x, y), updates)
        return ((x, y), state), jnp.hypot(x, y)

    start = (jnp.array(3.0), jnp.array(4.0))
    return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]


def test_in_the_bilinear_game_optimism_spirals_inwards_and_plain_descent_outwards():
    """The slower root of z^2 - (1 - 2 i lr) z - i lr = 0 is the factor by which the distance shrinks."""
    rate, steps = 0.2, 400
    np.testing.assert_allclose(distances(sgd(rate), steps)[-1], 5 * (1 + rate**2) ** (steps / 2), rtol=1e-10)
    optimistic = np.asarray(distances(optimistic_gradient_descent(rate), steps))
    assert optimistic[-1] < 1e-2
    slowest = np.max(np.abs(np.roots([1, -(1 - 2j * rate), -1j * rate])))
    np.testing.assert_allclose(optimistic[-1] / optimistic[-2], slowest, rtol=1e-6)


def test_noisy_sgd_draws_the_noise_of_optax():
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(noisy_sgd(falling, 0.3, 0.5, 7), params, grads)
    chex.assert_trees_all_close(ours, run(optax.noisy_sgd(falling, 0.3, 0.5, 7), params, grads)[0], rtol=1e-10)


def test_without_noise_noisy_sgd_is_sgd_and_with_it_the_step_is_noised():
    params, grads = mixed_tree(), mixed_grads()
    chex.assert_trees_all_equal(run(noisy_sgd(LR, 0.0), params, grads)[0], run(sgd(LR), params, grads)[0])
    tx, many = noisy_sgd(0.5, eta=0.04, key=3), jnp.zeros(40_000)
    updates, _ = tx.update(many, tx.init(many))
    assert abs(float(jnp.std(updates)) / (0.5 * 0.2) - 1) < 5 / np.sqrt(2 * many.size)
    other, _ = noisy_sgd(0.5, eta=0.04, key=4).update(many, noisy_sgd(0.5, eta=0.04, key=4).init(many))
    assert abs(np.corrcoef(updates, other)[0, 1]) < 5 / np.sqrt(many.size)


BAD = [
    (optimistic_gradient_descent, {"alpha": -1.0}, "`alpha` must be"),
    (optimistic_gradient_descent, {"beta": -1.0}, "`beta` must be"),
    (optimistic_adam, {"optimism": -1.0}, "`optimism` must be"),
    (optimistic_adam_v2, {"b1": 1.0}, "`b1` must be"),
    (noisy_sgd, {"eta": -1.0}, "`eta` must be"),
    (noisy_sgd, {"key": 1, "seed": 1}, "`key` or `seed`"),
]


@pytest.mark.parametrize(("make", "values", "message"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(LR, **values)
