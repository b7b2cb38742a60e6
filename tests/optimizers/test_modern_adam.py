"""Descendants of Adam against the NumPy oracles, and the laws that single them out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab.optimizers.adam import adamw
from gradlab.optimizers.ademamix import ademamix, ademamix_alpha_schedule, ademamix_b3_schedule
from gradlab.optimizers.simplified_ademamix import simplified_ademamix
from tests.oracles import modern_adam as oracle
from tests.trajectories import STEPS, mixed_grads, mixed_tree, run

LR = 0.01
DECAYS = ["decoupled", "coupled", "independent"]


def falling(count):
    return 0.1 / (1 + count)


def falling_from_1(t):
    return falling(t - 1)


def agree(tx, rule, *args, **hyper):
    """``tx`` moves every leaf of the mixed tree as the oracle does; a dict of hyperparameters differs by rank."""
    params, grads = mixed_tree(), mixed_grads()
    positions, _ = run(tx, params, grads)
    expected = [
        rule(
            np.asarray(p),
            np.asarray(g),
            *args,
            **{k: v[p.ndim] if isinstance(v, dict) else v for k, v in hyper.items()},
        )
        for p, g in zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True)
    ]
    expected = np.concatenate([rows.reshape(STEPS, -1) for rows in expected], axis=1)
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "mode", [{}, {"b1": 0.5, "b2": 0.9, "b3": 0.99, "alpha": 2.0, "eps": 0.1, "eps_root": 1e-2}], ids=str
)
def test_ademamix_is_the_papers(mode):
    agree(ademamix(LR, **mode), oracle.ademamix, LR, **mode)


@pytest.mark.parametrize("decay", DECAYS)
def test_ademamix_decays_in_three_ways(decay):
    agree(ademamix(LR, weight_decay=0.1, decay=decay), oracle.ademamix, LR, weight_decay=0.1, decay=decay)
    agree(
        simplified_ademamix(LR, weight_decay=0.1, decay=decay),
        oracle.simplified_ademamix,
        LR,
        weight_decay=0.1,
        decay=decay,
    )


def test_ademamix_follows_the_papers_schedules_from_its_step_1():
    T = 30
    agree(
        ademamix(falling, alpha=ademamix_alpha_schedule(8.0, T), b3=ademamix_b3_schedule(0.9, 0.999, T)),
        oracle.ademamix,
        falling_from_1,
        alpha=lambda t: oracle.ademamix_alpha(t, 8.0, T),
        b3=lambda t: oracle.ademamix_b3(t, 0.9, 0.999, T),
    )


@pytest.mark.parametrize("b3", [0.99, 0.9999])
def test_the_schedule_of_b3_is_a_line_in_the_half_life(b3):
    T, counts = 100, np.arange(200)
    values = np.asarray(jax.vmap(ademamix_b3_schedule(0.9, b3, T))(counts))
    np.testing.assert_allclose(values, [oracle.ademamix_b3(t + 1, 0.9, b3, T) for t in counts], rtol=1e-12)
    np.testing.assert_allclose(values, [oracle.ademamix_b3_closed_form(t + 1, 0.9, b3, T) for t in counts], rtol=1e-12)
    halves = np.log(0.5) / np.log(values[: T - 1])
    np.testing.assert_allclose(np.diff(halves), np.diff(halves)[0], rtol=1e-7)


def test_a_schedule_counted_from_zero_lags_by_one_step():
    for make, values in ((ademamix_alpha_schedule, (8.0, 10.0)), (ademamix_b3_schedule, (0.9, 0.999, 10.0))):
        paper, optaxs = make(*values), make(*values, first=0.0)
        counts = np.arange(15)
        chex.assert_trees_all_close(jax.vmap(optaxs)(counts + 1), jax.vmap(paper)(counts), rtol=1e-14)
    assert ademamix_alpha_schedule(8.0, 10.0, first=0.0)(0) == 0.0
    np.testing.assert_allclose(ademamix_b3_schedule(0.9, 0.999, 10.0, first=0.0)(0), 0.9, rtol=1e-14)


def test_the_numbers_of_the_schedules_are_swept_and_differentiated():
    lanes = gradlab.population(
        lambda steps: ademamix(
            LR, alpha=ademamix_alpha_schedule(8.0, steps), b3=ademamix_b3_schedule(0.9, 0.999, steps)
        ),
        steps=np.array([5.0, 40.0]),
    )
    params, rows = jnp.ones(2), jnp.linspace(1.0, 2.0, 8)[:, None] * jnp.ones(2)
    both = jax.vmap(lambda tx: gradlab_run(tx, params, rows))(lanes)
    alone = ademamix(LR, alpha=ademamix_alpha_schedule(8.0, 40.0), b3=ademamix_b3_schedule(0.9, 0.999, 40.0))
    chex.assert_trees_all_close(both[1], gradlab_run(alone, params, rows), rtol=1e-12)
    assert np.all(both[0] != both[1])
    last = lambda steps: ademamix_b3_schedule(0.9, 0.999, steps)(4)
    np.testing.assert_allclose(jax.grad(last)(20.0), (last(20.001) - last(19.999)) / 0.002, rtol=1e-6)


def gradlab_run(tx, params, rows):
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gradlab.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]


def test_ademamix_without_a_slow_average_is_adamw():
    params, grads = mixed_tree(), mixed_grads()
    ours, _ = run(ademamix(LR, alpha=0.0, weight_decay=0.1), params, grads)
    chex.assert_trees_all_close(ours, run(adamw(LR, weight_decay=0.1), params, grads)[0], rtol=1e-12)


@pytest.mark.parametrize("mode", [{}, {"b1": 0.9, "b2": 0.999, "alpha": 3.0, "eps": 0.1, "eps_root": 1e-2}], ids=str)
def test_simplified_ademamix_is_the_papers(mode):
    agree(simplified_ademamix(LR, **mode), oracle.simplified_ademamix, LR, **mode)


def test_simplified_ademamix_takes_a_schedule_of_alpha():
    alpha = gradlab.linear_schedule(4.0, 0.0, 20)
    agree(
        simplified_ademamix(falling, alpha=alpha),
        oracle.simplified_ademamix,
        falling_from_1,
        alpha=lambda t: max(4.0 * (1 - (t - 1) / 20), 0.0),
    )


BAD_VALUES = [
    (ademamix, {"b3": 1.0}, "`b3` must be in"),
    (ademamix, {"alpha": -1.0}, "`alpha` must be"),
    (ademamix, {"decay": "l2"}, "unknown decay"),
    (simplified_ademamix, {"b1": 1.0}, "`b1` must be in"),
    (simplified_ademamix, {"weight_decay": -0.1}, "`weight_decay` must be"),
]


@pytest.mark.parametrize("make, values, message", BAD_VALUES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(LR, **values)


def test_bad_values_of_the_schedules_are_named():
    with pytest.raises(ValueError, match="`b1` must be in"):
        ademamix_b3_schedule(0.0, 0.999, 10)
    with pytest.raises(ValueError, match="`steps` must be > 0"):
        ademamix_alpha_schedule(8.0, 0)
    with pytest.raises(ValueError, match="`first` must be >= 0"):
        ademamix_alpha_schedule(8.0, 10, first=-1)
