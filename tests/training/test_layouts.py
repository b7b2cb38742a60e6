"""States split over devices: equal numbers, bytes on each device, and the collectives of the compiled step."""

import json
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import gradlab
from gradlab.core.storage import Int8
from gradlab.training.layouts import fsdp_layout, zero_layout
from gradlab.training.plan import bytes_of_owner

COMMON = """
import json, os, re, sys
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import gradlab

def params():
    generator = np.random.default_rng(0)
    leaf = lambda *shape: jnp.asarray(generator.normal(size=shape) * 0.2, jnp.float32)
    return {"Dense_0": {"kernel": leaf(16, 32), "bias": leaf(32)}, "Dense_1": {"kernel": leaf(32, 3), "bias": leaf(3)}}

def loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    error = hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.mean(jnp.abs(error))}

def batches(count):
    generator = np.random.default_rng(1)
    draw = lambda *shape: generator.normal(size=shape).astype(np.float32)
    return [{"x": draw(32, 16), "y": draw(32, 3)} for _ in range(count)]

def train(tx, layout=None, **options):
    state, losses = gradlab.start_step(tx, params(), layout), []
    step = gradlab.make_step(loss, layout=layout, **options)
    for batch in batches(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses

def mesh_of(*shape, names=("data", "model")):
    return jax.make_mesh(shape, names[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))
"""

PROGRAM = (
    COMMON
    + """
def collectives(layout, tx):
    state = gradlab.start_step(tx, params(), layout)
    compiled = gradlab.make_step(loss, layout=layout).lower(state, batches(1)[0]).compile()
    kinds = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
    return {kind: len(re.findall(rf" {kind}(?:-start)?\\(", compiled.as_text())) for kind in kinds}

def held(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

mesh, found = mesh_of(8), {}
optimizers = {
    "adamw": gradlab.adamw(1e-2),
    "clipped": gradlab.chain(gradlab.clip_by_global_norm(0.5), gradlab.adamw(1e-2)),
    "muon": gradlab.muon(1e-2),
    "averaged": gradlab.chain(gradlab.sgd(1e-1, momentum=0.9), gradlab.ema_params(0.9)),
}
for name, tx in optimizers.items():
    whole, losses = train(tx)
    for kind in ("zero_layout", "fsdp_layout"):
        layout = getattr(gradlab, kind)(tx, params(), mesh)
        state, split_losses = train(tx, layout)
        gap = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), whole.params, state.params)
        found[f"{name} {kind}"] = {
            "gap": max(jax.tree.leaves(gap)),
            "losses": [losses, split_losses],
            "bytes": [held(state.params), held(state.opt_state)],
            "whole": [held(whole.params), held(whole.opt_state)],
            "collectives": collectives(layout, tx),
        }
tx = gradlab.adamw(1e-2)
layout = gradlab.zero_layout(tx, params(), mesh)
_, losses = train(tx)
_, in_parts = train(tx, layout, parts=2)
found["parts"] = [losses, in_parts]

far = layout.slots_on("pinned_host")
state, on_host = train(tx, far)
kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state)}
near = state.params["Dense_0"]["kernel"].sharding.memory_kind
found["offloaded"] = {"losses": [losses, on_host], "kinds": sorted(kinds), "params": near}
stacked = gradlab.zero_layout(gradlab.soap(1e-2), params(), mesh)
shapes = jax.eval_shape(gradlab.soap(1e-2).init, params())
pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(stacked.opt_state))
found["bases"] = [[list(leaf.shape), list(sharding.spec)] for leaf, sharding in pairs]

class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        split = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        joined = nn.with_partitioning(nn.initializers.lecun_normal(), ("model", None))
        return nn.Dense(4, kernel_init=joined)(jnp.tanh(nn.Dense(32, kernel_init=split)(x)))

grid, model = mesh_of(2, 4), Model()
variables = model.init(jax.random.key(0), jnp.ones((1, 16)))
weights = nn.meta.unbox(variables)["params"]
shardings = nn.get_sharding(variables, grid)["params"]
tensor = gradlab.layout_of(tx, weights, shardings, NamedSharding(grid, P("data")))
state = gradlab.start_step(tx, weights, tensor)
of_model = lambda params, batch: jnp.mean((model.apply({"params": params}, batch["x"]) - batch["y"]) ** 2)
batch = {"x": batches(1)[0]["x"], "y": np.ones((32, 4), np.float32)}
state, metrics = gradlab.make_step(of_model, layout=tensor)(state, batch)
alone, expected = gradlab.make_step(of_model)(gradlab.start_step(tx, weights), batch)
found["tensor"] = {
    "losses": [float(metrics["loss"]), float(expected["loss"])],
    "gap": max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, alone.params))),
    "mu": {name: list(state.opt_state[0].mu[name]["kernel"].sharding.spec) for name in weights},
}

found["both"] = {}
for kind in ("zero_layout", "fsdp_layout"):
    both = getattr(gradlab, kind)(tx, weights, grid, shardings=shardings)
    state, metrics = gradlab.make_step(of_model, layout=both)(gradlab.start_step(tx, weights, both), batch)
    found["both"][kind] = {
        "losses": [float(metrics["loss"]), float(expected["loss"])],
        "gap": max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, alone.params))),
        "bytes": [held(state.params), held(state.opt_state)],
        "mu": {name: list(state.opt_state[0].mu[name]["kernel"].sharding.spec) for name in weights},
    }
bases = gradlab.fsdp_layout(gradlab.soap(1e-2), weights, grid, shardings=shardings).opt_state
found["bases of both"] = [list(leaf.spec) for leaf in jax.tree.leaves(bases) if len(leaf.spec) == 3]

from flax import nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        split = lambda *axes: nnx.with_partitioning(nnx.initializers.lecun_normal(), axes)
        self.inner = nnx.Linear(16, 32, kernel_init=split(None, "model"), rngs=rngs)
        self.outer = nnx.Linear(32, 4, kernel_init=split("model", None), rngs=rngs)

    def __call__(self, x):
        return self.outer(jnp.tanh(self.inner(x)))

with jax.set_mesh(grid):
    graph, weights = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
tensor = gradlab.layout_of(tx, weights, nnx.get_named_sharding(weights, grid), NamedSharding(grid, P("data")))
of_net = lambda weights, batch: jnp.mean((nnx.merge(graph, weights)(batch["x"]) - batch["y"]) ** 2)
state, metrics = gradlab.make_step(of_net, layout=tensor)(gradlab.start_step(tx, weights, tensor), batch)
whole = jax.device_put(weights, jax.devices()[0])
alone, expected = gradlab.make_step(of_net)(gradlab.start_step(tx, whole), batch)
found["nnx"] = {
    "losses": [float(metrics["loss"]), float(expected["loss"])],
    "mu": [list(leaf.sharding.spec) for leaf in jax.tree.leaves(state.opt_state[0].mu) if leaf.ndim == 2],
}

explicit, steps = jax.make_mesh((4, 2), ("data", "model")), {}
clipped = optimizers["clipped"]
for kind in ("zero_layout", "fsdp_layout"):
    steps[kind] = train(clipped, getattr(gradlab, kind)(clipped, params(), explicit))[1]
    with jax.set_mesh(explicit):
        steps[f"{kind} within"] = train(clipped, getattr(gradlab, kind)(clipped, params(), explicit))[1]

def of_products(weights, batch):
    return jnp.mean((jnp.dot(jnp.tanh(batch["x"] @ weights["in"]), weights["out"], out_sharding=P("data")) - 1) ** 2)

weights = {"in": 0.1 * jnp.ones((16, 32)), "out": jnp.eye(32, 4)}
shardings = {"in": NamedSharding(explicit, P(None, "model")), "out": NamedSharding(explicit, P("model", None))}
muon = optimizers["muon"]
tensor = gradlab.layout_of(muon, weights, shardings, NamedSharding(explicit, P("data")))
with jax.set_mesh(explicit):
    split_step = gradlab.make_step(of_products, layout=tensor)
    state, metrics = split_step(gradlab.start_step(muon, weights, tensor), batch)
alone_step = gradlab.make_step(lambda w, b: jnp.mean((jnp.tanh(b["x"] @ w["in"]) @ w["out"] - 1) ** 2))
alone, expected = alone_step(gradlab.start_step(muon, weights), batch)
found["explicit"] = {
    "losses": steps,
    "tensor": [float(metrics["loss"]), float(expected["loss"])],
    "gap": max(float(np.abs(np.asarray(state.params[name]) - alone.params[name]).max()) for name in weights),
    "in": list(state.params["in"].sharding.spec),
}

line = jax.make_mesh((8,), ("data",))
matrices = {f"Dense_{i}": {"kernel": jnp.ones((16, 32))} for i in range(12)}
matrices = jax.device_put(matrices, NamedSharding(line, P("data")))
dealt_out = gradlab.muon(1e-2, muon_weight_dimension_numbers=gradlab.flax_matrices())
with jax.set_mesh(line):
    state = dealt_out.init(matrices)
    text = jax.jit(dealt_out.update).lower(matrices, state, matrices).compile().as_text()
moves = re.findall(r"= (.*) (all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)(?:-start)?\\(", text)
size = lambda one: np.prod([int(n) for n in one.split(",")])
sizes = lambda shapes: sum(size(one) for one in re.findall(r"f32\\[([\\d,]+)\\]", shapes))
found["dealt out"] = [[kind, int(4 * sizes(shapes))] for shapes, kind in moves]

import orbax.checkpoint as ocp
state, _ = train(tx, layout)
with ocp.StandardCheckpointer() as saver:
    saver.save(sys.argv[1] + "/saved", tuple(state[:3]))
    saver.wait_until_finished()
    other = gradlab.fsdp_layout(tx, params(), mesh_of(4))
    like = gradlab.start_step(tx, params(), other)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tuple(like[:3]))
    restored = saver.restore(sys.argv[1] + "/saved", shapes)
again, after = gradlab.make_step(loss, layout=other)(like._replace(step=restored[0], params=restored[1],
    opt_state=restored[2]), batches(5)[4])
_, straight = gradlab.make_step(loss, layout=layout)(state, batches(5)[4])
devices = again.params["Dense_0"]["kernel"].sharding.device_set
found["restored"] = [float(after["loss"]), float(straight["loss"]), int(again.step), len(devices)]
json.dump(found, open(sys.argv[1] + "/found.json", "w"))
"""
)


def environment(devices):
    quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    flags = f"--xla_force_host_platform_device_count={devices} {quick}"
    paths = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


RUNS = [
    f"{tx} {layout}" for tx in ("adamw", "clipped", "muon", "averaged") for layout in ("zero_layout", "fsdp_layout")
]


@pytest.mark.parametrize("run", RUNS)
def test_results_are_those_of_one_device(found, run):
    whole, split = found[run]["losses"]
    np.testing.assert_allclose(split, whole, rtol=1e-5)
    assert found[run]["gap"] < 1e-5


@pytest.mark.parametrize("run", RUNS)
def test_each_device_holds_its_share(found, run):
    """All but what has no axis that eight devices divide: the last bias, counts."""
    params, slots = found[run]["bytes"]
    whole_params, whole_slots = found[run]["whole"]
    rest = {"adamw": 2 * 12 + 4, "clipped": 2 * 12 + 4, "muon": 500, "averaged": 2 * 12 + 4}[run.split()[0]]
    assert slots <= whole_slots / 8 + rest
    assert params == (whole_params if "zero" in run else (whole_params - 12) / 8 + 12)


@pytest.mark.parametrize("layout", ["zero_layout", "fsdp_layout"])
def test_gradients_are_scattered_parameters_gathered_and_nothing_else_moves(found, layout):
    """Three of the four parameters split; one all-reduce carries the last bias, the loss and the norm."""
    nothing = {"all-to-all": 0, "collective-permute": 0}
    expected = {"all-reduce": 1, "reduce-scatter": 3, "all-gather": 3, **nothing}
    assert found[f"adamw {layout}"]["collectives"] == expected
    clipped = found[f"clipped {layout}"]["collectives"]
    assert clipped == expected | {"all-reduce": clipped["all-reduce"]} and clipped["all-reduce"] <= 2


def test_parts_of_a_share_make_the_same_steps(found):
    np.testing.assert_allclose(found["parts"][1], found["parts"][0], rtol=1e-5)


def test_slots_may_lie_in_the_memory_of_the_host(found):
    offloaded = found["offloaded"]
    np.testing.assert_allclose(*offloaded["losses"], rtol=1e-5)
    assert offloaded["kinds"] == ["pinned_host"] and offloaded["params"] == "device"


def test_what_belongs_to_no_parameter_is_split_by_itself(found):
    """The bases of SOAP are stacks of matrices."""
    whole = [shape for shape, spec in found["bases"] if not any(spec) and any(n % 8 == 0 for n in shape)]
    assert not whole and any(len(shape) == 3 for shape, _ in found["bases"])


def test_slots_lie_beside_parameters_that_a_model_splits(found):
    tensor = found["tensor"]
    np.testing.assert_allclose(*tensor["losses"], rtol=1e-5)
    assert tensor["gap"] < 1e-5
    assert tensor["mu"] == {"Dense_0": ["model", None], "Dense_1": [None, "model"]}  # Flax counts from outside


@pytest.mark.parametrize(
    ("kind", "params"), [("zero_layout", 4 * (640 // 4 + 36)), ("fsdp_layout", 4 * (640 // 8 + 36 // 2))]
)
def test_the_data_axis_splits_what_the_model_leaves_whole(found, kind, params):
    """640 numbers in kernels that four devices of the model share, 36 in biases; slots are shared by all eight."""
    both = found["both"][kind]
    np.testing.assert_allclose(*both["losses"], rtol=1e-5)
    assert both["gap"] < 1e-5
    assert both["bytes"] == [params, 2 * 4 * (640 // 8 + 36 // 2) + 4]
    assert both["mu"] == {"Dense_0": ["model", "data"], "Dense_1": ["data", "model"]}
    assert found["bases of both"] == [[None, "data", "model"]] * 6


def test_a_state_of_nnx_is_laid_out_as_its_model_says(found):
    np.testing.assert_allclose(*found["nnx"]["losses"], rtol=1e-5)
    assert found["nnx"]["mu"] == [[None, "model"], ["model", None]]


@pytest.mark.parametrize("kind", ["zero_layout", "fsdp_layout"])
@pytest.mark.parametrize("where", ["", " within"])
def test_a_mesh_with_explicit_axes_counts_as_automatic(found, kind, where):
    np.testing.assert_allclose(
        found["explicit"]["losses"][kind + where], found["clipped zero_layout"]["losses"][0], rtol=1e-5
    )


def test_matrices_go_to_one_device_each_and_back(found):
    """Twelve to eight devices: two for each, some of which fill up; what a plan counts."""
    shapes = [jax.ShapeDtypeStruct((16, 32), "float32")] * 12
    assert (
        found["dealt out"] == [["all-to-all", bytes_of_owner(shapes, 8)]] * 2 == [["all-to-all", 2 * 4 * 16 * 32]] * 2
    )


def test_a_model_with_explicit_axes_keeps_them(found):
    np.testing.assert_allclose(*found["explicit"]["tensor"], rtol=1e-5)
    assert found["explicit"]["gap"] < 1e-5 and found["explicit"]["in"] == [None, "model"]


def test_a_checkpoint_of_one_mesh_goes_on_on_another(found):
    after, straight, step, devices = found["restored"]
    np.testing.assert_allclose(after, straight, rtol=1e-5)
    assert (step, devices) == (5, 4)


def test_exponents_that_no_whole_axis_takes_are_split_further_along_a_split_one():
    """Each row of 32 is one block: two shards of a column have no whole one, but of 16 rows eight devices have two."""
    tx, weights = gradlab.adamw(1e-2, storage=Int8(least=1)), {"w": jax.ShapeDtypeStruct((16, 32), "float32")}
    mesh = AbstractMesh((2, 4), ("data", "model"))
    shardings = {"w": NamedSharding(mesh, PartitionSpec("model", None))}
    kept = fsdp_layout(tx, weights, mesh, shardings=shardings).opt_state.inner_state[0].mu["w"]
    assert tuple(kept.codes.spec) == ("model", "data") and tuple(kept.exponents.spec) == (("model", "data"), None)
    assert dict(kept.codes.mesh.shape) == {"data": 2, "model": 4} and set(kept.codes.mesh.axis_types) == {AxisType.Auto}


def test_slots_come_back_from_the_memory_of_the_host():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    layout = zero_layout(gradlab.adamw(1e-2), {"w": jnp.ones((4, 2))}, mesh)
    assert layout.slots_on("pinned_host").slots_on("device") == layout.slots_on("device")


def test_what_does_not_fit_is_refused():
    tx, weights = gradlab.adamw(1e-2), {"w": jnp.ones((4, 2))}
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="axis of the mesh 'dta'; did you mean 'data'?"):
        zero_layout(tx, weights, mesh, "dta")
    shardings = {"w": NamedSharding(mesh, PartitionSpec(None, "data"))}
    with pytest.raises(ValueError, match="`shardings` split the parameter 'w' over the axis 'data' of the mesh"):
        zero_layout(tx, weights, mesh, shardings=shardings)
    with pytest.raises(ValueError, match="memory of the device 'hosts'"):
        zero_layout(tx, weights, mesh).slots_on("hosts")


MANY = (
    COMMON
    + """
rank, count, port, folder, until = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
jax.distributed.initialize(f"127.0.0.1:{port}", count, rank)
import orbax.checkpoint as ocp
tx, mesh = gradlab.chain(gradlab.clip_by_global_norm(0.5), gradlab.adamw(1e-2)), mesh_of(count)
layout = gradlab.zero_layout(tx, params(), mesh)
state, step = gradlab.start_step(tx, params(), layout), gradlab.make_step(loss, layout=layout)
saver = ocp.CheckpointManager(folder + "/states", options=ocp.CheckpointManagerOptions(max_to_keep=1))
if saver.latest_step() is not None:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tuple(state[:3]))
    kept = saver.restore(saver.latest_step(), args=ocp.args.StandardRestore(shapes))
    state = state._replace(step=kept[0], params=kept[1], opt_state=kept[2])
done = int(state.step)
own = slice(rank * 32 // count, (rank + 1) * 32 // count)
for number, batch in list(enumerate(batches(4)))[done:]:
    share = jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout.batch, x[own]), batch)
    state, metrics = step(state, share)
    if rank == 0:
        with open(folder + "/losses.txt", "a") as file:
            print(number, float(metrics["loss"]), file=file, flush=True)
    saver.save(number, args=ocp.args.StandardSave(tuple(state[:3])))
    saver.wait_until_finished()
    if number + 1 == until:
        os.kill(os.getpid(), 9)
"""
)


def run_processes(count, folder, until=0):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = [
        [sys.executable, "-c", MANY, str(rank), str(count), str(port), str(folder), str(until)] for rank in range(count)
    ]
    processes = [
        subprocess.Popen(command, env=environment(1), stderr=subprocess.PIPE, text=True) for command in commands
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_state_and_go_on_after_a_kill(count, found, tmp_path):
    codes, _ = run_processes(count, tmp_path, until=2)
    assert -9 in codes
    codes, errors = run_processes(count, tmp_path)
    assert codes == [0] * count, errors[0][-3000:]
    lines = [line.split() for line in (tmp_path / "losses.txt").read_text().splitlines()]
    assert [int(number) for number, _ in lines] == [0, 1, 2, 3]
    np.testing.assert_allclose(
        [float(value) for _, value in lines], found["clipped zero_layout"]["losses"][0], rtol=1e-5
    )
