r"""Several transforms of the same gradients, side by side, and their updates merged.

::

    u = merge({name: branch(g) for each branch})                           parallel
    u = direction(g) * |magnitude(g)| / |direction(g)|, tensor by tensor   graft, arXiv 2002.11803
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform

RESERVED = {"grad", "inner", "merge", "names", "step", "value", "value_fn"}


class ParallelState(NamedTuple):
    """State of `parallel`."""

    inner_states: dict[str, Any]  # branch -> its state


def parallel(branches: Mapping[str, optax.GradientTransformation], merge: Callable, **values: Any) -> Transform:
    """Gives the same updates to every branch and merges what they return.

    Args:
      branches: name -> transform.
      merge: (static) a module-level function ``({name: updates}, **values) -> updates``.
      **values: numbers for ``merge``; leaves of the optimizer, as all its numbers are.

    Raises:
      ValueError: no branch, or a number of ``merge`` with the name of an extra argument of ``update``.

    >>> import gradlab, jax
    >>> def _mix(updates, weight):
    ...     return jax.tree.map(lambda a, b: weight * a + (1 - weight) * b, updates['sign'], updates['plain'])
    >>> tx = parallel({'sign': gradlab.scale_by_sign(), 'plain': gradlab.identity()}, _mix, weight=0.5)
    >>> tx.update(jnp.array([3.0, -1.0]), tx.init(jnp.zeros(2)))[0].tolist()
    [2.0, -1.0]
    """
    if not branches:
        raise ValueError("parallel needs at least one branch, as in parallel({'adam': scale_by_adam()}, merge)")
    reserved = sorted(RESERVED & set(values))
    if reserved:
        raise ValueError(f"parallel: {reserved} are extra arguments of update; call the numbers of merge otherwise")
    names = static(tuple(values))
    return transform(_parallel_init, _parallel_update, inner=dict(branches), merge=static(merge), names=names, **values)


def graft(direction: optax.GradientTransformation, magnitude: optax.GradientTransformation) -> Transform:
    """Steps in the direction of one transform with the length of another, tensor by tensor (arXiv 2002.11803).

    ``graft(scale_by_lion(), scale_by_adam())`` takes a learning rate that suits Adam.  Where ``direction`` is zero the
    step is zero.

    >>> import gradlab
    >>> tx = graft(gradlab.scale_by_sign(), gradlab.identity())
    >>> updates, _ = tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [3.5355, -3.5355]
    """
    return parallel({"direction": direction, "magnitude": magnitude}, _graft)


def _parallel_init(params, *, inner):
    return ParallelState({name: init(params) for name, init in inner.items()})


def _parallel_update(grads, state, params=None, *, inner, merge, names, **values_and_extra):
    values = {name: values_and_extra.pop(name) for name in names}
    updates, states = {}, {}
    for name, update in inner.items():
        updates[name], states[name] = update(grads, state.inner_states[name], params, **values_and_extra)
    return merge(updates, **values), ParallelState(states)


def _graft_rule(direction, magnitude):
    length = norm(direction)
    safe = jnp.where(length > 0, length, 1)
    return direction * (jnp.where(length > 0, norm(magnitude), 0) / safe), magnitude


def _graft(updates):
    grafted, _ = leafwise(_graft_rule, updates["direction"], [updates["magnitude"]])
    return grafted
