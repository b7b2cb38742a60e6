r"""Estimates of the diagonal of the Hessian, as transforms: what they make of the updates is the estimate.

With H the Hessian of the loss at the parameters, z a tree of random signs and g_s the gradient of the mean loss of the
batch on labels drawn from the model::

    h = z * (H @ z)                 hutchinson_estimator_diag_hessian: unbiased, since E[z z^T] = I
    h = batch_size * g_s^2          gauss_newton_bartlett, arXiv 2305.14342: unbiased for the Gauss-Newton part of H
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.curvature import hvp, required_value_fn
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import is_none
from gradlab.transforms.noise import key_data


def _estimator_init(params, *, random_seed):
    del params
    return optax.contrib.HutchinsonState(key=jax.random.PRNGKey(0) if random_seed is None else jnp.array(random_seed))


def _like_grads(grads, tree):
    """``tree`` with ``None`` where there is no gradient."""
    return jax.tree.map(lambda g, leaf: None if g is None else leaf, grads, tree, is_leaf=is_none)


def _product_rule(z, product):
    return (z * product,)


def _hutchinson_update(grads, state, params=None, *, obj_fn=None, value_fn=None, **extra):
    del extra
    params = check.required_params("hutchinson_estimator_diag_hessian", params)
    loss = required_value_fn("hutchinson_estimator_diag_hessian", value_fn if obj_fn is None else obj_fn)
    key, sample_key = jax.random.split(state.key)
    signs = optax.tree.random_like(sample_key, params, jax.random.rademacher, dtype=jnp.float32)
    signs = _like_grads(grads, jax.tree.map(lambda z, p: z.astype(p.dtype), signs, params))
    (h,) = leafwise(_product_rule, signs, params=hvp(loss, params, signs))
    return h, optax.contrib.HutchinsonState(key=key)


def _square_rule(g, *, batch_size):
    return (batch_size * abs_sq(g),)


def _gauss_newton_bartlett_update(grads, state, params=None, *, batch_size, sampled_loss_fn=None, **extra):
    del extra
    params = check.required_params("gauss_newton_bartlett", params)
    if sampled_loss_fn is None:
        raise ValueError(
            "gauss_newton_bartlett needs the loss on labels drawn from the model: call "
            "tx.update(grads, state, params, sampled_loss_fn=f) with f(params, key), the mean loss of the batch"
        )
    key, sample_key = jax.random.split(state.key)
    sampled = _like_grads(grads, jax.grad(sampled_loss_fn)(params, sample_key))
    (h,) = leafwise(_square_rule, sampled, batch_size=batch_size)
    return h, optax.contrib.HutchinsonState(key=key)


def hutchinson_estimator_diag_hessian(random_seed: Any = None) -> Transform:
    """Replaces the updates by Hutchinson's estimate of the Hessian's diagonal, unbiased: ``z * (H @ z)``.

    Its ``update`` takes the loss as ``obj_fn`` or, failing that, ``value_fn``: a function of the parameters alone.

    Args:
      random_seed: a random key or an integer, from which the signs z are drawn; 0 if None.

    Raises:
      ValueError: ``update`` without ``params`` or a loss.

    >>> tx, params = hutchinson_estimator_diag_hessian(), jnp.array([1.0, 2.0])
    >>> loss = lambda p: p[0] ** 2 + p[1] ** 3
    >>> tx.update(params, tx.init(params), params, value_fn=loss)[0].tolist()
    [2.0, 12.0]
    """
    return transform(_estimator_init, _hutchinson_update, at_init={"random_seed": _seed(random_seed)})


def gauss_newton_bartlett(random_seed: Any = None, batch_size: Any = 1.0) -> Transform:
    """Replaces the updates by an estimate of the Gauss-Newton diagonal, never negative: ``batch_size * g_s^2``.

    Its ``update`` takes ``sampled_loss_fn(params, key)``, the mean loss of the batch on labels drawn from the model's
    own predictions; the drawn labels are constants of the derivative::

        def sampled_loss_fn(params, key):
            logits = model(params, inputs)
            labels = jax.random.categorical(key, jax.lax.stop_gradient(logits))
            return cross_entropy(logits, labels).mean()

    Args:
      random_seed: a random key or an integer, from which the keys of the labels are drawn; 0 if None.
      batch_size: the number of examples in the mean.

    Raises:
      ValueError: a negative ``batch_size``; ``update`` without ``params`` or ``sampled_loss_fn``.

    >>> tx, params = gauss_newton_bartlett(batch_size=4.0), jnp.array([3.0])
    >>> sampled = lambda p, key: 0.5 * jnp.sum(p**2)
    >>> tx.update(params, tx.init(params), params, sampled_loss_fn=sampled)[0].tolist()
    [36.0]
    """
    check.non_negative(batch_size=batch_size)
    at_init = {"random_seed": _seed(random_seed)}
    return transform(_estimator_init, _gauss_newton_bartlett_update, at_init=at_init, batch_size=batch_size)


def _seed(random_seed: Any) -> Any:
    return None if random_seed is None else key_data(random_seed)
