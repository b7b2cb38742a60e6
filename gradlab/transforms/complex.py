"""Complex parameters as pairs of real ones, for optimizers whose rule has no meaning for complex numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib._complex_valued import SplitRealAndImaginaryArrays

from gradlab.core.transform import Transform, transform
from gradlab.core.update import eval_params, register_readout

Tree = Any
LOSSES = ("value_fn", "obj_fn")


def split_real_and_imaginary(inner: optax.GradientTransformation) -> Transform:
    """Hands ``inner`` the real and the imaginary part of every complex leaf as two real leaves, and joins its updates.

    Gradients are those of steepest ascent: the conjugate of what ``jax.grad`` returns for complex parameters.  The
    extra argument ``grad`` is split too, and a loss passed as ``value_fn`` or ``obj_fn`` becomes one of the parts.
    Real leaves pass as they are.

    Args:
      inner: a transform, or a whole optimizer.

    >>> import gradlab
    >>> tx = split_real_and_imaginary(gradlab.sign_sgd(1.0))
    >>> updates, _ = tx.update(jnp.array([3 - 4j]), tx.init(jnp.zeros(1, complex)))
    >>> updates.tolist()
    [(-1+1j)]
    """
    return transform(_split_real_and_imaginary_init, _split_real_and_imaginary_update, inner=inner)


def _split_real_and_imaginary_init(params, *, inner):
    return optax.contrib.SplitRealAndImaginaryState(inner_state=inner(_split(params)))


def _split_real_and_imaginary_update(grads, state, params=None, *, inner, **extra):
    extra = {name: _split(value) if name == "grad" else value for name, value in extra.items()}
    extra = {name: _of_parts(value) if name in LOSSES and value is not None else value for name, value in extra.items()}
    updates, inner_state = inner(_split(grads), state.inner_state, _split(params), **extra)
    return _join(updates), optax.contrib.SplitRealAndImaginaryState(inner_state)


def _of_parts(loss):
    return lambda params: loss(_join(params))


def _split(tree: Tree) -> Tree:
    return jax.tree.map(_split_leaf, tree)


def _split_leaf(leaf: Any) -> Any:
    if not jnp.iscomplexobj(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(_split_leaf, leaf)
    return SplitRealAndImaginaryArrays(leaf.real, leaf.imag)


def _join(tree: Tree) -> Tree:
    return jax.tree.map(_joined, tree, is_leaf=_is_pair)


def _joined(leaf: Any) -> Any:
    return jax.lax.complex(*leaf) if _is_pair(leaf) else leaf


def _is_pair(leaf: Any) -> bool:
    return isinstance(leaf, SplitRealAndImaginaryArrays)


def _split_readout(state: optax.contrib.SplitRealAndImaginaryState, params: Tree) -> Tree:
    parts = _split(params)
    weights = eval_params(None, state.inner_state, parts)
    return jax.tree.map(_joined_if_new, weights, parts, is_leaf=_is_pair)


def _joined_if_new(weight: Any, part: Any) -> Any:
    """The joined weight, or a mask where no stage inside has one: there it still is the parameter itself."""
    same = jax.tree.leaves(weight)[0] is jax.tree.leaves(part)[0]
    return optax.MaskedNode() if same else _joined(weight)


register_readout(optax.contrib.SplitRealAndImaginaryState, _split_readout)
