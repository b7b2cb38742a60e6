"""Muon against its oracle and Optax's, the laws of its scales, its layouts and its messages."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import gradlab
from gradlab import MuonDimensionNumbers, flax_matrices, muon, normuon, scale_by_muon, scale_by_shape
from gradlab.core.spectral import COEFFICIENTS
from tests.oracles import muon as oracle

STEPS = 50
RATE = 0.02
DIMENSIONS = {
    "dense": {"kernel": MuonDimensionNumbers(), "bias": None},
    "tall": MuonDimensionNumbers(1, 0),
    "experts": MuonDimensionNumbers(1, 2),
    "scale": None,
}


def mixed_params(dtype=jnp.float64):
    shapes = {"dense": {"kernel": (5, 8), "bias": (8,)}, "tall": (8, 5), "experts": (3, 5, 8), "scale": ()}
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def mixed_grads(params, steps=STEPS):
    keys = jax.random.split(jax.random.key(1), steps)
    return jax.vmap(lambda key: jax.tree.map(lambda p: jax.random.normal(key, p.shape, p.dtype), params))(keys)


def walk(tx, params, grads):
    """The parameters after each step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return path, state


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5), (3, 3), (40, 2)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"nesterov": False}, {"nesterov": False}),
        ({"bias_correction": False}, {"bias_correction": False}),
        ({"weight_decay": 0.1, "consistent_rms": 0.2}, {"weight_decay": 0.1, "rms": 0.2}),
        ({"shape_scale": "scion", "beta": 0.8}, {"scale": "scion", "beta": 0.8}),
        ({"preconditioning": "schatten"}, {"scaling": "schatten"}),
        ({"preconditioning": "aol"}, {"scaling": "aol"}),
    ],
)
def test_muon_is_the_loop_in_numpy(shape, ours, theirs):
    params = jax.random.normal(jax.random.key(0), shape)
    grads = jax.random.normal(jax.random.key(1), (12, *shape))
    path, _ = walk(muon(RATE, "polar_express", **ours), params, grads)
    expected = oracle.muon(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["polar_express"], **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


def tall_ones(params):
    """A function, since Muon's part of the parameters is all that its decay sees."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "tall" in str(path), params)


MODES = [
    {},
    {"nesterov": False},
    {"adaptive": True},
    {"preconditioning": "aol"},
    {"preconditioning": "schatten"},
    {"preconditioning": "spectral"},
    {"ns_coeffs": "dion"},
    {"ns_coeffs": ((3.0, -3.2, 1.2), (2.0, -1.5, 0.5))},
    {"ns_steps": 3, "adam_learning_rate": 1e-3, "beta": 0.9, "eps": 1e-4},
    {"consistent_rms": 0.2, "weight_decay": 0.1, "adam_weight_decay": 0.01, "adam_b1": 0.8, "adam_b2": 0.9},
    {"weight_decay": 0.1, "weight_decay_mask": tall_ones},
    {"muon_weight_dimension_numbers": DIMENSIONS},
    {"muon_weight_dimension_numbers": DIMENSIONS, "adaptive": True, "consistent_rms": 0.3},
]


@pytest.mark.parametrize("mode", MODES, ids=range(len(MODES)))
def test_muon_walks_with_optax(mode):
    params = mixed_params()
    grads = mixed_grads(params)
    ours, theirs = walk(muon(RATE, **mode), params, grads), walk(contrib.muon(RATE, **mode), params, grads)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert jax.tree.structure(ours[1]) == jax.tree.structure(theirs[1])
    chex.assert_trees_all_equal_dtypes(ours[1], theirs[1])


def test_the_stages_make_the_optimizer():
    params = {"w": jax.random.normal(jax.random.key(0), (4, 6)), "v": jax.random.normal(jax.random.key(1), (6, 4))}
    grads, layout = mixed_grads(params), {name: MuonDimensionNumbers() for name in params}
    ours, theirs = scale_by_muon(), contrib.scale_by_muon(weight_dimension_numbers=layout)
    chex.assert_trees_all_close(walk(ours, params, grads), walk(theirs, params, grads), rtol=1e-10, atol=1e-10)
    for rms in (None, 0.2):
        path, _ = walk(gradlab.chain(ours, scale_by_shape(consistent_rms=rms), gradlab.scale(-RATE)), params, grads)
        expected, _ = walk(contrib.muon(RATE, consistent_rms=rms), params, grads)
        chex.assert_trees_all_close(path, expected, rtol=1e-10, atol=1e-10)


def test_without_bias_correction_it_is_the_sum_of_jordan_and_pytorch():
    """Proportional momenta have one direction; epsilon apart, what follows forgets their length."""
    params = jax.random.normal(jax.random.key(0), (4, 6))
    grads = jax.random.normal(jax.random.key(1), (STEPS, 4, 6))
    path, _ = walk(muon(RATE, eps=0.0, bias_correction=False), params, grads)
    expected = oracle.muon_of_jordan(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["standard"])
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)
    with_it, _ = walk(muon(RATE, eps=0.0), params, grads)
    assert np.max(np.abs(with_it - expected)) > 1e-3


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"b2": 0.5, "eps": 0.1, "weight_decay": 0.1}, {"b2": 0.5, "eps": 0.1, "weight_decay": 0.1}),
        ({"consistent_rms": 0.2, "nesterov": False}, {"rms": 0.2, "nesterov": False}),
    ],
)
def test_normuon_is_the_loop_in_numpy(shape, ours, theirs):
    params = jax.random.normal(jax.random.key(0), shape)
    grads = jax.random.normal(jax.random.key(1), (12, *shape))
    path, _ = walk(normuon(RATE, "cans", **ours), params, grads)
    expected = oracle.normuon(np.asarray(grads), np.asarray(params), RATE, COEFFICIENTS["cans"], **theirs)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


def test_normuon_treats_each_matrix_of_a_batch_by_itself():
    params = jax.random.normal(jax.random.key(0), (3, 4, 6))
    grads = jax.random.normal(jax.random.key(1), (5, 3, 4, 6))
    batched, state = walk(normuon(RATE, muon_weight_dimension_numbers=MuonDimensionNumbers(1, 2)), params, grads)
    assert state.inner_states["muon"].inner_state[1].nu.shape == (3, 1, 6)
    for index in range(3):
        alone, _ = walk(normuon(RATE), params[index], grads[:, index])
        np.testing.assert_allclose(batched[:, index], alone, rtol=1e-10, atol=1e-12)


def test_normuon_gives_every_output_the_same_share():
    g = jax.random.normal(jax.random.key(0), (8, 16)) * jnp.geomspace(1e-3, 1, 16)
    step = direction(normuon(1.0, "polar_express_8", 8), g)
    share = jnp.sum(step**2, axis=0)
    np.testing.assert_allclose(share, share[0], rtol=1e-6)
    plain = jnp.sum(direction(muon(1.0, "polar_express_8", 8), g) ** 2, axis=0)
    assert jnp.max(plain) > 1.5 * jnp.min(plain)


def direction(tx, grads):
    return tx.update(grads, tx.init(grads), grads)[0]


@pytest.mark.parametrize("shape", [(4, 6), (9, 3), (8, 8)])
def test_the_step_is_the_nearest_orthogonal_matrix(shape):
    g = np.asarray(jax.random.normal(jax.random.key(0), shape))
    np.testing.assert_allclose(direction(scale_by_muon("polar_express_8", 8), g), oracle.polar(g), atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 64), (64, 4), (32, 32)])
def test_consistent_steps_have_the_same_root_mean_square_whatever_the_shape(shape):
    g = jax.random.normal(jax.random.key(0), shape)
    step = direction(muon(1.0, "polar_express_8", 8, consistent_rms=0.2), g)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(step**2)), 0.2, rtol=1e-5)


def test_rotations_of_the_gradient_rotate_the_step():
    keys = jax.random.split(jax.random.key(0), 3)
    g, a, b = (jax.random.normal(key, shape) for key, shape in zip(keys, [(4, 7), (4, 4), (7, 7)], strict=True))
    left, right = jnp.linalg.qr(a)[0], jnp.linalg.qr(b)[0]
    tx = scale_by_muon()
    np.testing.assert_allclose(direction(tx, left @ g @ right), left @ direction(tx, g) @ right, atol=1e-12)


def test_a_gradient_of_low_rank_moves_its_own_space_alone():
    keys = jax.random.split(jax.random.key(0))
    g = jax.random.normal(keys[0], (6, 2)) @ jax.random.normal(keys[1], (2, 8))
    step = direction(scale_by_muon("polar_express_8", 8), g)
    sigma = np.linalg.svd(step, compute_uv=False)
    np.testing.assert_allclose(sigma[:2], 1, atol=1e-5)
    assert sigma[2] < 1e-9 and jnp.sum(step * g) > 0


def test_a_zero_gradient_moves_nothing_and_one_that_is_not_finite_shows():
    zero = jnp.zeros((3, 4))
    np.testing.assert_array_equal(direction(muon(RATE), zero), zero)
    assert np.all(np.isnan(direction(muon(RATE), zero.at[0, 0].set(jnp.nan))))


def test_the_momentum_is_stored_as_asked():
    tx, params = muon(RATE, mu_dtype=jnp.bfloat16), jnp.ones((2, 3))
    _, state = tx.update(params, tx.init(params), params)
    assert state.inner_states["muon"].inner_state[0].mu.dtype == jnp.bfloat16


def test_equal_shapes_are_orthogonalised_together():
    params = {f"{index}": jnp.ones((4, 6) if index % 2 else (6, 4)) for index in range(8)}
    tx = muon(RATE)
    text = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    assert text.count("length=5") == 1


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens, image):
        x = nn.LayerNorm()(nn.Embed(11, 8)(tokens))
        x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=12)(x) + nn.Dense(8)(nn.Dense(16)(x))
        return nn.Dense(11, name="lm_head")(x), nn.Conv(5, (3, 3))(image)


def test_flax_matrices_are_kernels_by_flaxs_conventions():
    params = Model().init(jax.random.key(0), jnp.zeros((1, 3), int), jnp.ones((1, 6, 6, 2)))["params"]
    layout = flax_matrices()(params)
    matrices = {
        jax.tree_util.keystr(path, simple=True, separator="/"): one
        for path, one in jax.tree_util.tree_leaves_with_path(layout, is_leaf=lambda x: isinstance(x, tuple))
    }
    attention, all_but_last = "MultiHeadDotProductAttention_0", lambda n: MuonDimensionNumbers(tuple(range(n)), -1)
    heads = {f"{attention}/{name}/kernel": MuonDimensionNumbers(0, (1, 2)) for name in ("query", "key", "value")}
    dense = {f"Dense_{index}/kernel": all_but_last(1) for index in (0, 1)}
    rest = {f"{attention}/out/kernel": all_but_last(2), "Conv_0/kernel": all_but_last(3)}
    assert matrices == heads | dense | rest
    by_name = muon(RATE, muon_weight_dimension_numbers="flax")
    assert jax.tree.structure(by_name) == jax.tree.structure(muon(RATE, muon_weight_dimension_numbers=flax_matrices()))
    named = flax_matrices("Dense_1", "lm_head")(params)
    assert named["Dense_1"]["kernel"] is None and named["lm_head"]["kernel"] is None
    tx = muon(RATE, muon_weight_dimension_numbers=flax_matrices())
    state = tx.init(params)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    chex.assert_tree_all_finite(updates)
    mu = state.inner_states["muon"].inner_state[0].mu
    assert len(jax.tree.leaves(mu)) == len(matrices)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ns_coeffs": "standrd"}, "ns_coeffs 'standrd'.*'standard'"),
        ({"ns_coeffs": (1.0, 2.0)}, "ns_coeffs.*three"),
        ({"ns_coeffs": COEFFICIENTS["dion"], "ns_steps": 3}, "5 rows.*ns_steps=3"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"beta": 1.0}, "beta"),
        ({"consistent_rms": 0.0}, "consistent_rms"),
        ({"preconditioning": "frobenis"}, "preconditioning 'frobenis'.*'frobenius'"),
        ({"shape_scale": "jordn"}, "shape_scale 'jordn'.*'jordan'"),
        ({"muon_weight_dimension_numbers": "flex"}, "muon_weight_dimension_numbers 'flex'.*'flax'"),
        ({"adam_learning_rate": -1.0}, "adam_learning_rate"),
        ({"strategy": "stak"}, "strategy 'stak'.*'stack'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        muon(RATE, **values)


def test_a_layout_that_does_not_fit_names_the_parameter():
    params = {"dense": {"kernel": jnp.ones((2, 3))}}
    tx = gradlab.muon(RATE, muon_weight_dimension_numbers=MuonDimensionNumbers(0, 2))
    with pytest.raises(ValueError, match="'dense/kernel' has 2 axes"):
        tx.update(params, tx.init(params), params)


def test_the_factory_of_layouts_is_no_layout():
    with pytest.raises(TypeError, match=r"pass flax_matrices\(\) as the layout, not flax_matrices"):
        gradlab.muon(0.02, muon_weight_dimension_numbers=gradlab.flax_matrices).init({"w": jnp.ones((2, 2))})
