"""Lanes over eight host devices, in a process of their own: the same numbers, and nothing is communicated."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import re
import sys

import jax
import numpy as np

import gradlab
from gradlab.sweeps.engine import lanes
from gradlab.sweeps.engine.prepare import prepare
from gradlab.tasks.catalogue import digits_mlp

options = {"trials": 11, "sampler": "halton", "seeds": 2, "steps": 6, "batch_size": 16, "eval_every": 3}
space = {"learning_rate": {"log": [1e-3, 1e-1]}}
task = digits_mlp(hidden=(8,))
found = {"devices": jax.local_device_count()}
for method in ("vmap", "map"):
    for scheduler in ("all", {"name": "halving", "eta": 2, "first": 3}):
        result = gradlab.sweep(task, gradlab.adamw, space, lane_method=method, scheduler=scheduler, **options)
        name = f"{method}, {scheduler if scheduler == 'all' else 'halving'}"
        found[name] = np.nan_to_num(result.loss, nan=-1).tolist()
setup = prepare(task, gradlab.adamw, space, **options | {"trials": 16})
group = setup.lanes([trial.values for trial in setup.trials])
keys = lanes._keys(np.asarray(setup.seeds, np.uint32))
task, group, keys, spread, devices = lanes._over_devices(task, group, keys)
state = spread(lanes._first_state(task, group, setup.seeds))
collectives = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
for at_once in (None, 1):
    lowered = lanes.run_segment.lower(task, group, state, keys, np.int32(0), 3, setup.plan, at_once, devices)
    found[f"collectives, {at_once} at once"] = len(re.findall(collectives, lowered.compile().as_text()))
new, *_ = lanes.run_segment(task, group, state, keys, np.int32(0), 3, setup.plan, None, devices)
leaf = jax.tree.leaves(new.runs.params)[0]
found["share"] = leaf.addressable_shards[0].data.shape[1] / leaf.shape[1]
json.dump(found, sys.stdout)
"""


def run(devices):
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # of LLVM, not of XLA
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {quick}",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_devices_share_the_lanes_and_change_no_number():
    one, eight = run(1), run(8)
    assert (one.pop("devices"), eight.pop("devices")) == (1, 8)
    assert (one.pop("share"), eight.pop("share")) == (1.0, 1 / 8)
    for name in [name for name in eight if name.startswith("collectives")]:
        assert eight.pop(name) == 0 and one.pop(name) == 0
    assert set(one) == set(eight) and len(one) == 4
    for name in one:
        assert flat(eight[name]) == pytest.approx(flat(one[name]), rel=2e-5)
    assert flat(one["vmap, all"]) == pytest.approx(flat(one["map, all"]), rel=2e-5)


def flat(nested):
    return [value for trial in nested for run in trial for value in run]
