"""The caller's count of steps: what sees some of the steps only, or starts anew, keeps a count of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradlab

STEPS = 12
CLIMB = gradlab.chain(gradlab.normalize_by_update_norm(), gradlab.sgd(0.01))
WRAPPERS = {
    "sam": lambda inner: gradlab.sam(inner, CLIMB, sync_period=2),
    "sam from rest": lambda inner: gradlab.sam(inner, CLIMB, sync_period=2, reset_state=True),
    "lookahead": lambda inner: gradlab.lookahead_in_state(inner, 3, reset_state=True),
    "snoo": lambda inner: gradlab.snoo(inner, 3, reset_state=True),
    "apply_if_finite": lambda inner: gradlab.apply_if_finite(inner, 3),
    "skip_spikes": lambda inner: gradlab.skip_spikes(inner, 4),
    "every second": lambda inner: gradlab.conditionally_transform(inner, lambda step: step % 2 == 1),
    "multi_steps": lambda inner: gradlab.multi_steps(inner, 2),
}


def walk(tx, with_step):
    """Positions of a descent whose first gradient is not finite where the wrapper skips such."""
    target = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)

    @jax.jit
    def one(params, state, grads, step):
        updates, state = tx.update(grads, state, params, **({"step": step} if with_step else {}))
        return gradlab.apply_updates(params, updates), state

    params = {"kernel": jnp.zeros((4, 3), jnp.float32)}
    state, positions = tx.init(params), []
    for step in range(STEPS):
        grads = {"kernel": params["kernel"] - target}
        if step == 0 and hasattr(state, "notfinite_count") or step == 0 and hasattr(state, "skipped"):
            grads = {"kernel": jnp.full((4, 3), jnp.nan, jnp.float32)}
        params, state = one(params, state, grads, jnp.int32(step))
        positions.append(params["kernel"])
    return jnp.stack(positions)


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_inner_optimizer_refreshes_by_the_steps_that_it_sees(name):
    tx = WRAPPERS[name](gradlab.galore(0.05, rank=2, update_proj_gap=4))
    found = walk(tx, with_step=True)
    chex.assert_trees_all_equal(found, walk(tx, with_step=False))
    assert jnp.abs(found[-1] - found[len(found) // 2]).max() > 0.01  # it moves
