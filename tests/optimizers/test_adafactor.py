"""Adafactor and the factored second moment: the paper's oracle, Optax in every mode, PyTorch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.core.compose import chain
from gradlab.core.values import hyperparams
from gradlab.optimizers.adafactor import adafactor, scale_by_param_block_rms
from gradlab.optimizers.factored import factored_dims, power_decay, scale_by_factored_rms
from tests.oracles import memory_family as oracle
from tests.trajectories import flat, run, run_torch

LR = 0.05
STEPS = 50
SHAPES = {"bias": (4,), "conv": (2, 3, 5, 4), "kernel": (6, 4), "scale": ()}
FACTORED = {"bias": None, "conv": (3, 2), "kernel": (1, 0), "scale": None}  # with min_dim_size_to_factor=2
PLAIN = dict.fromkeys(SHAPES)


def tree(seed, *rows, shapes=SHAPES, dtype=np.float64):
    rng = np.random.default_rng(seed)
    magnitude = lambda shape: 10 ** rng.uniform(-2, 1, shape) if rows else 1.0
    return {
        name: jnp.asarray(rng.normal(size=(*rows, *s)) * magnitude((*rows, *s)), dtype) for name, s in shapes.items()
    }


PARAMS, GRADS = tree(0), tree(1, STEPS)


def falling(count):
    return 0.1 / (1 + count)


def by_oracle(axes, **mode):
    paths = [oracle.adafactor(np.asarray(PARAMS[name]), np.asarray(GRADS[name]), axes[name], **mode) for name in SHAPES]
    return flat(paths, rows=STEPS)


ORACLE_MODES = [
    ({}, {}, FACTORED),
    ({"factored": False}, {}, PLAIN),
    ({"min_dim_size_to_factor": 5}, {}, PLAIN),
    (
        {"learning_rate": falling, "momentum": 0.9, "dtype_momentum": "float64"},
        {"lr": falling, "momentum": 0.9},
        FACTORED,
    ),
    (
        {"clipping_threshold": 0.3, "decay_rate": 0.6, "decay_offset": -4},
        {"clip": 0.3, "decay_rate": 0.6, "offset": -4},
        FACTORED,
    ),
    ({"clipping_threshold": None, "multiply_by_parameter_scale": False}, {"clip": None, "relative": False}, FACTORED),
    ({"weight_decay_rate": 0.01, "eps": 0.1, "min_scale": 3.0}, {"wd": 0.01, "eps": 0.1, "min_scale": 3.0}, FACTORED),
]


@pytest.mark.parametrize(("mode", "named", "axes"), ORACLE_MODES, ids=range(len(ORACLE_MODES)))
def test_positions_are_those_of_the_oracle(mode, named, axes):
    ours, _ = run(adafactor(**{"learning_rate": LR, "min_dim_size_to_factor": 2} | mode), PARAMS, GRADS)
    chex.assert_trees_all_close(ours, by_oracle(axes, **{"lr": LR} | named), rtol=1e-10, atol=1e-13)


OPTAX_MODES = [
    {},
    {"factored": False},
    {"min_dim_size_to_factor": 128},
    {"learning_rate": None, "decay_rate": 0.5, "decay_offset": -3},
    {"learning_rate": falling, "momentum": 0.9, "dtype_momentum": "float64"},
    {"momentum": 0.5, "dtype_momentum": "float64", "clipping_threshold": None},
    {"multiply_by_parameter_scale": False, "clipping_threshold": 2.0, "eps": 1e-3},
    {"weight_decay_rate": 0.01},
    {"weight_decay_rate": falling, "weight_decay_mask": {"bias": False, "conv": True, "kernel": True, "scale": False}},
]


def wide_decay(step, decay_rate):
    return 1.0 - jnp.asarray(step + 1, jnp.float64) ** (-decay_rate)


@pytest.fixture
def optax_with_a_wide_decay(monkeypatch):
    """Optax computes the decay in float32 whatever the leaves are: the one thing in which the two differ."""
    from optax._src import factorized

    wide = functools.partial(factorized.scale_by_factored_rms, decay_rate_fn=wide_decay)
    monkeypatch.setattr(factorized, "scale_by_factored_rms", wide)


@pytest.mark.parametrize("mode", OPTAX_MODES, ids=range(len(OPTAX_MODES)))
def test_positions_and_states_are_those_of_optax(mode, optax_with_a_wide_decay):
    mode = {"learning_rate": LR, "min_dim_size_to_factor": 2} | mode
    ours = run(adafactor(**mode), PARAMS, GRADS)
    optaxs = run(optax.adafactor(**mode), PARAMS, GRADS)
    chex.assert_trees_all_close(ours[0], optaxs[0], rtol=1e-10, atol=1e-13)
    if mode.get("weight_decay_rate") is not falling:  # Optax counts the steps of a schedule in a state of its own
        chex.assert_trees_all_close(ours[1], optaxs[1], rtol=1e-10, atol=1e-13)
        chex.assert_trees_all_equal_shapes_and_dtypes(ours[1], optaxs[1])


def test_the_average_of_updates_is_stored_in_float32_by_default_as_in_optax():
    ours, theirs = (make(LR, momentum=0.9) for make in (adafactor, optax.adafactor))
    updates, state = ours.update(PARAMS, ours.init(PARAMS), PARAMS)
    expected = jax.jit(theirs.update)(PARAMS, theirs.init(PARAMS), PARAMS)
    chex.assert_trees_all_close((updates, state), expected, rtol=1e-7)
    chex.assert_trees_all_equal_dtypes((updates, state), expected)


def test_optax_as_it_is_differs_by_its_float32_decay():
    ours, _ = run(adafactor(LR), PARAMS, GRADS)
    optaxs, _ = run(optax.adafactor(LR), PARAMS, GRADS)
    np.testing.assert_allclose(ours, optaxs, atol=1e-6)
    assert np.max(np.abs(ours / optaxs - 1)) > 1e-10


def test_large_leaves_factor_by_default_as_in_optax(optax_with_a_wide_decay):
    shapes = {"kernel": (130, 140), "tall": (3, 200, 128), "small": (127, 300)}
    params, grads = tree(2, shapes=shapes), tree(3, 3, shapes=shapes)
    ours, optaxs = run(adafactor(LR), params, grads), run(optax.adafactor(LR), params, grads)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    assert ours[1][0].v_row["tall"].shape == (3, 128) and ours[1][0].v["small"].shape == (127, 300)


def test_a_decay_function_of_ones_own_is_optaxs():
    capped = lambda step, decay_rate: jnp.minimum(wide_decay(step, decay_rate), 0.6)
    ours = run(scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate_fn=capped), PARAMS, GRADS)
    optaxs = run(optax.scale_by_factored_rms(min_dim_size_to_factor=2, decay_rate_fn=capped), PARAMS, GRADS)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    without = run(scale_by_factored_rms(min_dim_size_to_factor=2), PARAMS, GRADS)
    assert np.max(np.abs(ours[0] - without[0])) > 0.1


def test_the_scale_of_the_parameters_is_optaxs():
    params = {"a": jnp.array([3.0, -4.0]), "zero": jnp.zeros(3), "empty": jnp.zeros((0, 2))}
    grads = jax.tree.map(jnp.ones_like, params)
    ours, theirs = scale_by_param_block_rms(0.01), optax.scale_by_param_block_rms(0.01)
    got, _ = ours.update(grads, ours.init(params), params)
    expected, _ = theirs.update(grads, theirs.init(params), params)
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    slopes = jax.grad(lambda p: jnp.sum(ours.update(grads, optax.EmptyState(), p)[0]["zero"]))(params)
    chex.assert_tree_all_finite(slopes)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_other_dtypes_move_as_the_wide_ones_do(dtype):
    params, grads = tree(0, dtype=dtype), jax.tree.map(lambda rows: rows[0], tree(1, 1, dtype=dtype))
    wide = jnp.complex128 if dtype == jnp.complex64 else jnp.float64
    tx = adafactor(LR, min_dim_size_to_factor=2)
    updates, state = tx.update(grads, tx.init(params), params)
    as_wide = jax.tree.map(lambda x: x.astype(wide), (grads, params))
    expected, _ = tx.update(as_wide[0], tx.init(as_wide[1]), as_wide[1])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x.astype(wide), updates), expected, rtol=2e-2, atol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))


def test_numbers_are_leaves_without_naming_what_is_static():
    """Optax needs ``static_args`` under `inject_hyperparams`; a jitted update takes ours as data."""
    tx = adafactor(LR, min_dim_size_to_factor=2, momentum=0.9, weight_decay_rate=0.1)
    names = {"learning_rate", "decay_rate", "decay_offset", "clipping_threshold", "momentum", "weight_decay_rate"}
    assert set(hyperparams(tx)) == names | {"eps", "min_scale"}
    state = tx.init(PARAMS)
    jax.jit(lambda tx, g: tx.update(g, state, PARAMS)[0])(tx, PARAMS)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        injected = optax.inject_hyperparams(optax.adafactor)(learning_rate=LR)
        jax.jit(injected.update)(PARAMS, injected.init(PARAMS), PARAMS)


def test_leaves_may_decay_at_rates_of_their_own():
    rates = {"bias": 0.8, "conv": 0.5, "kernel": 0.9, "scale": 0.8}
    got, _ = run(adafactor(LR, 2, decay_rate=rates), PARAMS, GRADS)
    alone, _ = run(adafactor(LR, 2, decay_rate=0.5), {"conv": PARAMS["conv"]}, {"conv": GRADS["conv"]})
    np.testing.assert_allclose(got[:, 4 : 4 + alone.shape[1]], alone, rtol=1e-12)


def test_a_dead_leaf_has_finite_derivatives_in_float32():
    params = {"dead": jnp.zeros((3, 4), jnp.float32), "b": jnp.ones(2, jnp.float32)}

    def final(learning_rate):
        tx = adafactor(learning_rate, min_dim_size_to_factor=2)
        state, p = tx.init(params), params
        for _ in range(2):
            grads = {"dead": 0 * p["dead"], "b": p["b"]}
            updates, state = tx.update(grads, state, p)
            p = optax.apply_updates(p, updates)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(p))

    assert np.isfinite(jax.grad(final)(jnp.float32(0.1)))


def test_factored_axes_are_the_two_largest():
    assert factored_dims((5, 5), 2) == (0, 1)
    assert factored_dims((7, 2, 6), 3) == (2, 0)
    assert factored_dims((7, 2, 6), 7) is None
    assert factored_dims((), 0) is None
    np.testing.assert_allclose(power_decay(jnp.arange(3.0), 0.8), [0, 1 - 2**-0.8, 1 - 3**-0.8], rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": -1.0}, "`eps`"),
        ({"momentum": 1.0}, "`momentum`"),
        ({"clipping_threshold": -1.0}, "`clipping_threshold`"),
    ],
)
def test_wrong_numbers_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        adafactor(0.1, **values)


@pytest.mark.peers
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [1.0, 3.0])
def test_positions_are_those_of_torch_under_its_relative_step(weight_decay, clip):
    import torch

    make = lambda tensors: torch.optim.Adafactor(tensors, lr=0.3, weight_decay=weight_decay, d=clip, foreach=False)
    relative_step = lambda count: jnp.minimum(0.3, (count + 1.0) ** -0.5)
    tx = adafactor(relative_step, 1, clipping_threshold=clip, weight_decay_rate=0.3 * weight_decay)
    chex.assert_trees_all_close(run(tx, PARAMS, GRADS)[0], run_torch(make, PARAMS, GRADS), rtol=1e-10, atol=1e-13)


def test_it_composes_from_its_stages():
    parts = chain(scale_by_factored_rms(min_dim_size_to_factor=2), optax.scale(LR), optax.scale(-1.0))
    whole = adafactor(LR, 2, multiply_by_parameter_scale=False, clipping_threshold=None)
    chex.assert_trees_all_close(run(parts, PARAMS, GRADS)[0], run(whole, PARAMS, GRADS)[0], rtol=1e-12)
