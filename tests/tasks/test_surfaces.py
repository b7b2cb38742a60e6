import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from gradlab.tasks import SURFACES, make_surface, surface_task

KEY = jax.random.key(0)
VARIANTS = {
    **{name: {} for name in SURFACES},
    "quadratic 5d turned": {"condition": 30.0, "dim": 5, "rotation": 3},
    "rosenbrock 6d": {"dim": 6, "steepness": 7.0},
    "plateau wide": {"width": 2.5},
    "cliff steep": {"slope": 0.5, "wall": 2e4},
}

ORACLES = {
    "quadratic": lambda x: 0.5 * (x[0] ** 2 + 100 * x[1] ** 2),
    "rosenbrock": optimize.rosen,
    "beale": lambda x: sum((c - x[0] * (1 - x[1] ** k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))),
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    "saddle": lambda x: (x[0] - x[1]) * (x[0] + x[1]),
    "bounded_saddle": lambda x: x[0] ** 2 + 0.5 * (x[1] ** 2 - 1) ** 2 - 0.5,
    "plateau": lambda x: 1 - np.exp(-(x[0] ** 2 + x[1] ** 2) / 2),
    "cliff": lambda x: (500 * x[0] ** 2 if x[0] > 0 else 0.0) - x[0] + x[1] ** 2 / 2,
    "parabola": lambda x: x[0] * x[0],
    "sine_parabola": lambda x: x[0] ** 2 + np.sin(x[0]),
    "sine_hill": lambda x: -(25 * np.sin(x[0]) - x[0] ** 2),
    "damped_sine": lambda x: np.sin(x[0]) * np.exp(-0.05 * x[0] ** 2),
}


def _surface(variant):
    return SURFACES[variant.split()[0]](**VARIANTS[variant])


def _points(surface, count=20):
    low, high = surface.bounds.T
    return np.random.default_rng(0).uniform(low, high, (count, len(low)))


@pytest.mark.parametrize("name", SURFACES)
def test_the_function_is_the_stated_one(name):
    surface = SURFACES[name]()
    for point in _points(surface):
        np.testing.assert_allclose(surface.function(jnp.asarray(point)), ORACLES[name](point), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_gradients_and_hessians_at_the_minima(variant):
    surface = _surface(variant)
    assert len(surface.minima) == len(surface.values) == len(surface.hessians)
    for point, value, hessian in zip(surface.minima, surface.values, surface.hessians, strict=True):
        x = jnp.asarray(point)
        np.testing.assert_allclose(surface.function(x), value, rtol=1e-12, atol=1e-20)
        np.testing.assert_allclose(jax.grad(surface.function)(x), 0, atol=1e-12 * np.abs(hessian).max())
        np.testing.assert_allclose(
            jax.hessian(surface.function)(x), hessian, rtol=1e-12, atol=1e-12 * np.abs(hessian).max()
        )
        assert np.linalg.eigvalsh(hessian).min() > 0
    if len(surface.values):
        assert surface.values[0] == surface.values.min()


@pytest.mark.parametrize("variant", VARIANTS)
def test_saddle_points_are_stationary_with_both_signs_of_curvature(variant):
    surface = _surface(variant)
    for point in jnp.asarray(surface.saddles):
        np.testing.assert_allclose(jax.grad(surface.function)(point), 0, atol=1e-12)
        low, high = np.linalg.eigvalsh(jax.hessian(surface.function)(point))
        assert low < 0 < high


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_finite_differences(variant):
    surface = _surface(variant)
    for point in _points(surface, 5):
        gradient = jax.grad(surface.function)(jnp.asarray(point))
        differences = optimize.approx_fprime(point, lambda x: float(surface.function(jnp.asarray(x))), 1e-7)
        scale = 1 + np.abs(np.asarray(jax.hessian(surface.function)(jnp.asarray(point)))).max()
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_dtype_of_the_point_is_kept(variant, dtype):
    surface = _surface(variant)
    strong = jax.tree.map(jnp.float64, surface.function)
    for function in (surface.function, strong):
        assert function(jnp.asarray(surface.start, dtype)).dtype == dtype


@pytest.mark.parametrize("name", ["himmelblau", "bounded_saddle", "sine_hill"])
def test_descents_from_everywhere_find_the_listed_minima_and_no_other(name):
    surface, found = SURFACES[name](), set()
    low, high = 1.5 * surface.bounds.T
    for start in np.random.default_rng(1).uniform(low, high, (300, len(low))):
        result = optimize.minimize(ORACLES[name], start, method="BFGS", options={"gtol": 1e-4})
        distances = np.linalg.norm(surface.minima - result.x, axis=1)
        assert distances.min() < 1e-3
        found.add(int(distances.argmin()))
    assert found == set(range(len(surface.minima)))


@pytest.mark.parametrize(
    ("name", "slope", "brackets"),
    [
        ("sine_parabola", lambda x: 2 * x + np.cos(x), [(-1, 0)]),
        ("sine_hill", lambda x: 2 * x - 25 * np.cos(x), [(1, 2), (-5, -4), (7, 8), (-10.5, -9.5)]),
        ("damped_sine", lambda x: np.cos(x) - 0.1 * x * np.sin(x), [(-2, -1), (4, 5)]),
    ],
)
def test_minima_of_one_variable_solve_their_equation(name, slope, brackets):
    roots = [optimize.brentq(slope, *bracket, xtol=1e-15) for bracket in brackets]
    np.testing.assert_allclose(SURFACES[name]().minima[:, 0], roots, rtol=1e-14)


@given(
    condition=st.floats(1.0, 1e4),
    dim=st.integers(2, 6),
    rotation=st.none() | st.integers(0, 2**32 - 1),
)
@settings(max_examples=20, deadline=None)
def test_the_quadratic_has_the_condition_number_asked_for(condition, dim, rotation):
    surface = SURFACES["quadratic"](condition=condition, dim=dim, rotation=rotation)
    hessian = np.asarray(jax.hessian(surface.function)(jnp.ones(dim)))
    np.testing.assert_allclose(np.linalg.cond(hessian), condition, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), np.geomspace(1, condition, dim), rtol=1e-9)
    _, vectors = np.linalg.eigh(surface.hessians[0])
    np.testing.assert_allclose(surface.start @ surface.start, dim, rtol=1e-12)
    if condition > 1.1:
        np.testing.assert_allclose(np.abs(vectors.T @ surface.start), np.ones(dim), rtol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_rosenbrock_has_the_derivatives_of_scipy(dim):
    x = np.random.default_rng(dim).normal(size=dim)
    surface = SURFACES["rosenbrock"](dim=dim)
    np.testing.assert_allclose(surface.function(jnp.asarray(x)), optimize.rosen(x), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(surface.function)(jnp.asarray(x)), optimize.rosen_der(x), rtol=1e-11)
    np.testing.assert_allclose(surface.hessians[0], optimize.rosen_hess(np.ones(dim)), rtol=1e-14)


def _descend(task, learning_rate, steps):
    x, _ = task.init(KEY)
    points = [x]
    for _ in range(steps):
        x = x - learning_rate * jax.grad(lambda x: task.loss(x, {}, None, KEY)[0])(x)
        points.append(x)
    return np.stack(points)[:, 0]


@pytest.mark.parametrize("learning_rate", [0.1, 0.45, 1.0, 1.1])
def test_descent_on_the_parabola_is_geometric(learning_rate):
    path = _descend(surface_task(SURFACES["parabola"]()), learning_rate, 20)
    np.testing.assert_allclose(path, 2 * (1 - 2 * learning_rate) ** np.arange(21), rtol=1e-11, atol=1e-13)


def test_descent_on_the_sine_parabola_swings_converges_or_crawls():
    task = surface_task(SURFACES["sine_parabola"]())
    np.testing.assert_allclose(np.abs(_descend(task, 1.0, 30)[-2:]), np.pi / 2, rtol=1e-9)
    swing = _descend(task, 1.0, 30)[-2:]
    assert swing[0] * swing[1] < 0
    np.testing.assert_allclose(_descend(task, 0.1, 50)[-1], -0.450184, atol=1e-4)
    assert -0.41 < _descend(task, 0.01, 200)[-1] < -0.40


def test_descent_on_the_hill_stops_at_the_nearby_peak():
    path = _descend(surface_task(SURFACES["sine_hill"]()), 0.01, 200)
    np.testing.assert_allclose(path[-1], -4.3564, atol=1e-4)
    np.testing.assert_allclose(SURFACES["sine_hill"]().values[:2], [-22.7156, -4.4543], atol=1e-4)


def test_the_wall_of_the_cliff_throws_back_what_oversteps_its_foot():
    surface = SURFACES["cliff"](slope=1.0, wall=1000.0)
    slope, _ = jax.grad(surface.function)(jnp.array([-1.0, 0.0]))
    throw, _ = jax.grad(surface.function)(jnp.array([0.1, 0.0]))
    assert (float(slope), round(float(throw), 9)) == (-1.0, 99.0)


def test_gradient_and_hessian_vanish_on_the_plateau():
    surface, far = SURFACES["plateau"](), jnp.array([6.0, 6.0])
    assert jnp.abs(jax.grad(surface.function)(far)).max() < 1e-14
    assert jnp.abs(jax.hessian(surface.function)(far)).max() < 1e-13
    np.testing.assert_allclose(surface.function(far), 1.0)


def test_a_surface_is_a_task_without_data():
    task = surface_task(SURFACES["beale"]())
    assert (task.name, task.num_examples, task.num_params, task.train) == ("beale", 0, 2, None)
    params, model_state = task.init(KEY)
    chex.assert_trees_all_equal(params, task.init(jax.random.key(5))[0])
    loss, model_state = task.loss(params, model_state, None, KEY)
    assert model_state == {} and task.metrics(params, {}, None) == {"loss": loss}
    np.testing.assert_allclose(loss, ORACLES["beale"]([1.0, 1.0]))


def test_starts_are_given_or_jittered():
    surface = SURFACES["himmelblau"]()
    chex.assert_trees_all_equal(surface_task(surface, start=[1, 2]).init(KEY)[0], jnp.array([1.0, 2.0]))
    task = surface_task(surface, jitter=0.1)
    starts = np.stack([task.init(jax.random.key(seed))[0] for seed in range(200)])
    np.testing.assert_allclose(starts.std(), 0.1, rtol=0.15)
    np.testing.assert_allclose(starts.mean(0), [0, 0], atol=0.03)
    with pytest.raises(ValueError, match=r"`start` of surface 'himmelblau' must have shape \(2,\), got \(3,\)"):
        surface_task(surface, start=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="`jitter` must be >= 0"):
        surface_task(surface, jitter=-1.0)


def test_the_condition_number_varies_between_lanes_with_one_trace():
    traces = 0

    @jax.jit
    def gradient(task):
        nonlocal traces
        traces += 1
        return jax.grad(lambda x: task.loss(x, {}, None, KEY)[0])(task.init(KEY)[0])

    task = surface_task(SURFACES["quadratic"](condition=4.0))
    for condition in (4.0, 9.0, 100.0):
        np.testing.assert_allclose(gradient(task.replace(condition=condition)), [1.0, condition])
    assert traces == 1
    values = jnp.array([4.0, 9.0])
    lanes = jax.vmap(lambda value: gradient(task.replace(condition=value)))(values)
    np.testing.assert_allclose(lanes, [[1, 4], [1, 9]])


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("quadratic", {"condition": 0.5}, ValueError, "`condition` must be >= 1, got 0.5"),
        ("quadratic", {"dim": 1}, ValueError, "`dim` must be >= 2, got 1"),
        ("rosenbrock", {"dim": 2.5}, TypeError, "`dim` must be an integer, got 2.5"),
        ("rosenbrock", {"steepness": 0.0}, ValueError, "`steepness` must be > 0"),
        ("cliff", {"wall": -1.0}, ValueError, "`wall` must be > 0"),
        ("plateau", {"width": float("nan")}, ValueError, "`width` must be > 0, got nan"),
    ],
)
def test_impossible_shapes_are_refused(name, values, error, message):
    with pytest.raises(error, match=message):
        SURFACES[name](**values)


def test_surfaces_of_ones_own():
    surface = make_surface("bowl", lambda x: x @ x, [1.0, 2.0, 3.0], minima=[0, 0, 0], values=0)
    task = surface_task(surface)
    np.testing.assert_allclose(task.metrics(*task.init(KEY), None)["loss"], 14.0)
    with pytest.raises(ValueError, match="flat array of coordinates"):
        make_surface("bowl", lambda x: x @ x, [[1.0, 2.0]])
