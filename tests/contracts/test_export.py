"""Every optimizer is exported for CPU, CUDA and TPU, and what was exported computes the same here."""

import chex
import jax
import jax.numpy as jnp
import pytest

import gradlab
from tests.contracts.cases import NAMES, build, update

PLATFORMS = ("cpu", "cuda", "tpu")


def start():
    """Matrices for optimizers of matrices, of which they leave the last to AdamW, a vector, a number, and nothing."""
    key = jax.random.key(0)
    leaf = lambda index, *shape: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32)
    shapes = [(6, 4), (4, 6), (6, 2)]
    kernels = {f"Dense_{index}": {"kernel": leaf(index, *shape)} for index, shape in enumerate(shapes)}
    return kernels | {"bias": leaf(3, 6), "scale": leaf(4), "mlp": {"kernel": jnp.zeros((0, 4), jnp.float32)}}


@pytest.fixture(autouse=True)
def _float32():
    """TPUs have no float64."""
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_exported_for_every_platform_and_runs_here(name):
    """The loss does not use one of the parameters: its gradient is a constant of the program."""
    params = start()
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    tx = build(name)
    state = tx.init(params)
    unused = lambda grads: grads | {"Dense_0": {"kernel": jnp.zeros((6, 4))}}
    step = lambda grads, state, params: update(name, tx, unused(grads), state, params)
    leaves, treedef = jax.tree.flatten((grads, state, params))
    flat = lambda *leaves: jax.tree.leaves(step(*jax.tree.unflatten(treedef, leaves)))
    artefact = jax.export.export(jax.jit(flat), platforms=PLATFORMS)(*leaves).serialize()
    exported = jax.export.deserialize(artefact)
    assert exported.platforms == PLATFORMS
    found = exported.call(*leaves)
    chex.assert_trees_all_close(found, flat(*leaves), rtol=2e-4, atol=1e-5)


def test_a_whole_training_step_is_exported_and_takes_any_hyperparameters():
    """The optimizer is an argument of the artefact: its learning rate is chosen after the export."""

    def loss(params, batch):
        return jnp.mean((batch["x"] @ params["kernel"] - batch["y"]) ** 2)

    params, batch = {"kernel": jnp.ones((3, 2))}, {"x": jnp.ones((8, 3)), "y": jnp.zeros((8, 2))}
    make = lambda rate: gradlab.chain(gradlab.clip_by_global_norm(1.0), gradlab.adamw(rate))
    step = gradlab.make_step(loss, donate=False)
    state = gradlab.start_step(make(0.1), params)
    leaves, treedef = jax.tree.flatten((state, batch))
    flat = jax.jit(lambda *leaves: jax.tree.leaves(step(*jax.tree.unflatten(treedef, leaves))))
    exported = jax.export.deserialize(jax.export.export(flat, platforms=PLATFORMS)(*leaves).serialize())
    other = jax.tree.leaves((gradlab.start_step(make(0.01), params), batch))
    chex.assert_trees_all_close(exported.call(*other), flat(*other), rtol=1e-5)
