"""One rule on one array, lifted to trees: precision, prefix trees, missing leaves, messages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradlab
from gradlab.core.leafwise import leafwise
from gradlab.core.tree import broadcast_prefix, full_like, require_same_structure, zeros_like

SEEN = []


def _recording_rule(g, m, p, *, gain):
    SEEN.append((g.dtype.name, m.dtype.name, p.dtype.name, gain.dtype.name))
    return gain * g + 0 * p, m + 1


def _gain_rule(g, *, gain):
    return (gain * g,)


def _sum_rule(g, m, p):
    return g + m + p, m + p


@pytest.mark.parametrize(
    ("g", "m", "p", "wide", "real"),
    [
        ("float16", "float16", "float16", "float32", "float32"),
        ("bfloat16", "float32", "bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float64", "float64", "float64"),
        ("complex64", "float32", "complex64", "complex64", "float32"),
    ],
)
def test_arithmetic_is_wide_and_results_return_in_the_dtypes_they_came_in(g, m, p, wide, real):
    SEEN.clear()
    operands = {"grads": jnp.ones(2, g), "slots": [jnp.ones(2, m)], "params": jnp.ones(2, p)}
    update, slot = leafwise(_recording_rule, **operands, gain=2.0)
    assert update.dtype == g and slot.dtype == m
    ((seen_g, seen_m, seen_p, seen_gain),) = SEEN
    assert (seen_g, seen_p, seen_gain) == (wide, wide, real) and seen_m == (wide if m == g else real)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adam_on_a_zero_low_precision_gradient_stands_still(dtype):
    tx = gradlab.adam(0.1)
    g = jnp.zeros(3, dtype)
    updates, _ = tx.update(g, tx.init(g), g)
    assert updates.dtype == dtype and updates.tolist() == [0.0, 0.0, 0.0]


def test_a_low_precision_leaf_equals_the_float32_one_rounded():
    g16 = jnp.asarray(np.random.default_rng(0).normal(size=20), "bfloat16")
    p16 = jnp.ones(20, "bfloat16")
    tx = gradlab.adam(jnp.float32(0.123), b2=0.999)
    low, _ = tx.update(g16, tx.init(p16), p16)
    high, _ = tx.update(g16.astype("float32"), tx.init(p16.astype("float32")), p16)
    assert low.tolist() == high.astype("bfloat16").tolist()


def test_a_missing_gradient_leaves_its_slots_alone():
    grads = {"a": None, "b": jnp.ones(2)}
    slots = {"a": jnp.full(2, 7.0), "b": jnp.full(2, 1.0)}
    updates, slots = leafwise(_sum_rule, grads, [slots], {"a": jnp.ones(2), "b": jnp.ones(2)})
    assert updates["a"] is None and slots["a"].tolist() == [7.0, 7.0]
    assert updates["b"].tolist() == [3.0, 3.0] and slots["b"].tolist() == [2.0, 2.0]


def test_masked_nodes_and_empty_trees_pass():
    grads = {"a": optax.MaskedNode(), "b": ()}
    assert leafwise(_gain_rule, grads, gain=2.0) == (grads,)
    assert leafwise(_sum_rule, {}, [{}], {}) == ({}, {})


def test_values_may_be_prefix_trees_with_missing_leaves():
    grads = {"a": {"x": jnp.ones(2), "y": None}, "b": None, "c": [jnp.ones(1), jnp.ones(())]}
    (updates,) = leafwise(_gain_rule, grads, gain={"a": 2.0, "b": None, "c": [3.0, 4.0]})
    chex.assert_trees_all_close(
        updates, {"a": {"x": jnp.full(2, 2.0), "y": None}, "b": None, "c": [jnp.full(1, 3.0), 4.0]}
    )


def test_one_trace_for_each_shape():
    SEEN.clear()
    grads = {name: jnp.ones((3, 7)) for name in "abcd"} | {"e": jnp.ones(5)}
    jax.jit(lambda g: leafwise(_recording_rule, g, [g], g, gain=2.0)).lower(grads)
    assert len(SEEN) == 2


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_integer_gradients_are_refused_by_path(dtype):
    tx = gradlab.sgd(0.1)
    grads = {"dense": {"kernel": jnp.ones(2), "steps": jnp.ones(2, dtype)}}
    with pytest.raises(TypeError, match=f"gradient at 'dense/steps' is {dtype}.*floating-point.*freeze"):
        tx.update(grads, tx.init(grads), grads)


def test_the_empty_gradient_of_an_integer_parameter_is_refused_by_path():
    params = {"w": jnp.ones(()), "n": jnp.ones((), int)}
    grads = jax.grad(lambda p: p["w"] * 2.0, allow_int=True)(params)
    with pytest.raises(TypeError, match="gradient at 'n' is .*float0.*floating-point"):
        leafwise(_gain_rule, grads, gain=1.0)


def test_trees_that_differ_are_named_by_path():
    params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}}
    tx = gradlab.adam(0.1)
    with pytest.raises(
        ValueError, match=r"different trees: only gradients have \['dense/weight'\], only .* have \['dense/kernel'\]"
    ):
        tx.update({"dense": {"weight": jnp.ones(2), "bias": jnp.ones(1)}}, tx.init(params), params)
    with pytest.raises(
        ValueError, match=r"gradient at 'dense/kernel' has shape \(3,\), but state buffer 0 have \(2,\)"
    ):
        tx.update({"dense": {"kernel": jnp.ones(3), "bias": jnp.ones(1)}}, tx.init(params), params)
    with pytest.raises(ValueError, match="gradient at 'a' is an array, but parameters hold None there"):
        gradlab.add_decayed_weights(0.1).update({"a": jnp.ones(1)}, (), {"a": None})
    with pytest.raises(ValueError, match="same leaves in different containers"):
        require_same_structure("gradients", [1, 2], "parameters", (1, 2))


def test_complex_moments_use_the_squared_modulus():
    g = jnp.array([3 + 4j], "complex128")
    tx = gradlab.adam(0.1, eps=0.0)
    updates, state = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(updates, -0.1 * g / 5, rtol=1e-12)
    np.testing.assert_allclose(state[0].nu, 0.001 * 25.0, rtol=1e-12)


def test_prefixes_and_buffers():
    tree = {"a": {"x": 0, "y": None}, "b": 0}
    assert broadcast_prefix("v", {"a": 1.0, "b": 2.0}, tree) == [1.0, 1.0, 2.0]
    assert broadcast_prefix("v", 3.0, tree) == [3.0, 3.0, 3.0]
    with pytest.raises(
        ValueError, match=r"`v` has values for \['a', 'c'\], but the parameters have the leaves \['a/x', 'a/y'"
    ):
        broadcast_prefix("v", {"a": 1.0, "c": 2.0}, tree)
    params = {"a": jnp.ones(2, "bfloat16"), "b": None}
    assert zeros_like(params)["a"].dtype == jnp.bfloat16 and zeros_like(params, "float32")["a"].dtype == jnp.float32
    assert full_like(params, 3.0)["a"].tolist() == [3.0, 3.0] and full_like(params, 3.0)["b"] is None


def _rows_rule(g, rows, *, decay, axis):
    rows = [decay * rows[0] + jnp.sum(g, axis=axis)]
    return g - jnp.expand_dims(rows[0], axis), rows


def test_a_slot_may_have_a_shape_of_its_own_and_structure_may_differ_from_leaf_to_leaf():
    grads = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((2, 2), jnp.bfloat16)}
    rows = {"a": [jnp.ones(3, jnp.float32)], "b": [jnp.zeros(2, jnp.bfloat16)]}
    axes = {"a": 0, "b": 1}
    options = {"own_shapes": True, "leaf_structure": {"axis": axes}, "decay": 0.5}
    updates, new = leafwise(_rows_rule, grads, [rows], **options)
    chex.assert_trees_all_equal(new["a"][0], jnp.array([3.5, 5.5, 7.5], jnp.float32))
    chex.assert_trees_all_equal(updates["a"], grads["a"] - new["a"][0])
    assert new["b"][0].dtype == updates["b"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(new["b"][0], jnp.full(2, 2, jnp.bfloat16))
    with pytest.raises(ValueError, match="state buffer 0"):
        leafwise(_rows_rule, grads, [rows], decay=0.5, leaf_structure={"axis": axes})


def _noise_rule(g, *, key):
    return (g + jax.random.normal(key, g.shape),)


def test_keys_of_leaves_pass_as_they_are():
    keys = {"a": jax.random.key(0), "b": jax.random.key(1)}
    (updates,) = leafwise(_noise_rule, {"a": jnp.zeros(2), "b": jnp.zeros(2)}, key=keys)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda key: jax.random.normal(key, (2,)), keys))
