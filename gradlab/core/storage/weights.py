"""Parameters in bfloat16 whose dropped bits are kept by the optimizer: master weights without a float32 copy.

    full = p and its residual together                    float32
    u = inner update(gradients, full)
    p, residual = full + u taken apart                    p the nearest bfloat16 number

A bfloat16 parameter alone does not move by less than 2^-9 of its value.  With 8 more bits, the last rounded by chance,
it moves by any step on average; with 16 it is the float32 parameter bit for bit.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.rule import static
from gradlab.core.storage.rounding import joined, split
from gradlab.core.transform import Transform, transform

Tree = Any


class ResidualState(NamedTuple):
    """State of `with_residuals`."""

    rng_key: Any  # (2,) uint32, of the next step's rounding; None with 16 bits
    residual: Tree  # like params, int8 or int16; None where a parameter is not bfloat16
    inner_state: Any


def with_residuals(inner: optax.GradientTransformation, bits: int = 8, *, seed: Any = 0.0) -> Transform:
    """Trains bfloat16 parameters with the precision of float32, at one or two bytes each instead of four.

    The inner optimizer sees float32 parameters and gradients, and keeps float32 moments unless `store` says otherwise.
    Updates are float32, and parameters plus updates are the new parameters as exactly as float32 adds: nothing may
    change them afterwards, so this is the last stage.  Parameters of another dtype are left alone.

    Args:
      inner: a whole optimizer.
      bits: (static) 8, or 16 for float32 itself.
      seed: a whole number from which the rounding of the last of 8 bits is drawn; a leaf.

    Raises:
      ValueError: other ``bits``; ``update`` without ``params``.

    >>> import gradlab
    >>> params = jnp.ones(3, jnp.bfloat16)
    >>> tx = with_residuals(gradlab.sgd(1.0), bits=16)
    >>> state = tx.init(params)
    >>> for _ in range(1000):
    ...     updates, state = tx.update(jnp.full(3, -1e-4), state, params)
    ...     params = gradlab.apply_updates(params, updates)
    >>> params.dtype.name, float(params[0]), round(float(float32_params(state, params)[0]), 5)
    ('bfloat16', 1.1015625, 1.10002)
    """
    check.one_of("bits", bits, (8, 16))
    at_init = {"bits": static(bits), "seed": seed if bits == 8 else None}
    return transform(_residuals_init, _residuals_update, inner=inner, at_init=at_init, bits=static(bits))


def _is_bfloat16(p: Any) -> bool:
    return getattr(p, "dtype", None) == jnp.bfloat16


def _widened(p: Any) -> Any:
    if not _is_bfloat16(p):
        return p
    return jax.ShapeDtypeStruct(p.shape, jnp.float32) if isinstance(p, jax.ShapeDtypeStruct) else p.astype(jnp.float32)


def _residuals_init(params, *, inner, bits, seed=None):
    dtype = jnp.int8 if bits == 8 else jnp.int16
    return ResidualState(
        rng_key=None if seed is None else jax.random.PRNGKey(jnp.asarray(seed).astype(jnp.int32)),
        residual=jax.tree.map(lambda p: jnp.zeros_like(p, dtype) if _is_bfloat16(p) else None, params),
        inner_state=inner(jax.tree.map(_widened, params)),
    )


def _residuals_update(grads, state, params=None, *, inner, bits, **extra):
    check.required_params("with_residuals", params)
    trees.require_same_structure("gradients", grads, "parameters", params)
    full = _joined(state.residual, params)
    updates, inner_state = inner(jax.tree.map(_widened, grads), state.inner_state, full, **extra)
    leaves, treedef = jax.tree.flatten(params, is_leaf=trees.is_none)
    columns = [treedef.flatten_up_to(tree) for tree in (full, state.residual, updates)]
    key, seeds = state.rng_key, jnp.zeros(len(leaves), jnp.uint32)
    if key is not None:
        key, now = jax.random.split(key)
        seeds = jax.random.bits(now, (len(leaves),), jnp.uint32)
    new = [_apart(bits, *leaf) for leaf in zip(leaves, *columns, seeds, strict=True)]
    updates, residual = (treedef.unflatten(column) for column in (zip(*new, strict=True) if new else ((), ())))
    return updates, ResidualState(key, residual, inner_state)


def _apart(bits: int, p: Any, full: Any, residual: Any, u: Any, seed: jax.Array) -> tuple[Any, Any]:
    return (u, residual) if residual is None or u is None else _apart_one(bits, p, full, u, seed)


def _inline_apart(bits: int, p: jax.Array, full: jax.Array, u: jax.Array, seed: jax.Array):
    high, low = split(full + u.astype(jnp.float32), seed, bits)
    return high.astype(jnp.float32) - p.astype(jnp.float32), low


_apart_one = jax.jit(_inline_apart, static_argnums=0)


def float32_params(state: Tree, params: Tree) -> Tree:
    """The parameters of `with_residuals` in full, wherever its state is nested, in several groups of a partition too.

    Parameters without residuals, those that a mask hides among them, are as they are.

    Raises:
      ValueError: the state has no residuals.
    """
    residuals = _residuals(state)
    if not residuals:
        raise ValueError(
            "float32_params needs the state of with_residuals(...), got one without residuals; such parameters have no "
            "more bits than they show"
        )
    return functools.reduce(lambda params, residual: _joined(residual, params), residuals, params)


def joined_params(state: Tree, params: Tree) -> Tree:
    """`float32_params` of any state: the parameters themselves where there are no residuals."""
    return float32_params(state, params) if _residuals(state) else params


def _residuals(state: Tree) -> list[Tree]:
    is_residual = lambda node: isinstance(node, ResidualState)
    return [node.residual for node in jax.tree.leaves(state, is_leaf=is_residual) if is_residual(node)]


def _joined(residual: Tree, params: Tree) -> Tree:
    is_hole = lambda node: node is None or isinstance(node, optax.MaskedNode)
    whole = lambda low, p: p if is_hole(low) or not _is_bfloat16(p) else joined(p, low)
    return jax.tree.map(whole, residual, params, is_leaf=is_hole)
