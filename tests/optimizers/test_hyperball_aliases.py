"""AdamH and MuonH against their oracles, the spheres they stay on, and matrices that start at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab import MuonDimensionNumbers, SplitDimensionNumbers, adamh, hyperball, muonh, relative_updates, soaph
from gradlab.core.spectral import COEFFICIENTS
from gradlab.optimizers.hyperball import on_hyperball
from gradlab.optimizers.matrices import named_layout
from gradlab.optimizers.sign import scale_by_lion
from tests.oracles import kronecker as oracle_of_bases
from tests.oracles import muon_family as oracle

RATE = 0.1
STEPS = 15
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]
ROWS = COEFFICIENTS["polar_express"]


def normal(shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def walk(tx, params, grads):
    """The parameters after each step."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [{}, {"b1": 0.8, "b2": 0.9, "eps": 0.1}], ids=range(2))
def test_adamh_is_the_loop_in_numpy(shape, values):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    directions = oracle.adam_directions(np.asarray(grads), **values)
    expected = oracle.on_hyperball(directions, np.asarray(params), RATE)
    np.testing.assert_allclose(walk(adamh(RATE, **values), params, grads), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [{}, {"beta": 0.8, "nesterov": False, "ns_eps": 0.5}], ids=range(2))
def test_muonh_is_the_loop_in_numpy(shape, values):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    directions = oracle.muon_directions(np.asarray(grads), ROWS, **values)
    expected = oracle.on_hyperball(directions, np.asarray(params), RATE)
    ours = walk(muonh(RATE, "polar_express", **values), params, grads)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


def test_complex_matrices_walk_too():
    params, grads = normal((3, 4), dtype=jnp.complex128), normal((STEPS, 3, 4), 1, jnp.complex128)
    expected = oracle.on_hyperball(oracle.muon_directions(np.asarray(grads), ROWS), np.asarray(params), RATE)
    np.testing.assert_allclose(walk(muonh(RATE, "polar_express"), params, grads), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [adamh, muonh])
@pytest.mark.parametrize("layout", [MuonDimensionNumbers(1, 2), SplitDimensionNumbers(1, 2, output_parts=2)])
def test_each_matrix_of_a_batch_has_a_sphere_of_its_own(make, layout):
    params = normal((3, 4, 6)) * jnp.array([1.0, 10.0, 0.1])[:, None, None]
    grads = normal((STEPS, 3, 4, 6), 1)
    batched = walk(make(RATE, weight_dimension_numbers=layout), params, grads)
    columns = [slice(0, 3), slice(3, 6)] if isinstance(layout, SplitDimensionNumbers) else [slice(None)]
    for index in range(3):
        for part in columns:
            alone = walk(make(RATE), params[index, :, part], grads[:, index, :, part])
            np.testing.assert_allclose(batched[:, index, :, part], alone, rtol=1e-9)


@pytest.mark.parametrize("make", [adamh, muonh])
def test_matrices_keep_their_norm_turn_by_the_rate_and_forget_the_gradients_length(make):
    params, grads = {"kernel": 7 * normal((5, 8)), "bias": normal((8,))}, {"kernel": normal((STEPS, 5, 8), 1)}
    grads["bias"] = normal((STEPS, 8), 2)
    path = walk(make(RATE, adam_learning_rate=1e-3), params, grads)
    norms = jnp.linalg.norm(path["kernel"], axis=(1, 2))
    np.testing.assert_allclose(norms, jnp.linalg.norm(params["kernel"]), rtol=1e-12)
    steps = jnp.linalg.norm(jnp.diff(path["kernel"], axis=0), axis=(1, 2)) / norms[0]
    assert np.all(steps < 1.1 * RATE) and np.all(steps > 0.5 * RATE)
    assert np.max(np.abs(path["bias"] - params["bias"])) < 1e-3 * STEPS * 1.1
    scaled = walk(make(RATE, adam_learning_rate=1e-3), params, jax.tree.map(lambda g: 1e3 * g, grads))
    np.testing.assert_allclose(scaled["kernel"], path["kernel"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [adamh, muonh])
def test_the_scale_of_a_matrix_scales_its_path_alone(make):
    """Twice the weights take twice the steps: the learning rate carries over between widths and initial scales."""
    params, grads = normal((4, 6)), normal((STEPS, 4, 6), 1)
    np.testing.assert_allclose(
        walk(make(RATE), 2 * params, grads), 2 * walk(make(RATE), params, grads), rtol=1e-10, atol=1e-12
    )


def test_any_direction_goes_onto_the_spheres_in_a_few_lines():
    params, grads = {"kernel": normal((3, 5)), "bias": jnp.ones(5)}, {"kernel": normal((STEPS, 3, 5), 1)}
    grads["bias"] = normal((STEPS, 5), 2)
    adam = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "weight_decay": 0.0, "mu_dtype": None}
    tx = on_hyperball(scale_by_lion(b1=0.0), named_layout("flax"), learning_rate=RATE, **adam)
    expected = oracle.on_hyperball(np.sign(np.asarray(grads["kernel"])), np.asarray(params["kernel"]), RATE)
    np.testing.assert_allclose(walk(tx, params, grads)["kernel"], expected, rtol=1e-10)


@pytest.mark.parametrize("make", [adamh, muonh])
def test_a_matrix_that_starts_at_zero_is_refused_by_its_path(make):
    params = {"up": {"kernel": jnp.ones((2, 3))}, "down": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    tx = make(RATE)
    with pytest.raises(ValueError, match=r"\['down/kernel'\] start at zero.*would never move"):
        tx.init(params)
    state = jax.jit(tx.init)(params)  # it cannot know
    assert float(state.inner_states["muon"].inner_state[-1].radius["down"]["kernel"][0, 0, 0]) == 0
    experts = {"kernel": jnp.ones((2, 3, 4)).at[1].set(0)}
    with pytest.raises(ValueError, match="'kernel'"):
        make(RATE, weight_dimension_numbers=MuonDimensionNumbers(1, 2)).init(experts)


def test_a_whole_tensor_may_start_at_zero_if_nobody_objects():
    params = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    state = hyperball().init(params)
    assert float(state.radius["a"]) == 0 and state.radius["b"].shape == ()
    with pytest.raises(ValueError, match=r"\['a'\]"):
        hyperball(refuse_zeros=True).init(params)


def test_relative_updates_have_the_norm_of_each_matrix():
    layout = MuonDimensionNumbers(1, 2)
    p, u = normal((3, 4, 6)) * jnp.array([1.0, 10.0, 0.1])[:, None, None], normal((3, 4, 6), 1).at[1].set(0)
    each, _ = relative_updates(weight_dimension_numbers=layout).update(u, optax.EmptyState(), p)
    expected = jnp.linalg.norm(p, axis=(1, 2)).at[1].set(0)
    np.testing.assert_allclose(jnp.linalg.norm(each, axis=(1, 2)), expected, rtol=1e-12)
    whole, _ = relative_updates().update(u, optax.EmptyState(), p)
    np.testing.assert_allclose(jnp.linalg.norm(whole), jnp.linalg.norm(p), rtol=1e-12)


@pytest.mark.parametrize("make", [adamh, muonh])
def test_a_zero_gradient_moves_nothing_and_one_that_is_not_finite_shows(make):
    params, zero = normal((3, 4)), jnp.zeros((3, 4))
    tx = make(RATE)
    np.testing.assert_allclose(tx.update(zero, tx.init(params), params)[0], zero, atol=1e-15)
    assert np.isnan(tx.update(zero.at[0, 0].set(jnp.nan), tx.init(params), params)[0]).all()


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (adamh, {"b1": 1.0}, "b1"),
        (muonh, {"beta": 1.0}, "beta"),
        (muonh, {"ns_coeffs": "standrd"}, "ns_coeffs 'standrd'.*'standard'"),
        (muonh, {"strategy": "stak"}, "strategy 'stak'.*'stack'"),
        (adamh, {"adam_learning_rate": -1.0}, "adam_learning_rate"),
        (adamh, {"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
    ],
)
def test_impossible_values_are_refused(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(RATE, **values)


@pytest.mark.parametrize("make", [adamh, muonh])
def test_the_radius_is_that_of_the_start_wherever_the_matrix_is_now(make):
    params, tx = normal((3, 4)), make(RATE)
    strayed = 3 * params
    updates, _ = tx.update(normal((3, 4), 1), tx.init(params), strayed)
    np.testing.assert_allclose(jnp.linalg.norm(strayed + updates), jnp.linalg.norm(params), rtol=1e-12)


def test_soaph_takes_the_direction_of_soap():
    params, grads = normal((4, 4)), normal((STEPS, 4, 4), 1)
    directions = oracle_of_bases.soap(np.asarray(grads), np.zeros((4, 4)), 1.0, every=3)
    directions = -np.diff(directions, axis=0, prepend=np.zeros((1, 4, 4)))
    moved = oracle.on_hyperball(directions[1:], np.asarray(params), RATE)
    ours = walk(soaph(RATE, precondition_frequency=3), params, grads)
    np.testing.assert_array_equal(ours[0], params)
    np.testing.assert_allclose(ours[1:], moved, rtol=1e-9, atol=1e-11)
