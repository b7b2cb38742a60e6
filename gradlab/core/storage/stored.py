"""An optimizer whose moments are kept in fewer bits between its steps, and the argument that asks for it.

    state = decoded(stored state)
    updates, state = inner update(gradients, state)
    stored state = encoded(state)

The rule never knows; what it computes of a new moment, it computes of the moment as it is stored.  Hyperparameters,
schedules and lanes are those of the inner transform.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.axes import laid_like
from gradlab.core.rule import static
from gradlab.core.storage.codecs import (
    Codec,
    Factored,
    Parts,
    Storage,
    codec,
    decoded,
    encoded,
    is_kept,
    put_together,
)
from gradlab.core.storage.reading import run_storing
from gradlab.core.storage.slots import (
    MOMENTS,
    NON_NEGATIVE,
    fields,
    is_non_negative,
    is_state,
    is_storable,
    map_slots,
    slots,
)
from gradlab.core.transform import Transform, from_optax, transform

Tree = Any


class StoredState(NamedTuple):
    """State of `store`."""

    rng_key: Any  # (2,) uint32, of the next step's rounding; None where none is by chance
    inner_state: Any  # the inner transform's, with stored arrays in the place of moments


def store(inner: optax.GradientTransformation, storage: Storage, *, seed: Any = 0.0) -> Transform:
    """Keeps the moments of an optimizer in another way between its steps; its arithmetic stays float32.

    =========================  ======  ==============================================================================
    storage                    bytes
    =========================  ======  ==============================================================================
    ``'float32'``              4       also where the parameters have less
    ``'bfloat16'``             2       rounded to the nearest: an average with decay 0.999 stands still
    ``'bfloat16_stochastic'``  2       rounded by chance, right on average
    ``'bfloat16_residual'``    3       and 8 more bits of the mantissa, the last of them rounded by chance
    ``'int8'``                 1.03    blocks of 32 that share an exponent; arrays below 4096 numbers stay float32
    ``'factored'``             0       row and column means of what is never negative, the others stay float32
    =========================  ======  ==============================================================================

    Args:
      inner: any transform, also one of Optax.
      storage: (static) for all moments: averages and sums of gradients and of their squares, `MOMENTS`.  Or a mapping
        from the names of fields in the state, these and any others, to the storage of each.  A codec of
        `gradlab.core.storage` where its numbers should not be the default ones: ``Int8(block=64, least=0)``.  ``None``
        wraps nothing.
      seed: a whole number from which all rounding by chance is drawn; a leaf, so that lanes may have their own.

    Raises:
      ValueError: an unknown storage; from ``init``, a field that the state does not have, or one that takes both signs
        to be factored; from ``update``, a state of another storage (see `restore_as`).

    >>> import gradlab
    >>> tx = store(gradlab.adamw(1e-3), {'mu': 'bfloat16', 'nu': 'int8'})
    >>> state = tx.init({'w': jnp.ones((64, 64))})
    >>> state.inner_state[0].mu['w'].dtype.name, state.inner_state[0].nu['w'].codes.dtype.name
    ('bfloat16', 'uint8')
    """
    if storage is None:
        return from_optax(inner)
    by_chance = _is_by_chance(storage)
    storage = static(dict(storage) if isinstance(storage, Mapping) else storage)
    at_init = {"storage": storage, "seed": seed if by_chance else None}
    return transform(_store_init, _store_update, inner=inner, at_init=at_init, storage=storage)


def _by_slot(storage: Storage) -> dict[str, Codec]:
    if isinstance(storage, Mapping):
        return {name: codec(how) for name, how in storage.items()}
    return dict.fromkeys(MOMENTS, codec(storage))


def _is_by_chance(storage: Storage) -> bool:
    return any(how.is_random for how in _by_slot(storage).values())


def _store_init(params, *, inner, storage, seed=None):
    state = inner(params)
    if isinstance(storage, Mapping):
        _check_names(storage, state)
    key, seeds = key_and_seeds(None if seed is None else jax.random.PRNGKey(jnp.asarray(seed).astype(jnp.int32)))
    encode = lambda how, x: how(x) if callable(how) else x
    return StoredState(key, jax.tree.map(encode, _planned(state, storage, seeds), state))


def _check_names(storage: Mapping[str, Any], state: Tree) -> None:
    if not jax.tree.leaves(state, is_leaf=is_state):
        return  # a placeholder of a state
    known = fields(state)
    for name in storage:
        if name not in known or (known[name] and not any(map(_may_be_real, known[name]))):
            keeps = slots(state)
            others = check.suggestion(name, keeps) if keeps else "; it keeps no arrays"
            raise ValueError(f"`storage` names '{name}', which this optimizer does not keep{others}")


def _may_be_real(leaf: Any) -> bool:
    """Whether a leaf holds real or complex numbers, or stands for a parameter."""
    return jnp.issubdtype(getattr(leaf, "dtype", float), jnp.inexact)


def _store_update(grads, state, params=None, *, inner, storage, **extra):
    _require_own_state(state, storage)
    state = state._replace(inner_state=put_together(state.inner_state))
    step = lambda grads, inner_state, params: inner(grads, inner_state, params, **extra)
    operands = (grads, _read(state.inner_state, storage), params)
    key, seeds = key_and_seeds(state.rng_key)
    plan = lambda results: (results[0], _planned(results[1], storage, seeds))
    updates, inner_state = run_storing(step, operands, plan)
    _require_kept_alike(inner_state, state.inner_state, storage)
    return updates, StoredState(key, jax.tree.map(laid_like, inner_state, state.inner_state))


_REMEDY = "make it one with gradlab.restore_as(tx, state, params)"


def _require_own_state(state: Any, storage: Storage) -> None:
    if not isinstance(state, StoredState):
        raise ValueError(
            f"an optimizer with storage={storage!r} got the state of one without, a {type(state).__name__}; {_REMEDY}"
        )
    by_chance, has_key = _is_by_chance(storage), state.rng_key is not None
    if by_chance != has_key:
        needs, got = ("a key to round by chance", "none") if by_chance else ("no key", "one to round by chance")
        raise ValueError(
            f"storage={storage!r} needs {needs}, but the state has {got}: it is one of another storage; {_REMEDY}"
        )


def _require_kept_alike(new: Tree, old: Tree, storage: Storage) -> None:
    """Raises unless the arrays of a new state are kept as those of the old one."""
    kinds, others = _kinds(new, storage), _kinds(old, storage)
    for (name, kind), (_, other) in zip(kinds, others, strict=False):
        if kind != other:
            raise ValueError(
                f"storage={storage!r} keeps '{name}' as {kind}, but the state has {other} there: it is one of another "
                f"storage; {_REMEDY}"
            )


def _kinds(state: Tree, storage: Storage) -> list[tuple[str, str]]:
    """For every array of the slots the field, and as what it is kept."""
    kinds = []

    def note(owner, name, value):
        del owner
        leaves = jax.tree.leaves(value, is_leaf=is_kept)
        kinds.extend((name, _kind(leaf)) for leaf in leaves if is_kept(leaf) or is_storable(leaf))
        return value

    map_slots(note, state, _by_slot(storage))
    return kinds


def _kind(leaf: Any) -> str:
    if isinstance(leaf, Parts):
        return f"Parts of {_kind(leaf.real)}"
    return type(leaf).__name__ if is_kept(leaf) else leaf.dtype.name


def key_and_seeds(key: Any) -> tuple[Any, Any]:
    """The key of the next step, and one for this one; None where nothing is by chance."""
    return (None, None) if key is None else tuple(jax.random.split(key))


def _planned(state: Tree, storage: Storage, key: Any) -> Tree:
    """The state with, in the place of each array of a slot, the function that encodes it."""
    chosen = _by_slot(storage)
    count = sum(len(leaves) for name, leaves in slots(state).items() if name in chosen)
    seeds = iter([jnp.uint32(0)] * count if key is None else jax.random.bits(key, (count,), jnp.uint32))

    def of_slot(owner, name, value):
        if isinstance(storage, Mapping) and isinstance(chosen[name], Factored) and not is_non_negative(owner, name):
            raise ValueError(
                f"`storage` asks to factor '{name}', which takes both signs, so that means of its rows and columns do "
                f"not describe it; factor what is an average of squares ({', '.join(sorted(NON_NEGATIVE))})"
            )
        how = functools.partial(encoded, chosen[name], non_negative=is_non_negative(owner, name))
        return jax.tree.map(lambda x: functools.partial(how, seed=next(seeds)) if is_storable(x) else x, value)

    return map_slots(of_slot, state, chosen)


def _read(state: Tree, storage: Storage) -> Tree:
    def decode(owner, name, value):
        del owner, name
        on_leaf = lambda leaf: decoded(leaf) if is_kept(leaf) or is_storable(leaf) else leaf
        return jax.tree.map(on_leaf, value, is_leaf=is_kept)

    return map_slots(decode, state, _by_slot(storage))


def decoded_state(state: Tree) -> Tree:
    """A state in which every `StoredState` is that of its inner transform, its blocks, factors and residuals read.

    >>> import gradlab
    >>> from gradlab.core.storage import Int8
    >>> tx = store(gradlab.sgd(0.1, momentum=0.9), Int8(least=1))
    >>> decoded_state(tx.init(jnp.ones(2)))[0].trace
    Array([0., 0.], dtype=float32)
    """
    is_stored = lambda node: isinstance(node, StoredState)
    read = lambda leaf: decoded(leaf) if is_kept(leaf) else leaf
    of_inner = lambda node: decoded_state(jax.tree.map(read, node.inner_state, is_leaf=is_kept))
    return jax.tree.map(lambda node: of_inner(node) if is_stored(node) else node, state, is_leaf=is_stored)


def storable(factory: Callable[..., Transform]) -> Callable[..., Transform]:
    """An optimizer's factory with the argument ``storage``, by keyword, for `store`; ``None`` changes nothing.

    >>> import gradlab
    >>> gradlab.sgd.__signature__.parameters['storage']
    <Parameter "storage: Any = None">
    """

    @functools.wraps(factory)
    def with_storage(*args: Any, storage: Storage = None, **kwargs: Any) -> Transform:
        tx = factory(*args, **kwargs)
        return tx if storage is None else store(tx, storage)

    signature = inspect.signature(factory)
    added = inspect.Parameter("storage", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Any)
    with_storage.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])
    return with_storage
