r"""Gaussian noise on the updates, fading out.

With count = 0, 1, 2, ... and xi normal with mean 0 and variance 1::

    u = g + sqrt(eta / (1 + count)^gamma) * xi                       arXiv 1511.06807
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.transform import Transform, transform


def add_noise(eta: Any, gamma: Any, key: Any = None, *, seed: int | None = None) -> Transform:
    """Adds Gaussian noise of variance ``eta / (1 + count)^gamma`` to the updates (arXiv 1511.06807).

    Args:
      eta: variance at the first step; the paper tries 0.01, 0.3 and 1.
      gamma: exponent at which the variance decays; the paper uses 0.55.
      key: a random key or an integer; 0 if None.  Its data is a leaf of the optimizer, and ``state.rng_key`` holds
        the key of the next step: lanes with keys of their own draw noise of their own.
      seed: Optax's older name for an integer ``key``.

    Raises:
      ValueError: a negative ``eta`` or ``gamma``; both ``key`` and ``seed``.

    >>> tx = add_noise(eta=0.25, gamma=0.55, key=0)
    >>> updates, state = tx.update(jnp.zeros(10_000), tx.init(jnp.zeros(10_000)))
    >>> round(float(jnp.std(updates)), 1)
    0.5
    """
    check.non_negative(eta=eta, gamma=gamma)
    if key is not None and seed is not None:
        raise ValueError(f"add_noise takes `key` or `seed`, not both: got key={key!r} and seed={seed!r}; drop `seed`")
    key = next((choice for choice in (key, seed) if choice is not None), 0)
    return transform(_add_noise_init, _add_noise_update, at_init={"key": key_data(key)}, eta=eta, gamma=gamma)


def key_data(key: Any) -> jax.Array:
    """The integers of a key: unlike typed keys, these can be written to any file."""
    if jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        return jax.random.key_data(key)
    if jnp.ndim(key) > 0:
        return jnp.asarray(key, jnp.uint32)
    return jax.random.PRNGKey(jnp.asarray(key, int) if isinstance(key, jax.Array) else key)


def _add_noise_init(params, *, key):
    del params
    return optax.AddNoiseState(count=jnp.zeros([], jnp.int32), rng_key=jnp.array(key))


def _normal(key, shape, dtype):
    """Normal numbers; of float where ``dtype`` has none, which `leafwise` then refuses by path."""
    return jax.random.normal(key, shape, dtype if jnp.issubdtype(dtype, jnp.inexact) else float)


def _noise_rule(g, noise, *, deviation):
    return (g + deviation * noise,)


def _add_noise_update(grads, state, params=None, *, eta, gamma, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    rng_key, sample_key = jax.random.split(state.rng_key)
    noise = optax.tree.random_like(sample_key, grads, _normal)
    deviation = jnp.sqrt(eta) * count.astype(float) ** (-gamma / 2)
    (updates,) = leafwise(_noise_rule, grads, params=noise, deviation=deviation)
    return updates, optax.AddNoiseState(count=count, rng_key=rng_key)
