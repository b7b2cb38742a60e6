r"""APOLLO: gradient descent whose lengths, channel by channel, are those of Adam in a random subspace.

With G the gradient of a matrix (m, n), m <= n, or of its transpose, P normal (r, m) of variance 1 / r, drawn anew every
``update_proj_gap`` steps and never stored, mu = nu = 0 before the first step and count = 1, 2, ...::

    R = P G                                                      (r, n)
    mu = b1 * mu + (1 - b1) * R
    nu = b2 * nu + (1 - b2) * |R|^2
    d = mu / (sqrt(nu) + eps)
    s = |d_j| / |R_j| for each of the n columns, the channels;   APOLLO-Mini: |d| / |R|, one number
    u = G * s,  times min(1, max_growth * (|u| of the step before) / |u|)
    p = p - learning_rate * (w * sqrt(scale) * u + weight_decay * p)      arXiv 2412.05270

    w = sqrt(1 - b2^count) / (1 - b1^count)

The averages are kept when P changes.  The length of u is not limited at first, nor after a step of length zero, where
the authors' limiter would hold it near zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.kronecker import precise
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, require_same_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.low_rank import (
    adam_weight,
    check_projection,
    growth_limited,
    normal_stacks,
    projected_zeros,
    uncorrected_adam,
)
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.noise import key_data
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

GRANULARITIES = ("channel", "tensor")


class ScaleByApolloState(NamedTuple):
    """State of `scale_by_apollo`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    rng_key: jax.Array  # P is drawn from this key and the period
    mu: dict[str, jax.Array]  # (k, r, n)
    nu: dict[str, jax.Array]  # (k, r, n), real
    length: dict[str, jax.Array]  # (k,), of the last u


def _scale_by_apollo_init(params, *, key, rank, layout, strategy):
    count, rng_key = jnp.zeros([], jnp.int32), jnp.array(key_data(key))
    if stands_for_params(params):
        return ScaleByApolloState(count, rng_key, params, params, params)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    return ScaleByApolloState(count, rng_key, *projected_zeros(stacks, rank))


def _apollo_rule(g, mu, nu, length, projection, *, b1, b2, eps, count, scale, max_growth, granularity):
    with precise():
        projected = projection @ g
    d, mu, nu = uncorrected_adam(projected, mu, nu, b1=b1, b2=b2, eps=eps)
    size = lambda x: norm(x, axis=0 if granularity == "channel" else None, keepdims=True)
    u, length = growth_limited(g * safe_quotient(size(d), size(projected)), length, max_growth)
    return adam_weight(b1, b2, count) * jnp.sqrt(scale) * u, mu, nu, length


def _scale_by_apollo_update(
    grads,
    state,
    params=None,
    *,
    b1,
    b2,
    eps,
    scale,
    max_growth,
    granularity,
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
    require_same_stacks(g, state.nu)
    u, *moments = on_stacks(
        _apollo_rule,
        g,
        [state.mu, state.nu, state.length],
        [_projections(state, groups, grads, g, (state.count if step is None else step) // update_proj_gap)],
        structure={"granularity": granularity},
        strategy=strategy,
        **{"b1": b1, "b2": b2, "eps": eps, "count": count, "scale": scale, "max_growth": max_growth},
    )
    return groups.unstack(u), ScaleByApolloState(count, state.rng_key, *moments)


def _projections(state, groups, grads, stacks, period):
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng_key), period)
    shapes = {name: (nu.shape[1], stacks[name].shape[1]) for name, nu in state.nu.items()}
    like = {name: jax.ShapeDtypeStruct(shape, state.nu[name].dtype) for name, shape in shapes.items()}
    drawn = normal_stacks(key, groups, grads, like)
    return {name: p / p.shape[1] ** 0.5 for name, p in drawn.items()}


def scale_by_apollo(
    rank: int = 256,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    *,
    max_growth: Any = 1.01,
    granularity: str = "channel",
    key: Any = 0,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `apollo`, or with ``granularity='tensor'`` of `apollo_mini`; all parameters must be matrices.

    >>> tx, grads = scale_by_apollo(rank=1, eps=0.0), jnp.array([[3.0, 4.0, 0.5]])
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> round(float(jnp.ptp(updates)), 4)  # Adam's first step forgets the lengths of the channels
    0.0
    """
    check_projection(rank, update_proj_gap, scale, b1, b2, eps, max_growth)
    check.one_of("granularity", granularity, GRANULARITIES)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    seed = static(key) if isinstance(key, int) else key_data(key)
    return transform(
        _scale_by_apollo_init,
        _scale_by_apollo_update,
        at_init={"key": seed, "rank": static(rank), **fixed},
        b1=b1,
        b2=b2,
        eps=eps,
        scale=scale,
        max_growth=max_growth,
        granularity=static(granularity),
        update_proj_gap=static(update_proj_gap),
        **fixed,
    )


@storable
def apollo(
    learning_rate: Any,
    rank: int = 256,
    update_proj_gap: int = 200,
    scale: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    max_growth: Any = 1.01,
    granularity: str = "channel",
    key: Any = 0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-6,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """APOLLO (Zhu et al. 2024, arXiv 2412.05270) for matrices, AdamW for everything else.

    The recurrence heads this module.  A matrix (m, n), m <= n, costs ``2 r n`` numbers and one.  The authors' code
    decays the new parameters where this decays the old.

    Args:
      learning_rate: a number or a schedule; about 0.01.
      rank: (static) of the subspace; the shorter side of a matrix if that is less.
      update_proj_gap: (static) steps between two P.  It counts ``step`` if ``update`` is given one, so that the lanes
        of a sweep draw together, else the state's own count.
      scale: the square of a factor of the steps.
      b1: decay of the average of projected gradients, in [0, 1).
      b2: decay of the average of their squares, in [0, 1).
      eps: added to its root before the bias correction.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      max_growth: of a matrix's step, before ``w * sqrt(scale)``, from one step to the next; at least 1.
      granularity: (static) ``'channel'`` or ``'tensor'``: what has a length of its own.
      key: of the P: an integer (static), or a random key, whose data is a leaf of the optimizer.  What a matrix draws
        depends on its place among the matrices, not on ``strategy``.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.
      TypeError: ``rank`` or ``update_proj_gap`` is no int.

    >>> params = {'kernel': jnp.ones((64, 32), 'float32'), 'bias': jnp.zeros(32)}
    >>> apollo(1e-3, rank=4).init(params).inner_states['muon'].inner_state[0].mu['32x64_float32'].shape
    (1, 4, 64)
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_apollo(
        rank,
        update_proj_gap,
        scale,
        b1,
        b2,
        eps,
        max_growth=max_growth,
        granularity=granularity,
        key=key,
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


@storable
def apollo_mini(
    learning_rate: Any,
    update_proj_gap: int = 200,
    scale: Any = 128.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    max_growth: Any = 1.01,
    key: Any = 0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-6,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """APOLLO-Mini: `apollo` of rank one with one length for a whole matrix, at the memory of gradient descent.

    Args are those of `apollo`.

    >>> params = jnp.ones((64, 32))
    >>> state = apollo_mini(1e-3, weight_dimension_numbers=MuonDimensionNumbers()).init(params)
    >>> sum(leaf.size for leaf in jax.tree.leaves(state.inner_states['muon'].inner_state[0]))
    132
    """
    return apollo(
        learning_rate,
        1,
        update_proj_gap,
        scale,
        b1,
        b2,
        eps,
        weight_decay,
        weight_decay_mask,
        max_growth=max_growth,
        granularity="tensor",
        key=key,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps=adam_eps,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        adam_learning_rate=adam_learning_rate,
        weight_dimension_numbers=weight_dimension_numbers,
        strategy=strategy,
    )
