"""Shampoo against its oracle, where it is Newton's method, Adam or AdaGrad, its roots, its periodic branch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from gradlab import population, scale_by_adam, scale_by_rss, scale_by_shampoo, shampoo
from gradlab.core import kronecker
from gradlab.core.kronecker import inverse_power, newton_inverse_root
from tests.oracles import shampoo as oracle

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


def directions(tx, grads):
    """The updates of a stage, one after another."""

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, updates

    return jax.jit(lambda g: jax.lax.scan(step, tx.init(g[0]), g)[1])(grads)


MODES = [
    ({"graft": None, "precondition_frequency": 1}, {}),
    (
        {"graft": None, "eps": 1e-3, "precondition_frequency": 2, "start_preconditioning_step": 5},
        {"eps": 1e-3, "every": 2, "start": 5},
    ),
    (
        {"eps": 1e-4, "precondition_frequency": 3, "start_preconditioning_step": 5},
        {"eps": 1e-4, "graft": "adam", "every": 3, "start": 5},
    ),
    (
        {"graft": None, "b2": 1.0, "eps": 1e-3, "precondition_frequency": 2, "weight_decay": 0.1},
        {"b2": 1.0, "eps": 1e-3, "every": 2, "start": 2, "decay": 0.1},
    ),
    (
        {"graft": "rmsprop", "graft_b2": 1.0, "graft_eps": 0.1, "eps": 1e-3, "start_preconditioning_step": 1},
        {"graft": "rmsprop", "graft_b2": 1.0, "graft_eps": 0.1, "eps": 1e-3, "every": 10},
    ),
    (
        {"graft": "rmsprop", "graft_b2": 0.8, "eps": 1e-3, "precondition_frequency": 3},
        {"graft": "rmsprop", "graft_b2": 0.8, "eps": 1e-3, "every": 3, "start": 3},
    ),
    (
        {"graft": "sgd", "b1": 0.8, "b2": 0.7, "eps": 1e-4, "precondition_frequency": 4, "bias_correction": False},
        {"graft": "sgd", "b1": 0.8, "b2": 0.7, "eps": 1e-4, "every": 4, "start": 4, "corrected": False},
    ),
    (
        {"graft_b2": 0.8, "bias_correction": False, "b2": 0.9, "eps": 0.1, "precondition_frequency": 2},
        {"graft": "adam", "graft_b2": 0.8, "corrected": False, "b2": 0.9, "eps": 0.1, "every": 2, "start": 2},
    ),
    (
        {"graft": None, "exponent": 0.5, "eps": 1e-3, "precondition_frequency": 1},
        {"exponents": (0.5, 0.5), "eps": 1e-3},
    ),
    (
        {"root": "newton", "eps": 1e-4, "precondition_frequency": 2},
        {"graft": "adam", "eps": 1e-4, "every": 2, "start": 2},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), MODES)
def test_shampoo_is_the_loop_in_numpy(ours, theirs):
    """Old roots are of order eps^-e where no gradient had been: a larger eps than the default, lest rounding rule."""
    params = {str(shape): drawn(*shape) for shape in SHAPES}
    grads = {str(shape): drawn(14, *shape, seed=1) for shape in SHAPES}
    path, _ = walk(shampoo(RATE, **ours), params, grads)
    for name in params:
        expected = oracle.shampoo(np.asarray(grads[name]), np.asarray(params[name]), RATE, **theirs)
        np.testing.assert_allclose(path[name], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("root", ["eigh", "newton"])
def test_complex_matrices_have_hermitian_factors(root):
    params, grads = drawn(3, 4, dtype=jnp.complex128), drawn(12, 3, 4, seed=1, dtype=jnp.complex128)
    path, _ = walk(shampoo(RATE, eps=1e-4, root=root, precondition_frequency=2), params, grads)
    expected = oracle.shampoo(np.asarray(grads), np.asarray(params), RATE, eps=1e-4, graft="adam", every=2, start=2)
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("shape", "longest", "exponents"),
    [((4, 6), 5, (0.5, None)), ((6, 4), 5, (None, 0.5)), ((40, 2), 39, (None, 0.5)), ((4, 6), 3, (None, None))],
)
def test_one_sided_shampoo_takes_the_inverse_square_root_of_the_shorter_side(shape, longest, exponents):
    """With Adam's length; without any factor it is Adam's length along the average."""
    params, grads = drawn(*shape), drawn(14, *shape, seed=1)
    tx = shampoo(RATE, graft="adam", max_precond_dim=longest, precondition_frequency=3)
    path, states = walk(tx, params, grads)
    inner = states.inner_states["muon"].inner_state[0]
    assert list(inner.right.values()) == [None]
    expected = oracle.shampoo(
        np.asarray(grads), np.asarray(params), RATE, graft="adam", exponents=exponents, every=3, start=3
    )
    np.testing.assert_allclose(path, expected, rtol=1e-9, atol=1e-11)


def positive(size, condition, seed):
    basis = np.linalg.qr(drawn(size, size, seed=seed))[0]
    return basis * np.geomspace(condition**-0.5, condition**0.5, size) @ basis.T


def power(a, exponent):
    values, basis = np.linalg.eigh(a)
    return basis * values**exponent @ basis.T


@pytest.mark.parametrize("side", [0.5, 1.0])
def test_on_a_kronecker_quadratic_shampoo_is_newtons_method(side):
    r"""The loss tr(W^T A W B) / 2 has the gradient A W B and the Hessian H = B x A.

    Let gradients A^s Z B^s be seen, Z each matrix with a single one: their covariance is H^(2s), and their sums are
    L = tr(B^2s) A^2s and R = tr(A^2s) B^2s.  Then the exponent 1 / (2s) makes of A W B a multiple of W, Newton's step.
    s = 1: gradients at points of unit covariance, inverse square roots.  s = 1/2: the covariance is the Hessian, as
    that of a model's own samples, and the exponent one.  The exponent 1/4 leaves the root of the Hessian to do.
    """
    a, b, start = positive(3, 100.0, 2), positive(4, 30.0, 3), np.asarray(drawn(3, 4))
    units = np.eye(12).reshape(12, 3, 4)
    seen = power(a, side) @ units @ power(b, side)
    scale = (np.trace(power(a, 2 * side)) * np.trace(power(b, 2 * side))) ** (1 / (2 * side))
    grads = jnp.asarray(np.concatenate([seen, [a @ start @ b]]))
    options = {"b1": 0.0, "b2": 1.0, "eps": 0.0, "graft": None, "precondition_frequency": 12}
    step = directions(scale_by_shampoo(exponent=1 / (2 * side), **options), grads)[-1]
    np.testing.assert_allclose(scale * step, start, rtol=1e-10)
    paper = directions(scale_by_shampoo(**options), grads)[-1]
    expected = power(a, 1 - side / 2) @ start @ power(b, 1 - side / 2) / scale ** (side / 2)
    np.testing.assert_allclose(paper, expected, rtol=1e-10)


@pytest.mark.parametrize("decays", [(0.9, 0.99), (0.0, 1.0)])
def test_on_diagonal_gradients_shampoo_is_adam_and_with_sums_adagrad(decays):
    b1, b2 = decays
    rows = drawn(15, 5, seed=1)
    tx = scale_by_shampoo(b1, b2, 0.0, graft=None, precondition_frequency=1)
    ours = directions(tx, jax.vmap(jnp.diag)(rows))
    other = scale_by_rss(0.0, 0.0) if b2 == 1 else scale_by_adam(b1, b2, 0.0)
    np.testing.assert_allclose(ours, jax.vmap(jnp.diag)(directions(other, rows)), rtol=1e-10)


@pytest.mark.parametrize(("shape", "longest"), [((4, 4), 9), ((3, 5), 9), ((5, 3), 9), ((3, 5), 4)])
def test_the_first_step_is_the_orthogonalised_gradient(shape, longest):
    tx = scale_by_shampoo(eps=0.0, graft=None, start_preconditioning_step=1, max_precond_dim=longest)
    left, _, right = np.linalg.svd(drawn(*shape), full_matrices=False)
    updates, _ = tx.update(drawn(*shape), tx.init(drawn(*shape)))
    np.testing.assert_allclose(updates, left @ right, rtol=1e-10, atol=1e-12)


def test_turning_the_problem_turns_the_steps_and_scaling_it_changes_nothing():
    params, grads = drawn(3, 4), drawn(12, 3, 4, seed=1)
    left, right = (np.linalg.qr(drawn(size, size, seed=size))[0] for size in (3, 4))
    tx = shampoo(RATE, eps=1e-6, graft="sgd", precondition_frequency=2)
    path, _ = walk(tx, params, grads)
    turned, _ = walk(tx, left @ params @ right, left @ grads @ right)
    np.testing.assert_allclose(turned, left @ path @ right, rtol=1e-9, atol=1e-11)
    tx = shampoo(RATE, eps=0.0, graft=None, start_preconditioning_step=1)
    np.testing.assert_allclose(walk(tx, params, 1e3 * grads)[0], walk(tx, params, grads)[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("graft", ["adam", "rmsprop", "sgd"])
def test_each_step_has_the_length_of_its_graft(graft):
    grads = drawn(12, 3, 4, seed=1)
    ours = directions(scale_by_shampoo(graft=graft, precondition_frequency=3), grads)
    before = directions(scale_by_shampoo(graft=graft, start_preconditioning_step=100), grads)
    length = lambda steps: np.linalg.norm(steps, axis=(1, 2))
    np.testing.assert_allclose(length(ours), length(before), rtol=1e-12)
    np.testing.assert_array_equal(ours[:2], before[:2])
    assert np.all(np.abs(ours[2:] - before[2:]).max(axis=(1, 2)) > 1e-2 * length(before[2:]))
    if graft == "adam":
        np.testing.assert_allclose(before, directions(scale_by_adam(), grads), rtol=1e-12)


@pytest.mark.parametrize("strategy", ["stack", "map", "leaf"])
def test_each_block_and_each_matrix_of_a_batch_goes_its_own_way(strategy):
    shapes = {"a": (2, 4, 3), "b": (6, 4)}
    layout = {"a": MuonDimensionNumbers(1, 2), "b": MuonDimensionNumbers()}
    params = {name: drawn(*shape, seed=len(shape)) for name, shape in shapes.items()}
    grads = {name: drawn(8, *shape, seed=5 + len(shape)) for name, shape in shapes.items()}
    options = {"precondition_frequency": 3, "graft": "adam"}
    alone = lambda p, g: oracle.shampoo(np.asarray(g), np.asarray(p), RATE, graft="adam", every=3, start=3)
    tx = shampoo(RATE, **options, block_size=4, weight_dimension_numbers=layout | {"b": None}, strategy=strategy)
    path = walk(tx, params, grads)[0]["a"]
    for index in range(2):
        expected = alone(params["a"][index], grads["a"][:, index])
        np.testing.assert_allclose(path[:, index], expected, rtol=1e-9, atol=1e-11)
    tx = shampoo(RATE, **options, block_size=2, strategy=strategy)
    path, states = walk(tx, params["b"], grads["b"])
    assert [one.shape[1:] for one in jax.tree.leaves(states.inner_states["muon"].inner_state[0].left)] == [(6, 2, 2)]
    for row in range(0, 6, 2):
        for column in range(0, 4, 2):
            block = np.s_[..., row : row + 2, column : column + 2]
            expected = alone(params["b"][block], grads["b"][block])
            np.testing.assert_allclose(path[block], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("root", ["eigh", "newton"])
@pytest.mark.parametrize(("shape", "rank"), [((4, 6), 1), ((4, 4), 2), ((1, 5), 1), ((60, 3), 1)])
def test_gradients_of_low_rank_give_finite_steps_within_their_spaces(shape, rank, root):
    left, right = drawn(shape[0], rank), drawn(rank, shape[1], seed=1)
    grads = left @ drawn(12, rank, rank, seed=2) @ right
    start = jnp.zeros(shape)
    path, _ = walk(shampoo(RATE, precondition_frequency=2, root=root), start, grads)
    assert np.all(np.isfinite(path))
    sizes = np.linalg.norm(np.diff(path, axis=0), axis=(1, 2))
    assert np.all(sizes > 1e-3) and np.all(sizes < 2 * RATE * np.prod(shape) ** 0.5)
    outside = lambda basis: np.eye(basis.shape[0]) - basis @ np.linalg.pinv(basis)
    ungrafted = directions(scale_by_shampoo(graft=None, precondition_frequency=1, root=root), grads)
    np.testing.assert_allclose(outside(left) @ ungrafted, 0.0, atol=1e-8)
    np.testing.assert_allclose(ungrafted @ outside(right.T), 0.0, atol=1e-8)


@pytest.mark.parametrize("root", ["eigh", "newton"])
@pytest.mark.parametrize("eps", [0.0, 1e-12])
@pytest.mark.parametrize("graft", [None, "adam", "sgd"])
def test_without_a_gradient_nothing_moves(eps, graft, root):
    tx = shampoo(RATE, eps=eps, graft=graft, graft_eps=eps, root=root, precondition_frequency=1)
    path, state = walk(tx, drawn(4, 6), jnp.zeros((3, 4, 6)))
    np.testing.assert_array_equal(path, np.broadcast_to(drawn(4, 6), path.shape))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("root", ["eigh", "newton"])
@pytest.mark.parametrize("graft", [None, "adam"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_not_hidden(graft, root, bad):
    tx, params = shampoo(RATE, graft=graft, root=root, precondition_frequency=1), drawn(4, 4)
    _, state = tx.update(params, tx.init(params), params)
    for g in (params.at[0, 0].set(bad), params):
        updates, state = tx.update(g, state, params)
        assert jnp.all(jnp.isnan(updates))


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("exponent", [1 / 2, 1 / 3, 1 / 4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_roots_by_eigenvalues_and_by_newtons_iteration_are_those_of_numpy(dtype, exponent, condition):
    """As far as the matrix, which its dtype rounds, determines them."""
    a = 7.0 * positive(12, condition, 4)
    expected = power(a, -exponent)
    rounding = float(jnp.finfo(dtype).eps) * (12 + condition)
    for root in (
        inverse_power(a.astype(dtype), exponent, 1e-30),
        newton_inverse_root(a.astype(dtype), round(1 / exponent), 0.0),
    ):
        assert root.dtype == dtype
        assert np.linalg.norm(root - expected, 2) <= rounding * np.linalg.norm(expected, 2)


def test_eigenvalues_are_lifted_before_epsilon_is_added_to_them():
    basis = np.linalg.qr(drawn(3, 3))[0]
    a = basis * np.array([4.0, 1e-3, -1e-6]) @ basis.T
    expected = basis * np.array([4.1, 0.101, 0.1]) ** -0.5 @ basis.T
    np.testing.assert_allclose(inverse_power(a, 0.5, 0.1), expected, rtol=1e-10)
    kept = basis * np.array([0.5, 1e-3**-0.5, 0.0]) @ basis.T
    np.testing.assert_allclose(inverse_power(a, 0.5, 0.0), kept, rtol=1e-10, atol=1e-12)


def test_newtons_iteration_survives_what_rounding_makes_negative():
    """On the other directions it is the root; without a stop the negative one would take all to infinity."""
    basis = np.linalg.qr(drawn(3, 3))[0]
    root = newton_inverse_root(basis * np.array([4.0, 1e-3, -1e-12]) @ basis.T, 2, 0.0)
    np.testing.assert_allclose(root @ basis[:, :2], basis[:, :2] * np.array([0.5, 1e-3**-0.5]), rtol=1e-7)
    assert np.all(np.isfinite(root))


@pytest.mark.parametrize("inverse", [lambda a: inverse_power(a, 0.25, 0.0), lambda a: newton_inverse_root(a, 4, 0.0)])
def test_roots_of_nothing_are_zero_and_of_what_is_not_finite_nan(inverse):
    np.testing.assert_array_equal(inverse(jnp.zeros((3, 3))), np.zeros((3, 3)))
    for bad in (jnp.nan, jnp.inf):
        assert jnp.all(jnp.isnan(inverse(jnp.eye(3).at[1, 1].set(bad))))


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
    """Roots at steps 4, 6, 9 and 12 of twelve, for each of three lanes, who know the step or count themselves."""
    decomposed = counted(monkeypatch, "eigh")
    jax.clear_caches()
    options = {"precondition_frequency": 3, "start_preconditioning_step": 4}
    params, grads, decays = drawn(4, 4), drawn(12, 4, 4, seed=1), jnp.array([0.9, 0.99, 1.0])
    txs = population(functools.partial(shampoo, RATE, **options), b2=decays)

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
    assert len(decomposed) == 2 * 4 * 3
    monkeypatch.undo()
    jax.clear_caches()
    for lane, b2 in zip(lanes, (0.9, 0.99, 1.0), strict=True):
        alone = oracle.shampoo(np.asarray(grads), np.asarray(params), RATE, b2=b2, graft="adam", every=3, start=4)
        np.testing.assert_allclose(lane, alone[-1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b1": 1.0}, "b1"),
        ({"b2": 1.1}, "`b2` must be in \\[0, 1\\]"),
        ({"graft_b2": -0.1}, "graft_b2"),
        ({"eps": -1.0}, "eps"),
        ({"graft": "adams"}, "graft 'adams'.*'adam'"),
        ({"root": "qr"}, "root 'qr'"),
        ({"exponent": 0.0}, "exponent"),
        ({"exponent": 0.4, "root": "newton"}, "exponent=0.4.*'eigh'"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"start_preconditioning_step": 0}, "start_preconditioning_step"),
        ({"max_precond_dim": 0}, "max_precond_dim"),
        ({"block_size": 0}, "block_size"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'.*'flax'"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        shampoo(RATE, **values)


def test_blocks_that_do_not_divide_a_side_are_refused_with_its_path():
    with pytest.raises(ValueError, match="block_size=4 does not divide.*'dense/kernel'.*6"):
        shampoo(RATE, block_size=4).init({"dense": {"kernel": jnp.ones((4, 6))}})


def test_the_stage_alone_wants_matrices():
    with pytest.raises(ValueError, match="parameter 'b' has 1 axes"):
        scale_by_shampoo().init({"b": jnp.ones(3)})
