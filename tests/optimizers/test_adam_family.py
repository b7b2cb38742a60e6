"""The Adam family against the NumPy oracles, and the wrong forms that the oracles must reject."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.optimizers.adam import adam, adamw
from gradlab.optimizers.adamax import adamax, adamaxw
from gradlab.optimizers.amsgrad import amsgrad
from gradlab.optimizers.nadam import nadam, nadamw
from gradlab.optimizers.radam import radam
from gradlab.optimizers.sadam import sadam, samsgrad
from tests.oracles import adam_family as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01
DECAYS = ["decoupled", "coupled", "independent"]


def agree(tx, expected):
    positions, _ = run(tx, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


def given():
    return flat(mixed_tree()), flat(mixed_grads(), rows=STEPS)


ADAM_MODES = [
    {},
    {"b1": 0.0, "b2": 0.5},
    {"eps": 0.1},
    {"eps": 0.0},
    {"eps_root": 1e-2},
    {"nesterov": True},
    {"bias_correction": False},
    {"nesterov": True, "bias_correction": False},
    {"eps": 1e-2, "eps_on": "nu"},
    {"eps": 1e-2, "eps_root": 1e-3, "eps_on": "nu", "bias_correction": False},
]


@pytest.mark.parametrize("mode", ADAM_MODES, ids=str)
def test_adam_is_the_papers(mode):
    agree(adam(LR, **mode), oracle.adam(*given(), LR, **mode))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("mode", [{}, {"nesterov": True}, {"eps": 1e-2, "eps_on": "nu"}], ids=str)
def test_adamw_decays_in_three_ways(decay, mode):
    expected = oracle.adam(*given(), LR, weight_decay=0.1, decay=decay, **mode)
    agree(adamw(LR, weight_decay=0.1, decay=decay, **mode), expected)


def test_nadam_is_adam_with_the_look_ahead():
    agree(nadam(LR), oracle.adam(*given(), LR, nesterov=True))
    agree(nadamw(LR, weight_decay=0.1), oracle.adam(*given(), LR, nesterov=True, weight_decay=0.1))


@pytest.mark.parametrize("max_of", ["nu_hat", "nu"])
@pytest.mark.parametrize("correct_nu", [True, False])
@pytest.mark.parametrize("correct_mu", [True, False])
def test_amsgrad_is_the_papers(correct_mu, correct_nu, max_of):
    mode = {"bias_correction_mu": correct_mu, "bias_correction_nu": correct_nu, "max_of": max_of}
    mode |= {"b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}
    agree(amsgrad(LR, **mode), oracle.amsgrad(*given(), LR, **mode))


@pytest.mark.parametrize("mode", [{}, {"b1": 0.5, "b2": 0.8, "eps": 0.1}], ids=str)
def test_adamax_is_the_papers(mode):
    agree(adamax(LR, **mode), oracle.adamax(*given(), LR, **mode))


@pytest.mark.parametrize("decay", DECAYS)
def test_adamaxw_decays_in_three_ways(decay):
    agree(adamaxw(LR, weight_decay=0.1, decay=decay), oracle.adamax(*given(), LR, weight_decay=0.1, decay=decay))


RADAM_MODES = [
    {},
    {"b2": 0.9},
    {"b2": 0.5},
    {"b2": 0.9999},
    {"threshold": 4.0},
    {"threshold": 12.5, "unrectified": "skip"},
    {"eps": 1e-2, "eps_root": 1e-3},
    {"eps": 1e-2, "eps_on": "nu"},
    {"nesterov": True},
]


@pytest.mark.parametrize("mode", RADAM_MODES, ids=str)
def test_radam_is_the_papers(mode):
    agree(radam(LR, **mode), oracle.radam(*given(), LR, **mode))


SADAM_MODES = [
    {},
    {"convention": "paper"},
    {"beta": 2.0},
    {"beta": 2.0, "convention": "paper", "eps_root": 1e-2},
    {"b1": 0.5, "b2": 0.9, "eps_root": 1e-2},
]


@pytest.mark.parametrize("mode", SADAM_MODES, ids=str)
def test_sadam_and_samsgrad_are_the_papers_and_the_authors(mode):
    agree(sadam(LR, **mode), oracle.sadam(*given(), LR, **mode))
    agree(samsgrad(LR, **mode), oracle.sadam(*given(), LR, amsgrad=True, **mode))


@pytest.mark.parametrize("decay", DECAYS)
def test_sadam_decays_in_three_ways(decay):
    mode = {"weight_decay": 0.1, "decay": decay}
    agree(sadam(LR, **mode), oracle.sadam(*given(), LR, **mode))
    agree(samsgrad(LR, **mode), oracle.sadam(*given(), LR, amsgrad=True, **mode))


def test_defaults_of_the_softplus_family_are_the_authors():
    agree(sadam(), oracle.sadam(*given(), 0.1, 0.9, 0.999, 50.0, convention="official", decay="coupled"))
    agree(samsgrad(weight_decay=0.1), oracle.sadam(*given(), 0.1, amsgrad=True, weight_decay=0.1, decay="coupled"))


def test_the_dtype_of_mu_is_honoured():
    grads, params = jax.tree.map(lambda rows: rows[0], mixed_grads()), mixed_tree()
    rounded = jax.tree.map(lambda g: ((1 - 0.9) * g).astype(jnp.bfloat16), grads)
    for make in (adam, adamw, nadam, amsgrad, sadam, samsgrad):
        tx = make(LR, mu_dtype="bfloat16")
        _, state = tx.update(grads, tx.init(params), params)
        chex.assert_trees_all_equal(optax.tree.get(state, "mu"), rounded)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(optax.tree.get(state, "nu")))


BAD_VALUES = [
    (adam, {"b1": 1.0}, "`b1` must be in"),
    (adam, {"eps_on": "v"}, "unknown eps_on"),
    (adamw, {"decay": "l2"}, "unknown decay"),
    (adamw, {"weight_decay": -0.1}, "`weight_decay` must be"),
    (amsgrad, {"b2": -0.1}, "`b2` must be in"),
    (amsgrad, {"max_of": "v"}, "unknown max_of"),
    (adamax, {"eps": -1.0}, "`eps` must be"),
    (adamaxw, {"decay": "none"}, "unknown decay"),
    (radam, {"threshold": 3.0}, "`threshold` must be >= 4"),
    (radam, {"eps_on": "v"}, "unknown eps_on"),
    (radam, {"unrectified": "sgd"}, "unknown unrectified"),
    (sadam, {"beta": 0.0}, "`beta` must be > 0"),
    (sadam, {"decay": "l2", "weight_decay": 0.1}, "unknown decay"),
    (samsgrad, {"convention": "pytorch"}, "unknown convention"),
]


@pytest.mark.parametrize("make, values, message", BAD_VALUES, ids=lambda value: getattr(value, "__name__", None))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(LR, **values)
    with pytest.raises(ValueError, match="`learning_rate` must be >= 0"):
        make(-LR)


def falling_b1(count):
    return 0.9 - 0.1 * count


@pytest.mark.parametrize("make", [adam, amsgrad, adamax, radam, sadam, samsgrad], ids=lambda make: make.__name__)
def test_schedules_and_prefix_trees_are_read_by_every_rule(make):
    rows = jnp.linspace(1.0, 2.0, 4)[:, None] * jnp.ones(2)
    alone = lambda learning_rate, b1: run(make(learning_rate, b1=b1), jnp.ones(2), rows)[0]
    params, grads = {"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": rows, "b": rows}
    both, _ = run(make({"a": 0.1, "b": 0.2}, b1={"a": 0.5, "b": 0.9}), params, grads)
    chex.assert_trees_all_close(both, np.hstack([alone(0.1, 0.5), alone(0.2, 0.9)]), rtol=1e-14)
    scheduled, constant = alone(0.1, falling_b1), alone(0.1, falling_b1(0))
    chex.assert_trees_all_close(scheduled[0], constant[0], rtol=1e-14)
    assert np.all(scheduled[1:] != constant[1:])


def wrong_adam(p, grads, *, error, learning_rate=LR, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    """Adam with one published or tempting error."""
    m, v, rows = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (g if error == "no (1 - b1)" else (1 - b1) * g)
        v = b2 * v + (g**2 if error == "no (1 - b2)" else (1 - b2) * g**2)
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        if error == "no bias correction":
            m_hat, v_hat = m, v
        update = m_hat / (np.sqrt(v_hat) + eps)
        if error == "parenthesis lost":
            update = m_hat / np.sqrt(v_hat) + eps
        if error == "square root lost":
            update = m_hat / (v_hat + eps)
        sign = -1 if error == "decay grows" else 1
        p = p - learning_rate * (update + sign * weight_decay * p)
        rows.append(p)
    return np.stack(rows)


ERRORS = {
    "no bias correction": 0.3,
    "no (1 - b1)": 1.0,
    "no (1 - b2)": 0.3,
    "square root lost": 1.0,
    "decay grows": 0.01,
}


@pytest.mark.parametrize("error, margin", ERRORS.items())
def test_wrong_forms_of_adam_are_rejected(error, margin):
    p, grads = given()
    right = oracle.adam(p, grads, LR, weight_decay=0.1)
    np.testing.assert_allclose(wrong_adam(p, grads, error=None, weight_decay=0.1), right, rtol=1e-12)
    wrong = wrong_adam(p, grads, error=error, weight_decay=0.1)
    assert np.max(np.abs(wrong - right)[-1]) > margin * np.max(np.abs(right - p)[-1])


def test_document_003_adam_without_bias_correction_starts_3_times_too_long():
    p, grads = given()
    wrong = wrong_adam(p, grads, error="no bias correction", eps=0.0)
    ratio = (wrong[0] - p) / (oracle.adam(p, grads[:1], LR, eps=0.0)[0] - p)
    np.testing.assert_allclose(ratio, (1 - 0.9) / math.sqrt(1 - 0.999), rtol=1e-10)
    np.testing.assert_allclose(ratio, 3.1623, rtol=1e-4)
    agree(adam(LR, eps=0.0, bias_correction=False), wrong)


def test_document_003_a_lost_parenthesis_adds_eps_to_the_step():
    """As written, ``m / (sqrt(v)) + 1e-7``: eps no longer bounds the step on a gradient of its own size."""
    p, grads = np.zeros(1), np.full((5, 1), 1e-7)
    steps = np.arange(1, 6)
    right, _ = run(adam(LR, eps=1e-7), jnp.asarray(p), jnp.asarray(grads))
    np.testing.assert_allclose(right[:, 0], -LR / 2 * steps, rtol=1e-6)
    wrong = wrong_adam(p, grads, error="parenthesis lost", eps=1e-7)
    np.testing.assert_allclose(wrong[:, 0], -LR * steps, rtol=1e-6)


def test_document_004_adam_that_subtracts_the_second_moment_moves_one_way_only():
    """As written, ``m = b1 * m - a * v_hat``, ``p = p - a * m``: no sign of any gradient enters."""
    p, grads = given()
    m, v, q = np.zeros_like(p), np.zeros_like(p), p
    for t, g in enumerate(grads, start=1):
        v = 0.999 * v + 0.001 * g**2
        m = 0.9 * m - LR * v / (1 - 0.999**t)
        q = q - LR * m
    assert np.all(q > p)
    down = np.abs(grads)
    right, _ = run(adam(LR), mixed_tree(), jax.tree.map(jnp.abs, mixed_grads()))
    assert np.all(right[-1] < p - LR)
    np.testing.assert_allclose(right, oracle.adam(p, down, LR), rtol=1e-11)
