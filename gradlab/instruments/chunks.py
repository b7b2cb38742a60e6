"""A function of many items, some of them at a time."""

from collections.abc import Callable
from typing import Any

import jax


def mapped(function: Callable, items: Any, at_once: int) -> Any:
    """`jax.lax.map` of ``at_once`` items together.

    One at a time is a plain loop: under a vmap of width one XLA:CPU copies what loops carry, and multiplies slowly.

    >>> [mapped(lambda x: 2 * x, jax.numpy.arange(3), at_once).tolist() for at_once in (1, 2)]
    [[0, 2, 4], [0, 2, 4]]
    """
    return jax.lax.map(function, items, batch_size=at_once if at_once > 1 else None)
