"""The methods without a learning rate to tune, step by step beside float64 NumPy and Optax, on the same gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.optimizers.adgd import adgd, barzilai_borwein
from gradlab.optimizers.cocob import cocob
from gradlab.optimizers.dadapt import dadapt_adamw
from gradlab.optimizers.dog import dog, dowg, scale_by_distance_over_gradients
from gradlab.optimizers.hypergradient import hypergradient_sgd
from gradlab.optimizers.momo import momo, momo_adam
from gradlab.optimizers.polyak import polyak_sgd
from gradlab.optimizers.prodigy import prodigy
from gradlab.transforms.scaling import scale_by_learning_rate
from tests.oracles import lr_free as oracle
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}


def drifting_grads(dtype=np.float64):
    """Gradients that point the same way at every step, with noise: every estimate of a distance grows."""
    return jax.tree.map(lambda one, rows: one + 0.3 * rows, mixed_tree(seed=2, dtype=dtype), mixed_grads(dtype=dtype))


PARAMS, GRADS = mixed_tree(), drifting_grads()
VALUES = np.random.default_rng(3).uniform(0.0, 10.0, STEPS)


def falling(count):
    return 2.0 / (1 + count)


MODES = [
    (cocob, {}),
    (cocob, {"alpha": 3.0, "eps": 1.0, "learning_rate": falling, "weight_decay": 0.1, "mask": BIASES}),
    (momo, {}),
    (momo, {"beta": 0.5, "weight_decay": 0.1, "lower_bound": 3.0, "learning_rate": falling}),
    (momo, {"beta": 0.5, "weight_decay": 0.1, "lower_bound": 1.0, "adapt_lower_bound": True}),
    (momo_adam, {}),
    (momo_adam, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "weight_decay": 0.1, "lower_bound": 3.0, "learning_rate": falling}),
    (momo_adam, {"b1": 0.5, "weight_decay": 0.1, "learning_rate": 2.0, "adapt_lower_bound": True}),
    (polyak_sgd, {}),
    (polyak_sgd, {"max_learning_rate": 0.05, "f_min": 3.0, "eps": 1.0}),
    (polyak_sgd, {"max_learning_rate": 0.05, "f_min": 3.0, "variant": "sps+"}),
    (dog, {}),
    (dog, {"init_step": ("distance", 0.1), "eps": 1e-2, "learning_rate": falling}),
    (dog, {"init_step": ("learning_rate", 0.01), "weight_decay": 0.1}),
    (dowg, {}),
    (dowg, {"init_estim_sq_dist": 0.1, "eps": 1e-2, "learning_rate": falling, "weight_decay": 0.1}),
    (prodigy, {}),
    (prodigy, {"estim_lr0": 1e-3, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1, "learning_rate": falling}),
    (prodigy, {"estim_lr0": 1e-3, "beta3": 0.8, "estim_lr_coef": 2.0, "safeguard_warmup": True}),
    (dadapt_adamw, {}),
    (
        dadapt_adamw,
        {"estim_lr0": 1e-3, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1, "learning_rate": falling},
    ),
]
OURS_ONLY = [
    (adgd, {"initial_step": 0.01}),
    (adgd, {"initial_step": 0.5, "learning_rate": 1.5}),
    (barzilai_borwein, {"initial_step": 0.01}),
    (barzilai_borwein, {"form": "short", "initial_step": 0.5, "learning_rate": falling}),
    (barzilai_borwein, {"initial_step": 0.5, "min_step": 0.2, "max_step": 0.4}),
    (hypergradient_sgd, {"learning_rate": 0.01}),
    (hypergradient_sgd, {"learning_rate": 0.01, "hyper_learning_rate": 0.1, "form": "multiplicative"}),
    (cocob, {"learning_rate": 0.1}),
    (momo, {"weight_decay": 0.1, "learning_rate": 0.05, "form": "paper"}),
    (momo_adam, {"weight_decay": 0.1, "form": "paper"}),
    (polyak_sgd, {"scaling": 0.5, "max_learning_rate": falling}),
    (prodigy, {"estim_lr0": 1e-3, "growth_rate": 1.05}),
    (prodigy, {"growth_rate": 2.0}),
]
READ_THE_LOSS = ("momo", "momo_adam", "polyak_sgd")


def same(one, other):
    chex.assert_trees_all_close(one, other, rtol=1e-10, atol=1e-13)


def walked(make, params, grads, **mode):
    return run(make(**mode), params, grads, VALUES if make.__name__ in READ_THE_LOSS else None)


def by_oracle(make, params, grads, **mode):
    if "mask" in mode:
        mode["weight_decay"] *= flat_mask(mode.pop("mask"), params)
    values = [VALUES] if make.__name__ in READ_THE_LOSS else []
    return getattr(oracle, make.__name__)(flat(params), flat(grads, STEPS), *values, **mode)


def flat_mask(mask, params):
    return flat(jax.tree.map(lambda keep, p: np.full(p.shape, float(keep)), mask, params))


def name_of(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("make, mode", MODES + OURS_ONLY, ids=name_of)
def test_positions_are_those_of_the_oracle(make, mode):
    same(walked(make, PARAMS, GRADS, **mode)[0], by_oracle(make, PARAMS, GRADS, **mode))


@pytest.mark.parametrize("make, mode", MODES, ids=name_of)
def test_positions_and_states_are_those_of_optax(make, mode):
    ours = walked(make, PARAMS, GRADS, **mode)
    optaxs = walked(getattr(optax, make.__name__, None) or getattr(optax.contrib, make.__name__), PARAMS, GRADS, **mode)
    if make is polyak_sgd:
        ours, optaxs = ours[0], optaxs[0]  # Optax has the two stages the other way around, both without a state
    same(ours, optaxs)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])


def test_prodigy_tells_its_first_estimate_from_later_ones_in_any_precision():
    """The first rise is not bounded by the growth: an estimate that is handed over in float64 is that of the state."""
    params, grads = (jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (PARAMS, GRADS))
    make = lambda first: run(prodigy(estim_lr0=first, growth_rate=1.02), params, grads)
    chex.assert_trees_all_close(make(jnp.asarray(1e-6, jnp.float64))[0], make(1e-6)[0], rtol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_the_rate_grows_with_the_angle_alone_at_any_size_of_gradients(size):
    tx = hypergradient_sgd(0.1, 0.01, form="multiplicative")
    params, state = jnp.zeros(3, jnp.float32), None
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(jnp.full(3, size, jnp.float32), state, params)
    np.testing.assert_allclose(state.rate, 0.1 * 1.01**2, rtol=1e-5)


def test_the_scaling_of_polyaks_step_multiplies_where_optax_divides():
    """Optax's documentation multiplies the step; its program scales the gradient first, whose square then divides."""
    params, grads = jnp.array([3.0, 4.0]), jnp.array([[3.0, 4.0]])
    step = lambda make: float(run(make(scaling=0.5), params, grads, jnp.array([2.5]))[0][0, 0]) - 3.0
    assert step(polyak_sgd) == pytest.approx(-0.5 * 2.5 / 25 * 3.0)
    assert step(optax.polyak_sgd) == pytest.approx(-(1 / 0.5) * 2.5 / 25 * 3.0)


def test_the_second_step_of_adgd_knows_the_curvature_whatever_the_first_was():
    """Half its inverse, on a quadratic; the bound by the last step begins with the third."""
    params, tx = jnp.array([1.0, -2.0]), adgd(initial_step=1e-6)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(2 * params, state, params)
        params = params + updates
    assert state[0].step == pytest.approx(1 / (2 * 2))


def test_the_two_forms_of_momos_decay_agree_without_one():
    same(walked(momo, PARAMS, GRADS, form="paper"), walked(momo, PARAMS, GRADS))


@pytest.mark.parametrize("make", [momo, momo_adam, polyak_sgd], ids=name_of)
def test_a_missing_loss_is_named(make):
    tx = make()
    with pytest.raises(TypeError, match="value=loss"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("make", [prodigy, dadapt_adamw], ids=name_of)
def test_a_mask_decays_what_it_selects(make):
    """As if the parameters it leaves out had a decay of zero, and none as if it were not there."""
    decayed = jax.tree.map(lambda keep: 0.1 * keep, BIASES)
    by_mask, _ = run(make(weight_decay=0.1, mask=BIASES), PARAMS, GRADS)
    by_tree, _ = run(make(weight_decay=decayed), PARAMS, GRADS)
    plain, _ = run(make(weight_decay=0.1), PARAMS, GRADS)
    same(by_mask, by_tree)
    assert np.max(np.abs(by_mask - plain)) > 1e-8


def test_distance_over_gradients_is_dog_for_every_leaf_by_itself():
    leaves = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(PARAMS)]
    grads = [np.asarray(leaf).reshape(STEPS, -1) for leaf in jax.tree.leaves(GRADS)]
    ours, _ = run(
        chain(scale_by_distance_over_gradients(0.1, 1e-2, jnp.float64), scale_by_learning_rate(0.5)), PARAMS, GRADS
    )
    same(ours, oracle.ldog(leaves, grads, 0.1, 1e-2, 0.5))


def test_distance_over_gradients_is_optaxs():
    """Its own tree has no scalars: Optax returns their updates with the shape (1,)."""
    params, grads = PARAMS["dense"], GRADS["dense"]
    options = {"reps_rel": 1e-2, "eps": 1e-3, "global_scale": -1.0}
    ours = run(scale_by_distance_over_gradients(**options), params, grads)
    same(ours, run(optax.scale_by_distance_over_gradients(**options), params, grads))
    chex.assert_trees_all_equal_shapes(ours[1].init_params, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ours[1].init_params)} == {"float32"}


@pytest.mark.parametrize("make", [prodigy, dadapt_adamw, dog, dowg], ids=name_of)
def test_gradients_of_zero_move_nothing_and_spoil_no_estimate(make):
    """Where Optax's Prodigy and D-Adaptation divide zero by zero, and are NaN from the first step on."""
    zeros = jax.tree.map(lambda rows: jnp.concatenate([jnp.zeros_like(rows[:3]), rows[3:]]), GRADS)
    options = {dog: {"eps": 0.0}, dowg: {"eps": 0.0, "init_estim_sq_dist": 1e-4}}
    ours, state = run(make(**options.get(make, {})), PARAMS, zeros)
    chex.assert_tree_all_finite((ours, state))
    np.testing.assert_array_equal(ours[:3], np.tile(flat(PARAMS), (3, 1)))
    assert np.all(ours[-1] != ours[2])
    if make in (prodigy, dadapt_adamw):
        assert np.isnan(run(getattr(optax.contrib, make.__name__)(), PARAMS, zeros)[1].estim_lr)


COMPLEX = [cocob, dog, dowg, prodigy, dadapt_adamw, momo, momo_adam, polyak_sgd]
COMPLEX += [adgd, barzilai_borwein, hypergradient_sgd]


@pytest.mark.parametrize("make", COMPLEX, ids=name_of)
def test_complex_parameters_are_moved_as_the_oracle_moves_them(make):
    params, grads = mixed_tree(dtype=np.complex128), drifting_grads(np.complex128)
    mode = {"learning_rate": 0.01} if make is hypergradient_sgd else {}
    same(walked(make, params, grads, **mode)[0], by_oracle(make, params, grads, **mode))


@pytest.mark.parametrize("make", [cocob, dog, dowg, prodigy], ids=name_of)
def test_the_starting_point_survives_the_donation_of_the_parameters(make):
    """Optax keeps the array itself: a step that donates parameters and state fails, or copies."""
    params = jax.tree.map(jnp.copy, PARAMS)
    state = make().init(params)
    aliases = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    assert aliases.isdisjoint(leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("make", [prodigy, dadapt_adamw], ids=name_of)
def test_one_rate_for_all_parameters(make):
    with pytest.raises(TypeError, match="learning_rate.*one number"):
        make({"dense": 1.0, "layers": 0.1})
