r"""Gradient descent with differential privacy: clip the gradient of every example, add noise to their sum.

With g_i the gradient of example i of n, C = l2_norm_clip, the norm over all leaves, and xi normal with variance 1 in
every coordinate::

    g = (sum_i g_i * min(1, C / |g_i|) + noise_multiplier * C * xi) / n        arXiv 1607.00133

One example moves the mean of the clipped gradients by at most ``C / n``; how much of that the noise hides over a run is
for a privacy accountant to say, from ``noise_multiplier``, the number of steps and how the batches are drawn.

These are no optimizers of the registry: their gradients have one more axis than the parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain, identity
from gradlab.core.leafwise import convert
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.transforms.accumulate import trace
from gradlab.transforms.noise import key_data
from gradlab.transforms.per_example import batch_size, per_example_global_norm_clip, widened
from gradlab.transforms.scaling import scale_by_learning_rate


def _differentially_private_aggregate_init(params, *, key):
    del params
    return optax.contrib.DifferentiallyPrivateAggregateState(rng_key=jnp.array(key))


def _noise_like(key, leaf):
    """Normal noise of variance 1 in every real coordinate: of a complex number in both parts."""
    noise = jax.random.normal(key, leaf.shape, leaf.dtype)
    return 2**0.5 * noise if jnp.iscomplexobj(leaf) else noise


def _differentially_private_aggregate_update(grads, state, params=None, *, l2_norm_clip, noise_multiplier, **extra):
    del params, extra
    examples = batch_size("differentially_private_aggregate", grads)
    total, _ = per_example_global_norm_clip(jax.tree.map(widened, grads), l2_norm_clip)
    leaves, treedef = jax.tree.flatten(total)
    rng_key, *keys = jax.random.split(state.rng_key, len(leaves) + 1)
    deviation = l2_norm_clip * noise_multiplier
    noised = [
        (leaf + convert(deviation * _noise_like(key, leaf), leaf.dtype)) / examples
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    updates = jax.tree.map(lambda u, g: convert(u, jnp.asarray(g).dtype), treedef.unflatten(noised), grads)
    return updates, optax.contrib.DifferentiallyPrivateAggregateState(rng_key=rng_key)


def differentially_private_aggregate(
    l2_norm_clip: Any, noise_multiplier: Any, key: Any = None, *, seed: int | None = None
) -> Transform:
    """The noisy mean of clipped gradients of single examples (Abadi et al., arXiv 1607.00133).

    The recurrence heads this module.  It stands first in a chain, and its gradients have the examples along the first
    axis of every leaf, as ``jax.vmap(jax.grad(loss), (None, 0))(params, batch)`` returns them; its updates do not.
    Where those of a whole batch do not fit into memory, see `gradlab.clipped_grad_sum`.

    Args:
      l2_norm_clip: bound on the norm of one example's gradient over all parameters; a number or a schedule.
      noise_multiplier: deviation of the noise in the sum, in units of ``l2_norm_clip``; a number or a schedule.
      key: a random key or an integer.  Its data is a leaf of the optimizer; ``state.rng_key`` holds the next one.
      seed: Optax's older name for an integer ``key``.

    Raises:
      ValueError: a negative number; both ``key`` and ``seed``, or neither; ``update`` with leaves that do not share
        their first axis.

    >>> tx = differentially_private_aggregate(l2_norm_clip=2.5, noise_multiplier=0.0, key=0)
    >>> updates, _ = tx.update(jnp.array([[3.0, 4.0], [0.0, 1.0]]), tx.init(jnp.zeros(2)))
    >>> updates.tolist()
    [0.75, 1.5]
    """
    check.non_negative(l2_norm_clip=l2_norm_clip, noise_multiplier=noise_multiplier)
    if (key is None) == (seed is None):
        raise ValueError(
            f"differentially_private_aggregate takes either `key` or `seed`, got key={key!r} and seed={seed!r}; "
            "noise that can be guessed protects nobody, so there is no default"
        )
    return transform(
        _differentially_private_aggregate_init,
        _differentially_private_aggregate_update,
        at_init={"key": key_data(seed if key is None else key)},
        l2_norm_clip=l2_norm_clip,
        noise_multiplier=noise_multiplier,
    )


def dpsgd(
    learning_rate: Any,
    l2_norm_clip: Any,
    noise_multiplier: Any,
    seed: Any,
    momentum: Any = None,
    nesterov: bool = False,
) -> Transform:
    """DP-SGD (Abadi et al., arXiv 1607.00133): gradient descent along noisy means of clipped gradients.

    The gradients are those of single examples, as for `differentially_private_aggregate`.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      l2_norm_clip: bound on the norm of one example's gradient over all parameters; a number or a schedule.
      noise_multiplier: deviation of the noise in the sum, in units of ``l2_norm_clip``; a number or a schedule.
      seed: a random key or an integer.
      momentum: decay of the sum of the noisy means, in [0, 1]; ``None`` keeps no sum.
      nesterov: (static) as for `gradlab.sgd`.

    Raises:
      ValueError: a negative number, or a momentum outside of [0, 1].

    >>> tx = dpsgd(0.5, l2_norm_clip=2.5, noise_multiplier=0.0, seed=0)
    >>> params = jnp.zeros(2)
    >>> updates, _ = tx.update(jnp.array([[3.0, 4.0], [0.0, 1.0]]), tx.init(params), params)
    >>> updates.tolist()
    [-0.375, -0.75]
    """
    check.non_negative(learning_rate=learning_rate)
    check.in_range("momentum", momentum, 0.0, 1.0)
    mean = differentially_private_aggregate(l2_norm_clip, noise_multiplier, key=seed)
    velocity = identity() if momentum is None else relabel(trace(momentum, nesterov), decay="momentum")
    return chain(mean, velocity, scale_by_learning_rate(learning_rate))
