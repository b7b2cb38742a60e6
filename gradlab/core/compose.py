"""Transforms one after another, and the transform that does nothing."""

from collections import OrderedDict

import optax

from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import require_same_structure


def chain(*transforms: optax.GradientTransformation) -> Transform:
    """Applies transforms in order, each to the updates of the one before; its state is the tuple of theirs.

    Extra arguments of ``update`` reach every stage.  A chain supplies ``grad``, the gradients that it was
    called with, unless the caller did: stages late in the chain (cautious masks, line searches) compare with it.
    Optax transforms are adopted as they are.

    >>> import jax.numpy as jnp
    >>> tx = chain(optax.scale(2.0), identity(), optax.scale(-0.5))
    >>> updates, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    >>> updates.tolist(), len(state)
    ([-1.0, -1.0], 3)
    """
    return transform(_chain_init, _chain_update, inner=tuple(transforms))


def named_chain(*transforms: tuple[str, optax.GradientTransformation]) -> Transform:
    """`chain` of ``(name, transform)`` pairs, whose state is a mapping from the names.

    Raises:
      ValueError: a name occurs twice.

    >>> import jax.numpy as jnp
    >>> list(named_chain(('first', identity()), ('second', identity())).init(jnp.ones(2)))
    ['first', 'second']
    """
    names = [name for name, _ in transforms]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"named_chain: each name must occur once, but {repeated} occur more often in {names}")
    stages = tuple(tx for _, tx in transforms)
    names = static(tuple(names))
    return transform(_named_chain_init, _named_chain_update, inner=stages, at_init={"names": names}, names=names)


def identity() -> Transform:
    """Passes the updates through unchanged: the neutral element of `chain`.

    >>> updates, state = identity().update({'w': 3.0}, identity().init({'w': 0.0}))
    >>> float(updates['w']), state
    (3.0, EmptyState())
    """
    return transform(empty_init, _identity_update)


def _chain_init(params, *, inner):
    return tuple(init(params) for init in inner)


def _chain_update(grads, state, params=None, *, inner, grad=None, **extra):
    if not isinstance(state, tuple) or len(state) != len(inner):
        got = f"{len(state)} states" if isinstance(state, tuple) else type(state).__name__
        raise ValueError(
            f"a chain of {len(inner)} transforms needs the tuple of {len(inner)} states that its init made, got {got}; "
            "was this state made by another optimizer, under another storage (gradlab.restore_as takes it over), or "
            "were `state` and `params` exchanged?"
        )
    grad = grads if grad is None else grad
    if params is not None:
        require_same_structure("gradients", grads, "parameters", params)
    updates, new_state = grads, []
    for update, stage_state in zip(inner, state, strict=True):
        try:
            updates, stage_state = update(updates, stage_state, params, grad=grad, **extra)
        except (AttributeError, TypeError) as error:
            name = getattr(update.func, "name", "an adopted transform")
            error.add_note(f"{name} got a state of type {type(stage_state).__name__}: did its own init make it?")
            raise
        new_state.append(stage_state)
    return updates, tuple(new_state)


def _named_chain_init(params, *, inner, names):
    return OrderedDict(zip(names, _chain_init(params, inner=inner), strict=True))


def _named_chain_update(grads, state, params=None, *, inner, names, **extra):
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"named_chain: the state has no entry {missing}; it has {list(state)}")
    updates, new_state = _chain_update(grads, tuple(state[name] for name in names), params, inner=inner, **extra)
    return updates, OrderedDict(zip(names, new_state, strict=True))


def empty_init(params):
    del params
    return optax.EmptyState()


def _identity_update(grads, state, params=None, **extra):
    del params, extra
    return grads, state
