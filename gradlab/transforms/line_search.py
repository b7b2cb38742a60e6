r"""What the line searches share: the loss along a line, and what they need of the caller.

With p the parameters, u the updates and t the step size::

    f(t)  = value_fn(p + t * u)
    f'(t) = <grad value_fn(p + t * u), u>

A value function may take further arguments by name: those among the extra arguments of ``update``.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.across import vdot
from gradlab.core.closures import parameter_names
from gradlab.core.leafwise import leafwise
from gradlab.core.tree import real_dtype, require_same_structure
from gradlab.core.update import apply_updates

Tree = Any


class Line(NamedTuple):
    """The line from ``params`` along ``updates``, and the loss on it."""

    value_fn: Callable[[Tree], jax.Array]
    params: Tree
    updates: Tree

    def at(self, stepsize: jax.Array) -> Tree:
        """The parameters after a step of this size, as ``apply_updates`` would round them."""
        return apply_updates(self.params, scaled(self.updates, stepsize))

    def value(self, stepsize: jax.Array) -> jax.Array:
        value = jnp.asarray(self.value_fn(self.at(stepsize)), real_dtype(self.params))
        if value.shape:
            raise TypeError(f"value_fn must return one number, got an array of shape {value.shape}")
        return value

    def value_slope_grad(self, stepsize: jax.Array) -> tuple[jax.Array, jax.Array, Tree]:
        """``f``, ``f'`` and the gradient as ``jax.grad`` gives it (for complex parameters, conjugated)."""
        value, grad = jax.value_and_grad(self.value_fn)(self.at(stepsize))
        slope = vdot(jax.tree.map(jnp.conj, grad), self.updates)
        return jnp.asarray(value, slope.dtype), slope, grad


def line(stage: str, updates: Tree, params: Tree, extra: dict[str, Any], **needed: Any) -> Line:
    """The line of one search; ``needed`` is what the stage cannot do without: ``value``, ``grad`` and ``value_fn``.

    Raises:
      ValueError: no parameters, or trees that differ.
      TypeError: one of the needed values is ``None``.
    """
    params = check.required_params(stage, params)
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise TypeError(
            f"{stage} needs {', '.join(f'`{name}`' for name in missing)}: call "
            "tx.update(grads, state, params, value=loss, grad=grads, value_fn=loss_fn)"
        )
    require_same_structure("`grad`", needed["grad"], "the updates", updates)
    value_fn = needed["value_fn"]
    known = {name: extra[name] for name in parameter_names(value_fn) & extra.keys()}
    return Line(functools.partial(value_fn, **known), params, updates)


def _scaled_rule(u, *, stepsize):
    return (stepsize * u,)


def scaled(updates: Tree, stepsize: jax.Array) -> Tree:
    return leafwise(_scaled_rule, updates, stepsize=stepsize)[0]


def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[jax.Array, Tree]]:
    """``jax.value_and_grad(value_fn)``, except that it takes both from the state where a line search left them.

    The function that it returns is called as ``(params, *args, state=state, **kwargs)``.  It computes them anew while
    the stored value is not finite, as before the first step.  A stage after the line search that changes the updates
    makes the stored gradient one of another point.

    Raises:
      ValueError: the state has no value or no gradient (`scale_by_backtracking_linesearch` without ``store_grad``).
      KeyError: several stages have one.

    >>> import gradlab
    >>> loss = lambda x: jnp.sum(x**2)
    >>> tx, params = gradlab.lbfgs(), jnp.array([3.0, 4.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     value, grad = value_and_grad_from_state(loss)(params, state=state)
    ...     updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
    ...     params = gradlab.apply_updates(params, updates)
    >>> round(float(value), 3), bool(loss(params) < 1e-9)
    (16.0, True)
    """
    return functools.partial(_value_and_grad_from_state, value_fn)


def _value_and_grad_from_state(value_fn, params, *args, state, **kwargs):
    value, grad = optax.tree.get(state, "value"), optax.tree.get(state, "grad")
    if value is None or grad is None:
        raise ValueError(
            "the state holds no value and gradient of a line search; use scale_by_zoom_linesearch, or "
            "scale_by_backtracking_linesearch with store_grad=True, or jax.value_and_grad"
        )

    def fresh():
        new = jax.value_and_grad(value_fn)(params, *args, **kwargs)
        return jax.tree.map(lambda x, stored: x.astype(stored.dtype), new, (value, grad))

    return jax.lax.cond(jnp.isfinite(value), lambda: (value, grad), fresh)
