"""Dion against its oracle and the authors' layout, the laws of its subspace, its first Q, and its messages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab import MuonDimensionNumbers, dion, scale_by_dion, scale_by_muon
from tests.oracles import low_rank as oracle

RATE = 0.02
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def walk(tx, params, grads):
    """The parameters after each step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gradlab.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return path, state


def first_basis(inputs, rank, side, place=0, key=0):
    """What `dion` documents for Q: normal, from the key, the side and the place of the matrix among its entries."""
    of_side = jax.random.fold_in(jax.random.key(key), {"tall": 0, "wide": 1}[side])
    return jax.random.normal(jax.random.fold_in(of_side, place), (inputs, rank))


def side_of(shape):
    return "tall" if shape[0] > shape[1] else "wide"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("values", "rank"),
    [
        ({}, None),
        ({"rank": 2}, 2),
        ({"rank": 1, "beta": 0.7, "eps": 0.1, "weight_decay": 0.3, "key": 5}, 1),
        ({"rank_fraction": 0.5, "weight_decay": 0.0}, "half"),
    ],
)
def test_dion_is_the_loop_in_numpy(shape, values, rank):
    params, grads = draw(0, *shape), draw(1, 15, *shape)
    shorter = min(shape)
    rank = {None: shorter, "half": max(round(shorter / 2), 1)}.get(rank, rank)
    q = first_basis(shape[0], min(rank, shorter), side_of(shape), key=values.get("key", 0))
    path, _ = walk(dion(RATE, weight_dimension_numbers=MuonDimensionNumbers(), **values), params, grads)
    numbers = {"weight_decay": 0.01} | {k: v for k, v in values.items() if k in ("beta", "eps", "weight_decay")}
    expected = oracle.dion(np.asarray(grads), np.asarray(params), np.asarray(q), RATE, **numbers)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-12)


def test_complex_matrices_follow_the_loop_too():
    params, grads = (draw(s, *d) + 1j * draw(s + 10, *d) for s, d in ((0, (4, 6)), (1, (12, 4, 6))))
    path, _ = walk(dion(RATE, rank=2, weight_dimension_numbers=MuonDimensionNumbers()), params, grads)
    q = np.asarray(first_basis(4, 2, "wide"))
    expected = oracle.dion(np.asarray(grads), np.asarray(params), q, RATE, weight_decay=0.01)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-12)


def direction(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_one_gradient_over_and_over_brings_the_step_of_muon(shape, rank):
    """If P spans all that M has, M stays a multiple of the gradient, and Q turns into its singular vectors."""
    u, _, vh = np.linalg.svd(draw(0, *shape), full_matrices=False)
    kept = min(shape) if rank is None else rank
    g, tx = jnp.asarray((u[:, :kept] * 3.0 ** -np.arange(kept)) @ vh[:kept]), scale_by_dion(rank=rank)
    state = tx.init(g)
    for _ in range(25):
        step, state = tx.update(g, state)
    muon_step = direction(scale_by_muon(spectral_map="svd", nesterov=False), g)
    np.testing.assert_allclose(step, muon_step, atol=1e-7)


def test_what_the_step_has_not_seen_stays_in_the_momentum():
    """A gradient of rank 3 at rank 1: the sum of gradients loses only (1 - beta) of what P spans."""
    g = draw(0, 4, 6)
    tx = scale_by_dion(0.9, rank=1)
    _, state = tx.update(g, tx.init(g))
    left = oracle.orthonormal(np.asarray(g.T @ first_basis(4, 1, "wide")))
    kept = state.mu["wide"]["4x6_float64"][0].T
    np.testing.assert_allclose(kept, g.T - 0.1 * left @ left.T @ g.T, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_rotations_of_the_outputs_rotate_the_step(shape):
    g, rotation = draw(0, *shape), jnp.linalg.qr(draw(1, shape[1], shape[1]))[0]
    tx = scale_by_dion(rank=2)
    np.testing.assert_allclose(direction(tx, g @ rotation), direction(tx, g) @ rotation, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_the_length_of_the_gradients_does_not_matter(shape):
    params, grads = jnp.zeros(shape), draw(1, 6, *shape)
    tx = dion(RATE, eps=0.0, rank=2, weight_decay=0.0, weight_dimension_numbers=MuonDimensionNumbers())
    np.testing.assert_allclose(walk(tx, params, 1e3 * grads)[0], walk(tx, params, grads)[0], rtol=1e-9)


@pytest.mark.parametrize(("shape", "factor"), [((4, 16), 2.0), ((16, 4), 0.5)])
def test_the_step_grows_with_the_outputs_and_shrinks_with_the_inputs(shape, factor):
    tx = dion(1.0, eps=0.0, rank=1, weight_decay=0.0, weight_dimension_numbers=MuonDimensionNumbers())
    g = draw(0, *shape)
    step, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(jnp.linalg.norm(step), factor, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
def test_directions_that_the_gradient_does_not_have_are_left_out(shape, dtype):
    """In float32 the rounding noise of R is above eps: normalised, it would move weights that have no gradient."""
    g = (draw(0, shape[0], 2) @ draw(1, 2, shape[1])).astype(dtype)
    step = direction(scale_by_dion(), g)
    sigma = np.linalg.svd(step, compute_uv=False)
    assert sigma[2] < 1e-4 and sigma[1] > 0.1 and jnp.sum(step * g) > 0
    u, s, vh = np.linalg.svd(g)
    np.testing.assert_allclose(u[:, 2:].T @ step, 0, atol=1e-4)
    np.testing.assert_allclose(step @ vh[2:].T, 0, atol=1e-4)


def test_a_zero_gradient_moves_nothing_and_the_next_one_finds_its_way():
    g, tx = draw(0, 4, 6), scale_by_dion(rank=2)
    step, state = tx.update(jnp.zeros((4, 6)), tx.init(g))
    np.testing.assert_array_equal(step, 0)
    step, state = tx.update(g, state)
    chex.assert_tree_all_finite((step, state))
    assert jnp.sum(step * g) > 0


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_shows(value):
    tx, params = scale_by_dion(rank=2), jnp.ones((3, 4))
    step, state = tx.update(params.at[0, 0].set(value), tx.init(params))
    assert np.all(np.isnan(step)) and np.all(np.isnan(tx.update(params, state)[0]))


def test_each_matrix_of_a_batch_goes_by_itself_whatever_the_strategy():
    params = {"stack": draw(0, 3, 4, 6), "tall": draw(1, 6, 4), "wide": draw(2, 4, 6)}
    grads = jax.tree.map(lambda p: jnp.stack([jnp.cos(k + p) for k in range(4)]), params)
    layout = {"stack": MuonDimensionNumbers(1, 2), "tall": MuonDimensionNumbers(), "wide": MuonDimensionNumbers()}
    paths = [
        walk(dion(RATE, rank=2, weight_dimension_numbers=layout, strategy=strategy), params, grads)[0]
        for strategy in ("stack", "map", "leaf")
    ]
    chex.assert_trees_all_close(*paths, rtol=1e-10, atol=1e-12)
    for index in range(3):
        q = np.asarray(first_basis(4, 2, "wide", place=24 * index))
        one = np.asarray(grads["stack"][:, index]), np.asarray(params["stack"][index])
        expected = oracle.dion(*one, q, RATE, weight_decay=0.01)
        np.testing.assert_allclose(paths[0]["stack"][:, index], expected, rtol=1e-9, atol=1e-12)
    q = np.asarray(first_basis(4, 2, "wide", place=72))  # after the entries of the first leaf
    one = np.asarray(grads["wide"]), np.asarray(params["wide"])
    expected = oracle.dion(*one, q, RATE, weight_decay=0.01)
    np.testing.assert_allclose(paths[0]["wide"], expected, rtol=1e-9, atol=1e-12)


def test_a_key_is_a_leaf_that_lanes_can_vary_and_an_integer_is_none():
    params = {"kernel": jnp.ones((4, 6))}
    keys = jax.random.split(jax.random.key(3))
    lanes = jax.vmap(lambda key: scale_by_dion(rank=1, key=key).init(params))(keys)
    alone = scale_by_dion(rank=1, key=keys[1]).init(params)
    np.testing.assert_array_equal(lanes.basis["wide"]["4x6_float64"][1], alone.basis["wide"]["4x6_float64"])
    assert jnp.max(jnp.abs(lanes.basis["wide"]["4x6_float64"][0] - alone.basis["wide"]["4x6_float64"])) > 0.1
    assert len(jax.tree.leaves(scale_by_dion(key=keys[0]))) == len(jax.tree.leaves(scale_by_dion())) + 1


def test_the_state_is_a_momentum_and_a_thin_basis():
    params = {"down": {"kernel": jnp.ones((40, 8))}, "up": {"kernel": jnp.ones((8, 40))}}
    state = scale_by_dion(rank_fraction=0.25).init(params)
    shapes = {side: {name: q.shape for name, q in group.items()} for side, group in state.basis.items()}
    assert shapes == {"tall": {"8x40_float64": (1, 40, 2)}, "wide": {"8x40_float64": (1, 8, 2)}}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rank": 2, "rank_fraction": 0.5}, ValueError, "not both.*rank=2.*rank_fraction=0.5"),
        ({"rank": 0}, ValueError, "`rank` must be >= 1, got 0"),
        ({"rank": 2.0}, TypeError, "`rank` must be an int, got float"),
        ({"rank_fraction": 0.0}, ValueError, "rank_fraction"),
        ({"rank_fraction": 1.5}, ValueError, "rank_fraction"),
        ({"beta": 1.0}, ValueError, "beta"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"strategy": "stak"}, ValueError, "strategy 'stak'.*'stack'"),
        ({"weight_dimension_numbers": "flex"}, ValueError, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"adam_learning_rate": -1.0}, ValueError, "adam_learning_rate"),
    ],
)
def test_impossible_values_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        dion(RATE, **values)


def test_a_layout_that_does_not_fit_names_the_parameter():
    params = {"dense": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(ValueError, match="'dense/kernel' has 2 axes"):
        dion(RATE, weight_dimension_numbers=MuonDimensionNumbers(0, 2)).init(params)
