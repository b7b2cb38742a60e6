r"""Fira: GaLore, with what the subspace misses of the gradient added at the lengths that Adam has inside it.

With G the gradient of a matrix (m, n), m <= n, or of its transpose, P its r leading left singular vectors, computed
every ``update_proj_gap`` steps, mu = nu = 0 before the first step and count = 1, 2, ...::

    R = P^H G                                                    (r, n)
    mu = b1 * mu + (1 - b1) * R
    nu = b2 * nu + (1 - b2) * |R|^2
    d = mu / (sqrt(nu) + eps)
    s = |d_j| / |R_j| for each of the n columns
    e = (G - scale * P R) * s,  times min(1, max_growth * (|e| of the step before) / |e|)
    p = p - learning_rate * (w * (scale * P d + e) + weight_decay * p)    arXiv 2410.01623

    w = sqrt(1 - b2^count) / (1 - b1^count)

The averages are kept when P changes.  The new vectors take the signs in which they point along the old, so that runs
do not depend on those that a decomposition happens to give.  Where the subspace misses nothing but rounding, e is zero,
and its length is not limited at the next step; the authors' code would hold it near zero for thousands.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.decompositions import svd
from gradlab.core.kronecker import precise
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.low_rank import (
    adam_weight,
    check_projection,
    growth_limited,
    projected_zeros,
    uncorrected_adam,
)
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params


class ScaleByFiraState(NamedTuple):
    """State of `scale_by_fira`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    projector: dict[str, jax.Array]  # (k, m, r)
    mu: dict[str, jax.Array]  # (k, r, n)
    nu: dict[str, jax.Array]  # (k, r, n), real
    length: dict[str, jax.Array]  # (k,), of the last e


def _scale_by_fira_init(params, *, rank, layout, strategy):
    count = jnp.zeros([], jnp.int32)
    if stands_for_params(params):
        return ScaleByFiraState(count, *[params] * 4)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    mu, nu, length = projected_zeros(stacks, rank)
    projector = {name: x[:, :, : mu[name].shape[1]] for name, x in stacks.items()}
    return ScaleByFiraState(count, projector, mu, nu, length)


def _leading_vectors_rule(projector, g):
    g = jax.lax.stop_gradient(g)
    is_finite = jnp.all(jnp.isfinite(g))  # LAPACK's decomposition of an infinite matrix does not end; it shows in R
    vectors = svd(jnp.where(is_finite, g, 0))[0][:, : projector.shape[1]]
    along = jnp.sum(vectors.conj() * projector, axis=0)
    return (jnp.where(along == 0, 1, along / jnp.where(along == 0, 1, jnp.abs(along))) * vectors,)


def _fira_rule(g, mu, nu, length, projector, *, b1, b2, eps, count, scale, max_growth):
    with precise():
        projected = projector.mT.conj() @ g
        d, mu, nu = uncorrected_adam(projected, mu, nu, b1=b1, b2=b2, eps=eps)
        inside, missed = scale * (projector @ d), g - scale * (projector @ projected)
    missed = jnp.where(norm(missed) <= max(g.shape) * jnp.finfo(nu.dtype).eps * norm(g), 0, missed)
    size = lambda x: norm(x, axis=0, keepdims=True)
    outside, length = growth_limited(missed * safe_quotient(size(d), size(projected)), length, max_growth)
    return adam_weight(b1, b2, count) * (inside + outside), mu, nu, length


def _scale_by_fira_update(
    grads,
    state,
    params=None,
    *,
    b1,
    b2,
    eps,
    scale,
    max_growth,
    update_proj_gap,
    layout,
    strategy,
    step=None,
    **extra,
):
    del params, extra
    strategy = strategy_here(strategy)
    count = optax.safe_increment(state.count)
    groups = Groups(grads, layout, strategy=strategy)
    g = groups.stack(grads)
    is_due = (state.count if step is None else step) % update_proj_gap == 0
    refresh = lambda: ((), on_stacks(_leading_vectors_rule, state.projector, [], [g], strategy=strategy)[0])
    _, projector = update_if(jnp.asarray(is_due), refresh, state.projector)
    numbers = {"b1": b1, "b2": b2, "eps": eps, "count": count, "scale": scale, "max_growth": max_growth}
    slots = [state.mu, state.nu, state.length]
    u, *moments = on_stacks(_fira_rule, g, slots, [projector], strategy=strategy, **numbers)
    return groups.unstack(u), ScaleByFiraState(count, projector, *moments)


def scale_by_fira(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    *,
    max_growth: Any = 1.01,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `fira`; all parameters must be matrices.

    >>> tx, grads = scale_by_fira(rank=1, eps=0.0), jnp.array([[3.0, 0.0], [1.0, 4.0], [0.0, 0.0]])
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> round(float(jnp.linalg.norm(updates[2])), 4), bool(jnp.all(updates[:2].any(axis=1)))
    (0.0, True)
    """
    check_projection(rank, update_proj_gap, scale, b1, b2, eps, max_growth)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_fira_init,
        _scale_by_fira_update,
        at_init={"rank": static(rank), **fixed},
        b1=b1,
        b2=b2,
        eps=eps,
        scale=scale,
        max_growth=max_growth,
        update_proj_gap=static(update_proj_gap),
        **fixed,
    )


@storable
def fira(
    learning_rate: Any,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    max_growth: Any = 1.01,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-6,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """Fira (Chen et al. 2024, arXiv 2410.01623) for matrices, AdamW for everything else.

    The recurrence heads this module.  A matrix (m, n), m <= n, costs ``m r + 2 r n`` numbers and one: unlike `galore`,
    which follows Optax, it keeps the longer side, as the authors' code does, which also decays the new parameters where
    this decays the old.  In derivatives through an update P counts as a constant.

    Args:
      learning_rate: a number or a schedule; about 0.01.
      rank: (static) of the subspace; the shorter side of a matrix if that is less.
      update_proj_gap: (static) steps between decompositions.  They branch on ``step`` if ``update`` is given one, so
        that the lanes of a sweep decompose together, else on the state's own count.
      scale: factor of what is projected back, the authors' alpha, whose code takes it for R in e too.
      b1: decay of the average of projected gradients, in [0, 1).
      b2: decay of the average of their squares, in [0, 1).
      eps: added to its root before the bias correction.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      max_growth: of the length of e from one step to the next; at least 1.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, a layout that does not fit, with the path.
      TypeError: ``rank`` or ``update_proj_gap`` is no int.

    >>> params = {'kernel': jnp.ones((64, 32), 'float32'), 'bias': jnp.zeros(32)}
    >>> state = fira(1e-3, rank=4).init(params).inner_states['muon'].inner_state[0]
    >>> state.projector['32x64_float32'].shape, state.mu['32x64_float32'].shape
    ((1, 32, 4), (1, 4, 64))
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_fira(
        rank,
        update_proj_gap,
        scale,
        b1,
        b2,
        eps,
        max_growth=max_growth,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    decay = add_decayed_weights(weight_decay, weight_decay_mask)
    return beside_adamw(
        chain(direction, decay, scale_by_learning_rate(learning_rate)),
        layout,
        learning_rate=learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=None,
        nesterov=False,
    )
