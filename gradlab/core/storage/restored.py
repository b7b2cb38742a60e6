"""A state of one storage as another keeps it: a checkpoint goes on in fewer bits, or in more."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import tree as trees
from gradlab.core.axes import laid_like
from gradlab.core.storage.codecs import encoded_like, is_kept
from gradlab.core.storage.slots import is_storable
from gradlab.core.storage.stored import StoredState, decoded_state, key_and_seeds

Tree = Any


def restore_as(tx: optax.GradientTransformation, state: Tree, params: Tree) -> Tree:
    """The state of an optimizer as ``tx``, the same optimizer with another storage or none, keeps it.

    What is kept in codes, factors or bits is read, and kept anew; counts and all else pass as they are.  Rounding by
    chance goes on with a new key, of the ``seed`` of ``tx``.  What a storage has lost stays lost.

    Args:
      tx: the optimizer to go on with.
      state: of the same optimizer in any storage.
      params: of the run, arrays.

    Raises:
      ValueError: the state of another optimizer, or of other parameters; the path is named.

    >>> import gradlab
    >>> params = jnp.ones((64, 64), jnp.float32)
    >>> state = gradlab.adamw(1e-3, storage='bfloat16').init(params)
    >>> tx = gradlab.adamw(1e-3, storage='int8')
    >>> type(restore_as(tx, state, params).inner_state[0].nu).__name__
    'Blocks'
    """
    like, plain = tx.init(params), decoded_state(state)
    _require_same_arrays(plain, decoded_state(like))
    return _kept_as(like, plain)


def _require_same_arrays(state: Tree, own: Tree) -> None:
    trees.require_same_structure("the arrays of the state", state, "those of this optimizer", own)
    pairs = zip(*(jax.tree.leaves_with_path(tree, is_leaf=trees.is_none) for tree in (state, own)), strict=True)
    for (path, got), (_, wanted) in pairs:
        if _form(got) != _form(wanted):
            raise ValueError(
                f"restore_as: '{trees.path_name(path)}' is {_form(got)} in the state, but {_form(wanted)} in one of "
                "this optimizer with these parameters; only the storage may be another"
            )


def _form(leaf: Any) -> str:
    return "None" if leaf is None else f"an array of shape {jnp.shape(leaf)}"


def _kept_as(like: Tree, plain: Tree, key: Any = None) -> Tree:
    """The arrays of a decoded state, each as the one in its place is kept; by chance if there is a key."""
    own, treedef = jax.tree.flatten(like, is_leaf=lambda node: is_kept(node) or isinstance(node, StoredState))
    seeds = [jnp.uint32(0)] * len(own) if key is None else jax.random.bits(key, (len(own),), jnp.uint32)
    return treedef.unflatten(map(_one_kept_as, own, treedef.flatten_up_to(plain), seeds))


def _one_kept_as(like: Any, value: Any, seed: jax.Array) -> Any:
    if isinstance(like, StoredState):
        key, now = key_and_seeds(like.rng_key)
        return StoredState(key, _kept_as(like.inner_state, value, now))
    return jax.tree.map(laid_like, encoded_like(value, like, seed), like) if is_storable(value) else value
