"""The decaying sum and the decaying average: recurrences in NumPy, Optax, limits, storage."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradlab.transforms.accumulate import apply_every, ema, trace

STEPS = 12


def _grads(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(STEPS, 3, 2)), dtype),
        "b": [jnp.asarray(rng.normal(size=(STEPS, 2)), dtype)],
    }


def _at(tree, t):
    return jax.tree.map(lambda leaf: leaf[t], tree)


def _run(tx, grads, params=None):
    state = tx.init(_at(grads, 0) if params is None else params)
    history = []
    for t in range(STEPS):
        updates, state = tx.update(_at(grads, t), state)
        history.append(updates)
    return jax.tree.map(lambda *rows: jnp.stack(rows), *history), state


@pytest.mark.parametrize("nesterov", [False, True])
def test_trace_is_the_sum_of_gradients_weighted_by_powers_of_the_decay(nesterov):
    grads = _grads()
    updates, state = _run(trace(0.7, nesterov), grads)
    for u, g, final in zip(*map(jax.tree.leaves, (updates, grads, state.trace)), strict=True):
        g = np.asarray(g)
        sums = np.array([sum(0.7 ** (t - s) * g[s] for s in range(t + 1)) for t in range(STEPS)])
        np.testing.assert_allclose(u, g + 0.7 * sums if nesterov else sums, rtol=1e-12)
        np.testing.assert_allclose(final, sums[-1], rtol=1e-12)


@pytest.mark.parametrize("debias", [False, True])
def test_ema_is_the_weighted_mean_of_gradients(debias):
    grads = _grads()
    updates, state = _run(ema(0.7, debias), grads)
    for u, g, final in zip(*map(jax.tree.leaves, (updates, grads, state.ema)), strict=True):
        g = np.asarray(g)
        weights = [np.array([0.3 * 0.7 ** (t - s) for s in range(t + 1)]) for t in range(STEPS)]
        averages = np.array([np.tensordot(w, g[: len(w)], 1) for w in weights])
        totals = np.array([w.sum() for w in weights]).reshape((-1,) + (1,) * (g.ndim - 1))
        np.testing.assert_allclose(u, averages / totals if debias else averages, rtol=1e-12)
        np.testing.assert_allclose(final, averages[-1], rtol=1e-12)


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("name", ["trace", "ema"])
def test_equals_optax_in_updates_and_state(name, flag):
    ours, theirs = {"trace": trace, "ema": ema}[name](0.9, flag), getattr(optax, name)(0.9, flag)
    grads = _grads()
    (our_updates, our_state), (their_updates, their_state) = _run(ours, grads), _run(theirs, grads)
    assert type(our_state) is type(their_state)
    chex.assert_trees_all_equal_dtypes(our_state, their_state)
    chex.assert_trees_all_close(our_updates, their_updates, rtol=1e-12)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_narrower_buffer_is_rounded_only_when_it_is_stored(dtype):
    g = _grads()["w"]
    sums, averages = _run(trace(0.9, accumulator_dtype=dtype), g), _run(ema(0.9, False, dtype), g)
    assert sums[1].trace.dtype == averages[1].ema.dtype == dtype
    kept_sum = kept_average = np.zeros(g.shape[1:])
    for t in range(STEPS):
        total, average = np.asarray(g[t]) + 0.9 * kept_sum, 0.9 * kept_average + (1 - 0.9) * np.asarray(g[t])
        np.testing.assert_allclose(sums[0][t], total, rtol=1e-12)
        np.testing.assert_allclose(averages[0][t], average, rtol=1e-12)
        kept_sum, kept_average = (x.astype(jnp.dtype(dtype)).astype(np.float64) for x in (total, average))


def test_trace_of_a_constant_gradient_tends_to_the_geometric_sum():
    state = trace(0.5).init(jnp.zeros(()))
    for _ in range(60):
        updates, state = trace(0.5).update(jnp.float64(3.0), state)
    np.testing.assert_allclose(updates, 3.0 / (1 - 0.5), rtol=1e-15)


def test_debiased_ema_of_a_constant_gradient_is_that_gradient_from_the_first_step():
    tx, g = ema(0.99), jnp.float64(3.0)
    state = tx.init(g)
    for _ in range(5):
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(updates, 3.0, rtol=1e-12)


def test_low_precision_gradients_are_accumulated_in_float32_and_stored_as_asked():
    tx = trace(1.0, accumulator_dtype="float32")
    g = jnp.asarray([1.0, 2**-9], "bfloat16")
    state = tx.init(g)
    for _ in range(512):
        updates, state = tx.update(g, state)
    assert state.trace.dtype == jnp.float32 and updates.dtype == jnp.bfloat16
    assert state.trace.tolist() == [512.0, 1.0]  # in bfloat16 the first sum would stop at 256


def test_none_leaves_and_masked_nodes_pass():
    grads = {"a": None, "b": jnp.ones(2), "c": optax.MaskedNode()}
    for tx in (trace(0.9, True), ema(0.9)):
        state = tx.init({"a": jnp.zeros(3), "b": jnp.zeros(2), "c": optax.MaskedNode()})
        updates, new_state = tx.update(grads, state)
        assert updates["a"] is None and updates["c"] == optax.MaskedNode()
        chex.assert_trees_all_equal_structs(state, new_state)


def test_decay_may_differ_by_subtree_and_by_lane():
    grads = {"a": jnp.ones(2), "b": {"c": jnp.ones(1)}}
    tx = trace({"a": 0.5, "b": 0.25})
    state = tx.init(grads)
    for _ in range(2):
        updates, state = tx.update(grads, state)
    chex.assert_trees_all_close(updates, {"a": jnp.full(2, 1.5), "b": {"c": jnp.full(1, 1.25)}})
    lanes = jax.vmap(trace)(jnp.array([0.5, 0.25]))
    states = jax.vmap(lambda tx: tx.init(jnp.ones(())))(lanes)
    for _ in range(2):
        updates, states = jax.vmap(lambda tx, state: tx.update(jnp.ones(()), state))(lanes, states)
    assert updates.tolist() == [1.5, 1.25]


def test_a_scheduled_decay_is_read_at_every_step():
    tx = trace(lambda count: jnp.array([0.5, 0.5, 0.25])[count.astype(int)])
    state = tx.init(jnp.ones(()))
    seen = []
    for _ in range(3):
        updates, state = tx.update(jnp.ones(()), state)
        seen.append(float(updates))
    assert seen == [1.0, 1 + 0.5 * 1.0, 1 + 0.25 * 1.5]


@pytest.mark.parametrize(("make", "decay"), [(trace, 1.5), (trace, -0.1), (ema, 1.0), (ema, -0.1), (ema, np.nan)])
def test_a_decay_out_of_range_is_refused(make, decay):
    with pytest.raises(ValueError, match="`decay` must be in"):
        make(decay)


def test_complex_gradients_keep_their_phase():
    g = jnp.asarray([1 + 2j], "complex64")
    tx = ema(0.5)
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == g.dtype
    np.testing.assert_allclose(updates, g, rtol=1e-6)
    np.testing.assert_allclose(state.ema, g / 2, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_apply_every_equals_optax(k):
    grads = _grads()
    (our_updates, our_state), (their_updates, their_state) = (
        _run(apply_every(k), grads),
        _run(optax.apply_every(k), grads),
    )
    chex.assert_trees_all_close(our_updates, their_updates, rtol=1e-12)
    chex.assert_trees_all_equal_shapes_and_dtypes(our_state, their_state)
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-12)


def test_apply_every_passes_on_the_sum_and_forgets_a_nan_with_it():
    tx, seen = apply_every(2), []
    state = tx.init(jnp.zeros(()))
    for g in (1.0, jnp.nan, 3.0, 4.0):
        updates, state = tx.update(jnp.asarray(g), state)
        seen.append(float(updates))
    np.testing.assert_array_equal(seen, [0.0, np.nan, 0.0, 7.0])


def test_apply_every_takes_whole_numbers_from_one():
    with pytest.raises(ValueError, match="`k` must be >= 1, got 0"):
        apply_every(0)
