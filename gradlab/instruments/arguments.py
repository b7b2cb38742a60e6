"""What instruments ask of a loss, of its parameters and of curves, found out by tracing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import tree as trees
from gradlab.core.across import at_least_float32

Tree = Any


def real_params(who: str, params: Tree) -> Tree:
    """The parameters as arrays, or an error that names the leaf that is not real and floating-point.

    >>> real_params('hessian', {'steps': jnp.array([3], 'int32')})
    Traceback (most recent call last):
    TypeError: hessian: the parameter at 'steps' is int32, but instruments differentiate with respect to real \
floating-point numbers; cast it, or put it into the batch
    """

    def array(path, leaf):
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"{who}: the parameter at '{trees.path_name(path)}' is {leaf.dtype}, but instruments differentiate "
                "with respect to real floating-point numbers; cast it, or put it into the batch"
            )
        return leaf

    return jax.tree_util.tree_map_with_path(array, params)


def require_outputs(who: str, function: Callable, params: Tree, batch: Any, axes: int) -> None:
    """Raises unless ``function(params, batch)`` is one real array with that many axes; it is traced, not run.

    >>> require_outputs('hessian', lambda params, batch: params, jnp.ones(2), None, axes=0)
    Traceback (most recent call last):
    ValueError: hessian: the loss must return one number, the mean over the batch, got a result of shape (2,)
    """
    out = jax.eval_shape(function, params, batch)
    wanted = "one number, the mean over the batch" if axes == 0 else "one number for each example, shape (examples,)"
    shapes = jax.tree.map(lambda leaf: leaf.shape, out)
    if jax.tree.structure(out) != jax.tree.structure(0) or len(out.shape) != axes:
        raise ValueError(f"{who}: the loss must return {wanted}, got a result of shape {shapes}")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{who}: the loss must be real and floating-point, got {out.dtype}")


def real_curve(name: str, values: Any) -> jax.Array:
    """Numbers along one axis in at least float32, or an error that names them.

    >>> real_curve('losses', [[1.0]])
    Traceback (most recent call last):
    ValueError: `losses` must have one axis, got shape (1, 1); use jax.vmap for several curves
    """
    values = at_least_float32(values)
    if values.ndim != 1:
        raise ValueError(f"`{name}` must have one axis, got shape {values.shape}; use jax.vmap for several curves")
    return values
