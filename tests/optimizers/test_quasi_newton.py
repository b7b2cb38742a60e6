"""L-BFGS, BFGS and conjugate gradients: oracles on quadratics, Optax's and SciPy's runs, exactness, restarts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import gradlab
from tests.descents import STEPS, descend, exact_search, logistic, quadratic, regression, rosenbrock, valley
from tests.oracles import quasi_newton as oracle

FORMS = ("fr", "pr+", "hs", "dy")
MAKES = [gradlab.lbfgs, gradlab.bfgs, gradlab.nonlinear_cg]


def points(tx, loss, start, steps=STEPS):
    return np.asarray(descend(tx, loss, jnp.asarray(start), steps)[0])


@pytest.mark.parametrize("mode", [{}, {"memory_size": 3}, {"memory_size": 1, "scale_init_precond": False}])
def test_lbfgs_is_the_product_of_its_pairs(mode):
    loss = quadratic()
    expected = oracle.lbfgs(*loss, np.ones(6), 8, mode.get("memory_size", 10), mode.get("scale_init_precond", True))
    walked = points(gradlab.lbfgs(**mode, linesearch=exact_search(loss)), loss, np.ones(6), 8)
    np.testing.assert_allclose(walked[:5], expected[:5], rtol=1e-8)
    if mode.get("memory_size", 10) < 6:
        np.testing.assert_allclose(walked, expected, rtol=1e-8)


@pytest.mark.parametrize("scale", [True, False])
def test_bfgs_is_the_dense_update_and_ends_with_the_inverse_hessian(scale):
    loss = quadratic()
    tx = gradlab.bfgs(scale_init_precond=scale, linesearch=exact_search(loss))
    rows, states = descend(tx, loss, jnp.ones(6), 7)
    np.testing.assert_allclose(rows[:5], oracle.bfgs(*loss, np.ones(6), 5, scale), rtol=1e-8)
    np.testing.assert_allclose(rows[5], loss.minimum, rtol=1e-8)
    inverse = states[0].inverse_hessian[6]
    np.testing.assert_allclose(inverse, np.linalg.inv(loss.matrix), rtol=1e-6, atol=1e-9)
    assert states[0].pairs[6] == 6


@pytest.mark.parametrize("form", FORMS)
def test_conjugate_gradients_end_after_as_many_steps_as_there_are_unknowns(form):
    loss = quadratic(size=8)
    tx = gradlab.nonlinear_cg(form=form, linesearch=exact_search(loss))
    rows, states = descend(tx, loss, jnp.ones(8), 8)
    distance = np.linalg.norm(np.asarray(rows) - loss.minimum, axis=1)
    assert distance[6] > 1e-3 > 1e-9 > distance[7]
    assert states[0].restarts[7] == 1


@pytest.mark.parametrize("form", FORMS)
def test_conjugate_gradients_after_steps_that_are_too_short(form):
    """There the four forms differ from each other."""
    loss = quadratic()
    search = gradlab.chain(exact_search(loss), gradlab.scale(0.7))
    tx = gradlab.nonlinear_cg(form=form, linesearch=search, restart_threshold=np.inf)
    rows, states = descend(tx, loss, jnp.ones(6), 6)
    np.testing.assert_allclose(rows, oracle.conjugate_gradients(*loss, np.ones(6), 6, form, 0.7), rtol=1e-9)
    assert states[0].restarts[-1] == 1 or form == "pr+"  # which restarts where its beta would be negative


def test_conjugate_gradients_restart():
    """From gradients that are not orthogonal, from directions that ascend, and from denominators of zero."""
    first, aligned = jnp.array([1.0, 0.0]), jnp.array([0.5, 1.0])
    for threshold, restarts in ((0.5, 1), (0.3, 2)):  # <g, g_> / <g, g> is 0.4
        tx = gradlab.scale_by_conjugate_gradient("fr", restart_threshold=threshold)
        _, state = tx.update(first, tx.init(first))
        assert tx.update(aligned, state)[1].restarts == restarts
    tx = gradlab.scale_by_conjugate_gradient("fr", restart_threshold=np.inf)
    _, state = tx.update(first, tx.init(first))
    opposed = jnp.array([-2.0, 0.0])  # beta is 4, and -2 + 4 points uphill
    direction, state = tx.update(opposed, state)
    np.testing.assert_array_equal(direction, opposed)
    for form in FORMS:
        tx = gradlab.scale_by_conjugate_gradient(form, restart_threshold=np.inf)
        _, state = tx.update(jnp.zeros(2), tx.init(first))
        np.testing.assert_array_equal(tx.update(first, state)[0], first)


def test_bfgs_skips_pairs_of_negative_curvature():
    tx = gradlab.scale_by_bfgs()
    params, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    for g, p, pairs in (([2.0, 0.0], [1.0, 0.0], 0), ([3.0, 0.0], [0.0, 0.0], 0), ([1.0, 1.0], [-1.0, -1.0], 1)):
        params = jnp.array(p)
        direction, state = tx.update(jnp.array(g), state, params)
        assert state.pairs == pairs
        chex.assert_tree_all_finite((direction, state))
        assert direction @ jnp.array(g) > 0


MODES = [{}, {"memory_size": 1}, {"scale_init_precond": False}]
MODES += [{"learning_rate": 0.5, "linesearch": None}, {"learning_rate": optax.cosine_decay_schedule(1.0, 60)}]


@pytest.mark.parametrize("mode", MODES, ids=range(len(MODES)))
def test_lbfgs_walks_with_optax_on_a_regression(mode):
    ours = descend(gradlab.lbfgs(**mode), logistic, regression())
    optaxs = descend(optax.lbfgs(**mode), logistic, regression())
    chex.assert_trees_all_close(ours[0], optaxs[0], rtol=1e-10, atol=1e-10)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(optaxs[1])
    chex.assert_trees_all_equal_shapes_and_dtypes(ours[1], optaxs[1])
    ten = lambda states: jax.tree.map(lambda rows: rows[9], states)  # later differences are rounding
    chex.assert_trees_all_close(ten(ours[1]), ten(optaxs[1]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [2, 10])
@pytest.mark.parametrize("memory_size", [10, 3])
def test_every_step_through_the_valley_is_that_of_optax(size, memory_size):
    """Each from the state that Optax has reached: fifty steps along the valley's floor make 1e-9 of one rounding."""
    ours, theirs = gradlab.lbfgs(memory_size=memory_size), optax.lbfgs(memory_size=memory_size)
    rows, states = descend(theirs, rosenbrock, valley(size))
    first = (valley(size), theirs.init(valley(size)))
    before = jax.tree.map(lambda start, rows: jnp.concatenate([start[None], rows[:-1]]), first, (rows, states))

    @jax.jit
    @jax.vmap
    def step(params, state):
        value, grad = jax.value_and_grad(rosenbrock)(params)
        updates, _ = ours.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        return params + updates

    np.testing.assert_allclose(step(*before), rows, rtol=1e-10, atol=1e-10)


def test_a_state_of_optax_continues_in_gradlab():
    theirs = optax.lbfgs()
    _, states = descend(theirs, rosenbrock, valley(4), 8)
    state = jax.tree.map(lambda rows: rows[7], states)
    params = jnp.array([0.3, 0.1, 0.2, 0.4])
    value, grad = jax.value_and_grad(rosenbrock)(params)
    known = {"value": value, "grad": grad}
    ours = gradlab.lbfgs().update(grad, state, params, value_fn=rosenbrock, **known)
    expected = jax.jit(lambda state: theirs.update(grad, state, params, value_fn=rosenbrock, **known))(state)
    chex.assert_trees_all_close(ours, expected, rtol=1e-9, atol=1e-12)


PEERS = {"L-BFGS-B": gradlab.lbfgs(), "BFGS": gradlab.bfgs(scale_init_precond=False), "CG": gradlab.nonlinear_cg()}


@pytest.mark.parametrize("method", PEERS)
def test_steps_through_the_valley_are_about_as_many_as_those_of_scipy(method):
    start = np.array([0.19, -0.2, 0.96, 0.36, -1.4, 0.54])
    fun = jax.jit(jax.value_and_grad(rosenbrock))
    peer = scipy.optimize.minimize(fun, start, jac=True, method=method, options={"gtol": 1e-6, "maxiter": 2000})
    ours = gradlab.minimize(rosenbrock, start, PEERS[method], tol=1e-6)
    assert peer.success and bool(ours.converged)
    np.testing.assert_allclose(ours.params, peer.x, atol=1e-5)
    assert int(ours.steps) <= 1.3 * peer.nit


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_leaves_of_a_tree_are_one_vector(make):
    together = points(make(), rosenbrock, valley(6), 12)
    halves = {"head": valley(6)[:1], "tail": valley(6)[1:].reshape(5, 1)}
    rows, _ = descend(make(), lambda tree: rosenbrock(jnp.concatenate([tree["head"], tree["tail"][:, 0]])), halves, 12)
    apart = np.concatenate([rows["head"], rows["tail"][..., 0]], axis=1)
    np.testing.assert_allclose(apart, together, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_complex_parameters_move_as_their_parts_do(make):
    def of_complex(z):
        return rosenbrock(jnp.stack([z.real, z.imag]).T.ravel())

    start = valley(4)
    z = descend_complex(make(), of_complex, jax.lax.complex(start[::2], start[1::2]), 10)
    rows = points(make(), rosenbrock, start, 10)
    np.testing.assert_allclose(np.stack([z.real, z.imag], axis=-1).reshape(10, 4), rows, rtol=1e-6, atol=1e-8)


def descend_complex(tx, loss, params, steps):
    """The points of a run whose gradients are conjugated on their way in, as jax's must be."""
    state, rows = tx.init(params), []
    for _ in range(steps):
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = tx.update(jnp.conj(grad), state, params, value=value, value_fn=loss)
        params = params + updates
        rows.append(np.asarray(params))
    return np.stack(rows)


def test_the_derivative_of_a_run_of_conjugate_gradients_equals_finite_differences():
    def loss_after(rate):
        rows, _ = descend(gradlab.nonlinear_cg(rate), rosenbrock, valley(2), 3)
        return rosenbrock(rows[-1])

    at, h = 0.013, 1e-7
    numeric = (loss_after(at + h) - loss_after(at - h)) / (2 * h)
    np.testing.assert_allclose(jax.jacfwd(loss_after)(at), numeric, rtol=1e-4)
    assert abs(numeric) > 1e-6


def test_bad_structure_is_refused_by_name():
    with pytest.raises(ValueError, match="memory_size"):
        gradlab.lbfgs(memory_size=0)
    with pytest.raises(ValueError, match="unknown form 'pr'"):
        gradlab.nonlinear_cg(form="pr")
    for stage in (gradlab.scale_by_lbfgs(), gradlab.scale_by_bfgs()):
        with pytest.raises(ValueError, match="needs the parameters"):
            stage.update(jnp.ones(2), stage.init(jnp.ones(2)))
