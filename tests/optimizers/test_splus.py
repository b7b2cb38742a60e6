"""SPlus against its oracle, its limits, its average, its periodic branch and its messages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import gradlab
from gradlab import population, scale_by_sign, scale_by_splus, splus
from gradlab.core import kronecker
from tests.oracles import shampoo as oracle

RATE = 0.1


def drawn(*shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def walk(tx, params, grads):
    """The parameters, what to evaluate at, and the states after each step."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, gradlab.eval_params(tx, state, params), state)

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


def inner_state(states):
    return states[0].inner_states["muon"].inner_state[0]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"precondition_frequency": 3}, {"every": 3, "decay": 0.01}),
        (
            {"b1": 0.7, "b2": 0.8, "weight_decay": 0.3, "ema_rate": 0.6},
            {"b1": 0.7, "b2": 0.8, "decay": 0.3, "keep": 0.6},
        ),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_splus_is_the_loop_in_numpy(dtype, ours, theirs):
    """On a square matrix: what the bases are where no gradient has been is arbitrary on others."""
    params, grads = drawn(4, 4, dtype=dtype), drawn(20, 4, 4, seed=1, dtype=dtype)
    path, averages, _ = walk(splus(RATE, **ours), params, grads)
    expected, means = oracle.splus(np.asarray(grads), np.asarray(params), RATE, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(averages, means, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5), (9, 2)])
def test_splus_on_other_shapes_is_the_loop_in_numpy_from_the_same_bases(shape):
    """A first gradient of full rank on the long side cannot be: the loop takes the bases that the update found."""
    params, grads = drawn(*shape), drawn(20, *shape, seed=1)
    path, _, states = walk(splus(RATE, precondition_frequency=8), params, grads)
    (short,), (long,) = inner_state(states).left_basis.values(), inner_state(states).right_basis.values()
    start = [np.asarray(basis[0, 0]) for basis in ((short, long) if shape[0] <= shape[1] else (long, short))]
    expected, _ = oracle.splus(np.asarray(grads), np.asarray(params), RATE, decay=0.01, every=8, start=start)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("shape", "longest"), [((4, 6), 5), ((6, 4), 5), ((4, 6), 3)])
def test_a_side_that_is_too_long_keeps_the_identity_and_changes_the_scale(shape, longest):
    params, grads = drawn(*shape), drawn(20, *shape, seed=1)
    tx = splus(RATE, max_precond_dim=longest, precondition_frequency=3, nonstandard_constant=0.07)
    path, _, states = walk(tx, params, grads)
    assert list(inner_state(states).right.values()) == [None]
    options = {"decay": 0.01, "every": 3, "longest": longest, "long_scale": 0.07}
    expected, _ = oracle.splus(np.asarray(grads), np.asarray(params), RATE, **options)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_in_the_axes_for_eigenvectors_splus_is_the_sign_of_the_average():
    """Diagonal gradients, and without decay; off the diagonal no sign of rounding is taken for one of a gradient."""
    rows = drawn(12, 5, seed=1)
    tx = splus(RATE, 0.8, weight_decay=0.0, precondition_frequency=1, ema_rate=None)
    path, averages, _ = walk(tx, jnp.zeros((5, 5)), jax.vmap(jnp.diag)(rows))
    expected, _, _ = walk(gradlab.signum(RATE / 5, 0.8), jnp.zeros(5), rows)
    np.testing.assert_allclose(path, jax.vmap(jnp.diag)(expected), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(path, averages)


def test_the_first_step_is_the_sign_and_each_step_has_one_length():
    grads = drawn(9, 3, 5, seed=1)
    tx = scale_by_splus(precondition_frequency=2)
    state = tx.init(grads[0])
    for index, g in enumerate(grads):
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(jnp.linalg.norm(updates), 15**0.5, rtol=1e-12)
        is_sign = np.allclose(np.abs(updates), 1.0)
        assert is_sign == (index == 0)
    first, _ = scale_by_sign().update(grads[0], scale_by_sign().init(grads[0]))
    np.testing.assert_array_equal(tx.update(grads[0], tx.init(grads[0]))[0], first)


def test_turning_the_problem_turns_the_steps_after_the_first_and_scaling_it_changes_nothing():
    params, grads = drawn(4, 4), drawn(20, 4, 4, seed=1)
    left, right = (np.linalg.qr(drawn(4, 4, seed=seed))[0] for seed in (2, 3))
    tx = splus(RATE, precondition_frequency=2, weight_decay=0.0)
    path, _, _ = walk(tx, params, grads)
    turned, _, _ = walk(tx, left @ params @ right, left @ grads @ right)
    np.testing.assert_allclose(np.diff(turned, axis=0), left @ np.diff(path, axis=0) @ right, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(walk(tx, params, 1e-3 * grads)[0], path, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strategy", ["stack", "map", "leaf"])
def test_each_matrix_of_a_batch_and_each_leaf_goes_its_own_way(strategy):
    shapes = {"a": (3, 4, 4), "b": (4, 4)}
    layout = {"a": MuonDimensionNumbers(1, 2), "b": MuonDimensionNumbers()}
    params = {name: drawn(*shape, seed=len(shape)) for name, shape in shapes.items()}
    grads = {name: drawn(8, *shape, seed=5 + len(shape)) for name, shape in shapes.items()}
    tx = splus(RATE, precondition_frequency=3, weight_dimension_numbers=layout, strategy=strategy)
    path, _, _ = walk(tx, params, grads)
    alone = lambda p, g: oracle.splus(np.asarray(g), np.asarray(p), RATE, decay=0.01, every=3)[0]
    for index in range(3):
        expected = alone(params["a"][index], grads["a"][:, index])
        np.testing.assert_allclose(path["a"][:, index], expected, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(path["b"], alone(params["b"], grads["b"]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("shape", "rank"), [((4, 6), 1), ((8, 8), 2), ((1, 5), 1), ((60, 3), 1)])
def test_gradients_of_low_rank_give_steps_of_low_rank(shape, rank, dtype):
    """After the first: as many signs as there are directions, none of rounding."""
    left, right = drawn(shape[0], rank, dtype=dtype), drawn(rank, shape[1], seed=1, dtype=dtype)
    tx, state = scale_by_splus(precondition_frequency=3), None
    for index in range(8):
        g = left @ drawn(rank, rank, seed=2 + index, dtype=dtype) @ right
        state = tx.init(g) if state is None else state
        updates, state = tx.update(g, state)
        if index > 0:
            np.testing.assert_allclose(jnp.linalg.norm(updates), rank, rtol=1e-5)
            outside = updates - left @ (jnp.linalg.pinv(left) @ updates)
            assert np.max(np.abs(outside)) < 1e-4


def test_without_a_gradient_nothing_moves():
    path, _, state = walk(splus(RATE, weight_decay=0.0), drawn(4, 6), jnp.zeros((5, 4, 6)))
    np.testing.assert_array_equal(path, np.broadcast_to(drawn(4, 6), path.shape))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("longest", [9, 3])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_not_hidden(bad, longest):
    """Without bases the sign is elementwise: that of infinity is one, and the other numbers have their own."""
    tx, params = splus(RATE, max_precond_dim=longest, weight_decay=0.0), drawn(4, 4)
    updates, _ = tx.update(params.at[0, 0].set(bad), tx.init(params), params)
    if longest > 4:
        assert jnp.all(jnp.isnan(updates))
    else:
        expected = jnp.sign(params.at[0, 0].set(bad)) * -RATE * 0.001
        np.testing.assert_allclose(updates, expected, rtol=1e-12)


def test_evaluation_weights_are_the_average_of_all_parameters():
    """Those of AdamW too; the average is that of `ema_params` at the end of any chain."""
    params = {"kernel": drawn(4, 4), "bias": drawn(4, seed=1)}
    grads = {"kernel": drawn(9, 4, 4, seed=2), "bias": drawn(9, 4, seed=3)}
    options = {"precondition_frequency": 3, "adam_learning_rate": 0.01}
    path, averages, _ = walk(splus(RATE, ema_rate=0.6, **options), params, grads)
    weights = 0.6 ** np.arange(8, -1, -1.0)
    for name in params:
        mean = np.tensordot(weights / weights.sum(), path[name], 1)
        np.testing.assert_allclose(averages[name][-1], mean, rtol=1e-12)
    np.testing.assert_allclose(path["bias"], walk(gradlab.adam(0.01), params["bias"], grads["bias"])[0], rtol=1e-12)


def counted(monkeypatch, name):
    """A list that grows with every execution of a decomposition in the compiled program."""
    calls, original = [], getattr(jnp.linalg, name)

    def counting(*args, **kwargs):
        jax.debug.callback(lambda: calls.append(name))
        return original(*args, **kwargs)

    monkeypatch.setattr(kronecker.jnp.linalg, name, counting)
    return calls


@pytest.mark.parametrize("told", [True, False])
def test_lanes_equal_single_runs_and_decompose_only_when_due(monkeypatch, told):
    """Bases after steps 1, 5 and 10 of twelve, for each of two lanes, who know the step or count themselves."""
    decomposed = counted(monkeypatch, "eigh")
    jax.clear_caches()
    params, grads, decays = drawn(4, 4), drawn(12, 4, 4, seed=1), jnp.array([0.5, 0.9])
    txs = population(functools.partial(splus, RATE, precondition_frequency=5), b1=decays)

    def lanes_step(carry, this):
        index, g = this
        known = {"step": index} if told else {}

        def one(tx, params, state):
            updates, state = tx.update(g, state, params, **known)
            return optax.apply_updates(params, updates), state

        return jax.vmap(one)(txs, *carry), None

    starts = jax.vmap(lambda tx: (params, tx.init(params)))(txs)
    (lanes, _), _ = jax.jit(lambda start: jax.lax.scan(lanes_step, start, (jnp.arange(12), grads)))(starts)
    jax.effects_barrier()
    assert len(decomposed) == 2 * 3 * 2
    monkeypatch.undo()
    jax.clear_caches()
    for lane, b1 in zip(lanes, decays, strict=True):
        alone, _ = oracle.splus(np.asarray(grads), np.asarray(params), RATE, b1=float(b1), decay=0.01, every=5)
        np.testing.assert_allclose(lane, alone[-1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b1": 1.0}, "b1"),
        ({"b2": -0.1}, "b2"),
        ({"ema_rate": 1.0}, "ema_rate"),
        ({"nonstandard_constant": -1.0}, "nonstandard_constant"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"max_precond_dim": 0}, "max_precond_dim"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        splus(RATE, **values)


def test_the_stage_alone_wants_matrices():
    with pytest.raises(ValueError, match="parameter 'b' has 1 axes"):
        scale_by_splus().init({"b": jnp.ones(3)})
