"""Lines, planes and projections of a loss: quadratics, rescaled ReLU networks, and the count of evaluations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradlab.instruments import landscape
from gradlab.instruments.directions import random_directions
from gradlab.instruments.landscape import interpolate, line, plane, project, project_path

KEY = jax.random.key(4)
RNG = np.random.default_rng(0)
HESSIAN = (lambda a: jnp.asarray(a @ a.T))(RNG.normal(size=(5, 5)))
ORIGIN = {"a": jnp.asarray(RNG.normal(size=3)), "b": jnp.asarray(RNG.normal(size=(2, 1)))}
PAIR = {"a": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(RNG.normal(size=(2, 2, 1)))}
XS, YS = np.linspace(-1, 1, 5), np.linspace(-2, 2, 3)


def entry(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def at(tree, place):
    return jax.tree.map(lambda p, d: p + jnp.tensordot(place, d, axes=1), tree, PAIR)


def flat(tree):
    return jnp.concatenate([tree["a"], tree["b"].ravel()])


def quadratic(params, batch):
    return 0.5 * flat(params) @ HESSIAN @ flat(params)


def test_a_plane_of_a_quadratic_has_its_curvatures():
    losses = np.asarray(plane(quadratic, ORIGIN, None, PAIR, XS, YS))
    first, second, origin = (np.asarray(flat(tree)) for tree in (entry(PAIR, 0), entry(PAIR, 1), ORIGIN))
    for j, y in enumerate(YS):
        for i, x in enumerate(XS):
            point = origin + x * first + y * second
            np.testing.assert_allclose(losses[j, i], 0.5 * point @ HESSIAN @ point)
    h = XS[1] - XS[0]
    np.testing.assert_allclose((losses[1, 3] - 2 * losses[1, 2] + losses[1, 1]) / h**2, first @ HESSIAN @ first)
    mixed = losses[2, 4] - losses[2, 0] - losses[0, 4] + losses[0, 0]
    np.testing.assert_allclose(mixed / (4 * XS[4] * YS[2]), first @ HESSIAN @ second)
    np.testing.assert_array_equal(losses[1, 2], quadratic(ORIGIN, None))  # the pixel at the center


def test_lines_and_interpolations_meet_their_points():
    direction = jax.tree.map(lambda d: d[0], PAIR)
    losses = line(quadratic, ORIGIN, None, direction, XS, batch_size=2)
    np.testing.assert_allclose(losses, plane(quadratic, ORIGIN, None, PAIR, XS, [0.0])[0], rtol=1e-13)
    end = jax.tree.map(lambda p, d: p + d, ORIGIN, direction)
    between = interpolate(quadratic, ORIGIN, end, None, [0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(between, line(quadratic, ORIGIN, None, direction, [0.0, 0.5, 1.0, 2.0]))
    far = jax.tree.map(lambda p: jnp.float32(1e6) * (1 + p.astype("float32")), ORIGIN)
    near = jax.tree.map(lambda p: p.astype("float32"), ORIGIN)
    ends = interpolate(quadratic, far, near, None, [0.0, 1.0])
    np.testing.assert_array_equal(ends, [quadratic(far, None), quadratic(near, None)])  # no rounding at either


def test_51_by_51_points_take_51_evaluations_of_51():
    calls = []

    def loss(params, batch):
        seen = lambda p: calls.append(p.shape[:-1]) or np.sum(np.square(p), axis=-1)
        return jax.pure_callback(seen, jax.ShapeDtypeStruct((), float), params, vmap_method="expand_dims")

    axis = np.linspace(-1, 1, 51)
    losses = plane(loss, jnp.zeros(2), None, jnp.eye(2), axis, axis, batch_size=51)
    np.testing.assert_allclose(losses, axis**2 + axis[:, None] ** 2, atol=1e-12)
    assert calls == [(51,)] * 51
    calls.clear()
    plane(loss, jnp.zeros(2), None, jnp.eye(2), axis, axis)
    assert calls == [(2601,)]
    calls.clear()
    plane(loss, jnp.zeros(2), None, jnp.eye(2), axis[:4], axis[:3], batch_size=5)
    assert sorted(calls) == [(2,), (5,), (5,)]


def relu_net(params, batch):
    hidden = jax.nn.relu(batch @ params["one"]["kernel"] + params["one"]["bias"])
    return jnp.mean((hidden @ params["two"]["kernel"] + params["two"]["bias"] - 1) ** 2)


def rescaled(params, c):
    """The same function: the first layer c times as large, the second one's kernel 1 / c."""
    two = {**params["two"], "kernel": params["two"]["kernel"] / c}
    return {"one": jax.tree.map(lambda p: c * p, params["one"]), "two": two}


@pytest.mark.parametrize("biases", [False, True])
def test_filter_normalised_planes_do_not_see_the_scale_of_a_relu_layer(biases):
    params = {
        "one": {"kernel": jax.random.normal(KEY, (3, 6)), "bias": jnp.linspace(-1, 1, 6)},
        "two": {"kernel": jax.random.normal(jax.random.key(8), (6, 2)), "bias": jnp.ones(2)},
    }
    batch = jax.random.normal(jax.random.key(9), (10, 3))
    draw = lambda params, scale: random_directions(KEY, params, scale=scale, biases=biases)
    picture = jax.jit(
        lambda params, scale: plane(relu_net, params, batch, draw(params, scale), XS, YS), static_argnums=1
    )
    for scale in ("filter", "leaf"):
        np.testing.assert_allclose(picture(rescaled(params, 7.0), scale), picture(params, scale), rtol=1e-10)
    plain, other = picture(params, "none"), picture(rescaled(params, 7.0), "none")
    np.testing.assert_allclose(other[1, 2], plain[1, 2])  # the center is the same point of the same function
    assert np.max(np.abs(other / plain - 1)) > 1


def test_nan_and_infinity_stay_where_they_are():
    holes = lambda p, batch: jnp.where(p[0] > 0.75, jnp.nan, jnp.where(p[1] < -1, jnp.inf, p[0] + p[1]))
    losses = np.asarray(plane(holes, jnp.zeros(2), None, jnp.eye(2), XS, YS, batch_size=4))
    expected = XS + YS[:, None]
    expected[0], expected[:, 4] = np.inf, np.nan
    np.testing.assert_array_equal(losses, expected)


def test_projection_inverts_directions_that_are_neither_orthogonal_nor_unit():
    skew = {"a": PAIR["a"] * jnp.array([[1e4], [1.0]]), "b": PAIR["b"] * jnp.array([1e4, 1.0]).reshape(2, 1, 1)}
    skew = jax.tree.map(lambda d: d.at[1].add(1e-3 * d[0]), skew)
    places = RNG.normal(size=(6, 2))
    points = jax.tree.map(lambda p, d: p + jnp.tensordot(places, d, axes=1), ORIGIN, skew)
    found = project(points, skew, ORIGIN)
    np.testing.assert_allclose(found.coordinates, places, rtol=1e-8)
    assert np.max(found.distance) < 1e-9
    rows = np.stack([np.asarray(flat(entry(skew, i))) for i in (0, 1)])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(found.condition, np.linalg.cond(units.T), rtol=1e-6)


def test_projection_is_least_squares_with_the_distance_left():
    points = jax.tree.map(lambda p: p + jnp.asarray(RNG.normal(size=(4, *p.shape))), ORIGIN)
    found = project(points, PAIR, ORIGIN)
    rows = np.stack([np.asarray(flat(entry(PAIR, i))) for i in (0, 1)])
    for index in range(4):
        apart = np.asarray(flat(entry(points, index)) - flat(ORIGIN))
        best, rest, *_ = np.linalg.lstsq(rows.T, apart, rcond=None)
        np.testing.assert_allclose(found.coordinates[index], best, rtol=1e-10)
        np.testing.assert_allclose(found.distance[index], np.sqrt(rest[0]), rtol=1e-10)


def test_dependent_directions_have_no_coordinates():
    for pair in ([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]], [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, np.inf, 0], [0, 1, 0]]):
        found = project(jnp.ones((2, 3)), jnp.array(pair), jnp.zeros(3))
        assert np.isnan(found.coordinates).all() and np.isnan(found.distance).all()
        assert not found.condition < 1e7


def test_float32_coordinates_far_from_the_origin():
    points = jnp.asarray([[1e3, 1.0, 1e-2]], jnp.float32)
    pair = jnp.asarray([[1.0, 0.0, 0.0], [1.0, 1e-2, 0.0]], jnp.float32)
    found = project(points, pair, jnp.zeros(3, jnp.float32))
    np.testing.assert_allclose(found.coordinates, [[900.0, 100.0]], rtol=2e-4)
    np.testing.assert_allclose(found.distance, [1e-2], rtol=1e-2)
    np.testing.assert_allclose(found.condition, np.linalg.cond(pair), rtol=1e-3)


_seen = jax.jit(lambda points: project_path(quadratic, ORIGIN, None, points, PAIR, batch_size=3))


def test_a_path_is_told_from_its_shadow():
    points = jax.tree.map(lambda p: p + jnp.asarray(RNG.normal(size=(4, *p.shape))), ORIGIN)
    seen = _seen(points)
    for index in range(4):
        point, below = entry(points, index), at(ORIGIN, seen.projection.coordinates[index])
        np.testing.assert_allclose(seen.losses[index], quadratic(point, None))
        np.testing.assert_allclose(seen.plane_losses[index], quadratic(below, None))
        np.testing.assert_allclose(np.linalg.norm(flat(point) - flat(below)), seen.projection.distance[index])
    np.testing.assert_array_equal(seen.gaps, seen.plane_losses - seen.losses)
    broken = jax.tree.map(lambda x: x.at[2].set(jnp.nan), points)
    after = _seen(broken)
    assert [np.isnan(x).tolist() for x in (after.losses, after.plane_losses)] == [[False, False, True, False]] * 2


def test_losses_see_their_own_dtype_and_none_leaves_pass():
    def loss(params, batch):
        assert params["a"].dtype == jnp.bfloat16
        return jnp.sum(params["a"].astype("float32") ** 2)

    params = {"a": jnp.ones(2, "bfloat16"), "none": None}
    pair = {"a": jnp.eye(2), "none": None}
    np.testing.assert_allclose(plane(loss, params, None, pair, [0.0, 1.0], [0.0, 1.0]), [[2.0, 5.0], [5.0, 8.0]])
    assert random_directions(KEY, params)["none"] is None
    assert project({"a": jnp.ones((1, 2)), "none": None}, pair, params).coordinates.tolist() == [[0.0, 0.0]]


def test_vmaps_and_jits_with_one_trace():
    def one(params):
        losses = plane(quadratic, params, None, PAIR, XS, YS, batch_size=4)
        points = jax.tree.map(lambda p: p[None] + jnp.arange(3.0).reshape(3, *[1] * p.ndim), params)
        return losses, project_path(quadratic, params, None, points, PAIR)

    both = jax.jit(jax.vmap(chex.assert_max_traces(one, n=1)))
    stack = jax.tree.map(lambda p: jnp.stack([p, -p]), ORIGIN)
    both(jax.tree.map(lambda p: p + 1, stack))
    many = both(stack)
    chex.clear_trace_counter()
    for index in range(2):
        here = one(entry(stack, index))
        chex.assert_trees_all_close(here, entry(many, index), rtol=1e-9, atol=1e-12)


def test_bad_input_says_why():
    with pytest.raises(ValueError, match="plane: the loss must return one number"):
        plane(lambda p, batch: p["a"], ORIGIN, None, PAIR, XS, YS)
    with pytest.raises(ValueError, match=r"plane: the directions at 'a' must have the shape \(2, 3\).* got \(3, 3\)"):
        plane(quadratic, ORIGIN, None, {**PAIR, "a": jnp.ones((3, 3))}, XS, YS)
    with pytest.raises(ValueError, match="directions and parameters have different trees"):
        line(quadratic, ORIGIN, None, {"a": jnp.ones(3)}, XS)
    with pytest.raises(ValueError, match="`batch_size` must be"):
        line(quadratic, ORIGIN, None, ORIGIN, XS, batch_size=0)
    with pytest.raises(TypeError, match="the parameter at '.root.' is complex"):
        landscape.interpolate(lambda p, b: jnp.abs(p), jnp.array(1j), jnp.array(1j), None, [0.0])
