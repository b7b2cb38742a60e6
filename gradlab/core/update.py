"""From updates to parameters, and from parameters to the weights to evaluate at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import tree as trees
from gradlab.core.rule import Rule

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
    """Says how ``readout(state, params)`` finds the evaluation weights in states of a class."""
    _READOUTS[state_class] = readout


def eval_params(tx: optax.GradientTransformation, state: Any, params: Tree) -> Tree:
    """The weights to evaluate at: those of the averaging stage of ``tx``, wherever its state is nested.

    Optimizers whose training point is not the point to report (look-ahead momentum, averages of the weights)
    keep what they need in their state.  For every other optimizer this is ``params``.

    Raises:
      ValueError: two stages each define evaluation weights.

    >>> import gradlab
    >>> tx = gradlab.adam(1e-3)
    >>> eval_params(tx, tx.init(jnp.ones(2)), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """
    del tx
    has_readout = lambda node: type(node) in _READOUTS  # noqa: E731
    found = [node for node in jax.tree.leaves(state, is_leaf=has_readout) if has_readout(node)]
    if len(found) > 1:
        names = [type(node).__name__ for node in found]
        raise ValueError(f"several stages define evaluation weights ({', '.join(names)}); keep one averaging stage")
    return _READOUTS[type(found[0])](found[0], params) if found else params
