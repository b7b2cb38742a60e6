"""Work that is done only when it is needed, in a sweep too.

Under `jax.vmap` a `jax.lax.cond` on a batched predicate computes both branches for all lanes.  Here a branch is entered
if any lane needs it, and left out if none does; within it each lane keeps its own result.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from gradlab.core.axes import laid_like
from gradlab.core.leafwise import convert

Tree = Any


@custom_vmap
def any_lane(predicate: jax.Array) -> jax.Array:
    """``predicate``; inside of `jax.vmap`, whether it holds in any lane, as a value that is not batched.

    >>> jax.vmap(lambda x: any_lane(x > 2))(jnp.array([1, 2, 3])).tolist()
    [True, True, True]
    """
    return predicate


@any_lane.def_vmap
def _any_lane_of(axis_size, in_batched, predicate):
    del axis_size, in_batched
    return any_lane(jnp.any(predicate, axis=0)), False


def update_if(
    predicate: jax.Array, update: Callable[[], tuple[Tree, Tree]], state: Tree, otherwise: Tree | None = None
) -> tuple[Tree, Tree]:
    """``update()``, which returns ``(updates, state)``, where ``predicate`` holds; elsewhere ``(otherwise, state)``.

    Neither branch changes a dtype, or how an array is split: a new state is stored as the old one was, and
    ``otherwise`` as the updates are.

    Args:
      predicate: () bool.
      update: called in the branch, so what it computes costs nothing when the branch is not taken.
      state: what ``update`` would replace.
      otherwise: a tree like the updates; zeros if None.
    """
    expected, _ = jax.eval_shape(update)

    def taken():
        updates, new_state = update()
        return updates, jax.tree.map(_stored_as, new_state, state)

    def left_out():
        if otherwise is None:
            return jax.tree.map(lambda like: laid_like(jnp.zeros(like.shape, like.dtype), like), expected), state
        return jax.tree.map(_stored_as, otherwise, expected), state

    return jax.lax.cond(any_lane(predicate), lambda: jax.lax.cond(predicate, taken, left_out), left_out)


def own_clock(extra: dict[str, Any]) -> dict[str, Any]:
    """Extra arguments for an inner transform that sees some of the steps only, or starts anew: it counts its own.

    ``step`` counts those of the caller.  Work that is due at every n-th of them might be due at none that it sees.

    >>> own_clock({'step': 7, 'value': 0.5})
    {'value': 0.5}
    """
    return {name: value for name, value in extra.items() if name != "step"}


def _stored_as(new: Any, old: Any) -> jax.Array:
    old = old if isinstance(old, jax.ShapeDtypeStruct) else jnp.asarray(old)
    return laid_like(convert(jnp.asarray(new), old.dtype), old)
