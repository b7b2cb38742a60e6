r"""Gradients of single examples, clipped one by one and added up.

With g_i the gradient of example i of n, C the bound and K leaves::

    sum_i g_i * min(1, C / |g_i|), the norm over all leaves               per_example_global_norm_clip, arXiv 1607.00133
    sum_i g_i * min(1, C_k / |g_i|), leaf by leaf                         per_example_layer_norm_clip, arXiv 1710.06963
        C_k = C / sqrt(K), or C * sqrt(part of the parameters in leaf k)

Whoever adds or removes one example moves such a sum by at most C.  Norms are taken in at least float32, and 0/0 counts
as 1; a gradient that is not finite makes the sum NaN.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.leafwise import convert
from gradlab.core.norms import norm
from gradlab.core.tree import path_name
from gradlab.transforms.clip import shrink_factor

Tree = Any


def batch_size(stage: str, grads: Tree) -> int:
    """The length of the first axis, which all leaves share; 0 for a tree without leaves.

    >>> batch_size('dpsgd', {'w': jnp.ones((4, 2)), 'b': jnp.ones(3)})
    Traceback (most recent call last):
    ValueError: dpsgd needs gradients of single examples, stacked along the first axis of every leaf; got 'b': (3,), \
'w': (4, 2)
    """
    shapes = {path_name(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) > 1 or lengths & {(), (0,)}:
        shown = ", ".join(f"{name!r}: {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{stage} needs gradients of single examples, stacked along the first axis of every leaf; got {shown}"
        )
    return lengths.pop()[0] if lengths else 0


def per_example_global_norm_clip(grads: Tree, l2_norm_clip: Any) -> tuple[Tree, jax.Array]:
    """The sum over examples of gradients whose common norm is clipped, and how many were clipped.

    Args:
      grads: gradients of single examples, stacked along the first axis of every leaf.
      l2_norm_clip: bound on the norm of one example's gradient over all leaves.

    Raises:
      ValueError: the leaves do not share their first axis; a negative bound.

    >>> clipped_sum, clipped = per_example_global_norm_clip([jnp.array([[3.0, 4.0], [0.0, 1.0]])], 2.5)
    >>> clipped_sum[0].tolist(), int(clipped)
    ([1.5, 3.0], 1)
    """
    check.non_negative(l2_norm_clip=l2_norm_clip)
    batch_size("per_example_global_norm_clip", grads)
    norms = [_norms(leaf) for leaf in jax.tree.leaves(grads)]
    factors = shrink_factor(norm(jnp.stack(norms), axis=0), l2_norm_clip) if norms else jnp.ones(0)
    return jax.tree.map(lambda g: _weighted_sum(factors, g), grads), jnp.sum(factors < 1)


def per_example_layer_norm_clip(grads: Tree, global_l2_norm_clip: Any, uniform: bool = True) -> tuple[Tree, Tree]:
    """The sum over examples of gradients clipped leaf by leaf, and how many were clipped in each leaf.

    The squares of the leaves' bounds add up to that of the global one.

    Args:
      grads: gradients of single examples, stacked along the first axis of every leaf.
      global_l2_norm_clip: bound on the norm of one example's gradient over all leaves.
      uniform: (static) true gives all leaves one bound; false one that grows with the root of their sizes.

    Raises:
      ValueError: the leaves do not share their first axis; a negative bound.

    >>> grads = [jnp.array([[3.0, 4.0]]), jnp.array([1.0])]
    >>> clipped_sum, clipped = per_example_layer_norm_clip(grads, 2 ** 0.5)
    >>> [[round(float(x), 4) for x in jnp.ravel(leaf)] for leaf in clipped_sum], [int(count) for count in clipped]
    ([[0.6, 0.8], [1.0]], [1, 0])
    """
    check.non_negative(global_l2_norm_clip=global_l2_norm_clip)
    count = batch_size("per_example_layer_norm_clip", grads)
    leaves, treedef = jax.tree.flatten(grads)
    sizes = [leaf.size // count for leaf in leaves]
    shares = [1 / len(leaves) if uniform else size / sum(sizes) for size in sizes]
    factors = [
        shrink_factor(_norms(leaf), global_l2_norm_clip * share**0.5)
        for leaf, share in zip(leaves, shares, strict=True)
    ]
    sums = [_weighted_sum(factor, leaf) for factor, leaf in zip(factors, leaves, strict=True)]
    return treedef.unflatten(sums), treedef.unflatten([jnp.sum(factor < 1) for factor in factors])


def clipped_grad_sum(
    loss_fn: Callable[[Tree, Any], jax.Array],
    params: Tree,
    batch: Any,
    l2_norm_clip: Any,
    microbatch_size: int | None = None,
) -> tuple[Tree, jax.Array]:
    """`per_example_global_norm_clip` of a loss's gradients, with memory for those of one micro-batch.

    For private training of models whose gradients cannot be held for a whole batch.  To the sum divided by n,
    ``add_noise(eta=(noise_multiplier * l2_norm_clip / n) ** 2, gamma=0.0, key=key)`` adds the noise of `dpsgd`.

    Args:
      loss_fn: ``(params, example) -> loss`` of a single example, without an axis for the batch.
      params: where the gradients are taken.
      batch: a tree whose leaves have the examples along their first axis; keys for dropout may be among them.
      l2_norm_clip: bound on the norm of one example's gradient over all parameters.
      microbatch_size: (static) examples whose gradients are held at a time; None for all.  It need not divide their
        number.

    Returns:
      The sum, a tree like ``params`` in at least float32, and how many gradients were clipped.

    Raises:
      ValueError: the leaves of ``batch`` do not share their first axis; a negative bound, a micro-batch below 1.

    >>> loss = lambda w, x: jnp.sum(w * x)
    >>> total, clipped = clipped_grad_sum(loss, jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]]), 2.5, 2)
    >>> total.tolist(), int(clipped)
    ([1.5, 5.0], 1)
    """
    check.in_range("microbatch_size", microbatch_size, 1)
    count = batch_size("clipped_grad_sum", batch)
    size = count if microbatch_size is None else min(microbatch_size, count)
    whole = count - count % size

    def clipped(examples):
        grads = jax.vmap(jax.grad(loss_fn), (None, 0))(params, examples)
        return per_example_global_norm_clip(jax.tree.map(widened, grads), l2_norm_clip)

    def add(total, examples):
        return jax.tree.map(jnp.add, total, clipped(examples)), None

    micro = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), batch)
    zeros = jax.tree.map(lambda p: jnp.zeros_like(widened(p)), params), jnp.zeros([], int)
    total, _ = jax.lax.scan(add, zeros, micro)
    return total if whole == count else add(total, jax.tree.map(lambda x: x[whole:], batch))[0]


def widened(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return convert(leaf, jnp.promote_types(leaf.dtype, jnp.float32))


def _norms(leaf: jax.Array) -> jax.Array:
    return norm(leaf, axis=tuple(range(1, leaf.ndim)))


def _weighted_sum(weights: jax.Array, leaf: jax.Array) -> jax.Array:
    total = jnp.tensordot(weights, widened(leaf), axes=1)
    return convert(total, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else total
