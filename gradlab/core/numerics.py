"""Scalar formulas that several rules share."""

import jax
import jax.numpy as jnp


def abs_sq(x: jax.Array) -> jax.Array:
    """``|x|^2``, real also for complex ``x`` and without the root of ``abs``.

    >>> float(abs_sq(jnp.array(3 + 4j)))
    25.0
    """
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


@jax.custom_jvp
def safe_sqrt(x: jax.Array) -> jax.Array:
    """The root, with derivative zero at zero: a second moment that was always zero answers to no hyperparameter.

    >>> jax.grad(safe_sqrt)(0.0).item(), jax.grad(safe_sqrt)(4.0).item()
    (0.0, 0.25)
    """
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    root = safe_sqrt(x)
    positive = root != 0
    return root, x_dot * jnp.where(positive, 0.5 / jnp.where(positive, root, 1), 0)


def safe_quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """``numerator / denominator``, zero with derivative zero where the denominator is.

    >>> float(safe_quotient(3.0, 2.0)), float(safe_quotient(0.0, 0.0)), float(jax.grad(safe_quotient, 1)(1.0, 0.0))
    (1.5, 0.0, 0.0)
    """
    divisible = denominator != 0
    return jnp.where(divisible, numerator / jnp.where(divisible, denominator, 1), 0)


def finite_or_nan(x: jax.Array) -> jax.Array:
    """``x``, or NaN throughout if an entry is not finite: LAPACK's SVD of a matrix with an infinite entry does not end.

    >>> finite_or_nan(jnp.array([1.0, jnp.inf])).tolist()
    [nan, nan]
    """
    return jnp.where(jnp.all(jnp.isfinite(x)), x, jnp.nan)


@jax.jit
def debias(decay: jax.Array, count: jax.Array) -> jax.Array:
    """``1 - decay**count``: the total weight of an average of ``count`` terms that started at zero.

    Near one the power would cancel: at decay 0.9999 and count 2, float32 loses 3e-4 of the result.

    >>> round(float(debias(0.9, 2)), 6)
    0.19
    """
    near_one = jnp.maximum(decay, 0.5)  # the logarithm has no derivative at zero
    return jnp.where(decay > 0.5, -jnp.expm1(count * jnp.log1p(near_one - 1)), 1 - decay**count)
