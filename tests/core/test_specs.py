"""Specifications of states: every nesting, factored and stacked buffers, real devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import gradlab
from gradlab.core.storage import Int8

P = PartitionSpec
SPECS = {"dense": {"kernel": P("x", "y"), "bias": P("y")}, "layers": [P(), P(None, "x")]}
PARAMS = {
    "dense": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)},
    "layers": [jnp.ones(()), jnp.ones((2, 8))],
}
LABELS = {"dense": {"kernel": "a", "bias": "b"}, "layers": "a"}
OPTIMIZERS = {
    "adamw": gradlab.adamw(gradlab.linear_schedule(1.0, 0.0, 4)),
    "chain": gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.sgd(0.1, momentum=0.9)),
    "named_chain": gradlab.named_chain(("clip", gradlab.clip(1.0)), ("adam", gradlab.adam(0.1))),
    "partition": gradlab.partition({"a": gradlab.adam(0.1), "b": gradlab.sgd(0.1, momentum=0.9)}, LABELS),
    "by path": gradlab.partition({"a": gradlab.adam(0.1)}, gradlab.by_path((".", "a"))),
    "masked": gradlab.masked(gradlab.adam(0.1), "kernel"),
    "multi_steps": gradlab.MultiSteps(gradlab.adam(0.1), 2, should_skip_update_fn=gradlab.skip_not_finite),
    "hyperparameters in the state": gradlab.inject_hyperparams(gradlab.adam)(0.1),
    "optax": optax.chain(optax.zero_nans(), optax.masked(optax.adam(0.1), {"dense": True, "layers": False})),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_buffer_has_the_specification_of_the_parameter_whose_path_and_shape_it_has(name):
    tx = OPTIMIZERS[name]
    state, specs = tx.init(PARAMS), gradlab.state_specs(tx, SPECS)
    assert jax.tree.structure(specs) == jax.tree.structure(state)
    by_name = {"kernel": P("x", "y"), "bias": P("y"), "0": P(), "1": P(None, "x")}
    moments = 0
    for (path, leaf), spec in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(specs), strict=True):
        end = jax.tree_util.keystr(path[-1:], simple=True)
        moments += leaf.ndim > 0
        assert spec == (by_name[end] if leaf.ndim else P()), path
    assert moments >= 2
    assert jax.tree.leaves(gradlab.state_specs(tx, SPECS, PARAMS)) == jax.tree.leaves(specs)


def test_specifications_may_be_any_objects_and_a_prefix():
    tx = gradlab.adam(0.1)
    specs = gradlab.state_specs(tx, {"dense": "device", "layers": None}, PARAMS, default="host")
    assert specs[0].count == "host" and specs[0].mu == {
        "dense": {"kernel": "device", "bias": "device"},
        "layers": [None, None],
    }
    assert gradlab.state_specs(tx, "device", jnp.ones(3), default="host")[0].nu == "device"


def test_a_path_that_ends_like_another_is_not_taken_for_it():
    specs = {"w": P("x"), "a": {"w": P("y")}}
    mu = gradlab.state_specs(gradlab.adam(0.1), specs)[0].mu
    assert mu == specs


def test_factored_moments_stay_split_where_the_lengths_tell_the_axes():
    tx = optax.adafactor(0.1, min_dim_size_to_factor=2)
    with pytest.raises(ValueError, match="depends on the parameter's shape; pass params="):
        gradlab.state_specs(tx, SPECS)
    specs = gradlab.state_specs(tx, SPECS, PARAMS)[0]
    factored = specs[0] if isinstance(specs, tuple) and not hasattr(specs, "v_row") else specs
    assert factored.v_row["dense"]["kernel"] == P("y") and factored.v_col["dense"]["kernel"] == P("x")
    assert factored.v["dense"]["kernel"] == P() and factored.v["dense"]["bias"] == P("y")
    square = gradlab.state_specs(tx, P("x", "y"), jnp.ones((4, 4)))[0]
    assert {square.v_row, square.v_col, square.v} == {P()}
    assert gradlab.state_specs(tx, "device", PARAMS, default="host")[0].v_row["dense"]["kernel"] == "host"


def test_a_history_is_split_as_its_parameter():
    specs = gradlab.state_specs(optax.scale_by_lbfgs(3), SPECS)
    assert specs.diff_params_memory["dense"]["kernel"] == P(None, "x", "y") and specs.weights_memory == P()


def test_named_shardings_give_named_shardings():
    mesh = jax.make_mesh((1, 1), ("x", "y"))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS)
    specs = gradlab.state_specs(optax.chain(gradlab.adam(0.1), optax.scale_by_lbfgs(3)), shardings)
    assert specs[0][0].count == NamedSharding(mesh, P())
    assert specs[1].diff_params_memory["layers"][1] == NamedSharding(mesh, P(None, None, "x"))


@pytest.mark.parametrize(("block", "expected"), [(32, ("x", "y")), (64, ("x",))])
def test_exponents_are_split_with_their_blocks_where_each_device_has_whole_ones(block, expected):
    """256 columns over 8 devices: 8 blocks of 32, or 4 of 64; without a mesh nobody knows."""
    tx = gradlab.sgd(0.1, momentum=0.9, storage=Int8(block=block, least=1))
    params, spec = {"w": jax.ShapeDtypeStruct((16, 256), "float32")}, P("x", "y")
    mesh = AbstractMesh((4, 8), ("x", "y"))
    stored = gradlab.state_specs(tx, {"w": NamedSharding(mesh, spec)}, params).inner_state[0].trace["w"]
    assert stored.codes.spec == spec and tuple(stored.exponents.spec) == expected
    stored = gradlab.state_specs(tx, {"w": spec}, params).inner_state[0].trace["w"]
    assert stored.codes == spec and tuple(stored.exponents) == ("x",)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, gradlab
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
specs = {"kernel": P("x", None), "bias": P()}
params = {"kernel": jnp.arange(32.0).reshape(8, 4), "bias": jnp.ones(4)}
grads = jax.tree.map(jnp.sin, params)
tx = gradlab.partition(
    {"a": gradlab.adamw(gradlab.linear_schedule(0.1, 0.0, 9)), "b": gradlab.MultiSteps(gradlab.adamw(0.1), 2)},
    gradlab.by_path(("kernel", "a"), (".", "b")),
)
step = lambda params, state: (lambda u, s: (gradlab.apply_updates(params, u), s))(*tx.update(grads, state, params))
expected = step(*step(params, tx.init(params)))

shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
state_shardings = gradlab.state_specs(tx, shardings)
placed = jax.device_put(params, shardings)
state = jax.jit(tx.init, out_shardings=state_shardings)(placed)
jitted = jax.jit(step, out_shardings=(shardings, state_shardings), donate_argnums=(0, 1))
got = jitted(*jitted(placed, state))
for leaf, sharding in zip(jax.tree.leaves(got), jax.tree.leaves((shardings, state_shardings)), strict=True):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (leaf.sharding, sharding)
mu = got[1].inner_states["a"].inner_state[0].mu["kernel"]
assert [shard.data.shape for shard in mu.addressable_shards] == [(2, 4)] * 4
for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert jnp.allclose(one, other, rtol=1e-5)
print("placed")
"""


def test_a_sharded_run_keeps_its_placements_and_its_numbers():
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    done = subprocess.run([sys.executable, "-c", ON_FOUR_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "placed", done.stderr
