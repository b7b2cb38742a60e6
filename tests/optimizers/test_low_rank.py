"""APOLLO, APOLLO-Mini and Fira against their oracles, the laws of their lengths, what they draw, and their messages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab import MuonDimensionNumbers, apollo, apollo_mini, fira, scale_by_apollo, scale_by_fira
from tests.oracles import low_rank as oracle

RATE, STEPS, GAP = 0.02, 16, 5
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]
MATRIX = {"weight_dimension_numbers": MuonDimensionNumbers()}


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


def projection(step, shape, rank, key=0, place=0):
    """What `apollo` documents for P: of variance 1 / r, from the key, the period and the place of the matrix."""
    of_period = jax.random.fold_in(jax.random.key(key), step // GAP)
    rank = min(rank, *shape)
    return np.asarray(jax.random.normal(jax.random.fold_in(of_period, place), (rank, min(shape)))) / np.sqrt(rank)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs", "rank"),
    [
        ({}, {}, 256),
        ({"scale": 3.0, "weight_decay": 0.1, "key": 7}, {"scale": 3.0, "wd": 0.1}, 2),
        (
            {"b1": 0.7, "b2": 0.9, "eps": 0.1, "max_growth": 1.3, "granularity": "tensor"},
            {"b1": 0.7, "b2": 0.9, "eps": 0.1, "growth": 1.3, "channels": False},
            2,
        ),
    ],
)
def test_apollo_is_the_loop_in_numpy(shape, ours, theirs, rank):
    params, grads = draw(0, *shape), draw(1, STEPS, *shape)
    path, _ = walk(apollo(RATE, rank, GAP, **MATRIX, **ours), params, grads)
    drawn = [projection(step, shape, rank, ours.get("key", 0)) for step in range(STEPS)]
    expected = oracle.apollo(np.asarray(grads), np.asarray(params), drawn, RATE, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_apollo_mini_is_the_loop_in_numpy(shape):
    params, grads = draw(0, *shape), draw(1, STEPS, *shape)
    path, _ = walk(apollo_mini(RATE, GAP, weight_decay=0.1, **MATRIX), params, grads)
    drawn = [projection(step, shape, 1) for step in range(STEPS)]
    expected = oracle.apollo(np.asarray(grads), np.asarray(params), drawn, RATE, False, scale=128.0, wd=0.1)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs", "rank"),
    [
        ({}, {}, 2),
        ({"scale": 0.25, "weight_decay": 0.1}, {"scale": 0.25, "wd": 0.1}, 1),
        (
            {"b1": 0.7, "b2": 0.9, "eps": 0.1, "max_growth": 1.3},
            {"b1": 0.7, "b2": 0.9, "eps": 0.1, "growth": 1.3},
            2,
        ),
    ],
)
def test_fira_is_the_loop_in_numpy(shape, ours, theirs, rank):
    params, grads = draw(0, *shape), draw(1, STEPS, *shape)
    path, _ = walk(fira(RATE, rank, GAP, **MATRIX, **ours), params, grads)
    expected = oracle.fira(np.asarray(grads), np.asarray(params), rank, GAP, RATE, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["apollo", "fira"])
def test_complex_matrices_follow_the_loops_too(name):
    params, grads = (draw(s, *d) + 1j * draw(s + 10, *d) for s, d in ((0, (4, 6)), (1, (STEPS, 4, 6))))
    given = np.asarray(grads), np.asarray(params)
    if name == "apollo":
        path, _ = walk(apollo(RATE, 2, GAP, **MATRIX), params, grads)
        expected = oracle.apollo(*given, [projection(step, (4, 6), 2) for step in range(STEPS)], RATE)
    else:
        path, _ = walk(fira(RATE, 2, GAP, **MATRIX), params, grads)
        expected = oracle.fira(*given, 2, GAP, RATE)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


STAGES = {
    "channel": lambda **values: scale_by_apollo(2, GAP, **values),
    "tensor": lambda **values: scale_by_apollo(1, GAP, granularity="tensor", **values),
    "fira": lambda **values: scale_by_fira(2, GAP, **values),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_length_of_the_gradients_does_not_matter(stage):
    params, grads, tx = jnp.zeros((4, 6)), draw(1, 8, 4, 6), STAGES[stage](eps=0.0)
    np.testing.assert_allclose(walk(tx, params, 1e3 * grads)[0], walk(tx, params, grads)[0], rtol=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_a_transposed_matrix_takes_the_transposed_step(stage):
    params, grads, tx = draw(0, 4, 6), draw(1, 8, 4, 6), STAGES[stage]()
    np.testing.assert_allclose(walk(tx, params.mT, grads.mT)[0], walk(tx, params, grads)[0].mT, rtol=1e-12)


@pytest.mark.parametrize("stage", ["channel", "tensor"])
def test_apollo_goes_along_the_gradient(stage):
    """Every channel, or the matrix as a whole, keeps the direction of its gradient, of the present step alone."""
    grads, tx = draw(1, 8, 4, 6), STAGES[stage]()
    state = tx.init(grads[0])
    for g in grads:
        step, state = tx.update(g, state)
        ratio = step / g
        expected = ratio[:1] if stage == "channel" else ratio[:1, :1]
        np.testing.assert_allclose(ratio, jnp.broadcast_to(expected, ratio.shape), rtol=1e-10)
        assert jnp.all(ratio > 0)
    assert (jnp.ptp(ratio) > 1e-3) == (stage == "channel")


def test_the_step_grows_by_no_more_than_was_allowed():
    grads = draw(1, 30, 4, 6) * jnp.geomspace(1, 1e3, 30)[:, None, None]
    tx = scale_by_apollo(2, GAP, b1=0.0, b2=0.0, max_growth=1.05)
    state, lengths = tx.init(grads[0]), []
    for g in grads:
        step, state = tx.update(g, state)
        lengths.append(float(jnp.linalg.norm(step)))
        np.testing.assert_allclose(state.length["4x6_float64"], lengths[-1], rtol=1e-10)
    growth = np.array(lengths[1:]) / lengths[:-1]
    assert np.max(growth) <= 1.05 * (1 + 1e-12) and np.sum(growth > 1.0499) > 3 and np.min(growth) < 1


def test_fira_at_full_rank_is_adam_in_the_frame_of_the_first_gradient():
    """Nothing is missed: what remains is Adam, with epsilon before the correction, on turned gradients."""
    params, grads = jnp.zeros((4, 6)), draw(1, 12, 4, 6)
    path, state = walk(fira(RATE, 4, 100, eps=0.0, **MATRIX), params, grads)
    frame = state.inner_states["muon"].inner_state[0].projector["4x6_float64"][0]
    turned, _ = walk(gradlab.adam(RATE, eps=0.0), params, frame.T @ grads)
    np.testing.assert_allclose(path, frame @ turned, rtol=1e-8, atol=1e-12)


def test_fira_adds_what_galore_loses():
    """On a square matrix both have the same subspace; what is orthogonal to it moves here alone."""
    first, second = jnp.zeros((4, 4)).at[0].set(1.0), jnp.zeros((4, 4)).at[0].set(0.1).at[1].set(1.0)
    moved = []
    for tx in (scale_by_fira(1), gradlab.scale_by_galore(1)):
        _, state = tx.update(first, tx.init(first))
        moved.append(tx.update(second, state)[0])
    ours, galores = moved
    np.testing.assert_allclose(ours[0], galores[0], rtol=1e-3)
    np.testing.assert_allclose(galores[1:], 0, atol=1e-6)
    np.testing.assert_allclose(ours[2:], 0, atol=1e-12)
    assert jnp.all(ours[1] > 0.1)


def states(tx, grads):
    state = tx.init(grads[0])
    for g in grads:
        yield state
        _, state = tx.update(g, state)


def test_fira_keeps_its_projector_within_a_period_and_its_signs_across():
    base = draw(1, 4, 6)
    grads = [base + 0.05 * draw(seed, 4, 6) for seed in range(2, 14)]
    projectors = [state.projector["4x6_float64"][0] for state in states(scale_by_fira(2, GAP), grads)][1:]
    for step, (old, new) in enumerate(zip(projectors[:-1], projectors[1:], strict=True), start=1):
        if step % GAP:
            np.testing.assert_array_equal(new, old)
        else:
            assert jnp.max(jnp.abs(new - old)) > 1e-4
        assert jnp.all(jnp.sum(old * new, axis=0) > 0.9)
        np.testing.assert_allclose(new.T @ new, jnp.eye(2), atol=1e-12)


@pytest.mark.parametrize("make", [scale_by_apollo, scale_by_fira])
def test_periods_count_the_step_that_a_sweep_tells(make):
    g, tx = draw(0, 4, 6), make(2, GAP)
    _, state = tx.update(g, tx.init(g), step=0)
    one, two = (tx.update(draw(1, 4, 6), state, step=step)[0] for step in (GAP - 1, GAP))
    same = tx.update(draw(1, 4, 6), state)[0]
    np.testing.assert_allclose(one, same, rtol=1e-12)
    assert jnp.max(jnp.abs(two - one)) > 1e-3


def test_lanes_of_fira_decompose_together_when_they_are_told_the_step():
    g, tx = draw(0, 4, 6), scale_by_fira(2, GAP)
    states = jax.vmap(lambda g: tx.init(g))(jnp.stack([g, g]))
    update = lambda g, state, step: tx.update(g, state, step=step)
    text = str(jax.make_jaxpr(jax.vmap(update, in_axes=(0, 0, None)))(jnp.stack([g, g]), states, 0))
    assert "cond[" in text


def test_apollo_stores_no_projection_and_draws_another_for_every_matrix():
    params = {"a": jnp.ones((40, 80)), "b": jnp.ones((80, 40))}
    state = scale_by_apollo(4).init(params)
    assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(), (2,), (2, 4, 80)}
    g = draw(0, 4, 6)
    tx = scale_by_apollo(1, granularity="tensor")
    steps, _ = tx.update({"a": g, "b": g.mT}, tx.init({"a": g, "b": g.mT}))
    assert jnp.max(jnp.abs(steps["a"] - steps["b"].mT)) > 1e-3


@pytest.mark.parametrize("make", [apollo, fira])
def test_each_matrix_of_a_batch_goes_by_itself_whatever_the_strategy(make):
    params = {"stack": draw(0, 3, 4, 6), "tall": draw(1, 6, 4), "wide": draw(2, 4, 6)}
    grads = jax.tree.map(lambda p: jnp.stack([jnp.cos(k + (k + 1) * p) for k in range(6)]), params)
    layout = {"stack": MuonDimensionNumbers(1, 2), "tall": MuonDimensionNumbers(), "wide": MuonDimensionNumbers()}
    options = {"weight_dimension_numbers": layout}
    paths = [walk(make(RATE, 2, GAP, strategy=s, **options), params, grads)[0] for s in ("stack", "map", "leaf")]
    chex.assert_trees_all_close(*paths, rtol=1e-10, atol=1e-12)
    places = {("stack", 0): 0, ("stack", 1): 24, ("stack", 2): 48, ("tall", ...): 72, ("wide", ...): 96}
    for (name, index), place in places.items():
        given = np.asarray(grads[name][:, index]), np.asarray(params[name][index])
        shape = given[1].shape
        if make is apollo:
            expected = oracle.apollo(*given, [projection(k, shape, 2, place=place) for k in range(6)], RATE)
        else:
            expected = oracle.fira(*given, 2, GAP, RATE)
        np.testing.assert_allclose(paths[0][name][:, index], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("stage", STAGES)
def test_a_zero_gradient_moves_nothing_and_does_not_hold_back_the_next(stage):
    g, tx = draw(0, 4, 6), STAGES[stage]()
    step, state = tx.update(jnp.zeros((4, 6)), tx.init(g))
    np.testing.assert_array_equal(step, 0)
    step, state = tx.update(g, state)
    chex.assert_tree_all_finite((step, state))
    assert jnp.linalg.norm(step) > 0.1


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_of_low_rank_stays_in_its_space(stage):
    g, tx = draw(0, 4, 1) @ draw(1, 1, 6), STAGES[stage]()
    step, _ = tx.update(g, tx.init(g))
    assert jnp.all(jnp.isfinite(step)) and np.linalg.svd(step, compute_uv=False)[1] < 1e-6


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_shows(stage, value):
    tx, params = STAGES[stage](), jnp.ones((3, 4))
    step, state = tx.update(params.at[0, 0].set(value), tx.init(params))
    assert np.any(np.isnan(step)) and np.any(np.isnan(tx.update(params, state)[0]))


def test_a_key_is_a_leaf_and_an_integer_is_none():
    make = scale_by_apollo
    g, keys = draw(0, 4, 6), jax.random.split(jax.random.key(3))
    lanes = jax.vmap(lambda key: make(1, key=key).update(g, make(1, key=key).init(g))[0])(keys)
    alone = make(1, key=keys[1])
    np.testing.assert_allclose(lanes[1], alone.update(g, alone.init(g))[0], rtol=1e-12)
    assert jnp.max(jnp.abs(lanes[0] - lanes[1])) > 1e-3
    assert len(jax.tree.leaves(alone)) == len(jax.tree.leaves(make(1))) + 1


@pytest.mark.parametrize("make", [apollo, fira])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rank": 0}, ValueError, "`rank` must be >= 1, got 0"),
        ({"rank": 2.0}, TypeError, "`rank` must be an int, got float"),
        ({"update_proj_gap": 0}, ValueError, "update_proj_gap"),
        ({"scale": 0.0}, ValueError, "scale"),
        ({"b1": 1.0}, ValueError, "b1"),
        ({"b2": 1.0}, ValueError, "b2"),
        ({"eps": -1.0}, ValueError, "eps"),
        ({"max_growth": 0.9}, ValueError, "`max_growth` must be >= 1"),
        ({"strategy": "stak"}, ValueError, "strategy 'stak'.*'stack'"),
        ({"weight_dimension_numbers": "flex"}, ValueError, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"adam_learning_rate": -1.0}, ValueError, "adam_learning_rate"),
    ],
)
def test_impossible_values_are_refused(make, values, error, message):
    with pytest.raises(error, match=message):
        make(RATE, **values)


def test_an_unknown_granularity_is_refused():
    with pytest.raises(ValueError, match="granularity 'chanel'.*'channel'"):
        apollo(RATE, granularity="chanel")
