"""SinkGD and SCALE against their oracles: which side is normalised, what has momentum, and what costs memory."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab
from gradlab import MuonDimensionNumbers, normalize_columns, scale_by_sinkhorn, scale_sgd, sinkgd
from tests.oracles import stateless_matrices as oracle

RATE, STEPS = 0.02, 12
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (40, 2)]
MATRIX = {"weight_dimension_numbers": MuonDimensionNumbers()}


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def walk(tx, params, grads):
    """The parameters after each step, and the last state."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = gradlab.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return path, state


def direction(tx, grads):
    return tx.update(grads, tx.init(grads))[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "values", [{}, {"iterations": 1, "weight_decay": 0.1}, {"iterations": 2}], ids=["default", "one", "two"]
)
def test_sinkgd_is_the_loop_in_numpy(shape, values):
    params, grads = draw(0, *shape), draw(1, STEPS, *shape)
    path, _ = walk(sinkgd(RATE, **MATRIX, **values), params, grads)
    expected = oracle.sinkgd(np.asarray(grads), np.asarray(params), RATE, **values)
    np.testing.assert_allclose(path, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"weight_decay": 0.1, "eps": 0.9}, {"weight_decay": 0.1, "eps": 0.9}),
        ({"measure": "norm", "eps": 1.5}, {"rms": False, "eps": 1.5}),
        ({"head": "kernel", "eps": 0.9}, {"momentum": 0.9, "eps": 0.9}),
        ({"head": "kernel", "momentum": 0.6, "measure": "norm"}, {"momentum": 0.6, "rms": False}),
    ],
)
def test_scale_sgd_is_the_loop_in_numpy(shape, ours, theirs):
    params, grads = {"kernel": draw(0, *shape)}, {"kernel": draw(1, STEPS, *shape)}
    path, _ = walk(scale_sgd(RATE, **MATRIX, **ours), params, grads)
    expected = oracle.scale(np.asarray(grads["kernel"]), np.asarray(params["kernel"]), RATE, **theirs)
    np.testing.assert_allclose(path["kernel"], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["sinkgd", "scale"])
def test_complex_matrices_follow_the_loops_too(name):
    params, grads = (draw(s, *d) + 1j * draw(s + 10, *d) for s, d in ((0, (4, 6)), (1, (STEPS, 4, 6))))
    make, loop = {"sinkgd": (sinkgd, oracle.sinkgd), "scale": (scale_sgd, oracle.scale)}[name]
    path, _ = walk(make(RATE, **MATRIX), params, grads)
    np.testing.assert_allclose(path, loop(np.asarray(grads), np.asarray(params), RATE), rtol=1e-11)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_outputs_and_inputs_come_to_equal_lengths(shape):
    inputs, outputs = shape
    g = draw(0, *shape) * jnp.geomspace(1e-2, 1, outputs) * jnp.geomspace(1, 1e2, inputs)[:, None]
    for iterations, error in ((1, 1e-1), (40, 1e-6)):
        x = direction(scale_by_sinkhorn(iterations), g)
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), outputs**0.5, rtol=1e-12)
        off = jnp.max(jnp.abs(jnp.linalg.norm(x, axis=0) / inputs**0.5 - 1))
        assert off < error if iterations > 1 else off > error
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(x**2)), 1, rtol=1e-12)


def test_sizes_of_outputs_and_inputs_of_the_gradient_do_not_matter_to_the_limit():
    g = draw(0, 4, 6)
    rescaled = g * jnp.geomspace(1e-3, 1, 6) * jnp.geomspace(1, 1e2, 4)[:, None]
    tx = scale_by_sinkhorn(100)
    np.testing.assert_allclose(direction(tx, rescaled), direction(tx, g), rtol=1e-6)
    once = direction(scale_by_sinkhorn(1), g * jnp.geomspace(1e-3, 1, 6))
    np.testing.assert_allclose(once, direction(scale_by_sinkhorn(1), g), rtol=1e-12)  # outputs come first


def test_a_gradient_of_rank_one_becomes_its_signs():
    g = draw(0, 4, 1) @ draw(1, 1, 6)
    np.testing.assert_allclose(direction(scale_by_sinkhorn(1), g), jnp.sign(g), rtol=1e-12)


@pytest.mark.parametrize("measure", ["rms", "norm"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_a_column_is_what_one_output_receives(shape, measure):
    """In Flax's layout (in, out): sizes of the outputs do not matter, those of the inputs do."""
    g, tx = draw(0, *shape), normalize_columns(measure=measure)
    x = direction(tx, g)
    of_outputs, of_inputs = jnp.geomspace(1e-2, 1, shape[1]), jnp.geomspace(1e-2, 1, shape[0])[:, None]
    np.testing.assert_allclose(direction(tx, g * of_outputs), x, rtol=1e-12)
    assert jnp.max(jnp.abs(direction(tx, g * of_inputs) - x)) > 0.1
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=0), shape[0] ** 0.5 if measure == "rms" else 1.0, rtol=1e-12)


def test_a_column_below_eps_keeps_its_proportion_to_it():
    g = jnp.array([[3e-4, 1.0], [4e-4, 0.0]])
    np.testing.assert_allclose(direction(normalize_columns(1e-3, measure="norm"), g), [[0.3, 1], [0.4, 0]], rtol=1e-12)


class Model(nn.Module):
    last: str | None = None

    @nn.compact
    def __call__(self, tokens):
        x = nn.LayerNorm()(nn.Embed(11, 4)(tokens))
        x = nn.Dense(7)(nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)(x))
        return nn.Dense(11, name=self.last)(x)


def averages(state):
    """The path and shape of every average of the last layer."""
    of_matrices = state.inner_states["muon"].inner_state
    leaves = jax.tree_util.tree_leaves_with_path(of_matrices[0].inner_state.ema)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}


@pytest.mark.parametrize(
    ("last", "head", "expected"),
    [
        (None, None, {"Dense_1/kernel": (7, 11)}),
        ("lm_head", None, {"lm_head/kernel": (7, 11)}),
        ("readout", "readout", {"readout/kernel": (7, 11)}),
        ("readout", ["readout", "Embed_0"], {"readout/kernel": (7, 11), "Embed_0/embedding": (11, 4)}),
    ],
)
def test_the_last_layer_alone_has_momentum(last, head, expected):
    params = Model(last).init(jax.random.key(0), jnp.zeros((1, 3), int))["params"]
    tx = scale_sgd(RATE, head=head)
    state = tx.init(params)
    assert averages(state) == expected
    adams = [x.shape for x in jax.tree.leaves(state.inner_states["adam"].inner_state[0].mu)]
    assert sorted(adams) == sorted(p.shape for path, p in leaves_of(params) if path.endswith(("bias", "scale")))
    first, second = (jax.tree.map(lambda p, s=s: draw(s, *p.shape), params) for s in (1, 2))
    _, state = tx.update(first, state, params)
    updates, _ = tx.update(second, state, params)
    embedding = np.asarray(second["Embed_0"]["embedding"])
    if "Embed_0/embedding" not in expected:
        columns = embedding / np.sqrt(np.mean(embedding**2, axis=0))
        np.testing.assert_allclose(updates["Embed_0"]["embedding"], -RATE * columns, rtol=1e-6)
    name = last or "Dense_1"
    mixed = 0.09 * np.asarray(first[name]["kernel"]) + 0.1 * np.asarray(second[name]["kernel"])
    expected_step = -RATE * mixed / np.sqrt(np.mean(mixed**2, axis=0))
    np.testing.assert_allclose(updates[name]["kernel"], expected_step, rtol=1e-5)


def leaves_of(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in leaves]


def test_a_model_without_last_layer_has_no_momentum_and_a_pattern_without_use_is_refused():
    params = {"Dense_0": {"kernel": jnp.ones((3, 4))}}
    assert averages(scale_sgd(RATE).init(params)) == {}
    with pytest.raises(ValueError, match="'readout'.*match no parameter"):
        scale_sgd(RATE, head="readout").init(params)


def test_sinkgd_has_no_state_for_matrices():
    params = {"Dense_0": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    assert jax.tree.leaves(sinkgd(RATE).init(params).inner_states["muon"]) == []


@pytest.mark.parametrize("tx", [scale_by_sinkhorn(), normalize_columns()], ids=["sinkhorn", "columns"])
def test_the_length_of_the_gradient_does_not_matter(tx):
    g = draw(0, 4, 6)
    np.testing.assert_allclose(direction(tx, 1e-3 * g), direction(tx, g), rtol=1e-11)


@pytest.mark.parametrize("tx", [scale_by_sinkhorn(), normalize_columns(), normalize_columns(0.0)])
def test_what_has_no_gradient_does_not_move(tx):
    g = draw(0, 4, 6).at[2].set(0).at[:, 3].set(0)
    step = direction(tx, g)
    chex.assert_tree_all_finite(step)
    np.testing.assert_array_equal(step == 0, g == 0)
    np.testing.assert_array_equal(direction(tx, jnp.zeros((3, 4))), 0)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("tx", [scale_by_sinkhorn(), normalize_columns()], ids=["sinkhorn", "columns"])
def test_a_gradient_that_is_not_finite_shows(tx, value):
    assert np.any(np.isnan(direction(tx, draw(0, 3, 4).at[0, 0].set(value))))


@pytest.mark.parametrize(
    ("make", "loop"), [(sinkgd, oracle.sinkgd), (scale_sgd, oracle.scale)], ids=["sinkgd", "scale_sgd"]
)
def test_each_matrix_of_a_batch_goes_by_itself(make, loop):
    params, grads = draw(0, 3, 4, 6), draw(1, STEPS, 3, 4, 6)
    path, _ = walk(make(RATE, weight_dimension_numbers=MuonDimensionNumbers(2, 1)), params, grads)
    for index in range(3):
        turned = np.asarray(grads[:, index].mT), np.asarray(params[index].mT)
        np.testing.assert_allclose(path[:, index].mT, loop(*turned, RATE), rtol=1e-11, atol=1e-13)


def test_averages_are_stored_as_asked():
    params = {"head": {"kernel": jnp.ones((3, 4))}}
    state = scale_sgd(RATE, mu_dtype="bfloat16").init(params)
    assert state.inner_states["muon"].inner_state[0].inner_state.ema["head"]["kernel"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("make", "values", "error", "message"),
    [
        (sinkgd, {"iterations": 0}, ValueError, "`iterations` must be >= 1, got 0"),
        (sinkgd, {"iterations": 5.0}, TypeError, "`iterations` must be an int, got float"),
        (sinkgd, {"adam_learning_rate": -1.0}, ValueError, "adam_learning_rate"),
        (sinkgd, {"weight_dimension_numbers": "flex"}, ValueError, "weight_dimension_numbers 'flex'.*'flax'"),
        (scale_sgd, {"measure": "rmz"}, ValueError, "measure 'rmz'.*'rms'"),
        (scale_sgd, {"momentum": 1.0}, ValueError, "`momentum`"),
        (scale_sgd, {"eps": -1.0}, ValueError, "`eps`"),
        (scale_sgd, {"head": "("}, ValueError, "regular expression"),
        (scale_sgd, {"adam_learning_rate": -1.0}, ValueError, "adam_learning_rate"),
        (scale_sgd, {"weight_dimension_numbers": "flex"}, ValueError, "weight_dimension_numbers 'flex'.*'flax'"),
    ],
)
def test_impossible_values_are_refused(make, values, error, message):
    with pytest.raises(error, match=message):
        make(RATE, **values)


@pytest.mark.parametrize("make", [sinkgd, scale_sgd])
def test_a_layout_that_does_not_fit_names_the_parameter(make):
    params = {"dense": {"kernel": jnp.ones((2, 3))}}
    tx = make(RATE, weight_dimension_numbers=MuonDimensionNumbers(0, 2))
    with pytest.raises(ValueError, match="'dense/kernel' has 2 axes"):
        tx.update(params, tx.init(params), params)
