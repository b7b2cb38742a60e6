"""LAMB, LARS, Fromage and NovoGrad: NumPy oracles, Optax, and laws of the lengths of their steps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.optimizers.layerwise import fromage, lamb, lars
from gradlab.optimizers.novograd import novograd, scale_by_novograd
from tests.oracles import layerwise as oracle
from tests.trajectories import STEPS, mixed_grads, mixed_tree, run

LR = 0.01
BIASES = {"dense": {"kernel": False, "bias": True}, "layers": [True, False]}
PAPERS = {"denominator": "sum_of_norms"}


def falling(count):
    return 0.1 / (1 + count)


def by_tensor(function, *values, **mode):
    """All iterates of an oracle for one tensor, tensor by tensor; a mode may be a tree like the parameters."""
    params, treedef = jax.tree.flatten(mixed_tree())
    full = [{}] * len(params)
    for name, value in mode.items():
        column = jax.tree.leaves(value) if isinstance(value, dict) else [value] * len(params)
        full = [mode | {name: item} for mode, item in zip(full, column, strict=True)]
    rows = zip(params, jax.tree.leaves(mixed_grads()), full, strict=True)
    paths = [function(np.asarray(p), np.asarray(g), *values, **mode) for p, g, mode in rows]
    return np.concatenate([path.reshape(STEPS, -1) for path in paths], axis=1)


ORACLES = [
    (lamb, {}),
    (lamb, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3, "weight_decay": 0.1}),
    (lars, {}),
    (lars, {"weight_decay": 0.1, "trust_coefficient": 0.5, "eps": 0.1, "momentum": 0.5, "nesterov": True}),
    (lars, {"weight_decay": 0.1} | PAPERS),
    (lars, {"weight_decay": 0.3, "trust_coefficient": 0.5, "eps": 0.1, "momentum": 0.0} | PAPERS),
    (fromage, {}),
    (fromage, {"min_norm": 2.0}),
    (novograd, {}),
    (novograd, {"b1": 0.5, "b2": 0.9, "eps": 1e-2, "eps_root": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("make", "mode"), ORACLES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_positions_are_those_of_the_papers(make, mode):
    positions, _ = run(make(LR, **mode), mixed_tree(), mixed_grads())
    expected = by_tensor(getattr(oracle, make.__name__), LR, **mode)
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("denominator", ["norm_of_sum", "sum_of_norms"])
def test_the_masks_of_lars_say_which_tensors_decay_and_which_have_a_ratio(denominator):
    mode = {"weight_decay_mask": r"kernel|layers/1", "trust_ratio_mask": BIASES, "denominator": denominator}
    positions, _ = run(lars(LR, 0.1, trust_coefficient=0.1, **mode), mixed_tree(), mixed_grads())
    decays = {"dense": {"kernel": 0.1, "bias": 0.0}, "layers": [0.0, 0.1]}
    expected = by_tensor(
        oracle.lars, LR, weight_decay=decays, trust_coefficient=0.1, has_ratio=BIASES, denominator=denominator
    )
    chex.assert_trees_all_close(positions, expected, rtol=1e-11, atol=1e-13)


def test_lars_compares_with_the_gradient_that_reaches_it():
    """Not with the one that an outer chain began with, before clipping."""
    tx = lars(LR, 0.1, trust_coefficient=0.1, denominator="sum_of_norms")
    params, grads = mixed_tree(), mixed_grads()
    tenth = jax.tree.map(lambda g: 0.1 * g, grads)
    chex.assert_trees_all_close(
        run(gradlab.chain(gradlab.scale(0.1), tx), params, grads)[0], run(tx, params, tenth)[0], rtol=1e-12
    )


OPTAX = [
    (lamb, {"learning_rate": falling, "weight_decay": 0.1, "mask": BIASES, "eps_root": 1e-3}),
    (lars, {}),
    (
        lars,
        {"learning_rate": falling, "weight_decay": 0.1, "trust_coefficient": 0.1, "eps": 0.1, "nesterov": True}
        | {"weight_decay_mask": BIASES, "trust_ratio_mask": lambda p: jax.tree.map(lambda p: p.ndim > 0, p)},
    ),
    (novograd, {"learning_rate": falling, "b1": 0.5, "b2": 0.9, "eps_root": 1e-3, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("make", "mode"), OPTAX, ids=range(len(OPTAX)))
def test_positions_and_states_are_those_of_optax(make, mode):
    mode = {"learning_rate": LR} | mode
    ours = run(make(**mode), mixed_tree(), mixed_grads())
    expected = run(getattr(optax, make.__name__)(**mode), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(ours, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_equal_dtypes(ours[1], expected[1])


@pytest.mark.parametrize(
    "mode", [{"learning_rate": 0.1}, {"learning_rate": falling, "min_norm": 2.0}], ids=["constant", "falling"]
)
def test_fromage_moves_as_optaxs(mode):
    """Its state is two empty ones, Optax's three."""
    ours, _ = run(fromage(**mode), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(ours, run(optax.fromage(**mode), mixed_tree(), mixed_grads())[0], rtol=1e-10)


def test_a_step_of_lamb_is_as_long_as_the_learning_rate_times_the_weights():
    for weight_decay in (0.0, 0.5):
        tx, params = lamb(LR, weight_decay=weight_decay), mixed_tree()
        updates, _ = tx.update(mixed_tree(5), tx.init(params), params)
        for u, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(oracle.size(u), LR * oracle.size(p), rtol=1e-12)


@pytest.mark.parametrize("tx", [lamb(LR, eps=0.0), lars(LR), fromage(LR, 0.0), novograd(LR, eps=0.0)], ids=range(4))
def test_steps_do_not_depend_on_the_scale_of_a_tensors_gradients(tx):
    scales = {"dense": {"kernel": 1e6, "bias": 1e-6}, "layers": [1e3, 1.0]}
    scaled = jax.tree.map(jnp.multiply, mixed_grads(), scales)
    plain, _ = run(tx, mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(run(tx, mixed_tree(), scaled)[0], plain, rtol=1e-10)


def test_without_decay_the_two_denominators_of_lars_are_one():
    sum_of_norms, _ = run(lars(LR, **PAPERS), mixed_tree(), mixed_grads())
    chex.assert_trees_all_close(sum_of_norms, run(lars(LR), mixed_tree(), mixed_grads())[0], rtol=1e-12)


def test_a_gradient_at_right_angles_turns_the_weights_of_fromage_and_keeps_their_length():
    angle, tx, p = 0.3, fromage(np.tan(0.3)), jnp.array([3.0, 4.0])
    updates, _ = tx.update(jnp.array([-40.0, 30.0]), tx.init(p), p)
    turned = np.cos(angle) * np.array([3.0, 4.0]) + np.sin(angle) * np.array([4.0, -3.0])
    np.testing.assert_allclose(p + updates, turned, rtol=1e-12)


def test_fromage_shrinks_by_half_the_square_of_a_small_learning_rate():
    """In float32 one minus the factor would be zero."""
    tx, p = fromage(1e-4), jnp.ones(1, "float32")
    updates, _ = tx.update(jnp.zeros(1, "float32"), tx.init(p), p)
    np.testing.assert_allclose(updates, -0.5e-8, rtol=1e-6)


def test_the_first_step_of_novograd_is_the_normalised_gradient_and_the_decay():
    tx, params, grads = novograd(LR, eps=0.0, weight_decay=0.1), mixed_tree(), mixed_tree(5)
    updates, state = tx.update(grads, tx.init(params), params)
    for u, p, g in zip(*map(jax.tree.leaves, (updates, params, grads)), strict=True):
        np.testing.assert_allclose(u, -LR * (np.asarray(g) / oracle.size(g) + 0.1 * np.asarray(p)), rtol=1e-12)
    squares = jax.tree.map(lambda g: oracle.size(g) ** 2, grads)
    chex.assert_trees_all_close(optax.tree.get(state, "nu"), squares, rtol=1e-12)


def test_novograd_of_float16_keeps_squared_norms_in_float32():
    tx, params = scale_by_novograd(), jnp.zeros(4, "float16")
    updates, state = tx.update(jnp.full(4, 200.0, "float16"), tx.init(params), params)
    assert state.nu.dtype == jnp.float32 and float(state.nu) == 160_000
    assert updates.tolist() == [0.5] * 4


def test_the_dtype_of_mu_is_honoured():
    params, grads = mixed_tree(), mixed_tree(5)
    tx = scale_by_novograd(mu_dtype="bfloat16")
    updates, state = tx.update(grads, tx.init(params), params)
    chex.assert_trees_all_equal(state.mu, jax.tree.map(lambda u: u.astype(jnp.bfloat16), updates))


@pytest.mark.parametrize(
    "tx", [lamb(LR, eps_root=1e-8), lars(LR), lars(LR, **PAPERS), fromage(LR), novograd(LR)], ids=range(5)
)
def test_derivatives_at_zero_are_finite(tx):
    """Parameters and first gradients of zero: every norm is zero, and so is the second moment."""

    def travelled(tx, grads):
        params = jnp.zeros(3)
        updates, _ = tx.update(grads, tx.init(params), params)
        return jnp.sum(params + updates)

    dtx, dgrads = jax.grad(travelled, (0, 1))(tx, jnp.zeros(3))
    chex.assert_tree_all_finite(dgrads)
    assert np.isfinite(gradlab.hyperparams(dtx)["learning_rate"])


BAD = [
    (lamb, {"b1": 1.0}, "`b1` must be"),
    (lamb, {"weight_decay": -0.1}, "`weight_decay` must be"),
    (lars, {"trust_coefficient": -1.0}, "`trust_coefficient` must be"),
    (lars, {"eps": -1.0}, "`eps` must be"),
    (lars, {"momentum": 1.5}, "`momentum` must be"),
    (lars, {"denominator": "norm_of_sums"}, "unknown denominator 'norm_of_sums'; did you mean 'norm_of_sum'"),
    (fromage, {"min_norm": -1.0}, "`min_norm` must be"),
    (novograd, {"b2": 1.0}, "`b2` must be"),
    (novograd, {"weight_decay": -0.1}, "`weight_decay` must be"),
]


@pytest.mark.parametrize(("make", "values", "message"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_bad_values_are_named(make, values, message):
    with pytest.raises(ValueError, match=message):
        make(LR, **values)


@pytest.mark.parametrize("tx", [lamb(LR), lars(LR), fromage(LR), novograd(LR)], ids=range(4))
def test_missing_parameters_are_asked_for(tx):
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
