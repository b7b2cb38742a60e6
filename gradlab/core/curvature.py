"""Second derivatives of a loss from the function alone: Hessian-vector products and the Hessian of a small tree.

With f the ``value_fn`` and v a tree like its parameters, the product is forward over reverse mode::

    H @ v = d/dt grad f(params + t * v)  at t = 0

Arithmetic is done in at least float32; the function itself sees its parameters in their own dtypes.  A complex
parameter counts as two real ones, its real and its imaginary part, and its gradient is the direction of steepest
ascent, the conjugate of what `jax.grad` returns.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import tree as trees
from gradlab.core.axes import laid_like, raveled
from gradlab.core.leafwise import convert

Tree = Any


def required_value_fn(stage: str, value_fn: Callable | None) -> Callable:
    """``value_fn``, or an error that says which stage needed it.

    >>> required_value_fn('newton', None)
    Traceback (most recent call last):
    ValueError: newton needs the loss of params: call tx.update(grads, state, params, value_fn=loss)
    """
    if value_fn is None:
        raise ValueError(f"{stage} needs the loss of params: call tx.update(grads, state, params, value_fn=loss)")
    return value_fn


def widen(tree: Tree) -> Tree:
    """The leaves in at least float32.

    Raises:
      TypeError: a leaf is not of a floating-point dtype; the message names the path.

    >>> widen({'w': jnp.ones(1, 'bfloat16')})['w'].dtype.name
    'float32'
    """
    return jax.tree_util.tree_map_with_path(_widened, tree)


def _widened(path: tuple, leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise TypeError(
            f"the leaf at '{trees.path_name(path)}' is {leaf.dtype}: only floating-point parameters have a curvature; "
            "cast it, or leave it out with partition(...) or freeze(...)"
        )
    return convert(leaf, jnp.promote_types(leaf.dtype, jnp.float32))


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Every leaf in the dtype of the same leaf of ``like``."""
    return jax.tree.map(lambda leaf, other: convert(leaf, jnp.asarray(other).dtype), tree, like)


def free(value_fn: Callable, params: Tree, grads: Tree) -> tuple[Callable, Tree]:
    """The loss as a function of the parameters that have a gradient, the others held, and these parameters.

    >>> loss, params = free(lambda p: p['a'] * p['b'], {'a': 2.0, 'b': 3.0}, {'a': 1.0, 'b': None})
    >>> params, loss({'a': 5.0, 'b': None})
    ({'a': 2.0, 'b': None}, 15.0)
    """
    trees.require_same_structure("gradients", grads, "parameters", params)
    held = jax.tree.map(lambda g, p: p if g is None else None, grads, params, is_leaf=trees.is_none)
    moved = jax.tree.map(lambda g, p: None if g is None else p, grads, params, is_leaf=trees.is_none)

    def value_of(moved):
        return value_fn(jax.tree.map(lambda m, h: h if m is None else m, moved, held, is_leaf=trees.is_none))

    return value_of, moved


def hessian_map(value_fn: Callable, params: Tree) -> Callable[[Tree], Tree]:
    """The linear map from a tree v like ``params`` to ``H @ v``, both in at least float32.

    The loss is differentiated once, whatever the number of products.  Where ``params`` have ``None``, so do v and the
    product.

    >>> product = hessian_map(lambda p: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0})
    >>> [float(x) for x in product({'a': jnp.array(1.0), 'b': jnp.array(0.0)}).values()]
    [10.0, 6.0]
    """
    if not jax.tree.leaves(params):
        return lambda tangents: tangents

    def ascent(wide):
        return jax.tree.map(jnp.conj, jax.grad(lambda wide: value_fn(cast_like(wide, params)))(wide))

    return jax.linearize(ascent, widen(params))[1]


def hvp(value_fn: Callable, params: Tree, tangents: Tree) -> Tree:
    """``H @ tangents`` for the Hessian of ``value_fn`` at ``params``, in the dtypes of the tangents.

    Args:
      value_fn: ``params -> loss``, a real scalar.
      params: where the Hessian is taken.
      tangents: a tree like ``params``; parameters whose tangent is ``None`` are held, and their product is ``None``.

    Raises:
      ValueError: the trees differ; the message names the path.

    >>> product = hvp(lambda p: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0}, {'a': 1.0, 'b': None})
    >>> float(product['a']), product['b']
    (10.0, None)
    """
    value_of, moved = free(value_fn, params, tangents)
    return cast_like(hessian_map(value_of, moved)(cast_like(widen(tangents), widen(moved))), tangents)


def add_scaled(tree: Tree, factor: Any, other: Tree) -> Tree:
    """``tree + factor * other`` in the dtypes of ``tree``.

    >>> add_scaled({'a': jnp.ones(1)}, 2.0, {'a': jnp.array([3.0])})['a'].tolist()
    [7.0]
    """
    return jax.tree.map(lambda x, y: convert(x + factor * y, x.dtype), tree, other)


def ravel(tree: Tree) -> jax.Array:
    """All leaves as one real vector of at least float32; of a complex leaf the real part, then the imaginary one.

    >>> ravel({'a': 1.0, 'b': jnp.array([2 + 3j]), 'c': None}).tolist()
    [1.0, 2.0, 3.0]
    """
    parts = [raveled(part) for leaf in jax.tree.leaves(widen(tree)) for part in _parts(leaf)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def _parts(leaf: jax.Array) -> list[jax.Array]:
    return [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]


def unravel(vector: jax.Array, like: Tree) -> Tree:
    """The tree of a vector made by `ravel`, in the shapes of ``like`` and its dtypes widened to at least float32.

    >>> unravel(jnp.array([1.0, 2.0, 3.0]), {'a': 0.0, 'b': jnp.zeros(1, 'complex64')})['b'].tolist()
    [(2+3j)]
    """
    leaves, treedef = jax.tree.flatten(widen(like))
    sizes = [leaf.size * len(_parts(leaf)) for leaf in leaves]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    pieces = [vector[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return jax.tree.unflatten(treedef, [_shaped(piece, leaf) for piece, leaf in zip(pieces, leaves, strict=True)])


def _shaped(piece: jax.Array, leaf: jax.Array) -> jax.Array:
    if not jnp.iscomplexobj(leaf):
        return laid_like(convert(piece.reshape(leaf.shape), leaf.dtype), leaf)
    real, imag = piece.reshape(2, *leaf.shape)
    return laid_like(convert(jax.lax.complex(real, imag), leaf.dtype), leaf)


def raveled_map(value_fn: Callable, params: Tree) -> Callable[[jax.Array], jax.Array]:
    """`hessian_map` on vectors in the order of `ravel`."""
    product = hessian_map(value_fn, params)
    return lambda vector: ravel(product(unravel(vector, params)))


def hessian(value_fn: Callable, params: Tree) -> jax.Array:
    """The Hessian of ``value_fn`` at ``params``, (n, n) in the order of `ravel`: n products at once, n^2 numbers.

    >>> hessian(lambda p: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0}).tolist()
    [[10.0, 6.0], [6.0, 0.0]]
    """
    start = ravel(params)
    return jax.vmap(raveled_map(value_fn, params), out_axes=1)(jnp.eye(start.size, dtype=start.dtype))
