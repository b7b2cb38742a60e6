"""Sophia beside Optax and its oracles, and what its two estimates estimate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from gradlab.core.transform import from_optax
from gradlab.optimizers.hessian_diagonal import gauss_newton_bartlett, hutchinson_estimator_diag_hessian
from gradlab.optimizers.sophia import scale_by_sophia, sophia
from tests.losses import SIZE, minimise, quartic, quartic_gradient, quartic_hessian
from tests.oracles import sophia as oracle
from tests.trajectories import flat, mixed_tree

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}
MODES = [
    {},
    {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "gamma": 0.3, "update_interval": 3},
    {"weight_decay": 0.1, "weight_decay_mask": BIASES, "gamma": 0.3},
    {"clip_threshold": None, "eps": 0.5, "gamma": 0.3},
    {"clip_threshold": 0.2, "learning_rate": lambda count: 0.1 / (1 + count), "mu_dtype": "float32"},
]


@pytest.mark.parametrize("mode", MODES, ids=range(len(MODES)))
def test_positions_and_states_are_those_of_optax(mode):
    mode = {"learning_rate": LR} | mode
    ours = minimise(sophia(**mode), quartic, mixed_tree(), 50)
    optaxs = minimise(optax.contrib.sophia(**mode), quartic, mixed_tree(), 50)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-6 if "mu_dtype" in mode else 1e-10, atol=1e-13)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours[1], optaxs[1])


def test_the_keys_are_those_of_optax_and_an_estimator_of_optax_may_take_the_place_of_ours():
    theirs = optax.contrib.hutchinson_estimator_diag_hessian(jax.random.key(7))
    options = {"update_interval": 2, "gamma": 0.3}
    with_ours = sophia(LR, hessian_diagonal_fn=hutchinson_estimator_diag_hessian(7), **options)
    with_theirs = sophia(LR, hessian_diagonal_fn=theirs, **options)
    ours, state = minimise(with_ours, quartic, mixed_tree(), 8)
    np.testing.assert_allclose(ours, minimise(with_theirs, quartic, mixed_tree(), 8)[0], rtol=1e-12)
    key = jax.random.PRNGKey(7)
    for _ in range(4):
        key, _ = jax.random.split(key)
    np.testing.assert_array_equal(state[0].hessian_fn_state.key, key)


def diagonal_of(h):
    """An estimator that is exact: for the oracle, which draws no signs."""
    return from_optax(optax.stateless(lambda updates, params: h(params)))


def exact_diagonal(params):
    x, unravel = ravel_pytree(params)
    return unravel(jnp.diag(jax.hessian(quartic)(x)))


def test_positions_are_those_of_the_oracle():
    hyper = {"b1": 0.9, "b2": 0.8, "eps": 1e-2, "gamma": 0.5, "weight_decay": 0.1}
    tx = sophia(LR, **hyper, update_interval=4, hessian_diagonal_fn=diagonal_of(exact_diagonal))
    ours, _ = minimise(tx, quartic, mixed_tree(), 50)
    exact = oracle.sophia_h(
        flat(mixed_tree()),
        quartic_gradient,
        lambda p, t: np.diag(quartic_hessian(p)),
        50,
        lr=LR,
        threshold=1.0,
        every=4,
        **hyper,
    )
    np.testing.assert_allclose(ours, exact, rtol=1e-10, atol=1e-13)


def vector(params):
    return ravel_pytree(params)[0]


RHO, BATCH = 0.04, 32.0


def sampled_loss(params, key):
    """Its gradient is ``x + noise`` of a key: another one each time."""
    x = vector(params)
    return x @ x / 2 + x @ jax.random.normal(key, x.shape)


def test_with_gauss_newton_bartlett_it_is_the_program_of_the_authors():
    tx = sophia(
        LR,
        eps=1e-15,
        weight_decay=0.1,
        gamma=RHO,
        update_interval=5,
        hessian_diagonal_fn=gauss_newton_bartlett(3, BATCH),
        bias_correction=False,
        denominator="sum",
    )
    ours, _ = minimise(tx, quartic, mixed_tree(), 50, sampled_loss_fn=jax.tree_util.Partial(sampled_loss))
    key, noise = jax.random.PRNGKey(3), []
    for _ in range(10):
        key, sample = jax.random.split(key)
        noise.append(np.asarray(jax.random.normal(sample, (SIZE,))))
    exact = oracle.sophia_g(
        flat(mixed_tree()),
        quartic_gradient,
        lambda p, t: p + noise[t // 5],
        50,
        lr=LR,
        b1=0.965,
        b2=0.99,
        rho=RHO,
        batch_size=BATCH,
        every=5,
        weight_decay=0.1,
    )
    np.testing.assert_allclose(ours, exact, rtol=1e-10, atol=1e-13)


def estimates(tx, params, draws, **extra):
    keys = jax.random.split(jax.random.key(0), draws)
    states = jax.vmap(lambda key: optax.contrib.HutchinsonState(jax.random.key_data(key)))(keys)
    zeros = jax.tree.map(jnp.zeros_like, params)
    estimate = lambda state: vector(tx.update(zeros, state, params, **extra)[0])
    return np.asarray(jax.jit(jax.vmap(estimate))(states))


def test_hutchinson_is_exact_on_a_diagonal_hessian():
    loss = lambda params: jnp.sum(vector(params) ** 4)
    h = estimates(hutchinson_estimator_diag_hessian(), mixed_tree(), 3, value_fn=loss)
    np.testing.assert_allclose(h, np.stack([12 * flat(mixed_tree()) ** 2] * 3), rtol=1e-12)


def test_hutchinson_is_unbiased_and_its_variance_is_that_of_the_entries_beside_the_diagonal():
    draws, matrix = 4000, quartic_hessian(flat(mixed_tree()))
    h = estimates(hutchinson_estimator_diag_hessian(), mixed_tree(), draws, value_fn=quartic)
    variance = np.sum(matrix**2, axis=1) - np.diag(matrix) ** 2
    deviations = (h.mean(0) - np.diag(matrix)) / np.sqrt(variance / draws)
    assert np.max(np.abs(deviations)) < 4.5
    np.testing.assert_allclose(h.var(0), variance, rtol=0.2)


INPUTS = np.random.default_rng(4).normal(size=(16, 3))


def sampled_cross_entropy(weights, key):
    """Softmax regression on labels drawn from its own predictions, as in the docstring of the estimator."""
    logits = INPUTS @ weights
    labels = jax.random.categorical(key, jax.lax.stop_gradient(logits))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def test_gauss_newton_bartlett_estimates_the_diagonal_of_the_gauss_newton_matrix():
    weights, draws = jnp.asarray(np.random.default_rng(5).normal(size=(3, 4))), 8000
    h = estimates(gauss_newton_bartlett(batch_size=16.0), weights, draws, sampled_loss_fn=sampled_cross_entropy)
    chances = np.asarray(jax.nn.softmax(INPUTS @ weights))
    exact = np.mean(INPUTS[:, :, None] ** 2 * (chances * (1 - chances))[:, None, :], axis=0)
    deviations = (h.mean(0) - exact.ravel()) / (h.std(0) / np.sqrt(draws))
    assert np.max(np.abs(deviations)) < 4.5
    assert np.max(h.std(0) / np.sqrt(draws) / exact.ravel()) < 0.05


def test_lanes_skip_the_estimate_together_where_the_step_is_known():
    tx, params = scale_by_sophia(), jnp.ones((4, 3))
    states = jax.vmap(tx.init)(params)
    loss = lambda p: jnp.sum(p**4)

    def lanes(step):
        update = lambda p, state: tx.update(p, state, p, value_fn=loss, **({} if step is None else {"step": step}))
        return jax.vmap(update)(params, states)

    assert "cond[" in str(jax.make_jaxpr(lanes)(jnp.int32(0)))
    assert "cond[" not in str(jax.make_jaxpr(lambda: lanes(None))())
    assert np.all(lanes(jnp.int32(10))[1].nu > 0) and not np.any(lanes(jnp.int32(11))[1].nu)


def test_the_estimate_is_made_in_the_first_step_of_every_interval():
    path = []
    tx, params = scale_by_sophia(update_interval=3, b2=0.5), jnp.array([2.0])
    state = tx.init(params)
    for _ in range(7):
        _, state = tx.update(params, state, params, value_fn=lambda p: jnp.sum(p**2))
        path.append(float(state.nu[0]))
    np.testing.assert_allclose(path, [1.0] * 3 + [1.5] * 3 + [1.75])


def test_obj_fn_is_what_optax_calls_the_loss():
    params, tx = jnp.array([1.0, 2.0]), scale_by_sophia(b2=0.0)
    by_name = [
        tx.update(params, tx.init(params), params, **{name: lambda p: jnp.sum(p**3)})[1].nu
        for name in ("obj_fn", "value_fn")
    ]
    np.testing.assert_allclose(by_name, [[6.0, 12.0]] * 2)
    both = tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p**3), value_fn=lambda p: jnp.sum(p))
    np.testing.assert_allclose(both[1].nu, [6.0, 12.0])


def test_parameters_without_a_gradient_keep_their_diagonal_and_do_not_move_that_of_the_others():
    params = {"a": jnp.array(1.0), "b": jnp.array(2.0)}
    loss = lambda p: p["a"] ** 2 + 5 * p["a"] * p["b"]
    tx = scale_by_sophia(b2=0.0)
    updates, state = tx.update({"a": jnp.array(1.0), "b": None}, tx.init(params), params, value_fn=loss)
    assert updates["b"] is None
    assert float(state.nu["a"]) == 2.0 and float(state.nu["b"]) == 0.0


def test_the_win_rate_is_printed_when_asked_for(capsys):
    tx = scale_by_sophia(b1=0.0, b2=0.0, gamma=1.0, verbose=True, print_win_rate_every_n_steps=2)
    params = jnp.array([0.5, 3.0])
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params, value_fn=lambda p: jnp.sum(p**2))
    jax.effects_barrier()
    assert capsys.readouterr().out == "sophia: step 2, win rate 0.5\n"


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (None, "hutchinson_estimator_diag_hessian needs the loss.*value_fn="),
        (gauss_newton_bartlett(), "gauss_newton_bartlett needs the loss on labels.*sampled_loss_fn="),
    ],
)
def test_a_missing_loss_is_named(estimator, message):
    tx = sophia(LR, hessian_diagonal_fn=estimator)
    with pytest.raises(ValueError, match=message):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize(
    ("values", "named"), [({"update_interval": 0}, "update_interval"), ({"denominator": "plus"}, "denominator")]
)
def test_impossible_values_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        sophia(LR, **values)
