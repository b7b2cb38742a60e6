"""Scalar formulas that several rules share."""

import jax
import jax.numpy as jnp


def abs_sq(x: jax.Array) -> jax.Array:
    """``|x|^2``, real also for complex ``x`` and without the root of ``abs``.

    >>> float(abs_sq(jnp.array(3 + 4j)))
    25.0
    """
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The root, with gradient zero at zero.

    >>> jax.grad(safe_sqrt)(0.0).item(), jax.grad(safe_sqrt)(4.0).item()
    (0.0, 0.25)
    """
    positive = x != 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


@jax.jit
def debias(decay: jax.Array, count: jax.Array) -> jax.Array:
    """``1 - decay**count``: the total weight of an average of ``count`` terms that started at zero.

    Near one the power would cancel: at decay 0.9999 and count 2, float32 loses 3e-4 of the result.

    >>> round(float(debias(0.9, 2)), 6)
    0.19
    """
    near_one = jnp.maximum(decay, 0.5)  # the logarithm has no derivative at zero
    return jnp.where(decay > 0.5, -jnp.expm1(count * jnp.log1p(near_one - 1)), 1 - decay**count)


def quotient_or_zero(numerator: jax.Array, divisor: jax.Array) -> jax.Array:
    """``numerator / divisor``, and 0 with derivatives of 0 where the divisor is zero.

    >>> float(quotient_or_zero(3.0, jnp.array(2.0))), float(quotient_or_zero(3.0, jnp.array(0.0)))
    (1.5, 0.0)
    """
    divides = divisor != 0
    return jnp.where(divides, numerator / jnp.where(divides, divisor, 1), 0)
