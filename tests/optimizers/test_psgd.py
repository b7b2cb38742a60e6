"""PSGD against its oracle with the same noise, its fixed point, its laws, when it fits, and its messages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from gradlab import adam, polynomial_schedule, psgd_kron, scale_by_psgd_kron
from gradlab.optimizers import whitening
from tests.oracles import psgd as oracle

RATE = 0.02
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]


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


def of_matrices(states):
    """The state of the stage, within those of `partition` and of the chain."""
    return states.inner_states["muon"].inner_state[0]


def draws(steps, shape, *, key=0, leaf=0, balance_prob=0.01, dtype=jnp.float64):
    """The noise and the balancing of each step for a matrix, as the key of the optimizer gives them."""

    def one(count):
        balance_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.PRNGKey(key), count))
        noise = jax.random.normal(jax.random.fold_in(noise_key, leaf), shape, dtype)
        return noise, jax.random.uniform(balance_key, dtype=jnp.float64) < balance_prob

    return [np.asarray(x) for x in jax.vmap(one)(jnp.arange(steps))]


def expected_path(grads, params, *, key=0, balance_prob=0.01, **values):
    noises, balances = draws(len(grads), params.shape, key=key, balance_prob=balance_prob, dtype=params.dtype)
    return oracle.psgd_kron(np.asarray(grads), np.asarray(params), RATE, noises, balances, **values)


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
@pytest.mark.parametrize("shape", SHAPES)
def test_psgd_is_the_loop_in_numpy(shape, geometry):
    params, grads = drawn(*shape), drawn(25, *shape, seed=1)
    path, _ = walk(psgd_kron(RATE, geometry=geometry), params, grads)
    np.testing.assert_allclose(path, expected_path(grads, params, geometry=geometry)[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"b1": 0.5, "precond_lr": 0.3, "weight_decay": 0.1}, {"b1": 0.5, "precond_lr": 0.3, "decay": 0.1}),
        ({"b1": 0.0, "precond_init_scale": 0.1, "damping": 0.5}, {"b1": 0.0, "init": 0.1, "damping": 0.5}),
        ({"max_rms": 0.3, "key": 7}, {"max_rms": 0.3, "key": 7}),
        ({"balance_prob": 0.6, "max_precond_dim": 5}, {"balance_prob": 0.6, "longest": 5}),
        ({"balance_prob": 1.0, "max_precond_dim": 3}, {"balance_prob": 1.0, "longest": 3}),
        (
            {"geometry": "pro", "precond_lr": 0.4, "damping": 0.1},
            {"geometry": "pro", "precond_lr": 0.4, "damping": 0.1},
        ),
        ({"geometry": "pro", "max_precond_dim": 5, "b1": 0.0}, {"geometry": "pro", "longest": 5, "b1": 0.0}),
        (
            {"geometry": "pro", "balance_prob": 0.5, "max_precond_dim": 4},
            {"geometry": "pro", "longest": 4, "balance_prob": 0.5},
        ),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_every_number_has_its_place(dtype, ours, theirs):
    params, grads = drawn(4, 6, dtype=dtype), drawn(25, 4, 6, seed=1, dtype=dtype)
    path, states = walk(psgd_kron(RATE, **ours), params, grads)
    np.testing.assert_allclose(path, expected_path(grads, params, **theirs)[0], rtol=1e-10)
    longest = ours.get("max_precond_dim", 6)
    (left,), (right,) = of_matrices(states).left.values(), of_matrices(states).right.values()
    assert (left.shape[2:], right.shape[2:]) == ((4,) * (1 + (longest >= 4)), (6,) * (1 + (longest >= 6)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"update_prob_flat": 4.0, "update_prob_decay": 0.2, "min_update_prob": 0.15},
            {"flat": 4.0, "decay": 0.2, "least": 0.15},
        ),
        ({"max_update_prob": 0.4, "update_prob_decay": 0.0}, {"largest": 0.4, "decay": 0.0}),
    ],
)
def test_fits_become_rare(ours, theirs):
    params, grads = drawn(3, 4), drawn(40, 3, 4, seed=1)
    path, states = walk(psgd_kron(RATE, **ours), params, grads)
    expected, fits = expected_path(grads, params, schedule=theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-10)
    fitted = np.flatnonzero(np.asarray(of_matrices(states).since_fit) == 0) + 1
    assert fitted.tolist() == fits and 8 < len(fits) < 20


def test_by_default_every_step_fits_for_500_steps_and_in_the_end_one_in_34():
    tx = scale_by_psgd_kron()
    update = jax.jit(lambda state: tx.update(jnp.ones((1, 1)), state)[1])
    start = tx.init(jnp.ones((1, 1)))
    fits_at = lambda count, since: int(update(start._replace(count=count - 1, since_fit=since - 1)).since_fit) == 0
    for count, since, expected in [(1, 1, True), (500, 1, True), (501, 1, False), (501, 2, True), (1000, 1, False)]:
        assert fits_at(count, since) == expected
    for count, since, expected in [(9000, 33, False), (9000, 34, True), (1194, 2, False), (1193, 2, True)]:
        assert fits_at(count, since) == expected


def gradients_of_known_covariance(steps, m, n):
    """Gradients L z R, the covariance of their entries row by row, and its power -1/2."""
    turn = lambda size, seed: np.linalg.qr(drawn(size, size, seed=seed))[0]
    left = turn(m, 2) @ np.diag(np.geomspace(1, 0.05, m)) @ turn(m, 3)
    right = turn(n, 4) @ np.diag(np.geomspace(2, 0.2, n)) @ turn(n, 5)
    grads = jnp.einsum("ab,tbc,cd->tad", left, drawn(steps, m, n, seed=6), right)
    covariance = np.kron(left @ left.T, right.T @ right)
    values, vectors = np.linalg.eigh(covariance)
    return grads, covariance, vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
def test_a_fit_without_inverses_turns_factors_that_are_far_from_symmetric_by_no_more_than_an_eighth(dtype, sign):
    """Turning makes the trace greater: nearly by a half turn for factors that are minus the identity or so."""
    factors = tuple(sign * jnp.eye(n) + 0.5 * drawn(n, n, seed=n, dtype=dtype) for n in (4, 6))
    bounds, h = jnp.array([3.0, 40.0]), drawn(4, 6, seed=1, dtype=dtype)
    new, moved = whitening.symmetric_fit(factors, bounds, h, 0.1)
    *expected, constants = oracle.refit_without_inverses(*map(np.asarray, factors), bounds**2, np.asarray(h), 0.1, 9)
    for ours, theirs in zip(new, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    np.testing.assert_allclose(moved**2, constants, rtol=1e-12)


def fitted(grads, **values):
    """The factors after fits whose steps fade, without momentum and damping."""
    steps = len(grads)
    rate = polynomial_schedule(0.1, 0.002, 1, steps // 2, steps // 4)
    tx = scale_by_psgd_kron(0.0, rate, damping=0.0, min_update_prob=1.0, **values)
    final = jax.jit(lambda g: jax.lax.scan(lambda s, g: (tx.update(g, s)[1], None), tx.init(g[0]), g)[0])(grads)
    return [np.asarray(next(iter(q.values()))[0]) for q in (final.inner_state.left, final.inner_state.right)]


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
def test_the_fit_ends_where_the_preconditioner_is_the_covariance_to_the_power_minus_one_half(geometry):
    """The last 2000 fits, of step 0.002, average over about 500: with eight keys P erred by 1 to 6 %, its eigenvalues
    against the covariance by up to 19 %."""
    grads, covariance, target = gradients_of_known_covariance(8000, 3, 4)
    left, right = fitted(grads, geometry=geometry)
    p = np.kron(left.T @ left, right.T @ right)
    assert np.linalg.norm(p - target) < 0.08 * np.linalg.norm(target)
    np.testing.assert_allclose(np.linalg.eigvalsh(p @ covariance @ p), 1, atol=0.25)
    for q in (left, right):
        if geometry == "triangular":
            np.testing.assert_array_equal(q, np.triu(q))
        else:
            assert np.linalg.norm(q - q.T) < 0.01 * np.linalg.norm(q)


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
def test_diagonal_factors_end_at_the_scales_of_rows_and_columns(geometry):
    rows, columns = np.array([1.0, 0.1, 3.0]), np.array([1.0, 20.0, 0.3, 2.0])
    left, right = fitted(rows[:, None] * drawn(6000, 3, 4, seed=1) * columns, geometry=geometry, max_precond_dim=1)
    np.testing.assert_allclose(np.outer(left**2, right**2) * np.outer(rows, columns), 1, atol=0.1)


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_scale_of_the_gradients_does_not_matter_if_the_start_has_the_inverse(scale):
    params, grads = drawn(4, 6), drawn(20, 4, 6, seed=1)
    path, _ = walk(psgd_kron(RATE), params, grads)
    other, _ = walk(psgd_kron(RATE, precond_init_scale=scale**-0.5), params, scale * grads)
    np.testing.assert_allclose(other, path, rtol=1e-10)


def test_the_start_is_forgotten():
    """From a thousandth and from a thousand times the scale that fits, the factors reach it within 100 fits."""
    grads = drawn(150, 4, 6, seed=1)
    sizes = []
    for scale in (1e-3, 1.0, 1e3):
        _, states = walk(scale_by_psgd_kron(0.0, precond_init_scale=scale), drawn(4, 6), grads)
        (left,), (right,) = states.left.values(), states.right.values()
        volume = jnp.linalg.slogdet(left[:, 0])[1] / 4 + jnp.linalg.slogdet(right[:, 0])[1] / 6
        sizes.append(np.asarray(volume[-50:]).mean())
    np.testing.assert_allclose(sizes, sizes[1], atol=0.1)


@pytest.mark.parametrize("longest", [9, 5, 1])
def test_balancing_changes_the_factors_and_not_the_steps(longest):
    grads, larger = drawn(4, 6), lambda by, factors: jax.tree.map(lambda q: by * q, factors)

    def step(balance_prob):
        tx = scale_by_psgd_kron(balance_prob=balance_prob, max_precond_dim=longest)
        state = tx.init(grads)
        state = state._replace(left=larger(1e6, state.left), right=larger(1e-6, state.right))
        updates, state = tx.update(grads, state)
        return updates, *(jnp.max(jnp.abs(q)) for q in jax.tree.leaves((state.left, state.right)))

    (apart, *sizes_apart), (balanced, *sizes) = step(0.0), step(1.0)
    np.testing.assert_allclose(balanced, apart, rtol=1e-10)
    np.testing.assert_allclose(sizes, 1, rtol=0.2)
    np.testing.assert_allclose(sizes_apart, [1e6, 1e-6], rtol=0.2)


def test_with_a_fit_of_step_zero_it_is_momentum_with_bounded_steps():
    params, grads = drawn(4, 6), 0.1 * drawn(10, 4, 6, seed=1)
    path, _ = walk(psgd_kron(RATE, precond_lr=0.0, precond_init_scale=0.5, max_rms=0.02), params, grads)
    average, p = np.zeros((4, 6)), np.asarray(params)
    for t, g in enumerate(np.asarray(grads), start=1):
        average = 0.9 * average + 0.1 * g
        u = 0.25 * average / (1 - 0.9**t)
        p = p - RATE * u * min(1, 0.02 / np.sqrt(np.mean(u**2)))
        np.testing.assert_allclose(path[t - 1], p, rtol=1e-12)


def test_which_side_is_the_input_makes_no_difference():
    """The noise is drawn in the shape of the leaf."""
    params, grads = drawn(4, 6), drawn(15, 4, 6, seed=1)
    path, _ = walk(psgd_kron(RATE), params, grads)
    sideways = psgd_kron(RATE, weight_dimension_numbers=MuonDimensionNumbers(1, 0))
    np.testing.assert_allclose(walk(sideways, params, grads)[0], path, rtol=1e-10)


def test_each_matrix_of_a_batch_and_each_leaf_goes_its_own_way_whatever_the_strategy():
    shapes = {"a": (3, 4, 5), "b": (5, 4), "c": (2, 2)}
    layout = {"a": MuonDimensionNumbers(1, 2), "b": MuonDimensionNumbers(), "c": MuonDimensionNumbers()}
    params = {name: drawn(*shape, seed=len(shape)) for name, shape in shapes.items()}
    grads = {name: drawn(12, *shape, seed=5 + len(shape)) for name, shape in shapes.items()}
    noise = {name: draws(12, shape, leaf=leaf) for leaf, (name, shape) in enumerate(shapes.items())}
    single = lambda g, p, v, balances: oracle.psgd_kron(np.asarray(g), np.asarray(p), RATE, v, balances)[0]
    for strategy in ("stack", "map", "leaf"):
        path, _ = walk(psgd_kron(RATE, weight_dimension_numbers=layout, strategy=strategy), params, grads)
        for index in range(3):
            alone = single(grads["a"][:, index], params["a"][index], noise["a"][0][:, index], noise["a"][1])
            np.testing.assert_allclose(path["a"][:, index], alone, rtol=1e-10)
        for name in "bc":
            np.testing.assert_allclose(path[name], single(grads[name], params[name], *noise[name]), rtol=1e-10)


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
@pytest.mark.parametrize(("shape", "rank"), [((4, 6), 1), ((4, 4), 2), ((1, 5), 1), ((6, 1), 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_gradients_of_low_rank_give_finite_steps_of_bounded_size(dtype, shape, rank, geometry):
    grads = drawn(300, shape[0], rank, dtype=dtype) @ drawn(300, rank, shape[1], seed=1, dtype=dtype)
    params = drawn(*shape, dtype=dtype)
    path, _ = walk(psgd_kron(RATE, balance_prob=0.2, geometry=geometry), params, grads)
    steps = np.diff(path, axis=0)
    sizes = np.sqrt(np.mean(steps**2, axis=(1, 2)))
    assert np.all(np.isfinite(path)) and np.all(sizes <= 1.11 * RATE) and np.all(sizes > 0.01 * RATE)


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
def test_without_a_gradient_nothing_moves_nor_grows(dtype, geometry):
    params = drawn(4, 6, dtype=dtype)
    tx = psgd_kron(RATE, balance_prob=1.0, geometry=geometry)
    path, states = walk(tx, params, jnp.zeros((20, 4, 6), dtype))
    np.testing.assert_array_equal(path, np.broadcast_to(params, path.shape))
    start, states = of_matrices(tx.init(params)), of_matrices(states)
    for before, after in zip(*(jax.tree.leaves((x.left, x.right, x.bounds)) for x in (start, states)), strict=True):
        np.testing.assert_array_equal(after, np.broadcast_to(before, after.shape))


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_gradients_do_not_overflow(scale, geometry):
    """In float32 their squares are beyond its range."""
    params, grads = drawn(4, 6, dtype=jnp.float32), jnp.float32(scale) * drawn(30, 4, 6, seed=1, dtype=jnp.float32)
    path, states = walk(psgd_kron(RATE, geometry=geometry), params, grads)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((path, states)))
    (left,), (right,) = of_matrices(states).left.values(), of_matrices(states).right.values()
    volume = lambda q: np.linalg.slogdet(np.asarray(q[:, 0], np.float64))[1] / q.shape[-1]
    first, *_, last = volume(left) + volume(right)
    assert last < first - 0.2 if scale > 1 else last > first + 0.2
    if scale > 1:
        steps = np.diff(path.astype(np.float64), axis=0) / RATE
        np.testing.assert_allclose(np.sqrt(np.mean(steps**2, axis=(1, 2))), 1.1, rtol=1e-4)


@pytest.mark.parametrize("geometry", ["triangular", "pro"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_not_hidden(bad, geometry):
    tx, params = psgd_kron(RATE, geometry=geometry), drawn(4, 6)
    updates, state = tx.update(params, tx.init(params), params)
    updates, state = tx.update(params.at[0, 0].set(bad), state, params)
    assert jnp.all(jnp.isnan(updates))
    updates, _ = tx.update(params, state, params)
    assert jnp.all(jnp.isnan(updates))


def test_a_random_key_is_a_leaf_that_lanes_can_vary():
    params, grads = drawn(3, 4), drawn(10, 3, 4, seed=1)
    keys = jax.random.split(jax.random.key(3), 2)
    lanes = jax.vmap(lambda key: walk(psgd_kron(RATE, key=key), params, grads)[0])(keys)
    for lane, key in zip(lanes, keys, strict=True):
        np.testing.assert_allclose(lane, walk(psgd_kron(RATE, key=key), params, grads)[0], rtol=1e-10)
    assert not np.allclose(*lanes, rtol=1e-6)
    same, _ = walk(psgd_kron(RATE, key=jax.random.key(5)), params, grads)
    np.testing.assert_array_equal(same, walk(psgd_kron(RATE, key=5), params, grads)[0])
    assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(psgd_kron(RATE)))


@pytest.mark.parametrize("with_step", [True, False])
def test_lanes_equal_single_runs_and_fit_only_when_one_is_due(monkeypatch, with_step):
    """Of twelve steps the first lane fits in 3, 6, 9 and 12, the second in 4, 8 and 12: six fits of two solves each."""
    calls, original = [], whitening.solve_adjoint_upper

    def counting(*args, **kwargs):
        jax.debug.callback(lambda: calls.append(1))
        return original(*args, **kwargs)

    monkeypatch.setattr(whitening, "solve_adjoint_upper", counting)
    jax.clear_caches()
    params, grads, probs = drawn(3, 4), drawn(12, 3, 4, seed=1), jnp.array([1 / 3, 0.25])
    make = lambda prob: psgd_kron(RATE, max_update_prob=prob)

    def lane_step(prob, carry, index, g):
        params, state = carry
        updates, state = make(prob).update(g, state, params, **({"step": index} if with_step else {}))
        return optax.apply_updates(params, updates), state

    starts = jax.vmap(lambda prob: (params, make(prob).init(params)))(probs)
    one_step = lambda carry, this: (jax.vmap(lane_step, (0, 0, None, None))(probs, carry, *this), None)
    (lanes, _), _ = jax.jit(lambda start: jax.lax.scan(one_step, start, (jnp.arange(12), grads)))(starts)
    jax.effects_barrier()
    assert len(calls) == 12
    monkeypatch.undo()
    jax.clear_caches()
    for lane, prob in zip(lanes, probs, strict=True):
        np.testing.assert_allclose(lane, walk(make(prob), params, grads)[0][-1], rtol=1e-10)


def test_a_badly_conditioned_problem_of_matrices_is_solved_where_adam_stalls():
    """Condition 10^6; the best of three rates for each, in 600 steps."""
    spectrum = lambda size, seed: np.linalg.qr(drawn(size, size, seed=seed))[0] * np.geomspace(1, 0.03, size)
    left, right, target = spectrum(6, 1), spectrum(8, 2), drawn(6, 8, seed=3)
    loss = lambda x: 0.5 * jnp.sum((left.T @ (x - target) @ right) ** 2)

    def final(make, rate, steps=600):
        tx = make(optax.cosine_decay_schedule(rate, steps))

        def step(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return (p + updates, state), None

        start = jnp.zeros((6, 8))
        return loss(jax.lax.scan(step, (start, tx.init(start)), None, length=steps)[0][0])

    best = lambda make: min(float(final(make, rate)) for rate in (0.03, 0.1, 0.3))
    assert best(psgd_kron) < 1e-3 * best(adam)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b1": 1.0}, "b1"),
        ({"precond_lr": 0.8}, "precond_lr"),
        ({"precond_init_scale": 0.0}, "precond_init_scale"),
        ({"damping": -1e-3}, "damping"),
        ({"balance_prob": 1.5}, "balance_prob"),
        ({"max_rms": 0.0}, "max_rms"),
        ({"max_update_prob": 1.1}, "max_update_prob"),
        ({"min_update_prob": 0.0}, "min_update_prob"),
        ({"update_prob_decay": -0.1}, "update_prob_decay"),
        ({"max_precond_dim": 0}, "max_precond_dim"),
        ({"geometry": "prop"}, "geometry 'prop'.*'pro'"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        psgd_kron(RATE, **values)


def test_the_stage_alone_wants_matrices():
    with pytest.raises(ValueError, match="parameter 'b' has 1 axes"):
        scale_by_psgd_kron().init({"b": jnp.ones(3)})
