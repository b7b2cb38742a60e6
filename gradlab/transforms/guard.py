r"""Guards against gradients that are not finite: replace their NaNs, or skip the step.

::

    u = where(isnan(g), 0, g)                                         zero_nans
    u, state = inner(g, state) if accepted else (0, state)            apply_if_finite

where a step is accepted if every gradient is finite, or if more than ``max_consecutive_errors`` steps on end
were not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.branch import own_clock, update_if
from gradlab.core.transform import Transform, transform

Tree = Any


def zero_nans() -> Transform:
    """Replaces every NaN of the updates by zero; ``state.found_nan`` tells which parameters had one last time.

    Infinities pass; see `apply_if_finite` for these.

    >>> tx = zero_nans()
    >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> updates.tolist(), bool(state.found_nan)
    ([1.0, 0.0], True)
    """
    return transform(_zero_nans_init, _zero_nans_update)


def apply_if_finite(inner: optax.GradientTransformation, max_consecutive_errors: Any) -> Transform:
    """Skips steps whose gradients are not all finite: updates of zero, and ``inner`` keeps its state.

    Up to ``max_consecutive_errors`` such steps on end are skipped; those after them go to ``inner`` as they are, so
    that a run which has diverged shows it.  The state counts: ``notfinite_count`` on end, ``total_notfinite`` in all,
    and ``last_finite`` for the last step.  Lanes of a sweep skip one by one, and no NaN that is skipped reaches a
    derivative through the update.

    Args:
      inner: the transform, or the whole optimizer, to protect.
      max_consecutive_errors: steps on end to skip.

    Raises:
      ValueError: a negative count.

    >>> import gradlab
    >>> tx = apply_if_finite(gradlab.scale(-1.0), 3)
    >>> updates, state = tx.update(jnp.array([1.0, jnp.inf]), tx.init(jnp.zeros(2)))
    >>> updates.tolist(), int(state.notfinite_count), bool(state.last_finite)
    ([0.0, 0.0], 1, False)
    """
    check.non_negative(max_consecutive_errors=max_consecutive_errors)
    return transform(
        _apply_if_finite_init, _apply_if_finite_update, inner=inner, max_consecutive_errors=max_consecutive_errors
    )


def _zero_nans_init(params):
    return optax.transforms.ZeroNansState(found_nan=jax.tree.map(lambda p: jnp.zeros([], bool), params))


def _zero_nans_update(grads, state, params=None, **extra):
    del state, params, extra
    found_nan = jax.tree.map(lambda g: jnp.any(jnp.isnan(g)), grads)
    updates = jax.tree.map(lambda g: jnp.where(jnp.isnan(g), 0, g), grads)
    return updates, optax.transforms.ZeroNansState(found_nan=found_nan)


def _apply_if_finite_init(params, *, inner):
    return optax.ApplyIfFiniteState(
        notfinite_count=jnp.zeros([], jnp.int32),
        last_finite=jnp.ones([], bool),
        total_notfinite=jnp.zeros([], jnp.int32),
        inner_state=inner(params),
    )


def _all_finite(tree: Tree) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)], bool))


def _apply_if_finite_update(grads, state, params=None, *, inner, max_consecutive_errors, **extra):
    finite = _all_finite(grads)
    notfinite_count = jnp.where(finite, 0, optax.safe_increment(state.notfinite_count))
    total_notfinite = jnp.where(finite, state.total_notfinite, optax.safe_increment(state.total_notfinite))
    accepted = finite | (notfinite_count > max_consecutive_errors)

    def accept():
        return inner(grads, state.inner_state, params, **own_clock(extra))

    updates, inner_state = update_if(accepted, accept, state.inner_state)
    return updates, optax.ApplyIfFiniteState(notfinite_count, finite, total_notfinite, inner_state)
