"""SOAP against its oracle, its limits, its periodic branch and its messages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from gradlab import adam, scale_by_soap, soap
from gradlab.core import kronecker
from tests.oracles import kronecker as oracle

RATE = 0.02


def drawn(*shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def walk(tx, params, grads):
    """The parameters and the states after each step."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"precondition_frequency": 1}, {"every": 1}),
        ({"precondition_frequency": 3, "weight_decay": 0.1}, {"every": 3, "decay": 0.1}),
        ({"b1": 0.8, "b2": 0.7, "eps": 0.1, "shampoo_beta": 0.6}, {"b1": 0.8, "b2": 0.7, "eps": 0.1, "beta": 0.6}),
        ({"bias_correction": False, "b2": 0.9}, {"corrected": False, "b2": 0.9, "beta": 0.9}),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_soap_is_the_loop_in_numpy(dtype, ours, theirs):
    """On a square matrix: what the bases are where no gradient has been is arbitrary on others."""
    params, grads = drawn(4, 4, dtype=dtype), drawn(25, 4, 4, seed=1, dtype=dtype)
    path, _ = walk(soap(RATE, **{"weight_decay": 0.0} | ours), params, grads)
    expected = oracle.soap(np.asarray(grads), np.asarray(params), RATE, **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5), (9, 2)])
def test_soap_on_other_shapes_is_the_loop_in_numpy_from_the_same_bases(shape):
    """A first gradient of full rank on the long side cannot be: the loop takes the bases that the update found."""
    params, grads = drawn(*shape), drawn(20, *shape, seed=1)
    path, states = walk(soap(RATE, precondition_frequency=8, weight_decay=0.0), params, grads)
    inner = states.inner_states["muon"].inner_state[0]
    (short,), (long,) = inner.left_basis.values(), inner.right_basis.values()
    start = [np.asarray(basis[0, 0]) for basis in ((short, long) if shape[0] <= shape[1] else (long, short))]
    expected = oracle.soap(np.asarray(grads), np.asarray(params), RATE, every=8, start=start)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("shape", "longest"), [((4, 6), 5), ((6, 4), 5), ((4, 6), 3)])
def test_a_side_that_is_too_long_keeps_the_identity(shape, longest):
    params, grads = drawn(*shape), drawn(20, *shape, seed=1)
    tx = soap(RATE, max_precond_dim=longest, precondition_frequency=3, weight_decay=0.0)
    path, state = walk(tx, params, grads)
    inner = state.inner_states["muon"].inner_state[0]
    assert list(inner.right.values()) == [None]
    assert (list(inner.left.values()) == [None]) == (longest < 4)
    expected = oracle.soap(np.asarray(grads), np.asarray(params), RATE, every=3, longest=longest)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def test_in_the_exact_eigenbasis_of_a_diagonal_problem_soap_is_adam():
    """Diagonal gradients of constant order have the axes for eigenvectors; Adam's epsilon stands where SOAP's does."""
    params, scales = drawn(4, 4), jnp.array([4.0, 3.0, 2.0, 1.0])
    grads = jax.vmap(jnp.diag)(scales * (2 + jnp.sin(jnp.arange(30.0)))[:, None])
    path, _ = walk(soap(RATE, 0.9, 0.99, 0.0, 0.0, precondition_frequency=1), params, grads)
    expected, _ = walk(adam(RATE, 0.9, 0.99, 0.0), params, grads[1:])
    np.testing.assert_array_equal(path[0], params)
    diagonals = jax.vmap(jnp.diag)
    np.testing.assert_allclose(diagonals(path[1:]), diagonals(expected), rtol=1e-12)


def test_turning_the_problem_turns_the_steps():
    params, grads = drawn(4, 4), drawn(20, 4, 4, seed=1)
    left, right = (np.linalg.qr(drawn(4, 4, seed=seed))[0] for seed in (2, 3))
    tx = soap(RATE, precondition_frequency=2)
    path, _ = walk(tx, params, grads)
    turned, _ = walk(tx, left @ params @ right, left @ grads @ right)
    np.testing.assert_allclose(turned, left @ path @ right, rtol=1e-8, atol=1e-10)


def test_each_matrix_of_a_batch_and_each_leaf_goes_its_own_way():
    shapes = {"a": (3, 4, 4), "b": (4, 4)}
    layout = {"a": MuonDimensionNumbers(1, 2), "b": MuonDimensionNumbers()}
    params = {name: drawn(*shape, seed=len(shape)) for name, shape in shapes.items()}
    grads = {name: drawn(8, *shape, seed=5 + len(shape)) for name, shape in shapes.items()}
    for strategy in ("stack", "map", "leaf"):
        tx = soap(RATE, precondition_frequency=3, weight_dimension_numbers=layout, strategy=strategy)
        path, _ = walk(tx, params, grads)
        for index in range(3):
            alone, _ = walk(soap(RATE, precondition_frequency=3), params["a"][index], grads["a"][:, index])
            np.testing.assert_allclose(path["a"][:, index], alone, rtol=1e-8, atol=1e-10)
        alone, _ = walk(soap(RATE, precondition_frequency=3), params["b"], grads["b"])
        np.testing.assert_allclose(path["b"], alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("shape", "rank"), [((4, 6), 1), ((4, 4), 2), ((1, 5), 1)])
def test_gradients_of_low_rank_give_finite_steps(shape, rank):
    grads = drawn(12, shape[0], rank) @ drawn(12, rank, shape[1], seed=1)
    path, _ = walk(soap(RATE, precondition_frequency=2), drawn(*shape), grads)
    assert np.all(np.isfinite(path)) and not np.allclose(path[0], path[-1])


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_without_a_gradient_nothing_moves(eps):
    path, state = walk(soap(RATE, eps=eps, weight_decay=0.0), drawn(4, 6), jnp.zeros((5, 4, 6)))
    np.testing.assert_array_equal(path, np.broadcast_to(drawn(4, 6), path.shape))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


def test_what_is_not_finite_is_not_hidden():
    tx, params = soap(RATE), drawn(4, 4)
    updates, state = tx.update(params, tx.init(params), params)
    updates, _ = tx.update(params.at[0, 0].set(jnp.nan), state, params)
    assert jnp.all(jnp.isnan(updates))


def counted(monkeypatch, name):
    """A list that grows with every execution of a decomposition in the compiled program."""
    calls, original = [], getattr(jnp.linalg, name)

    def counting(*args, **kwargs):
        jax.debug.callback(lambda: calls.append(name))
        return original(*args, **kwargs)

    monkeypatch.setattr(kronecker.jnp.linalg, name, counting)
    return calls


def test_lanes_equal_single_runs_and_decompose_only_when_due(monkeypatch):
    """Twelve steps of period four: one first pair of eigenbases and two refreshments, for each of three lanes."""
    firsts, refreshed = counted(monkeypatch, "eigh"), counted(monkeypatch, "qr")
    jax.clear_caches()
    params, grads, rates = drawn(4, 4), drawn(12, 4, 4, seed=1), jnp.array([0.01, 0.02, 0.03])

    def run(rate):
        tx = soap(rate, precondition_frequency=4)

        def step(carry, this):
            (params, state), (index, g) = carry, this
            updates, state = tx.update(g, state, params, step=index)
            return (optax.apply_updates(params, updates), state), None

        return step, (params, tx.init(params))

    starts = jax.vmap(lambda rate: run(rate)[1])(rates)
    lanes_step = lambda carry, this: (
        jax.vmap(lambda rate, one: run(rate)[0](one, this)[0])(rates, carry),
        None,
    )
    (lanes, _), _ = jax.jit(lambda start: jax.lax.scan(lanes_step, start, (jnp.arange(12), grads)))(starts)
    jax.effects_barrier()
    assert (len(firsts), len(refreshed)) == (2 * 3, 4 * 3)
    monkeypatch.undo()
    jax.clear_caches()
    for lane, rate in zip(lanes, rates, strict=True):
        alone, _ = walk(soap(rate, precondition_frequency=4), params, grads)
        np.testing.assert_allclose(lane, alone[-1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b1": 1.0}, "b1"),
        ({"shampoo_beta": -0.1}, "shampoo_beta"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"max_precond_dim": 0}, "max_precond_dim"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        soap(RATE, **values)


def test_the_stage_alone_wants_matrices():
    with pytest.raises(ValueError, match="parameter 'b' has 1 axes"):
        scale_by_soap().init({"b": jnp.ones(3)})
