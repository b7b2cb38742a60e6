"""SAM in both modes beside Optax, ASAM and MSAM beside plain loops; how far they climb, and what it is good for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gradlab
from gradlab.optimizers.msam import msam
from gradlab.optimizers.sharpness import asam, normalize, sam
from gradlab.tasks import quadratic, surface_task
from tests.trajectories import STEPS, flat, mixed_grads, mixed_tree, run

LR, RHO = 0.05, 0.3
PARAMS, GRADS = mixed_tree(), mixed_grads()
START, ROWS = flat(PARAMS), flat(GRADS, rows=STEPS)
CURVATURES = np.linspace(0.5, 3.0, START.size)


def bowl(params):
    vector, _ = ravel_pytree(params)
    return 0.5 * jnp.sum(CURVATURES * vector**2)


def ascent(library, rho=RHO):
    normalized = normalize() if library is gradlab else optax.contrib.normalize()
    return library.chain(normalized, library.sgd(rho, momentum=0.5))


@pytest.mark.parametrize("reset_state", [False, True])
@pytest.mark.parametrize("period", [2, 4])
def test_the_transparent_mode_is_optaxs(period, reset_state):
    ours = run(sam(gradlab.adamw(LR, weight_decay=0.1), ascent(gradlab), period, reset_state), PARAMS, GRADS)
    theirs = optax.contrib.sam(optax.adamw(LR, weight_decay=0.1), ascent(optax), period, reset_state)
    optaxs = run(theirs, PARAMS, GRADS)
    chex.assert_trees_all_close(ours, optaxs, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], optaxs[1])


@jax.jit
def descend(tx, params, steps, **functions):
    """Gradient steps on the bowl; the parameters after each, and what they report."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(bowl)(params), state, params, **functions)
        params = optax.apply_updates(params, updates)
        return (params, state), (ravel_pytree(params)[0], ravel_pytree(gradlab.eval_params(tx, state, params))[0])

    (_, state), rows = jax.lax.scan(step, (params, tx.init(params)), steps)
    return *rows, state


def grad_fn(params, i):
    return jax.tree.map(lambda g: (1 + i) * g, jax.grad(bowl)(params))


@pytest.mark.parametrize("reset_state", [False, True])
@pytest.mark.parametrize("period", [1, 2, 3])
def test_the_opaque_mode_is_optaxs(period, reset_state):
    options = (period, reset_state, True)
    function, steps = jax.tree_util.Partial(grad_fn), jnp.arange(20)
    ours = descend(sam(gradlab.adam(LR), ascent(gradlab), *options), PARAMS, steps, grad_fn=function)
    optaxs = gradlab.from_optax(optax.contrib.sam(optax.adam(LR), ascent(optax), *options))
    chex.assert_trees_all_close(ours, descend(optaxs, PARAMS, steps, grad_fn=function), rtol=1e-10, atol=1e-13)


def plain_ascent(rho=RHO):
    return gradlab.chain(normalize(), gradlab.sgd(rho))


def sam_loop(p, climb, steps):
    rows = []
    for _ in range(steps):
        g = CURVATURES * p
        p = p - LR * CURVATURES * (p + climb(g, p))
        rows.append(p)
    return np.stack(rows)


CLIMBS = {
    "sam": (sam(gradlab.sgd(LR), plain_ascent(), opaque_mode=True), lambda g, p: RHO * g / np.linalg.norm(g)),
    "asam": (
        asam(gradlab.sgd(LR), RHO, 0.2),
        lambda g, p: RHO * (np.abs(p) + 0.2) ** 2 * g / np.linalg.norm((np.abs(p) + 0.2) * g),
    ),
}


@pytest.mark.parametrize("name", CLIMBS)
def test_the_loss_alone_is_enough(name):
    tx, climb = CLIMBS[name]
    rows, _, _ = descend(tx, PARAMS, jnp.arange(30), value_fn=jax.tree_util.Partial(bowl))
    np.testing.assert_allclose(rows, sam_loop(START, climb, 30), rtol=1e-10, atol=1e-12)


def test_the_perturbed_point_is_rho_away():
    unit = lambda params: 0.5 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))  # its gradient is the point itself
    for make, length in (
        (lambda: sam(gradlab.sgd(1.0), plain_ascent(), opaque_mode=True), lambda climb: climb),
        (lambda: asam(gradlab.sgd(1.0), RHO, 0.2), lambda climb: climb / (np.abs(START) + 0.2)),
    ):
        tx = make()
        updates, _ = tx.update(GRADS_0, tx.init(PARAMS), PARAMS, value_fn=unit)
        assert np.linalg.norm(length(-flat(updates) - START)) == pytest.approx(RHO, rel=1e-12)
    tx = sam(gradlab.sgd(1.0), plain_ascent())
    updates, _ = tx.update(GRADS_0, tx.init(PARAMS), PARAMS)
    assert np.linalg.norm(flat(updates)) == pytest.approx(RHO, rel=1e-12)
    assert float(np.dot(flat(updates), flat(GRADS_0))) > 0
    tx = msam(gradlab.sgd(1.0), RHO)
    updates, state = tx.update(GRADS_0, tx.init(PARAMS), PARAMS)
    moved = gradlab.apply_updates(PARAMS, updates)
    away = flat(moved) - flat(gradlab.eval_params(tx, state, moved))
    assert np.linalg.norm(away) == pytest.approx(RHO, rel=1e-12)


GRADS_0 = jax.tree.map(lambda rows: rows[0], GRADS)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_the_transparent_mode_reports_where_it_steps_from(period):
    """Also with a period of 1, where Optax returns to the parameters of the call before and so forgets its steps."""
    tx = sam(gradlab.sgd(LR), plain_ascent(), period)
    rows, reported, _ = descend(tx, PARAMS, jnp.arange(12))
    p, expected = START, []
    for call in range(12):
        if call % period == 0:
            home, away = p, p
        if call % period < period - 1:
            g = CURVATURES * away
            away = away + RHO * g / np.linalg.norm(g)
        else:
            p = home - LR * CURVATURES * away
        expected.append(p)
    np.testing.assert_allclose(reported, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rows[period - 1 :: period], expected[period - 1 :: period], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_msam_is_its_authors_loop(momentum):
    """Their buffer is a sum of gradients, whose direction is that of the average."""
    p, buffer, inverse_norm, rows, reported = START, np.zeros_like(START), 0.0, [], []
    for g in ROWS:
        g = g + 0.1 * p
        q = p + RHO * buffer * inverse_norm
        buffer = momentum * buffer + g
        q = q - LR * buffer
        inverse_norm = 1 / np.linalg.norm(buffer)
        p = q - RHO * buffer * inverse_norm
        rows.append(p)
        reported.append(q)
    tx = gradlab.chain(gradlab.add_decayed_weights(0.1), msam(gradlab.sgd(LR, momentum), RHO, momentum))
    got, state = run(tx, PARAMS, GRADS)
    np.testing.assert_allclose(got, rows, rtol=1e-10, atol=1e-12)
    last = ravel_pytree(PARAMS)[1](jnp.asarray(got[-1]))
    np.testing.assert_allclose(flat(gradlab.eval_params(tx, state, last)), reported[-1], rtol=1e-10)


def test_where_the_gradient_is_zero_there_is_nothing_to_climb():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    function = {"value_fn": bowl}

    def moved(rho):
        total = 0.0
        for tx in (
            sam(gradlab.sgd(LR), plain_ascent(rho)),
            sam(gradlab.sgd(LR), plain_ascent(rho), opaque_mode=True),
            asam(gradlab.sgd(LR), rho),
            msam(gradlab.sgd(LR), rho),
        ):
            updates, _ = tx.update(zeros, tx.init(zeros), zeros, **function)
            total += sum(jnp.sum(u**2) for u in jax.tree.leaves(updates))
        return total

    assert float(moved(RHO)) == 0 and float(jax.grad(moved)(RHO)) == 0
    theirs = optax.contrib.sam(optax.sgd(LR), ascent(optax))
    assert np.all(np.isnan(flat(theirs.update(zeros, theirs.init(zeros), zeros)[0])))


def test_a_gradient_of_none_stays_none():
    params = {"w": jnp.ones(2), "b": jnp.ones(1)}
    grads = {"w": jnp.ones(2), "b": None}
    for tx in (sam(gradlab.sgd(LR), plain_ascent(), opaque_mode=True), asam(gradlab.sgd(LR)), msam(gradlab.sgd(LR))):
        updates, _ = tx.update(grads, tx.init(params), params, value_fn=lambda p: jnp.sum(p["w"] ** 2 + p["b"] ** 2))
        assert updates["b"] is None and updates["w"].shape == (2,)


def test_lanes_may_vary_rho():
    steps, function = jnp.arange(10), jax.tree_util.Partial(bowl)
    lanes = jax.vmap(lambda rho: asam(gradlab.sgd(LR), rho))(jnp.array([0.1, 0.5]))
    rows = jax.vmap(lambda tx: descend(tx, PARAMS, steps, value_fn=function)[0])(lanes)
    for index, rho in enumerate((0.1, 0.5)):
        alone = descend(asam(gradlab.sgd(LR), rho), PARAMS, steps, value_fn=function)[0]
        np.testing.assert_allclose(rows[index], alone, rtol=1e-10)


def test_gradients_taken_inside_are_averaged_over_the_named_axis():
    tx = sam(gradlab.sgd(1.0), plain_ascent(0.0), opaque_mode=True, batch_axis_name="batch")

    def shard(data):
        p = jnp.zeros(())
        return tx.update(jnp.ones(()), tx.init(p), p, value_fn=lambda p: 0.5 * (p - data) ** 2)[0]

    updates = jax.vmap(shard, axis_name="batch")(jnp.array([1.0, 5.0]))
    np.testing.assert_allclose(updates, [3.0, 3.0], rtol=1e-12)


def test_in_fit_it_needs_nothing_more():
    task = surface_task(quadratic(condition=10.0))
    tx = sam(gradlab.sgd(0.05), plain_ascent(0.1), opaque_mode=True)
    history = gradlab.fit(task, tx, steps=15)
    (p,) = jax.tree.leaves(task.init(jax.random.fold_in(jax.random.key(0), 0))[0])
    loss = lambda p: task.metrics(jax.tree.unflatten(jax.tree.structure(history.params), [p]), {}, None)["loss"]
    for _ in range(15):
        g = jax.grad(loss)(p)
        p = p - 0.05 * jax.grad(loss)(p + 0.1 * g / jnp.linalg.norm(g))
    np.testing.assert_allclose(*jax.tree.leaves(history.params), p, rtol=1e-4)


def product(params):
    return 0.5 * (params[0] * params[1] - 1) ** 2


def sharpness(params):
    return float(jnp.linalg.eigvalsh(jax.hessian(product)(params))[-1])


@jax.jit
def _settle(tx, start, steps):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(product)(params), state, params, value_fn=product)
        return (params + updates, state), None

    return jax.lax.scan(step, (start, tx.init(start)), steps)[0][0]


def test_sam_leaves_a_sharp_minimum_for_the_flattest_and_gradient_descent_does_not():
    """The minima of (a * b - 1)^2 / 2 are the points with a * b = 1, their sharpness a^2 + b^2, the least of it 2."""
    start, steps = jnp.array([3.0, 0.3]), jnp.arange(20_000)
    plain = _settle(gradlab.sgd(0.02), start, steps)
    flat_one = _settle(sam(gradlab.sgd(0.02), plain_ascent(0.05), opaque_mode=True), start, steps)
    for params in (plain, flat_one):
        assert float(product(params)) < 1e-2
    assert sharpness(plain) > 8.5 and sharpness(flat_one) < 2.5


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="`sync_period` must be >= 1"):
        sam(gradlab.sgd(LR), plain_ascent(), 0)
    tx = asam(gradlab.sgd(LR))
    with pytest.raises(ValueError, match=r"grad_fn must be provided when opaque_mode=True.*value_fn=lambda"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
