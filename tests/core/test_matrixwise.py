"""The engine: layouts, groups of equal shapes, three ways to run a group, messages."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from gradlab import scale_by_soap
from gradlab.core.layouts import matrices_in
from gradlab.core.matrixwise import Groups, matrixwise, on_stacks
from gradlab.core.spectral import COEFFICIENTS, newton_schulz
from tests.contracts.cases import build

LAYOUT = {"a": MuonDimensionNumbers(), "b": MuonDimensionNumbers(1, 2), "c": MuonDimensionNumbers((0, 1), 2)}
SHAPES = {"a": (3, 5), "b": (4, 5, 3), "c": (1, 3, 5)}


def _doubled_rule(x, *, factor, offset):
    assert x.ndim == 2 and x.shape[0] <= x.shape[1] and x.dtype == jnp.promote_types(x.dtype, jnp.float32)
    return factor * x @ x.mT @ x + offset


def _plain_rule(x, *, factor):
    return _doubled_rule(x, factor=factor, offset=0)


def tree(dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(0), len(SHAPES))
    return {name: jax.random.normal(key, SHAPES[name], dtype) for name, key in zip(SHAPES, keys, strict=True)}


def by_hand(x, factor):
    return factor * x @ x.T @ x


@pytest.mark.parametrize("strategy", [None, "stack", "map", "leaf"])
def test_every_strategy_gives_each_matrix_its_own_result(strategy):
    x = tree()
    got = matrixwise(_plain_rule, x, LAYOUT, factor=2.0, strategy=strategy)
    np.testing.assert_allclose(got["a"], by_hand(x["a"], 2.0), rtol=1e-12)
    for index in range(4):
        np.testing.assert_allclose(got["b"][index], by_hand(x["b"][index], 2.0), rtol=1e-12)
    np.testing.assert_allclose(got["c"][0], by_hand(x["c"][0], 2.0), rtol=1e-12)


def test_axes_in_another_order_are_the_transposed_matrix():
    x = jax.random.normal(jax.random.key(1), (5, 2, 3))
    got = matrixwise(_plain_rule, x, MuonDimensionNumbers((2, 0), 1), factor=1.0)
    flat = x.transpose(2, 0, 1).reshape(15, 2)
    np.testing.assert_allclose(got.transpose(2, 0, 1).reshape(15, 2), by_hand(flat, 1.0), rtol=1e-12)


def _schulz_rule(x, *, rows):
    return newton_schulz(x, rows)


@pytest.mark.parametrize(("strategy", "per_leaf"), [("stack", False), ("map", False), ("leaf", True)])
def test_a_group_is_one_loop_whatever_its_number_of_leaves(strategy, per_leaf):
    leaves = {f"{index}": jnp.ones((4, 6) if index % 2 else (6, 4)) for index in range(6)} | {"other": jnp.ones((2, 2))}
    rows = jnp.asarray(COEFFICIENTS["dion"])
    run = lambda x: matrixwise(_schulz_rule, x, MuonDimensionNumbers(), rows=rows, strategy=strategy)
    bodies = [loop for loop in _loops(jax.make_jaxpr(run)(leaves).jaxpr) if "dot_general" in str(loop)]
    innermost = [loop for loop in bodies if not list(_loops(loop))]
    assert len(innermost) == (7 if per_leaf else 2)
    if per_leaf:
        assert len(set(map(id, innermost))) == 2


def _loops(jaxpr):
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                if equation.primitive.name == "scan":
                    yield inner
                yield from _loops(inner)


def test_narrow_leaves_are_computed_in_float32_and_stay_narrow():
    x = tree(jnp.bfloat16)
    got = matrixwise(_plain_rule, x, LAYOUT, factor=2.0)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(got))
    wide = by_hand(np.asarray(x["a"], np.float32), 2.0)
    np.testing.assert_allclose(np.asarray(got["a"], np.float32), wide, rtol=2**-8)


def test_none_leaves_and_trees_without_leaves_stay():
    assert matrixwise(_plain_rule, {"a": None}, MuonDimensionNumbers(), factor=1.0) == {"a": None}
    assert matrixwise(_plain_rule, {}, MuonDimensionNumbers(), factor=1.0) == {}


def test_lanes_equal_single_runs():
    x, factors = tree(), jnp.array([0.5, 2.0])
    lanes = jax.vmap(lambda factor: matrixwise(_plain_rule, x, LAYOUT, factor=factor))(factors)
    for index, factor in enumerate(factors):
        alone = matrixwise(_plain_rule, x, LAYOUT, factor=factor)
        jax.tree.map(lambda a, b, i=index: np.testing.assert_allclose(a[i], b, rtol=1e-12), lanes, alone)


def test_the_sizes_of_matrices_leave_the_batch_out():
    uprights = {name: of_leaf.upright for name, of_leaf in matrices_in(tree(), LAYOUT).items()}
    assert uprights == {"a": (3, 5), "b": (5, 3), "c": (3, 5)}


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (None, (2, 2), "'part/w' has no layout"),
        (MuonDimensionNumbers(0, 2), (2, 2), "'part/w' has 2 axes"),
        (MuonDimensionNumbers(), (3,), "'part/w' has 1 axes"),
        (MuonDimensionNumbers(0, (0, 1)), (2, 2), "'part/w' needs distinct"),
        (MuonDimensionNumbers(1, -1), (2, 2), "'part/w' needs distinct"),
        (MuonDimensionNumbers((), 1), (2, 2), "'part/w' needs distinct"),
        ({"parts": MuonDimensionNumbers()}, (2, 2), r"leaves \['parts'\], which is no prefix"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_with_the_path(layout, shape, message):
    with pytest.raises(ValueError, match=message):
        matrixwise(_plain_rule, {"part": {"w": jnp.ones(shape)}}, layout, factor=1.0)


def _added_rule(x, y, z, *, factor):
    return x + factor * z["scale"], None if y is None else y + x


def test_states_and_inputs_of_a_group_go_along():
    params = {"a": jnp.ones((2, 3)), "b": 2 * jnp.ones((3, 2)), "c": jnp.ones((4, 4), jnp.bfloat16)}
    groups = Groups(params, MuonDimensionNumbers())
    stacks = groups.stack(params)
    assert {name: stack.shape for name, stack in stacks.items()} == {
        "2x3_float64": (2, 2, 3),
        "4x4_bfloat16": (1, 4, 4),
    }
    slots = {"2x3_float64": jnp.zeros((2, 2, 3)), "4x4_bfloat16": None}
    scales = {name: {"scale": jnp.arange(1.0, 1 + len(stack))} for name, stack in stacks.items()}
    for strategy in ("stack", "map", "leaf"):
        new, kept = on_stacks(_added_rule, stacks, [slots], [scales], strategy=strategy, factor=10.0)
        assert new["4x4_bfloat16"].dtype == jnp.bfloat16 and kept["4x4_bfloat16"] is None
        np.testing.assert_array_equal(kept["2x3_float64"], stacks["2x3_float64"])
        tree = groups.unstack(new)
        assert [float(tree[name][0, 0]) for name in "abc"] == [11.0, 22.0, 11.0] and tree["b"].shape == (3, 2)


def test_a_leaf_of_its_own_is_named_by_its_path():
    groups = Groups({"a": {"w": jnp.ones((2, 3))}, "b": jnp.ones((3, 2))}, MuonDimensionNumbers(), strategy="leaf")
    stacks = groups.stack({"a": {"w": jnp.ones((2, 3))}, "b": jnp.ones((3, 2))})
    assert {name: stack.shape for name, stack in stacks.items()} == {"a.w": (1, 2, 3), "b": (1, 2, 3)}


def test_numbers_of_leaves_come_in_the_order_of_the_stack():
    groups = Groups(
        {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3, 2))},
        {"a": MuonDimensionNumbers(), "b": MuonDimensionNumbers(1, 2)},
    )
    assert groups.per_leaf(lambda matrices: matrices.upright[0])["2x3_float64"].tolist() == [2, 3, 3]


SPLIT_OVER_DEVICES = r"""
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from optax.contrib import MuonDimensionNumbers
from gradlab import muon
from gradlab.core.layouts import SplitDimensionNumbers, matrices_of
keys = jax.random.split(jax.random.key(0), 13)
params = {f"{i}": jax.random.normal(key, (8, 12) if i % 2 else (12, 8)) for i, key in enumerate(keys)}
tx = muon(0.1)
state = tx.init(params)
expected, _ = jax.jit(tx.update)(params, state, params)
for kind in AxisType.Auto, AxisType.Explicit:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    placed = {name: jax.device_put(p, NamedSharding(mesh, P("model", "data"))) for name, p in params.items()}
    with jax.set_mesh(mesh):
        placed_state = tx.init(placed)
        compiled = jax.jit(tx.update).lower(placed, placed_state, placed).compile()
        found, _ = compiled(placed, placed_state, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), found, expected)
    text = compiled.as_text()
    bodies = re.findall(r"body=%?([\w.-]+)", text)
    assert bodies, text[:2000]
    computations = dict(re.findall(r"^%?([\w.-]+) [^\n]*{\n(.*?)^}", text, re.M | re.S))
    collective = re.compile("all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter")
    assert collective.search(text)
    products = 0
    for body in bodies:
        assert not collective.search(computations[body]), computations[body]
        products += "f32[2,8,8]" in computations[body]
    assert products, computations  # 13 matrices and 3 to fill up are two for each device

def split(x):
    return tuple(jax.typeof(x).sharding.spec)

CASES = [  # leaf, how it is split, layout, how its stack is split, how the leaf of the stack is
    ((8, 12), ("model", "data"), MuonDimensionNumbers(), (None, "model", "data"), ("model", "data")),
    ((8, 12), ("model", "data"), SplitDimensionNumbers(0, 1, 1, 3), (None, "model", None), ("model", None)),
    ((4, 3, 8, 12), ("data", None, None, "model"), MuonDimensionNumbers((1, 2), 3), ("data", None, "model"),
     ("data", None, None, "model")),
    ((3, 2, 8), (None, "model", "data"), MuonDimensionNumbers((0, 1), 2), (None, None, "data"), (None, None, "data")),
    ((4, 2, 8), ("data", "model", None), MuonDimensionNumbers((0, 1), 2), (None, "data", None), ("data", None, None)),
]
for shape, spec, layout, of_stack, of_leaf in CASES:
    x = jax.random.normal(keys[0], shape)
    matrices = matrices_of(x, layout, "leaf")
    with jax.set_mesh(mesh):
        stacked = jax.jit(matrices.stack)(jax.device_put(x, NamedSharding(mesh, P(*spec))))
        again = jax.jit(matrices.leaf)(stacked)
    np.testing.assert_array_equal(stacked, matrices.stack(x))
    np.testing.assert_array_equal(again, x)
    assert split(stacked) == of_stack and split(again) == of_leaf, (shape, split(stacked), split(again))
try:
    muon(0.1, strategy="shard").update(params, state, params)
except ValueError as error:
    assert "jax.set_mesh" in str(error)
    print("split")
"""


def test_a_stack_is_split_over_devices_and_iterates_without_their_talking():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", SPLIT_OVER_DEVICES]
    result = subprocess.run(
        command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "split", result.stderr


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="strategy 'stak'.*'stack'"):
        matrixwise(_plain_rule, {}, MuonDimensionNumbers(), factor=1.0, strategy="stak")


@pytest.mark.parametrize("grads", [{"a": jnp.ones((2, 3)), "b": None}, {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 2))}])
def test_other_matrices_than_the_state_holds_are_refused(grads):
    tx = scale_by_soap()
    state = tx.init({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="do not hold the same matrices.*'2x3_float64': 1.*'2x3_float64': 2.*None"):
        tx.update(grads, state)


@pytest.mark.parametrize("name", ["apollo", "fira", "kl_shampoo", "kl_soap", "soap"])
def test_gradients_of_another_dtype_are_told_as_such(name):
    tx = build(name)
    params = {
        "Dense_0": {"kernel": jnp.ones((4, 6), jnp.bfloat16)},
        "Dense_1": {"kernel": jnp.ones((6, 2), jnp.bfloat16)},
    }
    grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    with pytest.raises(ValueError, match="do not hold the same matrices.*bfloat16.*another dtype"):
        tx.update(grads, tx.init(params), params)


def test_leaves_without_entries_are_no_matrices():
    with pytest.raises(ValueError, match=r"parameter 'w' of shape \(0, 3\) has no entries"):
        matrixwise(lambda x: x, {"w": jnp.ones((0, 3))}, MuonDimensionNumbers())
