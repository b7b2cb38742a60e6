"""Kinds of critical points that are known from their formulas, and saddles of quadratics and linear networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chex import assert_max_traces

from gradlab.instruments import KINDS, classify, hessian, saddle_report
from tests.instruments.problems import quadratic, symmetric

KEY = jax.random.key(0)
judge = jax.jit(classify, static_argnames=("loss", "m", "probes"))

bowl = lambda p, batch: jnp.sum(p**2)
saddle = lambda p, batch: p[0] ** 2 - p[1] ** 2
two_layers = lambda p, batch: (1 - p[0] * p[1]) ** 2 / 2
three_layers = lambda p, batch: (1 - p[0] * p[1] * p[2]) ** 2 / 2
monkey = lambda p, batch: p[0] ** 3 - 3 * p[0] * p[1] ** 2
trough = lambda p, batch: p[0] ** 2

POINTS = {
    "bowl": (bowl, [0.0, 0.0], "minimum", (2.0, 2.0), (0.0, 0.0, 1.0)),
    "dome": (lambda p, batch: -bowl(p, batch), [0.0, 0.0], "maximum", (-2.0, -2.0), (1.0, 0.0, 0.0)),
    "saddle": (saddle, [0.0, 0.0], "saddle", (-2.0, 2.0), (0.5, 0.0, 0.5)),
    "two layers at the origin": (two_layers, [0.0, 0.0], "saddle", (-1.0, 1.0), None),
    "two layers at a solution": (two_layers, [2.0, 0.5], "undecided", (0.0, 4.25), None),
    "three layers at the origin": (three_layers, [0.0, 0.0, 0.0], "flat", (0.0, 0.0), (0.0, 1.0, 0.0)),
    "monkey saddle": (monkey, [0.0, 0.0], "flat", (0.0, 0.0), (0.0, 1.0, 0.0)),
    "trough": (trough, [0.0, 3.0], "undecided", (0.0, 2.0), (0.0, 0.5, 0.5)),
    "slope": (saddle, [1.0, 0.0], "not critical", (-2.0, 2.0), (0.5, 0.0, 0.5)),
    "no minimum anywhere": (lambda p, batch: jnp.sum(-jax.nn.log_sigmoid(p)), [3.0, 4.0], "not critical", None, None),
}


def two_parameters(p, index):
    """All losses of two parameters as one, so that they share a program."""
    return jnp.stack([loss(p, None) if len(point) == 2 else 0.0 for loss, point, *_ in POINTS.values()])[index]


@pytest.mark.parametrize("name", POINTS)
def test_known_points_are_told_apart(name):
    loss, point, kind, ends, parts = POINTS[name]
    found = judge(
        two_parameters if len(point) == 2 else three_layers, jnp.asarray(point), list(POINTS).index(name), KEY
    )
    assert KINDS[found.kind] == kind
    assert (found.margin > 0) == (kind != "undecided")
    if ends is not None:
        np.testing.assert_allclose([found.smallest, found.largest], ends, atol=1e-12)
    shares = [float(part.value) for part in (found.negative, found.zero, found.positive)]
    np.testing.assert_allclose(sum(shares), 1.0, rtol=1e-10)
    if parts is not None:
        np.testing.assert_allclose(shares, parts, atol=1e-12)
    np.testing.assert_allclose(found.slope, np.linalg.norm(jax.grad(loss)(jnp.asarray(point), None)), atol=1e-12)


@pytest.mark.parametrize(("ctol", "kind"), [(0.05, "minimum"), (0.2, "undecided"), (3.0, "flat")])
def test_what_counts_as_zero_decides(ctol, kind):
    found = judge(quadratic, jnp.zeros(2), jnp.diag(jnp.array([0.1, 2.0])), KEY, ctol=ctol)
    assert KINDS[found.kind] == kind


@pytest.mark.parametrize(("gtol", "kind"), [(0.21, "minimum"), (0.19, "not critical")])
def test_how_steep_still_counts_as_critical(gtol, kind):
    assert KINDS[judge(bowl, jnp.array([0.1, 0.0]), None, KEY, gtol=gtol).kind] == kind


def test_an_end_that_is_not_resolved_leaves_it_undecided_but_two_signs_are_enough():
    positive = symmetric(np.linspace(0.01, 10.0, 60))
    rough = judge(quadratic, jnp.zeros(60), positive, KEY, m=5)
    assert KINDS[rough.kind] == "undecided" and rough.smallest > 0 and rough.smallest < rough.smallest_residual
    assert KINDS[judge(quadratic, jnp.zeros(60), positive, KEY, m=60).kind] == "minimum"
    both = judge(quadratic, jnp.zeros(60), positive - 5 * jnp.eye(60), KEY, m=5)
    assert KINDS[both.kind] == "saddle" and both.smallest_residual > 1e-3


def test_curvature_that_is_rounding_does_not_decide():
    spectrum = jnp.array([1e4, 1e-4, 1.0], jnp.float32)
    found = judge(quadratic, jnp.zeros(3, jnp.float32), jnp.diag(spectrum), KEY)
    assert KINDS[found.kind] == "undecided"


def test_random_matrices_are_minima_as_often_as_theory_says():
    """Of the Gaussian orthogonal ensemble of size two (2 - sqrt 2) / 4 are positive, not a quarter of them."""
    count = 2000
    raw = np.random.default_rng(0).normal(size=(count, 2, 2))
    matrices = jnp.asarray(raw + raw.transpose(0, 2, 1))
    run = jax.vmap(lambda a: judge(quadratic, jnp.zeros(2), a, KEY).kind)
    kinds = np.asarray(run(matrices))
    share = np.mean(kinds == KINDS.index("minimum"))
    exact = (2 - np.sqrt(2)) / 4
    assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / count)
    signs = np.sign(np.linalg.eigvalsh(matrices)).sum(1)
    expected = np.select(
        [signs == 2, signs == -2], [KINDS.index("minimum"), KINDS.index("maximum")], KINDS.index("saddle")
    )
    np.testing.assert_array_equal(kinds, expected)


def test_lanes_with_nan_are_undecided_in_one_trace():
    @jax.jit
    @assert_max_traces(1)
    def lanes(scale, key):
        return jax.vmap(lambda s: classify(lambda p, b: b * jnp.sum(p**2), jnp.zeros(2), s, key))(scale)

    for seed in range(2):
        found = lanes(jnp.array([1.0, jnp.nan, -1.0]), jax.random.key(seed))
        assert [KINDS[kind] for kind in found.kind] == ["minimum", "undecided", "maximum"]
        assert np.isnan(found.margin[1]) and np.isnan(found.zero.value[1])


def test_a_gradient_that_is_nan_decides_nothing_though_the_curvature_is_known():
    found = classify(lambda p, b: jnp.sum(p**2) + b * p[0], jnp.zeros(2), jnp.nan, KEY)
    assert KINDS[found.kind] == "undecided" and np.isnan(found.margin) and abs(found.smallest - 2.0) < 1e-12


@pytest.mark.parametrize("name", ["gtol", "ctol"])
def test_tolerances_of_zero_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be > 0"):
        classify(bowl, jnp.zeros(2), None, KEY, **{name: 0.0})


MATRIX = symmetric([-4.0, -1.0, 0.5, 2.0, 6.0], seed=3)
VALUES, VECTORS = np.linalg.eigh(MATRIX)
OP = hessian(quadratic, jnp.zeros(5), MATRIX)
G, U = np.random.default_rng(4).normal(size=(2, 5))


def by_hand(g, u):
    down = VECTORS[:, VALUES < 0] @ VECTORS[:, VALUES < 0].T
    saddle_free = -VECTORS @ np.diag(1 / np.abs(VALUES)) @ VECTORS.T @ g
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return {
        "curvature": u @ MATRIX @ u / (u @ u),
        "share": u @ down @ u / (u @ u),
        "gradient_share": g @ down @ g / (g @ g),
        "escape": -g @ down @ u / np.linalg.norm(g) / np.linalg.norm(u),
        "descent": -cosine(g, u),
        "alignment": cosine(u, saddle_free),
        "unseen": 0.0,
    }


def test_a_step_is_split_as_the_dense_eigenvectors_split_it():
    found = saddle_report(OP, G, U)
    for name, value in by_hand(G, U).items():
        np.testing.assert_allclose(getattr(found, name), value, atol=1e-11, err_msg=name)
    np.testing.assert_allclose(found.saddle_free, -VECTORS @ np.diag(1 / np.abs(VALUES)) @ VECTORS.T @ G, rtol=1e-10)


def test_newton_is_drawn_to_a_saddle_and_the_saddle_free_step_leaves_it_twice_as_far_away():
    point = jnp.array([1.0, 0.5])
    op, g = hessian(saddle, point), jax.grad(saddle)(point, None)
    newton = -jnp.linalg.solve(jnp.diag(jnp.array([2.0, -2.0])), g)
    np.testing.assert_allclose(point + newton, 0.0, atol=1e-14)
    drawn = saddle_report(op, g, newton)
    leaving = saddle_report(op, g, drawn.saddle_free)
    np.testing.assert_allclose(point + drawn.saddle_free, [0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose([drawn.escape, leaving.escape], [-0.2, 0.2], rtol=1e-10)
    np.testing.assert_allclose(leaving.alignment, 1.0, rtol=1e-12)


def test_few_products_see_the_gradient_step_whole_and_say_what_they_miss_of_others():
    own = saddle_report(OP, G, -0.1 * G, m=2)
    np.testing.assert_allclose([own.unseen, own.descent], [0.0, 1.0], atol=1e-12)
    other = saddle_report(OP, G, U, m=2)
    basis = np.linalg.qr(np.stack([G, MATRIX @ G], axis=1))[0]
    np.testing.assert_allclose(other.unseen, 1 - np.sum((basis.T @ U) ** 2) / (U @ U), rtol=1e-10)
    np.testing.assert_allclose(other.curvature, by_hand(G, U)["curvature"], rtol=1e-12)


def test_damping_shortens_the_saddle_free_step():
    found = saddle_report(OP, G, U, damping=2.0).saddle_free
    np.testing.assert_allclose(found, -VECTORS @ np.diag(1 / (np.abs(VALUES) + 2)) @ VECTORS.T @ G, rtol=1e-10)


@pytest.mark.parametrize(("g", "u"), [(0 * G, U), (G, 0 * U), (np.nan * G, U), (G, np.nan * U)])
def test_without_a_gradient_or_a_step_there_is_nothing_to_compare(g, u):
    found = saddle_report(OP, g, u)
    assert all(np.isnan(value) for value in found[:-1])


def test_bad_reports_are_named():
    with pytest.raises(ValueError, match="`m` must be >= 1"):
        saddle_report(OP, G, U, m=0)
    with pytest.raises(ValueError, match="`damping` must be >= 0"):
        saddle_report(OP, G, U, damping=-1.0)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        saddle_report(OP, G, U[:3])
