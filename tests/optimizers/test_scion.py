"""Scion against its oracle, the balls it stays in, the norm of every layer, and the start that belongs to it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradlab
from gradlab import MuonDimensionNumbers, matrices_by_path, muon, scale_by_lmo, scion, scion_init, signum
from gradlab.core.spectral import COEFFICIENTS
from gradlab.optimizers.scion_layers import choose_layers
from tests.oracles import muon_family as oracle

RATE = 0.02
STEPS = 12
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]
NORMS = ["spectral", "spectral_max", "colnorm", "rownorm", "sign"]
ROWS = COEFFICIENTS["polar_express"]


def normal(shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def walk(tx, params, grads):
    """The parameters after each step."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


def direction(tx, grads):
    return tx.update(grads, tx.init(grads), grads)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_norms_of_matrices_are_the_loop_in_numpy(norm, shape):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    values = {"beta": 0.8, "eps": 0.1, "ns_eps": 0.5}
    tx = scion(RATE, "polar_express", hidden_norm=norm, hidden_radius=7.0, **values)
    extreme = lambda x: oracle.lmo(x, norm, ROWS, eps=0.1, ns_eps=0.5)
    expected = oracle.scion(np.asarray(grads), np.asarray(params), RATE, extreme, 7.0, beta=0.8)
    np.testing.assert_allclose(walk(tx, params, grads), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 4)])
@pytest.mark.parametrize("norm", ["rms", "sign"])
@pytest.mark.parametrize("constrained", [True, False])
def test_what_is_no_matrix_is_the_loop_in_numpy(shape, norm, constrained):
    params, grads = normal(shape), normal((STEPS, *shape), 1)
    tx = scion(RATE, bias_norm=norm, bias_radius=3.0, weight_decay=1.0 if constrained else 0.0)
    extreme = lambda x: oracle.lmo_of_bias(x, norm)
    expected = oracle.scion(np.asarray(grads), np.asarray(params), RATE, extreme, 3.0, constrained=constrained)
    np.testing.assert_allclose(walk(tx, params, grads), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["spectral", "spectral_max"])
def test_a_convolution_is_orthogonalised_over_its_window_and_scaled_by_channels(norm):
    shape = (3, 2, 4, 5)
    params, grads = {"stem": {"kernel": normal(shape)}}, {"stem": {"kernel": normal((STEPS, *shape), 1)}}
    path = walk(scion(RATE, "polar_express", hidden_norm=norm), params, grads)["stem"]["kernel"]
    extreme = lambda x: oracle.lmo(x, norm, ROWS, positions=6)
    flat = np.asarray(grads["stem"]["kernel"]).reshape(STEPS, 24, 5)
    expected = oracle.scion(flat, np.asarray(params["stem"]["kernel"]).reshape(24, 5), RATE, extreme, 50.0)
    np.testing.assert_allclose(path.reshape(STEPS, 24, 5), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["spectral", "colnorm", "rownorm", "sign"])
def test_complex_matrices_walk_too(norm):
    params, grads = normal((3, 4), dtype=jnp.complex128), normal((STEPS, 3, 4), 1, jnp.complex128)
    path = walk(scion(RATE, "polar_express", hidden_norm=norm, hidden_radius=2.0), params, grads)
    extreme = lambda x: oracle.lmo(x, norm, ROWS)
    expected = oracle.scion(np.asarray(grads), np.asarray(params), RATE, extreme, 2.0)
    np.testing.assert_allclose(path, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_each_matrix_of_a_batch_is_treated_by_itself(norm):
    params, grads = normal((3, 4, 6)), normal((STEPS, 3, 4, 6), 1)
    batched = walk(scion(RATE, hidden_norm=norm, weight_dimension_numbers=MuonDimensionNumbers(1, 2)), params, grads)
    for index in range(3):
        alone = walk(scion(RATE, hidden_norm=norm), params[index], grads[:, index])
        np.testing.assert_allclose(batched[:, index], alone, rtol=1e-10, atol=1e-12)


def dual(norm, u):
    """The largest inner product of u with a matrix of unit norm: what an extreme point attains."""
    fan_in, fan_out = u.shape
    return {
        "spectral": (fan_out / fan_in) ** 0.5 * np.linalg.svd(u, compute_uv=False).sum(),
        "colnorm": fan_out**0.5 * np.linalg.norm(u, axis=1).sum(),
        "rownorm": fan_in**-0.5 * np.linalg.norm(u, axis=0).sum(),
        "sign": np.abs(u).sum() / fan_in,
    }[norm]


def size(norm, w):
    """The norm of which the balls are."""
    fan_in, fan_out = w.shape
    return {
        "spectral": (fan_in / fan_out) ** 0.5 * np.linalg.svd(w, compute_uv=False)[0],
        "colnorm": np.linalg.norm(w, axis=1).max() / fan_out**0.5,
        "rownorm": fan_in**0.5 * np.linalg.norm(w, axis=0).max(),
        "sign": fan_in * np.abs(w).max(),
    }[norm]


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (40, 2)])
@pytest.mark.parametrize("norm", ["spectral", "colnorm", "rownorm", "sign"])
def test_the_step_is_the_farthest_point_of_the_unit_ball(norm, shape):
    u = np.asarray(normal(shape))
    step = direction(scale_by_lmo(hidden_radius=1.0, hidden_norm=norm, eps=0.0, ns_eps=0.0, spectral_map="svd"), u)
    np.testing.assert_allclose(size(norm, step), 1, rtol=1e-9)
    np.testing.assert_allclose(np.sum(step * u), dual(norm, u), rtol=1e-9)


@pytest.mark.parametrize("norm", ["spectral", "colnorm", "rownorm", "sign"])
def test_it_stays_in_the_ball_in_which_it_starts_and_weight_decay_sets_the_radius(norm):
    params = {"kernel": normal((6, 4)), "bias": jnp.zeros(4)}
    grads = jax.tree.map(lambda p: jnp.broadcast_to(normal(p.shape, 1), (40, *p.shape)), params)
    for decay in (1.0, 4.0):
        tx = scion(0.1, spectral_map="svd", hidden_norm=norm, hidden_radius=8.0, bias_radius=8.0, weight_decay=decay)
        start = scion_init(params, 0, hidden_radius=8.0 / decay, hidden_norm=norm)
        path = walk(tx, start, grads)
        assert max(size(norm, w) for w in path["kernel"]) <= 8.0 / decay * (1 + 1e-5)
        assert size(norm, path["kernel"][-1] + path["kernel"][-2]) > 1.8 * 8.0 / decay
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(path["bias"][-1] ** 2)), 8.0 / decay, rtol=0.02)


def test_without_constraint_it_is_muon_in_its_spectral_form_and_signum_in_that_of_signs():
    params, grads = normal((4, 6)), normal((STEPS, 4, 6), 1)
    ours = scion(RATE, beta=0.95, weight_decay=0.0, hidden_radius=1.0, ns_eps=1e-8)
    theirs = muon(RATE, nesterov=False, bias_correction=False, shape_scale="scion")
    np.testing.assert_allclose(walk(ours, params, grads), walk(theirs, params, grads), rtol=1e-12)
    ours = scion(RATE, weight_decay=0.0, hidden_radius=4.0, hidden_norm="sign")
    np.testing.assert_allclose(walk(ours, params, grads), walk(signum(RATE), params, grads), rtol=1e-12)


class Language(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.LayerNorm()(nn.Embed(11, 8)(tokens))
        x = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=12)(x) + nn.Dense(8)(nn.Dense(16)(x))
        return nn.Dense(11, name="lm_head")(x)


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(5)(nn.relu(nn.Dense(4)(x)))))


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3))(nn.Conv(4, (3,))(x[:, 0])[:, None])
        return nn.Dense(3)(nn.Dense(4)(x))


def layers_of(model, example, layers=None):
    params = model.init(jax.random.key(0), example)["params"]
    norms = {"input": "auto", "hidden": "spectral", "head": "sign", "bias": "rms"}
    of = choose_layers(norms, layers, "flax").value(params)
    found = jax.tree_util.tree_leaves_with_path(of)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): (one.role, one.norm, one.positions) for path, one in found}, params


def test_layers_of_a_language_model_are_found_by_flaxs_conventions():
    found, params = layers_of(Language(), jnp.zeros((1, 3), int))
    hidden = {f"MultiHeadDotProductAttention_0/{name}/kernel" for name in ("query", "key", "value", "out")}
    hidden |= {"Dense_0/kernel", "Dense_1/kernel"}
    expected = {name: ("bias", "rms", 1) for name in found} | {name: ("hidden", "spectral", 1) for name in hidden}
    expected["Embed_0/embedding"] = ("input", "colnorm", 1)
    expected["lm_head/kernel"] = ("head", "sign", 1)
    assert found == expected
    updates = direction(scion(1.0, weight_decay=0.0), jax.tree.map(jnp.ones_like, params))
    np.testing.assert_allclose(updates["Embed_0"]["embedding"], -50.0, rtol=1e-5)
    np.testing.assert_allclose(updates["lm_head"]["kernel"], -3000.0 / 8, rtol=1e-5)
    np.testing.assert_allclose(updates["LayerNorm_0"]["scale"], -50.0, rtol=1e-5)
    shared = direction(scion(1.0, weight_decay=0.0, layers={"embedding": "head"}), params)
    np.testing.assert_allclose(jnp.abs(shared["Embed_0"]["embedding"]), 3000.0 / 8, rtol=1e-5)


def test_a_perceptron_has_an_input_and_a_head_and_convolutions_a_window():
    found, _ = layers_of(Perceptron(), jnp.zeros((1, 2)))
    kernels = {name: one for name, one in found.items() if name.endswith("kernel")}
    assert kernels == {
        "Dense_0/kernel": ("input", "spectral_max", 1),
        "Dense_1/kernel": ("hidden", "spectral", 1),
        "Dense_2/kernel": ("head", "sign", 1),
    }
    found, _ = layers_of(Convolutions(), jnp.zeros((1, 1, 6, 2)), {"Dense_0/k": "input", "Conv_0/bias": "bias"})
    kernels = {name: one for name, one in found.items() if name.endswith("kernel")}
    assert kernels == {
        "Conv_0/kernel": ("hidden", "spectral", 9),
        "Conv_1/kernel": ("hidden", "spectral", 3),
        "Dense_0/kernel": ("input", "spectral_max", 1),
        "Dense_1/kernel": ("head", "sign", 1),
    }


def test_modules_of_nnx_have_the_same_layers():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed, self.head = nnx.Embed(5, 4, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)
            self.mlp = nnx.Linear(4, 4, rngs=rngs)

    model = Model(nnx.Rngs(0))
    optimizer = gradlab.NNXOptimizer(model, scion(1.0, weight_decay=0.0), wrt=nnx.Param)
    before = jax.tree.map(jnp.array, nnx.to_pure_dict(nnx.state(model)))
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    step = jax.tree.map(jnp.subtract, before, nnx.to_pure_dict(nnx.state(model)))
    np.testing.assert_allclose(step["embed"]["embedding"], 50.0, rtol=1e-5)
    np.testing.assert_allclose(step["head"]["kernel"], 750.0, rtol=1e-5)
    assert jnp.max(step["mlp"]["kernel"]) < 20


def test_a_frozen_head_does_not_make_another_layer_the_head():
    params = Perceptron().init(jax.random.key(0), jnp.zeros((1, 2)))["params"]
    tx, grads = scion(1.0, weight_decay=0.0), jax.tree.map(jnp.ones_like, params)
    expected = tx.update(grads, tx.init(params), params)[0]["Dense_1"]
    grads["Dense_2"] = {"kernel": None, "bias": None}
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["Dense_2"]["kernel"] is None
    np.testing.assert_allclose(updates["Dense_1"]["kernel"], expected["kernel"], rtol=1e-6)


@pytest.mark.parametrize("norm", ["spectral", "colnorm", "rownorm", "sign"])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_start_lies_on_the_boundary_of_the_ball(norm, shape):
    params = {"kernel": jnp.zeros(shape), "bias": jnp.ones(shape[1]), "scale": jnp.ones(2)}
    drawn = scion_init(params, jax.random.key(1), hidden_norm=norm, hidden_radius=2.0)
    np.testing.assert_allclose(size(norm, np.asarray(drawn["kernel"])), 2.0, rtol=1e-6)
    step = direction(scale_by_lmo(hidden_radius=2.0, hidden_norm=norm, spectral_map="svd"), drawn)["kernel"]
    np.testing.assert_allclose(step, drawn["kernel"], rtol=1e-5, atol=1e-6)  # an extreme point, not a point between
    assert float(jnp.max(drawn["bias"])) == 0 and drawn["scale"].tolist() == [1.0, 1.0]
    others = [scion_init(params, seed, hidden_norm=norm)["kernel"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(others[0], others[1])
    assert np.max(np.abs(others[0] - others[2])) > 0.1


def test_the_start_of_convolutions_and_of_two_equal_layers():
    params = {"conv": {"kernel": jnp.zeros((3, 3, 4, 8))}, "a": {"kernel": jnp.zeros((4, 4), jnp.float32)}}
    params["b"] = {"kernel": jnp.zeros((4, 4), jnp.bfloat16)}
    drawn = scion_init(params, 0, hidden_radius=9.0)
    windows = drawn["conv"]["kernel"].reshape(9, 4, 8)
    np.testing.assert_allclose(np.linalg.svd(windows, compute_uv=False), 2**0.5, rtol=1e-5)
    assert np.max(np.abs(windows[0] - windows[1])) > 0.1
    assert drawn["b"]["kernel"].dtype == jnp.bfloat16
    assert np.max(np.abs(drawn["a"]["kernel"] - drawn["b"]["kernel"])) > 0.1
    assert scion_init({}, 0) == {}


def test_zero_gradients_and_gradients_that_are_not_finite():
    zero = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4), "embedding": jnp.zeros((5, 4))}
    tx = scion(RATE, weight_decay=0.0)
    assert all(float(jnp.max(jnp.abs(u))) == 0 for u in jax.tree.leaves(direction(tx, zero)))
    broken = direction(tx, jax.tree.map(lambda p: p.at[(0,) * p.ndim].set(jnp.nan), zero))
    assert np.isnan(broken["kernel"]).all() and np.isnan(broken["bias"]).all()
    assert np.isnan(broken["embedding"][0]).all() and np.isfinite(broken["embedding"][1:]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 1.0}, "beta"),
        ({"head_radius": -1.0}, "head_radius"),
        ({"eps": -1.0}, "`eps`"),
        ({"hidden_norm": "spectrl"}, "hidden_norm 'spectrl'.*'spectral'"),
        ({"hidden_norm": "auto"}, "hidden_norm 'auto'"),
        ({"bias_norm": "colnorm"}, "bias_norm 'colnorm'"),
        ({"layers": {"kernel": "hiden"}}, "layer 'hiden'.*'hidden'"),
        ({"layers": {"(": "hidden"}}, "no regular expression"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"weight_dimension_numbers": "flex"}, "weight_dimension_numbers 'flex'"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        scion(RATE, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": {"embed": "input"}}, r"patterns \['embed'\] of `layers` match no parameter.*'dense/bias'"),
        ({"layers": {"bias": "head"}}, r"parameter 'dense/bias' 'head', but it is no matrix: \(3,\)"),
        (
            {"weight_dimension_numbers": matrices_by_path({"kernel": MuonDimensionNumbers(0, 2)})},
            "'dense/kernel' has 2 axes",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(values, message):
    params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(ValueError, match=message):
        direction(scion(RATE, **values), params)
    with pytest.raises(ValueError, match=message):
        scion_init(params, 0, **values)
