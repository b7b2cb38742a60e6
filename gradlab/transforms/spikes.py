r"""Against spikes: clipping at what a gradient's norm usually is, and skipping steps whose loss or norm leaps.

With n the norm of the whole gradient (zclip) or of one tensor (adagc), and ``mean, variance, bound`` running::

    z = (n - mean) / sqrt(variance);  n' = mean + sqrt(variance) * threshold^2 / z if z > threshold    arXiv 2504.02507
    n' = min(n, ratio * bound);  bound = decay * bound + (1 - decay) * n'                              arXiv 2502.11034
    u = g * n' / n
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm, norm
from gradlab.core.transform import Transform, transform


class ZClipState(NamedTuple):
    """State of `zclip`."""

    count: jax.Array  # () int32
    mean: jax.Array  # () of the norms after clipping
    variance: jax.Array  # ()


class AdaGCState(NamedTuple):
    """State of `adagc`."""

    count: jax.Array  # () int32
    bound: Any  # a scalar for each parameter


def zclip(decay: Any = 0.97, threshold: Any = 2.5, warmup_steps: Any = 25.0) -> Transform:
    """Clips the global norm where it is an outlier among the norms so far (ZClip, arXiv 2504.02507).

    A norm more than ``threshold`` standard deviations above the running mean is brought to
    ``mean + std * threshold^2 / z``: the larger the leap, the closer to the mean.  The first ``warmup_steps`` norms
    pass and give the first mean and variance; norms that are not finite pass and do not count.

    Args:
      decay: of the running mean and variance, in [0, 1).
      threshold: standard deviations above which a norm is clipped, positive.
      warmup_steps: norms that only count, at least 1.

    Raises:
      ValueError: a value out of its range.

    >>> tx = zclip(warmup_steps=4)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (0.9, 1.1, 0.9, 1.1, 100.0):
    ...     updates, state = tx.update(jnp.array([g]), state)
    >>> round(float(updates[0]), 2)
    1.0
    """
    check.decay_rate(decay=decay)
    check.positive(threshold=threshold)
    check.in_range("warmup_steps", warmup_steps, 1)
    return transform(_zclip_init, _zclip_update, decay=decay, threshold=threshold, warmup_steps=warmup_steps)


def adagc(decay: Any = 0.98, ratio: Any = 1.05, warmup_steps: Any = 100.0, max_norm: Any = 1.0) -> Transform:
    """Clips every tensor at ``ratio`` times what its own norm usually is (AdaGC, arXiv 2502.11034).

    In the first ``warmup_steps`` steps the whole gradient is clipped at ``max_norm``, and the smallest norm of each
    tensor becomes its bound.

    Args:
      decay: of the bound, in [0, 1).
      ratio: of a norm to its bound above which it is clipped, at least 1.
      warmup_steps: steps with clipping by the global norm, not negative.
      max_norm: bound of the global norm in these.

    Raises:
      ValueError: a value out of its range.

    >>> tx = adagc(warmup_steps=1, ratio=2.0)
    >>> _, state = tx.update(jnp.array([0.5]), tx.init(jnp.zeros(1)))
    >>> tx.update(jnp.array([100.0]), state)[0].tolist()
    [1.0]
    """
    check.decay_rate(decay=decay)
    check.in_range("ratio", ratio, 1)
    check.non_negative(warmup_steps=warmup_steps)
    check.positive(max_norm=max_norm)
    return transform(_adagc_init, _adagc_update, decay=decay, ratio=ratio, warmup_steps=warmup_steps, max_norm=max_norm)


def _zclip_init(params):
    del params
    return ZClipState(jnp.zeros([], jnp.int32), jnp.zeros([]), jnp.zeros([]))


def _zclip_update(grads, state, params=None, *, decay, threshold, warmup_steps, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    warming = count <= warmup_steps
    n = global_norm(grads).astype(state.mean.dtype)
    deviation = jnp.sqrt(jnp.where(state.variance > 0, state.variance, 1))
    z = jnp.where(state.variance > 0, (n - state.mean) / deviation, 0)
    leaps = ~warming & (z > threshold)
    clipped = jnp.where(leaps, state.mean + deviation * threshold**2 / jnp.where(leaps, z, 1), n)
    weight = jnp.where(warming, 1 / count.astype(n.dtype), 1 - decay)
    mean = state.mean + weight * (clipped - state.mean)
    welford = (1 - weight) * (state.variance + weight * (clipped - state.mean) ** 2)
    running = decay * state.variance + (1 - decay) * (clipped - mean) ** 2
    counts = jnp.isfinite(clipped)
    mean = jnp.where(counts, mean, state.mean)
    variance = jnp.where(counts, jnp.where(warming, welford, running), state.variance)
    factor = jnp.where(leaps, clipped / jnp.where(leaps, n, 1), 1)
    (updates,) = leafwise(_factor_rule, grads, factor=factor)
    return updates, ZClipState(count, mean.astype(n.dtype), variance.astype(n.dtype))


def _factor_rule(g, *, factor):
    return (factor * g,)


def _adagc_init(params):
    real = lambda p: jnp.finfo(jnp.promote_types(p.dtype, jnp.float32)).dtype
    return AdaGCState(jnp.zeros([], jnp.int32), jax.tree.map(lambda p: jnp.full([], jnp.inf, real(p)), params))


def _adagc_rule(g, bound, *, warming, global_factor, decay, ratio):
    n = norm(g)
    limit = ratio * bound
    factor = jnp.where(n > limit, limit / jnp.where(n > limit, n, 1), 1)
    factor = jnp.where(warming > 0, global_factor, factor)
    known = jnp.where(jnp.isfinite(bound), bound, n)
    bound = jnp.where(warming > 0, jnp.minimum(known, factor * n), decay * known + (1 - decay) * factor * n)
    return factor * g, bound


def _adagc_update(grads, state, params=None, *, decay, ratio, warmup_steps, max_norm, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    warming = (count <= warmup_steps).astype(float)
    whole = global_norm(grads)
    global_factor = jnp.where(whole > max_norm, max_norm / jnp.where(whole > max_norm, whole, 1), 1)
    numbers = {"warming": warming, "global_factor": global_factor, "decay": decay, "ratio": ratio}
    updates, bound = leafwise(_adagc_rule, grads, [state.bound], **numbers)
    return updates, AdaGCState(count, bound)
