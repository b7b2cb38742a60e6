r"""Stages that measure: updates against parameters, against themselves, against their mean.

With g the update of a leaf, p its parameter, ``|.|`` the Euclidean norm and every norm of a leaf taken alone::

    u = trust_coefficient * |p| / (|g| + eps) * g                 scale_by_trust_ratio, arXiv 1708.03888
    u = max(|p|, min_scale) * g                                   scale_by_param_block_norm
    u = max(rms(p), min_scale) * g                                scale_by_param_block_rms
    u = g - mean(g)                                               centralize, arXiv 2004.01461

    u = scale_factor / (|all g| + eps) * g                        normalize_by_update_norm
    u = g / |all g|                                               normalize

Norms are taken in at least float32 and have a derivative at zero, which is zero.  Updates that are all zero stay zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm, norm
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform

AXES = ("all_but_first", "all_but_last")


def trust_ratio(p_norm: jax.Array, denominator: jax.Array) -> jax.Array:
    """``p_norm / denominator``, and one where either is zero: what would never move moves as it is."""
    moves = (p_norm != 0) & (denominator != 0)
    return jnp.where(moves, p_norm / jnp.where(moves, denominator, 1), 1)


def _trust_ratio_rule(g, p, *, min_norm=0.0, trust_coefficient=1.0, eps=0.0):
    p_norm, g_norm = jnp.maximum(norm(p), min_norm), jnp.maximum(norm(g), min_norm)
    moves = (p_norm != 0) & (g_norm != 0)
    ratio = trust_coefficient * p_norm / (jnp.where(moves, g_norm, 1) + eps)
    return (jnp.where(moves, ratio, 1) * g,)


def _scale_by_trust_ratio_update(grads, state, params=None, *, min_norm, trust_coefficient, eps, **extra):
    del extra
    params = check.required_params("scale_by_trust_ratio", params)
    hyper = {"min_norm": min_norm, "trust_coefficient": trust_coefficient, "eps": eps}
    given = {name: value for name, value in hyper.items() if value is not None}
    (updates,) = leafwise(_trust_ratio_rule, grads, params=params, **given)
    return updates, state
