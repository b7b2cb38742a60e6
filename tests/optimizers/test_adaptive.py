"""AdaGrad, AdaDelta, RMSProp, Rprop and delta-bar-delta: oracles, and parity with Optax and PyTorch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.core.update import eval_params
from gradlab.core.values import hyperparams, population
from gradlab.optimizers.adagrad import adadelta, adagrad, scale_by_adadelta, scale_by_rss
from gradlab.optimizers.per_weight import delta_bar_delta, rprop, scale_by_rprop
from gradlab.optimizers.rmsprop import rmsprop, rmsprop_nesterov, scale_by_rms, scale_by_stddev
from gradlab.transforms.decay import add_decayed_weights
from tests.oracles import adaptive as oracle
from tests.oracles.runs import NOISE, PARAMS, STEPS, by_oracle, by_torch, by_transform

LR = 0.05


def falling_lr(count):
    return LR * (1 - 0.9 * count / STEPS)


def same(one, other, rtol=1e-10):
    chex.assert_trees_all_close(one, other, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("r0", [0.0, 0.1])
@pytest.mark.parametrize(("eps", "eps_in_sqrt"), [(1e-7, True), (1e-10, False), (0.1, True), (0.1, False)])
def test_adagrad_equals_its_oracle(r0, eps, eps_in_sqrt):
    got, _ = by_transform(adagrad(falling_lr, r0, eps, eps_in_sqrt=eps_in_sqrt))
    same(got, by_oracle(oracle.adagrad, lr=falling_lr, r0=r0, eps=eps, eps_in_sqrt=eps_in_sqrt))


@pytest.mark.parametrize("lr", [1.0, falling_lr], ids=["constant", "scheduled"])
@pytest.mark.parametrize(("rho", "eps"), [(0.9, 1e-6), (0.95, 1e-2)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adadelta_equals_its_oracle(lr, rho, eps, weight_decay):
    got, _ = by_transform(adadelta(lr, rho, eps, weight_decay))
    same(got, by_oracle(oracle.adadelta, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay))


def test_adadelta_without_a_rate_is_the_papers():
    same(by_transform(adadelta())[0], by_oracle(oracle.adadelta, rho=0.9, eps=1e-6))


RMSPROP_MODES = [
    {},
    {"eps": 0.1},
    {"eps": 0.1, "eps_in_sqrt": False},
    {"initial_scale": 1.0},
    {"bias_correction": True},
    {"centered": True},
    {"centered": True, "eps": 0.1, "eps_in_sqrt": False},
    {"centered": True, "bias_correction": True, "eps": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "centered": True, "initial_scale": 0.5},
]
OURS_ONLY = [
    {"momentum": 0.9, "learning_rate_inside": False},
    {"momentum": 0.9, "nesterov": True, "learning_rate_inside": False},
]
ORACLE_NAMES = {"initial_scale": "r0", "learning_rate_inside": "lr_inside"}


@pytest.mark.parametrize("mode", RMSPROP_MODES + OURS_ONLY, ids=str)
def test_rmsprop_equals_its_oracle(mode):
    expected = {"eps": 1e-8, **{ORACLE_NAMES.get(name, name): value for name, value in mode.items()}}
    got, _ = by_transform(rmsprop(falling_lr, **mode))
    same(got, by_oracle(oracle.rmsprop, lr=falling_lr, rho=0.9, **expected))


@pytest.mark.parametrize("lr", [LR, falling_lr], ids=["constant", "scheduled"])
def test_the_readout_of_rmsprop_nesterov_walks_algorithm_8_6(lr):
    tx = rmsprop_nesterov(lr, decay=0.95, momentum=0.8)
    got, _ = by_transform(tx, readout=lambda state, params: eval_params(tx, state, params))
    same(got, by_oracle(oracle.rmsprop_nesterov, lr=lr, rho=0.95, eps=1e-6, momentum=0.8))


@pytest.mark.parametrize("hyper", [{}, {"eta_minus": 0.3, "eta_plus": 1.5, "smallest": 0.01, "largest": 0.1}], ids=str)
def test_rprop_equals_its_oracle(hyper):
    ours = {{"smallest": "min_step_size", "largest": "max_step_size"}.get(n, n): v for n, v in hyper.items()}
    same(by_transform(rprop(LR, **ours))[0], by_oracle(oracle.rprop, lr=LR, **hyper))


@pytest.mark.parametrize(
    "hyper", [{"kappa": 1e-3, "phi": 0.1, "theta": 0.7}, {"kappa": 0.02, "phi": 0.5, "theta": 0.3}]
)
def test_delta_bar_delta_equals_its_oracle(hyper):
    same(by_transform(delta_bar_delta(LR, **hyper))[0], by_oracle(oracle.delta_bar_delta, lr=LR, **hyper))


@pytest.mark.parametrize(
    ("ours", "theirs", "hyper"),
    [(adagrad, optax.adagrad, {}), (adagrad, optax.adagrad, {"initial_accumulator_value": 0.0, "eps": 0.1})]
    + [(adadelta, optax.adadelta, {}), (adadelta, optax.adadelta, {"rho": 0.8, "eps": 0.01, "weight_decay": 0.1})]
    + [(rmsprop, optax.rmsprop, mode) for mode in RMSPROP_MODES],
)
def test_equals_optax_in_iterates_and_states(ours, theirs, hyper):
    our_path, our_state = by_transform(ours(LR, **hyper))
    their_path, their_state = by_transform(theirs(LR, **hyper))
    same(our_path, their_path)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-10)
    chex.assert_trees_all_equal_dtypes(our_state, their_state)


@pytest.mark.parametrize(("ours", "theirs"), [(adagrad, optax.adagrad), (rmsprop, optax.rmsprop)])
def test_equals_optax_under_a_schedule(ours, theirs):
    our_path, our_state = by_transform(ours(falling_lr))
    their_path, their_state = by_transform(theirs(falling_lr))
    same(our_path, their_path)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-10)


def test_a_mask_of_adadelta_decays_what_it_selects_as_in_optax():
    mask = {"kernel": True, "bias": False, "scale": False}
    ours, _ = by_transform(adadelta(1.0, weight_decay=0.1, weight_decay_mask="kernel"))
    theirs, _ = by_transform(optax.adadelta(1.0, weight_decay=0.1, weight_decay_mask=mask))
    same(ours, theirs)


def test_rprop_keeps_the_state_of_optax_and_applies_it_one_call_earlier():
    ours, theirs = scale_by_rprop(LR), optax.scale_by_rprop(LR)
    our_state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    previous = jax.tree.map(jnp.zeros_like, PARAMS)
    turned = 0
    for t in range(STEPS):
        grads = {name: noise[t] for name, noise in NOISE.items()}
        turned += int(grads["scale"] * NOISE["scale"][t - 1] < 0) if t else 0
        ours_now, our_state = ours.update(grads, our_state)
        theirs_now, their_state = theirs.update(grads, their_state)
        chex.assert_trees_all_close(our_state, their_state, rtol=1e-12)
        rests = jax.tree.map(lambda g, p: g * p < 0, grads, previous)
        late = jax.tree.map(lambda rest, p: jnp.where(rest, 0, p), rests, previous)
        chex.assert_trees_all_close(theirs_now, late, rtol=1e-12)
        previous = ours_now
    assert turned > 5
    chex.assert_trees_all_equal(theirs.update(PARAMS, theirs.init(PARAMS))[0], jax.tree.map(jnp.zeros_like, PARAMS))


@pytest.mark.peers
@pytest.mark.parametrize("hyper", [{}, {"lr_decay": 0.1}, {"initial_accumulator_value": 0.3}, {"weight_decay": 0.1}])
def test_equals_torch_adagrad(hyper):
    import torch

    theirs = by_torch(lambda tensors: torch.optim.Adagrad(tensors, lr=LR, **hyper))
    rate = lambda count: LR / (1 + hyper.get("lr_decay", 0.0) * count)
    tx = adagrad(rate, hyper.get("initial_accumulator_value", 0.0), eps=1e-10, eps_in_sqrt=False)
    same(by_transform(chain(add_decayed_weights(hyper.get("weight_decay", 0.0)), tx))[0], theirs)


@pytest.mark.peers
@pytest.mark.parametrize("hyper", [{}, {"rho": 0.8, "eps": 0.01, "lr": 0.5}, {"weight_decay": 0.1}], ids=str)
def test_equals_torch_adadelta(hyper):
    import torch

    theirs = by_torch(lambda tensors: torch.optim.Adadelta(tensors, **hyper))
    hyper = dict(hyper)
    same(by_transform(adadelta(hyper.pop("lr", None), **hyper))[0], theirs)


@pytest.mark.peers
@pytest.mark.parametrize(
    "hyper",
    [
        {},
        {"centered": True},
        {"momentum": 0.9},
        {"momentum": 0.9, "centered": True, "alpha": 0.9, "eps": 0.1},
        {"weight_decay": 0.1},
    ],
    ids=str,
)
def test_equals_torch_rmsprop(hyper):
    import torch

    theirs = by_torch(lambda tensors: torch.optim.RMSprop(tensors, lr=LR, **hyper))
    hyper = dict(hyper)
    decay = add_decayed_weights(hyper.pop("weight_decay", 0.0))
    tx = rmsprop(LR, hyper.pop("alpha", 0.99), eps_in_sqrt=False, learning_rate_inside=False, **hyper)
    same(by_transform(chain(decay, tx))[0], theirs)


@pytest.mark.peers
@pytest.mark.parametrize("hyper", [{}, {"etas": (0.3, 1.5), "step_sizes": (0.01, 0.1)}], ids=str)
def test_equals_torch_rprop(hyper):
    import torch

    theirs = by_torch(lambda tensors: torch.optim.Rprop(tensors, lr=LR, **hyper))
    ours = rprop(LR, *hyper.get("etas", (0.5, 1.2)), *hyper.get("step_sizes", (1e-6, 50.0)))
    same(by_transform(ours)[0], theirs)


@pytest.mark.parametrize("eps_in_sqrt", [True, False])
def test_adagrad_without_eps_leaves_a_parameter_without_gradient_where_it_is(eps_in_sqrt):
    tx = scale_by_rss(0.0, eps=0.0, eps_in_sqrt=eps_in_sqrt)
    grads = jnp.array([0.0, 2.0])
    updates, _ = tx.update(grads, tx.init(grads))
    chex.assert_trees_all_close(updates, jnp.array([0.0, 1.0]), rtol=1e-12)
    slope = jax.grad(lambda g: tx.update(g, tx.init(grads))[0].sum())(grads)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_a_variance_that_rounding_made_negative_counts_as_zero():
    tx = scale_by_stddev(decay=0.9, eps=1e-8, eps_in_sqrt=False)
    rounded = optax.ScaleByRStdDevState(mu=jnp.array([1 + 1e-12]), nu=jnp.array([1.0]))
    updates, state = tx.update(jnp.array([1.0]), rounded)
    assert float((state.nu - state.mu**2)[0]) < 0
    assert float(updates[0]) == pytest.approx(1e8, rel=1e-12)


def test_complex_parameters_divide_by_the_modulus():
    grads = jnp.array([3 + 4j, -2j], jnp.complex128)
    for tx, factor in [
        (scale_by_rss(0.0, 0.0), 1.0),
        (scale_by_rms(0.75, 0.0), 2.0),
        (scale_by_adadelta(0.75, 1e-12), np.sqrt(1e-12) * 2),
    ]:
        updates, _ = tx.update(grads, tx.init(grads))
        chex.assert_trees_all_close(updates, factor * grads / jnp.abs(grads), rtol=1e-6)


def test_complex_gradients_that_keep_their_direction_raise_the_rate_of_delta_bar_delta():
    tx = delta_bar_delta(0.5, kappa=0.25, phi=0.5)
    g = jnp.array([1 + 1j, 1 + 1j])
    _, state = tx.update(g, tx.init(g))
    updates, _ = tx.update(g * jnp.array([1j, -1]) + jnp.array([0.5, 0]), state)
    chex.assert_trees_all_close(-updates, jnp.array([0.75, 0.25]) * (g * jnp.array([1j, -1]) + jnp.array([0.5, 0])))


def test_rprop_refuses_complex_gradients_with_a_remedy():
    g = jnp.ones(2, jnp.complex64)
    tx = rprop(0.1)
    with pytest.raises(TypeError, match="split_real_and_imaginary"):
        tx.update(g, tx.init(g))
    split = optax.contrib.split_real_and_imaginary(tx)
    updates, _ = split.update(g, split.init(g))
    chex.assert_trees_all_close(updates, jnp.full(2, -0.1 + 0j, jnp.complex64), atol=1e-7)


@pytest.mark.parametrize("make", [rprop, delta_bar_delta])
def test_initial_rates_differ_by_leaf_and_by_lane_and_refuse_schedules(make):
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(3), "none": None}}
    state = make({"a": 0.1, "b": 0.2}).init(params)[0]
    chex.assert_trees_all_close(state.step_sizes, {"a": jnp.full(2, 0.1), "b": {"c": jnp.full(3, 0.2), "none": None}})
    lanes = population(make, learning_rate=jnp.array([0.1, 0.2]))
    states = jax.vmap(lambda tx: tx.init(params))(lanes)
    chex.assert_trees_all_close(states[0].step_sizes["a"], jnp.array([[0.1, 0.1], [0.2, 0.2]]))
    assert hyperparams(make(0.3))["learning_rate"] == 0.3
    with pytest.raises(TypeError, match="cannot be a schedule"):
        make(optax.linear_schedule(0.1, 0.0, 10))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: adagrad(0.1, -0.1), r"`initial_accumulator_value` must be >= 0"),
        (lambda: adadelta(rho=1.0), r"`rho` must be in \[0, 1\), got 1"),
        (lambda: adadelta(decay="copled"), r"unknown decay 'copled'; did you mean 'coupled'"),
        (lambda: rmsprop(0.1, 1.1), r"`decay` must be in \[0, 1\), got 1.1"),
        (lambda: rmsprop(0.1, momentum=-0.5), r"`momentum` must be in \[0, 1\], got -0.5"),
        (lambda: rmsprop_nesterov(-1.0), r"`learning_rate` must be >= 0, got -1"),
        (lambda: rprop(0.1, eta_plus=0.9), r"`eta_plus` must be >= 1, got 0.9"),
        (lambda: rprop(0.1, eta_minus=0.0), r"`eta_minus` must be in \(0, 1\], got 0"),
        (lambda: delta_bar_delta(0.1, phi=2.0), r"`phi` must be in \[0, 1\], got 2"),
    ],
)
def test_bad_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
