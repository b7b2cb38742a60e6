"""signSGD, Signum and Lion: oracles, Optax beside them, laws, and wrong forms that must be rejected."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.optimizers.sign import lion, scale_by_lion, scale_by_sign, sign_sgd, signum
from gradlab.transforms.scaling import scale_by_learning_rate
from tests.oracles import adam_family as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR = 0.01


def agree(tx, expected):
    positions, _ = run(tx, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(positions, expected, rtol=1e-12, atol=1e-14)


def given():
    return flat(mixed_tree()), flat(mixed_grads(), rows=STEPS)


def test_sign_sgd_is_the_papers():
    agree(sign_sgd(LR), oracle.sign_sgd(*given(), LR))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_signum_is_the_papers(beta):
    agree(signum(LR, beta), oracle.signum(*given(), LR, beta))


LION_MODES = [
    {},
    {"b1": 0.5, "b2": 0.8, "weight_decay": 0.1},
    {"weight_decay": 0.1, "decay": "coupled"},
    {"weight_decay": 0.1, "decay": "independent"},
    {"mode": "smooth", "smooth_beta": 3.0},
    {"mode": "refined"},
]


@pytest.mark.parametrize("mode", LION_MODES, ids=str)
def test_lion_is_the_papers(mode):
    mode = {"weight_decay": 1e-3} | mode
    agree(lion(LR, **mode), oracle.lion(*given(), LR, **mode))


def falling(count):
    return 0.1 / (1 + count)


BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}
OPTAX_PAIRS = [
    (sign_sgd(LR), optax.sign_sgd(LR)),
    (sign_sgd(falling), optax.sign_sgd(falling)),
    (scale_by_sign(), optax.scale_by_sign()),
    (signum(LR), optax.signum(LR)),
    (signum(falling, 0.5), optax.signum(falling, 0.5)),
    (lion(LR), optax.lion(LR)),
    (lion(falling, 0.5, 0.8, None, 0.1, BIASES), optax.lion(falling, 0.5, 0.8, None, 0.1, BIASES)),
    (scale_by_lion(mode="smooth", smooth_beta=3.0), optax.scale_by_lion(mode="smooth", smooth_beta=3.0)),
    (scale_by_lion(mode="refined"), optax.scale_by_lion(mode="refined")),
]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("ours, optaxs", OPTAX_PAIRS, ids=range(len(OPTAX_PAIRS)))
def test_positions_and_states_are_those_of_optax(ours, optaxs, dtype):
    params, grads = mixed_tree(dtype=dtype), mixed_grads(dtype=dtype)
    mine, theirs = run(ours, params, grads), run(optaxs, params, grads)
    chex.assert_trees_all_close(mine, theirs, rtol=1e-12, atol=1e-14)
    chex.assert_trees_all_equal_dtypes(mine[1], theirs[1])


def test_signum_is_lion_with_one_beta():
    agree(lion(LR, 0.9, 0.9, weight_decay=0.0), oracle.signum(*given(), LR, 0.9))


def test_lion_forgets_all_but_the_gradient_at_b1_zero():
    agree(lion(LR, 0.0, 0.9, weight_decay=0.0), oracle.sign_sgd(*given(), LR))


@pytest.mark.parametrize("make", [sign_sgd, signum, lion], ids=lambda make: make.__name__)
def test_only_signs_of_gradients_count(make):
    grads = mixed_grads()
    plain, _ = run(make(LR), mixed_tree(), grads)
    scaled, _ = run(make(LR), mixed_tree(), jax.tree.map(lambda g: 1024 * g, grads))
    chex.assert_trees_all_equal(scaled, plain)


@pytest.mark.parametrize("make", [sign_sgd, signum, lion], ids=lambda make: make.__name__)
def test_a_zero_gradient_does_not_move_and_a_none_gradient_keeps_its_buffers(make):
    params = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    tx = make(LR)
    state = tx.init(params)
    updates, after = tx.update({"a": jnp.zeros(2), "b": None}, state, params)
    assert updates["b"] is None
    chex.assert_trees_all_equal(updates["a"], jnp.zeros(2))
    chex.assert_trees_all_equal_structs(after, state)


def test_the_soft_signs_of_lion_meet_the_hard_one():
    x = jnp.array([-7.0, -0.5, 0.0, 1e-3, 0.5, 7.0])
    hard, smooth, refined, steep = (
        scale_by_lion(0.0, mode=mode, smooth_beta=slope).update(x, scale_by_lion().init(x))[0]
        for mode, slope in [("hard", 1.0), ("smooth", 1.0), ("refined", 1.0), ("smooth", 1e6)]
    )
    chex.assert_trees_all_close(steep, hard)
    chex.assert_trees_all_close(smooth, np.tanh(x), rtol=1e-13)
    chex.assert_trees_all_equal(refined, jnp.clip(x, -1.0, 1.0))


def test_the_dtype_of_the_average_is_honoured():
    params, grads = mixed_tree(), jax.tree.map(lambda rows: rows[0], mixed_grads())
    _, state = (tx := lion(LR, mu_dtype="bfloat16")).update(grads, tx.init(params), params)
    expected = jax.tree.map(lambda g: ((1 - 0.99) * g).astype(jnp.bfloat16), grads)
    chex.assert_trees_all_equal(optax.tree.get(state, "mu"), expected)
    _, state = (tx := signum(LR, accumulator_dtype="float32")).update(grads, tx.init(params), params)
    expected = jax.tree.map(lambda g: ((1 - 0.9) * g).astype(jnp.float32), grads)
    chex.assert_trees_all_equal(state[0].ema, expected)


BAD_VALUES = [
    (signum, {"beta": 1.0}, "`beta` must be in"),
    (lion, {"b1": -0.1}, "`b1` must be in"),
    (lion, {"mode": "soft"}, "unknown mode"),
    (lion, {"smooth_beta": 0.0}, "`smooth_beta` must be > 0"),
    (lion, {"decay": "l2"}, "unknown decay"),
    (sign_sgd, {"learning_rate": -1.0}, "`learning_rate` must be"),
    (signum, {"learning_rate": -1.0}, "`learning_rate` must be"),
    (lion, {"learning_rate": -1.0}, "`learning_rate` must be"),
]


@pytest.mark.parametrize("make, values, message", BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(**{"learning_rate": LR} | values)


def wrong_lion(p, grads, *, error, b1=0.9, b2=0.99, weight_decay=0.1):
    """Lion with one tempting error."""
    m, rows = np.zeros_like(p), []
    for g in grads:
        if error == "average first":
            m = b2 * m + (1 - b2) * g
        first, second = (b2, b1) if error == "betas swapped" else (b1, b2)
        update = np.sign(first * m + (1 - first) * g)
        if error != "average first":
            m = second * m + (1 - second) * g
        sign = -1 if error == "decay grows" else 1
        p = p - LR * (update + sign * weight_decay * p)
        rows.append(p)
    return np.stack(rows)


@pytest.mark.parametrize("error", ["average first", "betas swapped", "decay grows"])
def test_wrong_forms_of_lion_are_rejected(error):
    p, grads = given()
    right = oracle.lion(p, grads, LR, weight_decay=0.1)
    np.testing.assert_allclose(wrong_lion(p, grads, error=None), right, rtol=1e-13)
    assert np.max(np.abs(wrong_lion(p, grads, error=error) - right)) > LR


def test_the_stages_make_the_optimizer():
    stages = chain(scale_by_lion(), scale_by_learning_rate(LR))
    agree(stages, oracle.lion(*given(), LR))
