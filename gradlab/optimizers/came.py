r"""CAME: Adafactor with momentum, slowed down where the momentum does not agree with the gradients.

With g the gradient and every average zero before the first step; ``factored(x, decay)`` is the average of x kept by its
row and column means, as in `gradlab.optimizers.factored`::

    u = g / sqrt(factored(|g|^2 + eps, b2))
    u = u * min(1, clipping_threshold / rms(u))
    mu = b1 * mu + (1 - b1) * u
    instability = factored(|u - mu|^2 + eps_residual, b3)
    p = p - learning_rate * mu / sqrt(instability)                arXiv 2307.02047, algorithm 2

No average is divided by its weight.  Arrays that do not factor keep one average of |g|^2 for each weight and take the
step ``learning_rate * mu``, as in the authors' program.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.factored import factored_average, factored_dims, factored_zeros_like, over_factored_root
from gradlab.transforms.decay import with_weight_decay

Tree = Any


class CameState(NamedTuple):
    """The averages of CAME; where a leaf does not use one it holds zeros of shape (1,)."""

    mu: Tree  # like params
    v_row: Tree  # each leaf without its largest axis
    v_col: Tree  # each leaf without its second largest axis
    v: Tree  # like params, where they do not factor
    residual_row: Tree  # as v_row
    residual_col: Tree  # as v_col


def _scale_by_came_init(params, *, min_dim_size_to_factor):
    v_row, v_col, v = factored_zeros_like(params, min_dim_size_to_factor)
    residual_row, residual_col, _ = factored_zeros_like(params, min_dim_size_to_factor)
    return CameState(zeros_like(params), v_row, v_col, v, residual_row, residual_col)


def _bounded(u, clipping_threshold):
    rms = norm(u) / jnp.sqrt(max(u.size, 1))
    beyond = rms > clipping_threshold
    return u * jnp.where(beyond, clipping_threshold / jnp.where(beyond, rms, 1), 1)


def _came_rule(
    g,
    mu,
    v_row,
    v_col,
    v,
    res_row,
    res_col,
    *,
    b1,
    b2,
    b3,
    eps,
    eps_residual,
    clipping_threshold,
    min_dim_size_to_factor,
):
    v_row, v_col, v, res_row, res_col = (jnp.real(slot) for slot in (v_row, v_col, v, res_row, res_col))
    square = abs_sq(g) + eps
    dims = factored_dims(g.shape, min_dim_size_to_factor)
    if dims is None:
        v = b2 * v + (1 - b2) * square
        mu = b1 * mu + (1 - b1) * _bounded(g / jnp.sqrt(v), clipping_threshold)
        return mu, mu, v_row, v_col, v, res_row, res_col
    v_row, v_col = factored_average(square, v_row, v_col, decay=b2, dims=dims)
    u = _bounded(over_factored_root(g, v_row, v_col, dims=dims), clipping_threshold)
    mu = b1 * mu + (1 - b1) * u
    residual = abs_sq(u - mu) + eps_residual
    res_row, res_col = factored_average(residual, res_row, res_col, decay=b3, dims=dims)
    return over_factored_root(mu, res_row, res_col, dims=dims), mu, v_row, v_col, v, res_row, res_col


def _scale_by_came_update(
    grads, state, params=None, *, b1, b2, b3, eps, eps_residual, clipping_threshold, min_dim_size_to_factor, **extra
):
    del params, extra
    updates, *slots = leafwise(
        _came_rule,
        grads,
        list(state),
        structure={"min_dim_size_to_factor": min_dim_size_to_factor},
        own_shapes=True,
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_residual=eps_residual,
        clipping_threshold=clipping_threshold,
    )
    return updates, CameState(*slots)


def scale_by_came(
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    eps: Any = 1e-30,
    eps_residual: Any = 1e-16,
    clipping_threshold: Any = 1.0,
    min_dim_size_to_factor: int = 1,
) -> Transform:
    """The direction of CAME, ``mu / sqrt(instability)``; see `came`.

    >>> tx = scale_by_came(b1=0.5, b3=0.75)
    >>> updates, _ = tx.update(jnp.full((2, 3), 7.0), tx.init(jnp.zeros((2, 3))))
    >>> [[round(u, 4) for u in row] for row in updates.tolist()]  # mu = 0.5, instability = 0.25 * 0.5^2
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    check.decay_rate(b1=b1, b2=b2, b3=b3)
    check.non_negative(eps=eps, eps_residual=eps_residual, clipping_threshold=clipping_threshold)
    least = static(min_dim_size_to_factor)
    return transform(
        _scale_by_came_init,
        _scale_by_came_update,
        at_init={"min_dim_size_to_factor": least},
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_residual=eps_residual,
        clipping_threshold=clipping_threshold,
        min_dim_size_to_factor=least,
    )


@storable
def came(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    eps: Any = 1e-30,
    eps_residual: Any = 1e-16,
    clipping_threshold: Any = 1.0,
    min_dim_size_to_factor: int = 1,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    decay: str = "decoupled",
) -> Transform:
    """CAME (Luo et al. 2023, arXiv 2307.02047): Adafactor guided by how far its steps stray from their average.

    The recurrence heads this module.  A matrix ``(m, n)`` costs ``m n + 2 (m + n)`` numbers of state, where Adam's
    costs ``2 m n``.  The first steps are ``(1 - b1) / b1 / sqrt(1 - b3)`` times the learning rate, 11 at the defaults:
    warm up.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of directions, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      b3: decay of the average of squared deviations, in [0, 1).
      eps: added to the squared gradients.
      eps_residual: added to the squared deviations.
      clipping_threshold: bound on the root mean square of a leaf's direction.
      min_dim_size_to_factor: (static) arrays without two axes of this length do not factor.
      weight_decay, mask, decay: as for `gradlab.adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``decay``.

    >>> tx = came(0.01)
    >>> params = jnp.ones((2, 3))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(updates[0, 0]), 4)
    -0.1111
    """
    direction = scale_by_came(b1, b2, b3, eps, eps_residual, clipping_threshold, min_dim_size_to_factor)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
