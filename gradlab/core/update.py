"""From updates to parameters, and from parameters to the weights to evaluate at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import tree as trees
from gradlab.core.rule import Rule
from gradlab.core.storage import decoded_state, joined_params

Tree = Any

_READOUTS: dict[type, Callable[[Any, Tree], Tree]] = {}


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """``params + updates`` leaf by leaf, in the parameters' dtypes; compiled when called eagerly.

    A ``None`` update leaves its parameter as it is.

    Raises:
      ValueError: trees or shapes differ; the message names the path.

    >>> apply_updates({'w': jnp.array([1.0, 2.0])}, {'w': jnp.array([0.5, -2.0])})['w'].tolist()
    [1.5, 0.0]
    """
    return _APPLY(params, updates)


def _apply_updates(params, updates):
    leaves, treedef = jax.tree.flatten(updates, is_leaf=trees.is_none)
    paths_and_params, params_treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=trees.is_none)
    if treedef != params_treedef:
        trees.require_same_structure("updates", updates, "parameters", params)
    pairs = zip(paths_and_params, leaves, strict=True)
    new = [p if u is None or p is None else _add(path, p, u) for (path, p), u in pairs]
    return jax.tree.unflatten(params_treedef, new)


def _add(path: tuple, p: Any, u: Any) -> jax.Array:
    p, u = jnp.asarray(p), jnp.asarray(u)
    if p.shape != u.shape:
        raise ValueError(
            f"update at '{trees.path_name(path)}' has shape {u.shape}, but the parameter has {p.shape} there"
        )
    if p.dtype == u.dtype:
        return jax.lax.add(p, u)
    wide = jnp.promote_types(p.dtype, u.dtype)
    return jax.lax.add(p.astype(wide), u.astype(wide)).astype(p.dtype)


_APPLY = Rule(_apply_updates)


def register_readout(state_class: type, readout: Callable[[Any, Tree], Tree]) -> None:
    """Says how ``readout(state, params)`` finds the evaluation weights in states of a class.

    Where a mask hides parameters from the stage it returns what its buffers hold there, ``optax.MaskedNode()``.
    """
    _READOUTS[state_class] = readout


def readout_map(function: Callable, buffers: Tree, params: Tree, *others: Tree) -> Tree:
    """``function(buffer, param, ...)`` on every leaf; ``MaskedNode`` wherever the buffers have one."""

    def on_leaf(buffer, param, *rest):
        return buffer if _is_masked(buffer) else function(buffer, param, *rest)

    return jax.tree.map(on_leaf, buffers, params, *others, is_leaf=_is_masked)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def eval_params(tx: optax.GradientTransformation, state: Any, params: Tree) -> Tree:
    """The weights to evaluate at: those of the averaging stage of ``tx``, wherever its state is nested.

    Optimizers whose training point is not the point to report (look-ahead momentum, averages of the weights)
    keep what they need in their state.  For every other optimizer this is ``params``.  The groups of a partition may
    each have a stage of their own.  Parameters of `with_residuals` are read in full, and the weights rounded to their
    dtype; for weights in float32, hand over ``float32_params(state, params)``.

    Raises:
      ValueError: two stages each define evaluation weights for one parameter; the message names it.

    >>> import gradlab
    >>> tx = gradlab.adam(1e-3)
    >>> eval_params(tx, tx.init(jnp.ones(2)), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    del tx
    has_readout = lambda node: type(node) in _READOUTS
    weights, owners = params, jax.tree.map(lambda p: None, params)
    full = joined_params(state, params)
    for node in jax.tree.leaves(decoded_state(state), is_leaf=has_readout):
        if has_readout(node):
            readout = _READOUTS[type(node)](node, full)
            owners = _claim(type(node).__name__, readout, owners)
            weights = jax.tree.map(_short_as, readout, weights, full, params, is_leaf=_is_masked)
    return weights


def _short_as(weight: Any, before: Any, full: Any, p: Any) -> Any:
    """An evaluation weight; of a parameter with residuals, from which it was read in full, in its own dtype again."""
    if _is_masked(weight):
        return before
    return weight if full is p else weight.astype(p.dtype)


def _claim(owner: str, readout: Tree, owners: Tree) -> Tree:
    def claim(path, weight, before):
        if _is_masked(weight):
            return before
        if before is not None:
            raise ValueError(
                f"several stages define evaluation weights for '{trees.path_name(path)}' ({before}, {owner}); "
                "keep one averaging stage"
            )
        return owner

    return jax.tree_util.tree_map_with_path(claim, readout, owners, is_leaf=_is_masked)
