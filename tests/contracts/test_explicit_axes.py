"""Every optimizer on a mesh whose axes are explicit, the default of `jax.make_mesh`: the steps of one device.

The steps are those of a `jax.lax.scan`, which refuses a state that comes back with another type than it had.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.contracts.cases import NAMES

ONE_BYTE = ("adafactor", "adam", "muon", "shampoo", "sm3")  # a family each: blocks of all kinds of slots
ONE_BY_ONE = ("bfgs", "dion", "muon")  # eager, as far as init is not compiled
TOGETHER = ("adam_mini", "kl_soap", "muon", "sm3")  # states laid out as `state_specs` says

PROGRAM = """
import inspect, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import gradlab
from gradlab.core.storage import Int8
from tests.contracts.cases import NEEDS_VALUE, build

one_byte, one_by_one, together = json.loads(sys.argv[2])
mesh = jax.make_mesh((2, 4), ("data", "model"))
SPECS = {
    "Dense_0": {"kernel": P("data", "model"), "bias": P()},
    "Dense_1": {"kernel": P(None, "data")},
    "Dense_2": {"kernel": P("model", None)},
}
generator = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(generator.normal(size=shape) * 0.3, jnp.float32)
kernel = lambda count: {"kernel": draw(*count, 8, 8)}
tree = lambda *count: {
    "Dense_0": kernel(count) | {"bias": draw(*count, 8)}, "Dense_1": kernel(count), "Dense_2": kernel(count)
}
PARAMS, TARGETS = tree(), tree(6)

def optimizer(name, **more):
    takes = inspect.signature(gradlab.REGISTRY[name]).parameters
    small = {"min_dim_size_to_factor": 8, "rank": 4}
    return build(name, **{key: value for key, value in small.items() if key in takes}, **more)

def move(name, tx, params, state, target):
    distance = lambda p, t: jnp.sum(jnp.abs(p - t) ** 2)
    loss = lambda params: sum(jax.tree.leaves(jax.tree.map(distance, params, target)))
    value, grads = jax.value_and_grad(loss)(params)
    extra = {"value": value, "grad": grads, "value_fn": loss} if name in NEEDS_VALUE else {}
    updates, state = tx.update(grads, state, params, **extra)
    return gradlab.apply_updates(params, updates), state, updates

def run(name, tx, params, targets, start=None):
    def step(carry, target):
        params, state, updates = move(name, tx, *carry, target)
        return (params, state), updates

    state = tx.init(params) if start is None else start
    (moved, state), updates = jax.lax.scan(step, (params, state), targets)
    return moved, updates, state

placed = jax.device_put(PARAMS, jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS))
stacked = jax.tree.map(lambda spec: NamedSharding(mesh, P(None, *spec)), SPECS)
targets = jax.device_put(TARGETS, stacked)
specs = lambda tree: [list(jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves(tree)]

def gap(found, expected):
    of_leaf = lambda a, b, start: float(np.mean(np.abs(np.asarray(a) - b)) / np.mean(np.abs(b - start)))
    return max(jax.tree.leaves(jax.tree.map(of_leaf, found, expected, PARAMS)))

def in_place(tree, like):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return all(leaf.sharding.is_equivalent_to(was.sharding, leaf.ndim) for leaf, was in pairs)

found = {}

def compare(case, name, tx, expected, program, **options):
    try:
        with jax.set_mesh(mesh):
            moved, updates, state = program(placed, targets, **options)
    except Exception as error:
        found[case] = {"error": f"{type(error).__name__}: {error}"[:600]}
        return
    found[case] = {
        "gap": gap(moved, expected),
        "params": in_place(moved, placed),
        "updates": in_place(updates, targets),
        "state": specs(state),
    }

wrapped = {
    "every second": gradlab.MultiSteps(gradlab.adamw(0.01), 2),
    "window": gradlab.chain(gradlab.sgd(0.01), gradlab.lawa(2, 2)),
}
for name, tx in [*((name, optimizer(name)) for name in sorted(gradlab.REGISTRY)), *wrapped.items()]:
    program = jax.jit(lambda params, targets, name=name, tx=tx, **options: run(name, tx, params, targets, **options))
    expected, _, _ = program(PARAMS, TARGETS)
    compare(name, name, tx, expected, program)
    if name in together:
        shardings = gradlab.state_specs(tx, jax.tree.map(lambda x: x.sharding, placed), PARAMS)
        with jax.set_mesh(mesh):
            start = jax.jit(tx.init, out_shardings=shardings)(placed)
        compare(f"{name} together", name, tx, expected, program, start=start)
        found[f"{name} together"]["asked"] = specs(start)
    if name in one_by_one:
        def steps(params, targets):
            state, seen = tx.init(params), []
            for index in range(6):
                params, state, updates = move(name, tx, params, state, jax.tree.map(lambda t: t[index], targets))
                seen.append(updates)
            return params, jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen), state
        compare(f"{name} one by one", name, tx, expected, steps)
    if name in one_byte:
        tx = optimizer(name, storage=Int8(block=3, least=1))
        program = jax.jit(lambda params, targets: run(name, tx, params, targets))
        compare(f"{name} int8", name, tx, program(PARAMS, TARGETS)[0], program)
json.dump(found, open(sys.argv[1] + "/found.json", "w"))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explicit")
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    flags = f"--xla_force_host_platform_device_count=8 --xla_cpu_use_fusion_emitters=false {quick}"
    paths = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": paths,
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    cases = json.dumps([ONE_BYTE, ONE_BY_ONE, TOGETHER])
    command = [sys.executable, "-c", PROGRAM, str(folder), cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


CASES = [
    *NAMES,
    "every second",
    "window",
    *(f"{name} int8" for name in ONE_BYTE),
    *(f"{name} one by one" for name in ONE_BY_ONE),
    *(f"{name} together" for name in TOGETHER),
]


@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_of_one_device_and_stay_where_they_were(found, case):
    result = found[case]
    assert "error" not in result, result["error"]
    assert result["gap"] < 1e-4
    assert result["params"] and result["updates"]
    assert result["state"] == result.get("asked", result["state"])
