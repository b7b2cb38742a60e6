r"""Adam-mini: Adam with one second moment for each block of weights, the mean over some axes of a leaf.

With g the gradient, p the parameter, count = 1, 2, ..., mu = nu = 0 before the first step, and ``mean`` over the axes
that make up a block::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * mean(|g|^2)
    u = (mu / (1 - b1^count)) / (sqrt(nu / (1 - b2^count)) + eps)
    p = p - learning_rate * (u + weight_decay * p)                arXiv 2406.16793; by axes as in 2503.01843

``nu`` keeps the averaged axes at length 1.  Averaged over no axis it is Adam's.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.factored import reduced_zeros_like
from gradlab.transforms.decay import with_weight_decay

Tree = Any

NAMED_AXES: Mapping[str, Callable[[int], tuple[int, ...]]] = {
    "all": lambda ndim: tuple(range(ndim)),
    "all_but_first": lambda ndim: tuple(range(1, ndim)),
    "all_but_last": lambda ndim: tuple(range(ndim - 1)),
    "none": lambda ndim: (),
}


def adam_mini_blocks(params: Tree) -> Tree:
    """The axes that each leaf of a Flax model averages over, by its path and rank; the default of `adam_mini`.

    One block for every token of an embedding (a path with ``embed`` in it), every head of a query or key kernel
    ``(in, heads, head_dim)``, every output of a value kernel of that shape and of any other kernel ``(..., in, out)``;
    vectors and scalars are one block each.

    >>> adam_mini_blocks({'Embed_0': {'embedding': jnp.ones((9, 4))}, 'Dense_0': {'bias': jnp.ones(4)}})
    {'Dense_0': {'bias': 'all'}, 'Embed_0': {'embedding': 'all_but_first'}}
    """
    return jax.tree_util.tree_map_with_path(lambda path, p: _blocks_of_leaf(trees.path_name(path), jnp.ndim(p)), params)


def _blocks_of_leaf(name: str, ndim: int) -> Any:
    if ndim < 2:
        return "all"
    if re.search("embed", name, re.IGNORECASE):
        return "all_but_first"
    if ndim == 3 and re.search("(query|key)/kernel$", name):
        return (0, 2)
    return (0,) if ndim == 3 and re.search("value/kernel$", name) else "all_but_last"


def _is_axes(value: Any) -> bool:
    return isinstance(value, int | str) or (isinstance(value, tuple) and all(isinstance(axis, int) for axis in value))


def _axes_of_leaves(block_axes: Any, params: Tree) -> Tree:
    """A tree that holds the axes, as they were given, in the place of every leaf of ``params``."""
    choice = adam_mini_blocks if block_axes is None else block_axes
    choice = choice(params) if callable(choice) else choice
    try:
        return jax.tree.map(lambda axes, part: jax.tree.map(lambda p: axes, part), choice, params, is_leaf=_is_axes)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`block_axes` must be axes, a tree of axes that is a prefix of the parameters, or a function from the "
            f"parameters to such a tree, got {choice!r}: {str(error).splitlines()[0]}"
        ) from None


def _block_zeros(path: tuple, p: Any, axes: Any) -> jax.Array:
    ndim = jnp.ndim(p)
    if isinstance(axes, str):
        check.one_of("block_axes", axes, NAMED_AXES)
        axes = NAMED_AXES[axes](ndim)
    axes = (axes,) if isinstance(axes, int) else axes
    if any(not -ndim <= axis < ndim for axis in axes):
        raise ValueError(
            f"`block_axes` gives axes {axes} for parameter '{trees.path_name(path)}' of shape {jnp.shape(p)}, "
            f"which has {ndim} axes; count them from 0, or name {', '.join(map(repr, NAMED_AXES))}"
        )
    return reduced_zeros_like(p, axes, keepdims=True)


def _scale_by_adam_mini_init(params, *, mu_dtype, block_axes):
    nu = params  # without leaves there is nothing to choose axes for
    if jax.tree.leaves(params):
        nu = jax.tree_util.tree_map_with_path(_block_zeros, params, _axes_of_leaves(block_axes, params))
    return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=trees.zeros_like(params, mu_dtype), nu=nu)


def _adam_mini_rule(g, mu, nu, *, count, b1, b2, eps, eps_root):
    averaged = tuple(axis for axis in range(g.ndim) if nu.shape[axis] != g.shape[axis])
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * jnp.mean(abs_sq(g), averaged, keepdims=True)
    return mu / debias(b1, count) / (safe_sqrt(nu / debias(b2, count) + eps_root) + eps), mu, nu


def _scale_by_adam_mini_update(grads, state, params=None, *, b1, b2, eps, eps_root, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    hyper = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    updates, mu, nu = leafwise(_adam_mini_rule, grads, [state.mu, state.nu], own_shapes=True, count=count, **hyper)
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def scale_by_adam_mini(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    block_axes: Any = None,
) -> Transform:
    """The direction of Adam-mini; see `adam_mini`.

    >>> tx = scale_by_adam_mini(block_axes=0)
    >>> updates, state = tx.update(jnp.array([[3.0, 1.0], [4.0, 1.0]]), tx.init(jnp.zeros((2, 2))))
    >>> [[round(u, 4) for u in row] for row in updates.tolist()], state.nu.shape
    ([[0.8485, 1.0], [1.1314, 1.0]], (1, 2))
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    return transform(
        _scale_by_adam_mini_init,
        _scale_by_adam_mini_update,
        at_init={"mu_dtype": static(mu_dtype), "block_axes": static(block_axes)},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@storable
def adam_mini(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    block_axes: Any = None,
    decay: str = "decoupled",
) -> Transform:
    """Adam-mini (Zhang et al. 2024, arXiv 2406.16793): AdamW at half the state, one second moment for each block.

    The recurrence heads this module.  A block should be a set of weights with one scale of curvature: all that feed
    one output, one attention head, one token.  Heads, tokens and outputs are found by the axes of Flax's layout::

        adam_mini(1e-3, block_axes=by_path(('qkv', (0, 3)), ('wte|wpe', 'all_but_first'), ('.', 'all_but_last')))

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype: as for `gradlab.adam`.
      weight_decay, mask, decay: as for `gradlab.adamw`.
      block_axes: (static) the axes of each leaf over which its squared gradients are averaged: an axis, a tuple of
        axes, ``'all'``, ``'all_but_first'``, ``'all_but_last'`` or ``'none'`` (Adam's); a tree of these that is a
        prefix of the parameters; `gradlab.by_path` rules, or any function from parameters to such a tree.  None is
        `adam_mini_blocks`, the paper's blocks.

    Raises:
      ValueError: as `gradlab.adamw`; from ``init``, axes that a parameter does not have, or a tree that is no prefix.

    >>> params = {'kernel': jnp.ones((64, 256), 'float32'), 'bias': jnp.zeros(256, 'float32')}
    >>> tx = adam_mini(0.1)
    >>> state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params)))
    >>> round(state_bytes / (65 * 256), 2)  # Adam's are 8 bytes a parameter
    4.06
    """
    direction = scale_by_adam_mini(b1, b2, eps, eps_root, mu_dtype, block_axes=block_axes)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
