r"""The learning-rate range test: one short run whose rate grows from step to step (Smith, arXiv 1506.01186).

At step t, with the rates in geometric progression and one batch a step::

    params = params + update(learning_rate_t)
    loss_t = loss(params, batch_(t+1))             after the update with that rate, not before it
    average = the exponential moving average of the losses, its bias corrected
    diverged: loss_t not finite, or average above ``diverges`` times the lowest average so far

After a divergence nothing moves any more and the losses are NaN, without a branch: lanes of a `jax.vmap` go on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.closures import as_pytree
from gradlab.core.numerics import debias
from gradlab.core.transform import from_optax
from gradlab.core.update import apply_updates
from gradlab.core.values import hyperparams, replace
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.rate_suggestions import Suggestions, smooth, suggest_rates

Tree = Any


class LrRange(NamedTuple):
    """What `lr_range` measures."""

    learning_rates: jax.Array  # (steps,) ascending
    initial: jax.Array  # () the loss before the first update
    losses: jax.Array  # (steps,) after the update with each rate; NaN after a divergence
    smoothed: jax.Array  # (steps,) averaged from both sides; NaN after a divergence
    diverged_at: jax.Array  # () int32, the first rate after which the loss diverged; ``steps`` if it never did
    suggestions: Suggestions


class _Run(NamedTuple):
    """What the scan carries."""

    params: Tree
    state: Any
    average: jax.Array  # its bias not corrected
    lowest: jax.Array  # of the corrected averages
    diverged_at: jax.Array


def lr_range(
    tx: optax.GradientTransformation,
    loss: Callable,
    params: Tree,
    batches: Any = None,
    *,
    low: Any = 1e-6,
    high: Any = 10.0,
    steps: int = 100,
    decay: Any = 0.9,
    diverges: Any = 5.0,
    name: str = "learning_rate",
) -> LrRange:
    """Runs an optimizer once with a growing learning rate, and suggests one.

    It costs ``steps + 1`` G, and compiles once for a loss and an optimizer's structure.  `jax.vmap` over params and
    batches gives a band over seeds.  Known exactly: gradient descent on a quadratic of curvature h lowers its loss up
    to the rate 2/h, and the first rise is at the first rate above it.

    Args:
      tx: an optimizer of gradlab; the learning rate that it has is not used.
      loss: ``(params, batch) -> scalar``, deterministic.
      params: where the run starts.
      batches: a tree of arrays (steps + 1, ...), one batch for each evaluation, or ``None``.
      low: the first learning rate.
      high: the last one.
      steps: (static) how many, at least 3.
      decay: of the averages, in [0, 1); 0 for a loss without noise.
      diverges: how many times the lowest average is a divergence, above 1.
      name: (static) the hyperparameter that is varied, as `gradlab.hyperparams` lists it.

    Raises:
      TypeError: a parameter or the loss is not real and floating-point.
      ValueError: the optimizer has no such number, the loss is no scalar or not finite at the start, a range or a
        number of batches that does not fit.

    >>> import gradlab
    >>> found = lr_range(gradlab.sgd(0.1), lambda p, batch: 2.0 * jnp.sum(p**2), jnp.ones(3), decay=0.0)
    >>> rising = np.diff([found.initial, *found.losses]) > 0
    >>> bool(found.learning_rates[rising.argmax() - 1] <= 2 / 4 < found.learning_rates[rising.argmax()])
    True
    """
    tx, params = from_optax(tx), real_params("lr_range", params)
    _check_range(tx, low, high, steps, decay, diverges, name)
    batches = _check_batches(batches, steps)
    require_outputs("lr_range", loss, params, jax.tree.map(lambda leaf: leaf[0], batches), axes=0)
    found = _lr_range(as_pytree(loss), tx, params, batches, low, high, decay, diverges, steps, name)
    if not isinstance(found.initial, jax.core.Tracer) and not np.isfinite(found.initial).all():
        raise ValueError(f"lr_range: the loss is {found.initial} at the start: no rate leads on from there")
    return found


def _check_range(tx: Any, low: Any, high: Any, steps: int, decay: Any, diverges: Any, name: str) -> None:
    known = hyperparams(tx)
    parts = [other for other in known if other.startswith(f"{name}.")]
    if not known:
        raise ValueError(
            f"lr_range varies {name!r}, but this optimizer has no hyperparameters: those of an adopted Optax "
            "transform are constants; use gradlab's"
        )
    if parts:
        raise ValueError(
            f"lr_range varies {name!r} as one number, but here it has the parts {parts}: a schedule or a tree; build "
            "the optimizer with a number, or name the part"
        )
    replace(tx, **{name: 1.0})
    check.positive(low=low)
    if not any(isinstance(end, jax.core.Tracer) for end in (low, high)):
        check.in_range("high", high, low, open_low=True)
    check.in_range("steps", steps, 3)
    check.decay_rate(decay=decay)
    check.in_range("diverges", diverges, 1.0, open_low=True)


def _check_batches(batches: Any, steps: int) -> Any:
    batches = jax.tree.map(jnp.asarray, batches)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        if leaf.ndim < 1 or leaf.shape[0] != steps + 1:
            raise ValueError(
                f"the batches at '{trees.path_name(path)}' must have the first axis steps + 1 = {steps + 1}, one batch "
                f"for each update and one for the last loss; got shape {leaf.shape}"
            )
    return batches


def _run(loss, tx, params, batches, low, high, decay, diverges, steps, name):
    rates = low * (high / low) ** (jnp.arange(steps, dtype=float) / (steps - 1))
    each = jnp.arange(steps + 1, dtype=jnp.int32), jnp.append(rates, high), batches

    def step(run, inputs):
        count, rate, batch = inputs
        value, grad = jax.value_and_grad(loss)(run.params, batch)
        value = value.astype(rates.dtype)
        average = decay * run.average + (1 - decay) * value
        corrected = average / debias(decay, count + 1)
        over = ~jnp.isfinite(value) | (corrected > run.lowest + (diverges - 1) * jnp.abs(run.lowest))
        alive = run.diverged_at == steps
        known = {"value": value, "grad": grad, "value_fn": lambda params: loss(params, batch), "step": count}
        updates, state = replace(tx, **{name: rate}).update(grad, run.state, run.params, **known)
        moved = apply_updates(run.params, updates), state
        kept = lambda new, old: jnp.where(alive & ~over, new, old)
        params, state = jax.tree.map(kept, moved, (run.params, run.state))
        lowest = jnp.fmin(run.lowest, corrected)
        diverged_at = jnp.where(alive & over, count - 1, run.diverged_at)
        return _Run(params, state, average, lowest, diverged_at), jnp.where(alive, value, jnp.nan)

    zero = jnp.zeros([], rates.dtype)
    start = _Run(params, tx.init(params), zero, zero + jnp.inf, jnp.int32(steps))
    end, values = jax.lax.scan(step, start, each)
    suggestions = suggest_rates(rates, values[1:], decay)
    return LrRange(rates, values[0], values[1:], smooth(values[1:], decay), end.diverged_at, suggestions)


_lr_range = jax.jit(_run, static_argnames=("steps", "name"))
