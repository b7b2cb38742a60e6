"""AdaMuon and Muon^2 against their oracles, and the laws of both."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab import MuonDimensionNumbers, SplitDimensionNumbers, adamuon, muon, muon_squared, normalize_entries
from gradlab.core.spectral import COEFFICIENTS
from tests.oracles import muon_family as oracle

RATE = 0.02
STEPS = 12
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]
POLAR = "polar_express_8"
RECORD = {"eps": 1e-10, "eps_root": 0.0, "weight_decay": 0.0125, "nesterov": True, "shape_scale": "jordan"}


def normal(shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def walk(tx, params, grads):
    """The parameters after each step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return path, state


def direction(tx, grads):
    return tx.update(grads, tx.init(grads), grads)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"signed": False, "nesterov": False}, {"signed": False, "nesterov": False}),
        (
            {"beta": 0.8, "b2": 0.7, "eps": 0.1, "weight_decay": 0.1, "consistent_rms": 0.4, "ns_eps": 0.5},
            {"beta": 0.8, "b2": 0.7, "eps": 0.1, "weight_decay": 0.1, "rms": 0.4, "ns_eps": 0.5},
        ),
    ],
)
def test_adamuon_is_the_loop_in_numpy(shape, ours, theirs):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    path, _ = walk(adamuon(RATE, "polar_express", **ours), params, grads)
    expected = oracle.adamuon(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["polar_express"], **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "values", [{}, {"beta": 0.8, "b2": 0.7, "eps_root": 0.1, "weight_decay": 0.1, "ns_eps": 0.5}], ids=range(2)
)
def test_muon_squared_is_the_papers_loop_in_numpy(shape, values):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    path, _ = walk(muon_squared(RATE, "polar_express", **values), params, grads)
    expected = oracle.muon_squared(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["polar_express"], **values)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [{}, {"beta": 0.8, "b2": 0.7, "eps": 0.1}], ids=range(2))
def test_muon_squared_is_the_records_loop_in_numpy(shape, values):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    path, _ = walk(muon_squared(0.1, "simple_12", **RECORD | values), params, grads)
    rows = COEFFICIENTS["simple_12"]
    expected = oracle.muon_squared_of_the_record(np.asarray(grads), np.asarray(params), 0.1, rows, **values)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [adamuon, muon_squared])
def test_complex_matrices_walk_too(make):
    shape = (3, 4)
    params, grads = normal(shape, dtype=jnp.complex128), normal((STEPS, *shape), 1, jnp.complex128)
    path, _ = walk(make(RATE, "polar_express", weight_decay=0.1), params, grads)
    loop = getattr(oracle, make.__name__)
    expected = loop(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["polar_express"], weight_decay=0.1)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [adamuon, muon_squared])
@pytest.mark.parametrize("layout", [MuonDimensionNumbers(1, 2), SplitDimensionNumbers(1, 2, output_parts=2)])
def test_each_matrix_of_a_batch_is_treated_by_itself(make, layout):
    params, grads = normal((3, 4, 6)), normal((STEPS, 3, 4, 6), 1)
    batched, _ = walk(make(RATE, weight_dimension_numbers=layout), params, grads)
    columns = [slice(0, 3), slice(3, 6)] if isinstance(layout, SplitDimensionNumbers) else [slice(None)]
    for index in range(3):
        for part in columns:
            alone, _ = walk(make(RATE), params[index, :, part], grads[:, index, :, part])
            np.testing.assert_allclose(batched[:, index, :, part], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 64), (64, 4), (16, 16)])
def test_adamuons_steps_have_one_root_mean_square_whatever_the_shape(shape):
    grads = normal((3, *shape), 1)
    path, _ = walk(adamuon(1.0, consistent_rms=0.3), jnp.zeros(shape), grads)
    steps = jnp.diff(path, axis=0, prepend=jnp.zeros((1, *shape)))
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(steps**2, axis=(1, 2))), 0.3, rtol=1e-6)


def test_adamuon_does_not_see_by_how_much_each_entry_is_scaled():
    """The first step depends on signs alone; without them it does not."""
    g, scales = normal((4, 6)), 10 ** normal((4, 6), 1)
    signs, plain = adamuon(1.0), adamuon(1.0, signed=False)
    np.testing.assert_allclose(direction(signs, g), direction(signs, scales * g), rtol=1e-12)
    assert np.max(np.abs(direction(plain, g) - direction(plain, scales * g))) > 0.1


def test_adamuon_without_memory_of_squares_is_a_step_of_signs():
    """At b2 = 0 every entry is divided by its own size."""
    g = normal((4, 6))
    o = direction(muon(1.0, consistent_rms=1.0), jnp.sign(g))
    np.testing.assert_allclose(direction(adamuon(1.0, b2=0.0, eps=0.0), g), 0.2 * jnp.sign(o), rtol=1e-12)


def test_muon_squared_with_a_large_epsilon_is_muon():
    params, grads = normal((4, 6)), normal((STEPS, 4, 6), 1)
    squared, _ = walk(muon_squared(RATE, eps=1e8, eps_root=0.0, ns_eps=0.0, nesterov=True), params, grads)
    plain, _ = walk(muon(RATE, eps=0.0, bias_correction=False, shape_scale="scion"), params, grads)
    np.testing.assert_allclose(squared, plain, rtol=1e-6)


def test_muon_squared_forgets_the_scale_of_every_entry():
    g, scales = normal((2, 4, 6)), 10 ** normal((4, 6), 1)
    tx = muon_squared(1.0, eps_root=0.0)
    np.testing.assert_allclose(*(walk(tx, jnp.zeros((4, 6)), each)[0] for each in (g, scales * g)), rtol=1e-9)


def test_the_division_evens_the_singular_values_out():
    """On a matrix whose columns differ by orders of magnitude, few steps of the iteration suffice."""
    g = normal((8, 16)) * jnp.geomspace(1e-6, 1, 16)
    spread = {}
    for make in (muon, muon_squared):
        sigma = np.linalg.svd(direction(make(1.0, "polar_express", 3), g), compute_uv=False)
        spread[make] = sigma[0] / sigma[-1]
    assert spread[muon_squared] < 0.5 * spread[muon]


@pytest.mark.parametrize("make", [adamuon, muon_squared])
def test_a_zero_gradient_moves_nothing_and_one_that_is_not_finite_shows(make):
    zero = jnp.zeros((4, 6))
    np.testing.assert_array_equal(direction(make(RATE), zero), zero)
    assert np.all(np.isnan(direction(make(RATE), zero.at[0, 0].set(jnp.nan))))


@pytest.mark.parametrize("tx", [adamuon(1.0, POLAR), muon_squared(1.0, POLAR, eps_root=0.0)])
def test_a_gradient_of_rank_one_gives_a_step_of_rank_one(tx):
    """The signs of an outer product are one too, and so are its quotients by absolute values."""
    sigma = np.linalg.svd(direction(tx, jnp.outer(normal((4,)), normal((6,), 1))), compute_uv=False)
    assert sigma[0] > 0.5 and sigma[1] < 1e-6 * sigma[0]


@pytest.mark.parametrize("make", [adamuon, muon_squared])
def test_the_momentum_is_stored_as_asked_and_what_is_no_matrix_is_adamws(make):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    tx = make(RATE, mu_dtype=jnp.bfloat16, adam_learning_rate=0.5)
    updates, state = tx.update(params, tx.init(params), params)
    stored = state.inner_states["muon"].inner_state[0]
    assert jax.tree.leaves(getattr(stored, "trace", None) or stored.mu)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["bias"], -0.5, rtol=1e-6)


def test_squares_of_low_precision_are_averaged_in_float32():
    params = jnp.ones((2, 3), jnp.bfloat16)
    assert normalize_entries().init(params).nu.dtype == jnp.float32


@pytest.mark.parametrize("make", [adamuon, muon_squared])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 1.0}, "beta"),
        ({"b2": -0.1}, "b2"),
        ({"eps": -1.0}, "`eps`"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"adam_learning_rate": -1.0}, "adam_learning_rate"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
        ({"spectral_map": "newton"}, "spectral_map 'newton'"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"consistent_rms": 0.0}, "consistent_rms"),
        ({"shape_scale": "jordn"}, "shape_scale 'jordn'.*'jordan'"),
    ],
)
def test_impossible_values_are_refused(make, values, message):
    if set(values) <= set(inspect.signature(make).parameters):
        with pytest.raises(ValueError, match=message):
            make(RATE, **values)
