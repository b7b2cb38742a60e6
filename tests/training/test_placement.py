"""Batches and optimizers that lie elsewhere than the layout says, on eight devices."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.training.test_layouts import COMMON, environment

PROGRAM = (
    COMMON
    + """
def noisy(params, batch):
    value, metrics = loss(params, batch)
    return value, {**metrics, "drawn": jax.random.normal(batch["key"][0])}

def refused(step, batch):
    try:
        step(state, batch)
    except ValueError as error:
        return str(error)

mesh = jax.make_mesh((8,), ("data",))
tx = gradlab.adamw(1e-2, storage="int8")
layout = gradlab.zero_layout(tx, params(), mesh)
step = gradlab.make_step(noisy, layout=layout, parts=2, donate=False)
keys = jax.random.split(jax.random.key(0), 16)
batch = {**batches(1)[0], "key": keys}
with jax.set_mesh(mesh):
    state = gradlab.start_step(tx, params(), layout)
    made_within = jax.tree.map(lambda x: jnp.array(x) if isinstance(x, np.ndarray) else x, batch)
    within = step(state, made_within)[1]

found = {"drawn": [float(within["drawn"]), float(jnp.mean(jax.vmap(jax.random.normal)(keys)))]}
lying = {
    "nowhere": batch,
    "on the first": jax.device_put(batch, jax.devices()[0]),
    "everywhere": jax.device_put(batch, NamedSharding(mesh, P())),
    "split": jax.device_put(batch, layout.batch),
    "made within": made_within,
}
found["losses"] = {where: float(step(state, one)[1]["loss"]) for where, one in lying.items()}
found["losses"]["started and made within"] = float(within["loss"])
_, found["expected"] = train(tx)

shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
lowered = step.lower(state, lying["on the first"])
found["exported"] = jax.export.export(step)(state, shapes).nr_devices
found["outer"] = [eqn.primitive.name for eqn in jax.make_jaxpr(jax.jit(step))(state, batch).eqns]
found["lowered"] = [lowered.as_text().count("sdy.mesh"), list(step.eval_shape(state, shapes)[1])]

again = gradlab.start_step(state.tx, state.params, layout)
places = lambda tree: {shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)
                       for shard in leaf.addressable_shards}
found["shared"] = len(places((again.tx, again.params)) & places((state.tx, state.params)))

found["refused"] = {
    "key": refused(step, {**batch, "key": keys[0]}),
    "odd": refused(step, {**batch, "x": batch["x"][:24]}),
    "metric": refused(gradlab.make_step(lambda p, b: (loss(p, b)[0], {"each": b["x"][:, 0]}), layout=layout), batch),
}
tensor = gradlab.layout_of(tx, params(), jax.tree.map(lambda _: layout.everywhere, params()), layout.batch)
found["refused"]["whole"] = refused(gradlab.make_step(noisy, layout=tensor, parts=2), {**batch, "x": batch["x"][:12]})
json.dump(found, open(sys.argv[1] + "/found.json", "w"))
"""
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placement")
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


def test_a_batch_may_lie_anywhere_and_a_state_start_within_an_explicit_mesh(found):
    assert len(found["losses"]) == 6
    np.testing.assert_allclose(list(found["losses"].values()), found["expected"][0], rtol=1e-5)


def test_keys_of_a_batch_go_to_the_parts_of_each_device(found):
    np.testing.assert_allclose(*found["drawn"], rtol=1e-5)


def test_a_step_with_a_layout_is_traced_lowered_and_exported(found):
    assert found["exported"] == 8
    assert found["outer"] == ["jit"]
    assert found["lowered"] == [1, ["drawn", "grad_norm", "largest", "loss"]]


def test_a_state_owns_its_buffers_where_optimizer_and_parameters_already_lie(found):
    assert found["shared"] == 0


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("key", "leaf at 'key' of shape () has too few axes"),
        ("key", "jax.random.split(key, 16)"),
        ("odd", "leaf at 'x' of shape (24, 16) does not divide into parts=2 on each of 8 devices along axis 0"),
        ("odd", "multiple of 16"),
        ("whole", "leaf at 'x' of shape (12, 16) does not divide over 8 devices along axis 0"),
        ("metric", "the metric 'each' is an array of shape (4,), and the mean over 8 devices would mix examples"),
    ],
)
def test_what_devices_do_not_divide_is_refused(found, case, message):
    assert message in found["refused"][case]
