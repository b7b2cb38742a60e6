"""Newton's methods beside their oracles, at saddles and near minima."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from gradlab.optimizers.newton import newton, saddle_free_newton
from gradlab.optimizers.newton_cg import newton_cg
from tests.losses import SIZE, minimise, quartic, quartic_gradient, quartic_hessian, rosenbrock, saddle
from tests.oracles import newton as oracle
from tests.trajectories import flat, mixed_tree

CG = {"damping": 0.1, "tolerance": 0.1, "radius": None, "max_iterations": 20}
CASES = [
    (newton, oracle.newton, {"damping": 3.0}, {}),
    (saddle_free_newton, oracle.saddle_free_newton, {"damping": 0.1}, {}),
    (saddle_free_newton, oracle.krylov_newton, {"damping": 0.1, "rank": 4}, {}),
    (saddle_free_newton, oracle.saddle_free_newton, {"damping": 0.1}, {"rank": 50}),
    (newton_cg, oracle.newton_cg, CG, {}),
    (newton_cg, oracle.newton_cg, CG | {"radius": 1.5, "tolerance": 0.01}, {}),
    (newton_cg, oracle.newton_cg, CG | {"max_iterations": 3}, {}),
]


@pytest.mark.parametrize(("make", "reference", "hyper", "more"), CASES, ids=range(len(CASES)))
def test_positions_are_those_of_the_oracle(make, reference, hyper, more):
    params = jax.tree.map(lambda p: 0.3 * p, mixed_tree())
    ours, _ = minimise(make(0.5, **hyper, **more), quartic, params, 12)
    exact = reference(flat(params), quartic_gradient, quartic_hessian, 12, lr=0.5, **hyper)
    np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-11)


def test_the_search_of_the_oracle_cases_meets_negative_curvature_and_the_boundary():
    p = 0.3 * flat(mixed_tree())
    g, matrix = quartic_gradient(p), quartic_hessian(p) + 0.1 * np.eye(SIZE)
    free = oracle.truncated_cg(matrix, g, 0.1, None, 20)
    first, second = (oracle.truncated_cg(matrix, g, 0.01, 1.5, k) for k in (1, 2))
    assert np.linalg.norm(matrix @ free - g) > 0.1 * np.linalg.norm(g)
    assert np.linalg.norm(first) < 1.0 and np.linalg.norm(second) == pytest.approx(1.5, rel=1e-12)


START = jnp.array([0.5, 0.1])


class TestAtASaddle:
    """x^2 - y^2 + y^4 / 4 from (0.5, 0.1): the saddle is the nearest critical point, the minima are at y = sqrt(2)."""

    def test_newton_converges_to_it(self):
        path, _ = minimise(newton(), saddle, START, 8)
        np.testing.assert_allclose(path[-1], 0.0, atol=1e-15)

    @pytest.mark.parametrize(
        "tx",
        [
            saddle_free_newton(damping=0.1),
            saddle_free_newton(damping=0.1, rank=2),
            newton_cg(tolerance=0.0),
            newton_cg(tolerance=0.0, radius=0.5),
        ],
        ids=["saddle_free_newton", "krylov", "newton_cg", "steihaug"],
    )
    def test_the_others_leave_it(self, tx):
        path, _ = minimise(tx, saddle, START, 60)
        np.testing.assert_allclose(path[-1], [0.0, np.sqrt(2)], atol=1e-6)

    def test_damping_beyond_the_negative_curvature_cures_newton_too(self):
        path, _ = minimise(newton(damping=2.5), saddle, START, 200)
        np.testing.assert_allclose(path[-1], [0.0, np.sqrt(2)], atol=1e-6)

    def test_newton_lands_on_a_quadratic_saddle_in_one_step_and_saddle_free_newton_doubles_its_distance(self):
        loss, at = lambda p: p[0] ** 2 - p[1] ** 2, jnp.array([3.0, 0.25])
        path, _ = minimise(newton(), loss, at, 1)
        np.testing.assert_allclose(path[0], [0.0, 0.0], atol=1e-15)
        path, _ = minimise(saddle_free_newton(damping=0.0), loss, at, 3)
        np.testing.assert_allclose(path, [[0.0, 0.5], [0.0, 1.0], [0.0, 2.0]], atol=1e-15)


ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
MINIMUM = np.arange(1.0, 7.0)


def bowl_of(curvatures):
    matrix = jnp.asarray(ROTATION @ np.diag(curvatures) @ ROTATION.T)
    return lambda x: (x - MINIMUM) @ matrix @ (x - MINIMUM) / 2


class TestOnAQuadratic:
    @pytest.mark.parametrize("make", [newton, saddle_free_newton])
    def test_one_step_reaches_the_minimum(self, make):
        path, _ = minimise(make(damping=0.0), bowl_of(np.geomspace(1e-2, 1e2, 6)), jnp.zeros(6), 1)
        np.testing.assert_allclose(path[0], MINIMUM, rtol=1e-10)

    def test_damping_leaves_the_part_damping_over_curvature_plus_damping_of_each_error(self):
        curvatures = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
        path, _ = minimise(newton(damping=3.0), bowl_of(curvatures), jnp.zeros(6), 2)
        left = (3.0 / (curvatures + 3.0)) ** 2
        np.testing.assert_allclose(ROTATION.T @ (MINIMUM - path[1]), left * (ROTATION.T @ MINIMUM), rtol=1e-10)

    @pytest.mark.parametrize("distinct", [1, 3, 6])
    def test_conjugate_gradients_need_as_many_products_as_there_are_curvatures(self, distinct):
        loss = bowl_of(np.resize(np.geomspace(1.0, 50.0, distinct), 6))
        reached = [
            np.max(np.abs(minimise(newton_cg(tolerance=0.0, max_iterations=k), loss, jnp.zeros(6), 1)[0][0] - MINIMUM))
            for k in (distinct, max(distinct - 1, 1))
        ]
        assert reached[0] < 1e-9
        assert distinct == 1 or reached[1] > 1e-2

    def test_the_residual_falls_below_the_tolerance(self):
        loss = bowl_of(np.geomspace(1.0, 1e3, 6))
        slope = jax.grad(loss)
        for tolerance in (0.5, 0.1, 1e-3):
            path, _ = minimise(newton_cg(tolerance=tolerance), loss, jnp.zeros(6), 1)
            ratio = jnp.linalg.norm(slope(path[0])) / jnp.linalg.norm(slope(jnp.zeros(6)))
            assert 1e-3 * tolerance < ratio <= tolerance

    @pytest.mark.parametrize("make", [newton, saddle_free_newton, newton_cg])
    def test_the_unit_of_the_loss_does_not_matter(self, make):
        paths = [minimise(make(0.5, damping=0.0), scaled, START, 5)[0] for scaled in (saddle, thousandfold)]
        np.testing.assert_allclose(*paths, rtol=1e-9)


def thousandfold(p):
    return 1000 * saddle(p)


@pytest.mark.parametrize(
    "tx",
    [newton(), saddle_free_newton(damping=0.0), newton_cg(tolerance=0.0, max_iterations=4)],
    ids=["newton", "saddle_free_newton", "newton_cg"],
)
def test_near_the_minimum_of_rosenbrock_every_step_squares_the_error(tx):
    path, _ = minimise(tx, rosenbrock, jnp.array([1.03, 1.05]), 5)
    errors = np.linalg.norm(path - 1.0, axis=1)
    assert np.all(errors[1:4] < 1e3 * errors[:3] ** 2)
    assert errors[3] < 1e-8 and errors[4] < 1e-13


@pytest.mark.parametrize("rank", [None, 2])
def test_the_derivative_of_a_step_is_right_where_all_curvatures_are_equal(rank):
    """The Krylov space ends after one vector there, and no eigenvector has a derivative."""

    @jax.jit
    def end(x):
        tx = saddle_free_newton(0.3, damping=0.5, rank=rank)
        loss = lambda p: jnp.sum(p**2) + 0.1 * jnp.sum(p**2) ** 2
        updates, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, value_fn=loss)
        return jnp.sum(jnp.arange(1.0, 4.0) * (x + updates))

    sphere = jnp.zeros(3).at[1].set(0.7)
    h = 1e-6
    numeric = [(end(sphere + h * axis) - end(sphere - h * axis)) / (2 * h) for axis in jnp.eye(3)]
    np.testing.assert_allclose(jax.jit(jax.grad(end))(sphere), numeric, rtol=1e-6)


def test_lanes_of_newton_cg_stop_one_by_one():
    starts = jnp.array([[0.5, 0.1], [0.1, 0.5], [0.0, 0.0], [2.0, 3.0]])
    tx = newton_cg(tolerance=0.0, radius=1.0)
    step = lambda x: tx.update(jax.grad(saddle)(x), tx.init(x), x, value_fn=saddle)[0]
    lanes, alone = jax.jit(jax.vmap(step))(starts), jax.jit(step)
    chex.assert_trees_all_close(lanes, jnp.stack([alone(x) for x in starts]), rtol=1e-10)
    assert not np.any(lanes[2])


@pytest.mark.parametrize("make", [newton, saddle_free_newton, newton_cg])
def test_what_is_missing_is_named(make):
    params = {"w": jnp.ones(2)}
    tx = make()
    with pytest.raises(ValueError, match=f"{make.__name__} needs the loss.*value_fn="):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=f"{make.__name__} needs the parameters"):
        tx.update(params, tx.init(params), value_fn=lambda p: jnp.sum(p["w"]))


@pytest.mark.parametrize(
    ("values", "named"),
    [({"damping": -1.0}, "damping"), ({"tolerance": 1.0}, "tolerance"), ({"radius": 0.0}, "radius")],
)
def test_impossible_values_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        newton_cg(**values)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank"):
        saddle_free_newton(rank=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_digits_saddle_free_newton_goes_down_where_damped_newton_jumps_about(seed):
    """A 64-8-10 network of 610 parameters from near the saddle at zero: the experiment of 1406.2572 in small."""
    data = load_digits()
    images, labels = jnp.asarray(data.data[:100] / 16), jnp.asarray(data.target[:100])
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "hidden": {"kernel": 0.1 * jax.random.normal(keys[0], (64, 8)), "bias": jnp.zeros(8)},
        "output": {"kernel": 0.1 * jax.random.normal(keys[1], (8, 10)), "bias": jnp.zeros(10)},
    }

    def loss(p):
        hidden = jnp.tanh(images @ p["hidden"]["kernel"] + p["hidden"]["bias"])
        logits = jax.nn.log_softmax(hidden @ p["output"]["kernel"] + p["output"]["bias"])
        return -jnp.mean(jnp.take_along_axis(logits, labels[:, None], 1))

    def losses(tx):
        step = lambda at: optax.apply_updates(at, tx.update(jax.grad(loss)(at), tx.init(at), at, value_fn=loss)[0])
        path = [params]
        for _ in range(8):
            path.append(jax.jit(step)(path[-1]))
        return np.array([loss(at) for at in path])

    plain, saddle_free = losses(newton(damping=0.1)), losses(saddle_free_newton(damping=0.1, rank=15))
    assert np.all(np.diff(saddle_free) < 0)
    assert np.max(np.diff(plain)) > 0.5
    assert saddle_free[-1] < 0.11 * saddle_free[0]
    assert saddle_free[-1] < 0.5 * plain[-1]
