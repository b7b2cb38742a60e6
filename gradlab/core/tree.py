"""Pytrees by path: names of leaves, prefix trees, and buffers like parameters."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def path_name(path: tuple) -> str:
    """``'Dense_0/kernel'`` for the key path of a leaf; ``'(root)'`` for a bare array.

    >>> [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({'a': {'b': 1}, 'c': [2, 3]})]
    ['a/b', 'c/0', 'c/1']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/") or "(root)"


def paths(tree: Tree) -> list[str]:
    """The path of every leaf, ``None`` leaves included, in the order of the leaves."""
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)]


def is_none(value: Any) -> bool:
    return value is None


def zeros_like(params: Tree, dtype: Any = None) -> Tree:
    """Zeros of the shape of each parameter, where it lies, in its own dtype or in ``dtype``.

    >>> zeros_like({'w': jnp.ones(2)}, 'bfloat16')['w'].dtype.name
    'bfloat16'
    """
    return full_like(params, 0, dtype)


def full_like(params: Tree, value: Any, dtype: Any = None) -> Tree:
    """``value`` in the shape of each parameter, where it lies, in its own dtype or in ``dtype``."""
    return jax.tree.map(lambda p: jnp.full_like(p, value, dtype=dtype), params)


def scalars_like(params: Tree, value: float) -> Tree:
    """``value`` once for each parameter, real and of at least float32: a buffer for one number a leaf.

    >>> scalars_like({'w': jnp.ones(2, 'bfloat16')}, 1.0)['w']
    Array(1., dtype=float32)
    """
    real = lambda p: jnp.finfo(jnp.promote_types(jnp.result_type(p), jnp.float32)).dtype
    return jax.tree.map(lambda p: jnp.full([], value, real(p)), params)


def copied(params: Tree, dtype: Any = None) -> Tree:
    """A copy of each parameter, where it lies, in its own dtype or in ``dtype``; zeros where only a shape is known.

    >>> copied({'w': jnp.ones(2)}, 'bfloat16')['w'].tolist(), copied(jax.ShapeDtypeStruct((2,), 'float32')).tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    return jax.tree.map(lambda p: _copied(p, dtype), params)


def _copied(p: Any, dtype: Any) -> jax.Array:
    if isinstance(p, jax.ShapeDtypeStruct):
        return jnp.zeros(p.shape, dtype or p.dtype)
    return jnp.array(p, dtype=dtype, copy=True)


def real_dtype(params: Tree) -> Any:
    """The dtype for numbers that belong to all parameters together: the widest real one of theirs, at least float32.

    >>> real_dtype({'w': jnp.ones(2, 'bfloat16')}).name, real_dtype({}).name
    ('float32', 'float32')
    """
    wide = jnp.dtype(jnp.float32)
    for leaf in jax.tree.leaves(params):
        wide = jnp.promote_types(wide, jnp.result_type(leaf))
    return jnp.finfo(wide).dtype


def broadcast_prefix(name: str, prefix: Tree, tree: Tree) -> list[Any]:
    """One value for each leaf of ``tree`` (``None`` leaves included) from a scalar or a prefix tree.

    Raises:
      ValueError: ``prefix`` is no prefix of ``tree``; the message names the first path at which they part.

    >>> broadcast_prefix('learning_rate', {'head': 1.0, 'body': 2.0}, {'head': 0, 'body': {'a': 0, 'b': 0}})
    [2.0, 2.0, 1.0]
    """
    if jax.tree_util.all_leaves([prefix]):
        return [prefix] * len(jax.tree.leaves(tree, is_leaf=is_none))
    full = []
    try:
        jax.tree.map(
            lambda value, sub: full.extend([value] * len(jax.tree.leaves(sub, is_leaf=is_none))),
            prefix,
            tree,
            is_leaf=is_none,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`{name}` has values for {paths(prefix)}, but the parameters have the leaves {_shorten(paths(tree))}; "
            f"give one number, or a tree whose upper levels are those of the parameters ({str(error).splitlines()[0]})"
        ) from None
    return full


def _shorten(names: list[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"[{shown}, ... {len(names) - most} more]" if len(names) > most else f"[{shown}]"


def require_same_structure(what: str, tree: Tree, reference_name: str, reference: Tree) -> None:
    """Raises ValueError naming the paths at which two trees part; ``None`` leaves of ``tree`` match anything.

    >>> require_same_structure('gradients', {'a': 0}, 'parameters', {'b': 0})
    Traceback (most recent call last):
    ValueError: gradients and parameters have different trees: only gradients have ['a'], only parameters have ['b']
    """
    first, second = jax.tree.structure(tree, is_leaf=is_none), jax.tree.structure(reference, is_leaf=is_none)
    if first == second:
        return
    mine, theirs = paths(tree), paths(reference)
    only_mine = [name for name in mine if name not in set(theirs)]
    only_theirs = [name for name in theirs if name not in set(mine)]
    if only_mine or only_theirs:
        parts = [f"only {what} have {_shorten(only_mine)}"] if only_mine else []
        parts += [f"only {reference_name} have {_shorten(only_theirs)}"] if only_theirs else []
        raise ValueError(f"{what} and {reference_name} have different trees: {', '.join(parts)}")
    raise ValueError(f"{what} and {reference_name} have the same leaves in different containers: {first} and {second}")
