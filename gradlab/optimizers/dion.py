r"""Dion: the step of Muon in a subspace of rank r that follows the momentum, with what it misses kept for later.

With G the gradient of a matrix whose rows are outputs and whose columns are inputs, M = 0 and Q (in, r) normal before
the first step::

    M = M + G
    P = the orthonormal factor of qr(M Q)                                 (out, r)
    R = M^H P                                                             (in, r)
    M = M - (1 - beta) * P R^H                                            only what the step has seen decays
    Q = R / (|R_j| + eps), column by column
    p = p - learning_rate * (sqrt(out / in) * P Q^H + weight_decay * p)   arXiv 2504.05295

A column of R at the level of rounding is taken for zero, where the authors' code brings noise to length one: this
matters where M has a lower rank than r.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.decompositions import qr
from gradlab.core.kronecker import precise
from gradlab.core.layouts import matrices_in, spread_layout
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.low_rank import normal_stacks
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.muon import scale_by_shape
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.noise import key_data
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

Tree = Any
SIDES = ("tall", "wide")  # (in, out) with in > out, and the others


class ScaleByDionState(NamedTuple):
    """State of `scale_by_dion`: for ``'tall'`` and ``'wide'``, by group, for its k matrices (m, n), m <= n."""

    count: jax.Array  # () int32
    mu: dict[str, dict[str, jax.Array]]  # (k, m, n), sums of gradients
    basis: dict[str, dict[str, jax.Array]]  # (k, in, r): Q


def _by_side(tree: Tree, layout: Any, strategy: str) -> dict[str, tuple[Tree, Groups]]:
    """For each side its leaves, with None for the others, and their groups."""
    layouts = spread_layout(layout, tree)
    matrices = matrices_in(tree, layouts)
    parts = {
        side: jax.tree.map(lambda x, of, tall=side == "tall": x if of.is_tall == tall else None, tree, matrices)
        for side in SIDES
    }
    return {side: (part, Groups(part, layouts, strategy=strategy)) for side, part in parts.items()}


def rank_of(shape: tuple[int, ...], rank: int | None, rank_fraction: float | None) -> int:
    """The rank for a matrix: as given, or a part of its shorter side, which is also the most and 1 the least.

    >>> rank_of((8, 20), None, 0.25), rank_of((8, 20), 9, None), rank_of((8, 20), None, None)
    (2, 8, 8)
    """
    shorter = min(shape)
    if rank is not None:
        return min(rank, shorter)
    return shorter if rank_fraction is None else min(max(round(rank_fraction * shorter), 1), shorter)


def _scale_by_dion_init(params, *, key, rank, rank_fraction, layout, strategy):
    count = jnp.zeros([], jnp.int32)
    if stands_for_params(params):
        return ScaleByDionState(count, params, params)
    key = jax.random.wrap_key_data(key_data(key))
    mu, basis = {}, {}
    for side, (part, groups) in _by_side(params, layout, strategy_here(strategy)).items():
        mu[side] = groups.zeros()
        inputs = -1 if side == "tall" else -2
        shapes = {name: (m.shape[inputs], rank_of(m.shape[-2:], rank, rank_fraction)) for name, m in mu[side].items()}
        like = {name: jax.ShapeDtypeStruct(shape, real_dtype(mu[side][name])) for name, shape in shapes.items()}
        drawn = normal_stacks(jax.random.fold_in(key, SIDES.index(side)), groups, part, like)
        basis[side] = {name: q.astype(mu[side][name].dtype) for name, q in drawn.items()}
    return ScaleByDionState(count, mu, basis)


def _dion_rule(g, mu, basis, *, beta, eps, side):
    turned = (lambda x: x) if side == "tall" else (lambda x: x.mT)  # a wide matrix (m, n) has its inputs in the rows
    m = turned(mu + g)
    with precise():
        p = qr(m @ basis)[0]
        r = m.mT.conj() @ p
        m = m - (1 - beta) * (p @ r.mT.conj())
        lengths = norm(r, axis=0, keepdims=True)
        noise = max(m.shape) * jnp.finfo(lengths.dtype).eps * jnp.max(lengths)
        basis = jnp.where(lengths <= noise, 0, r / (lengths + eps))
        u = p @ basis.mT.conj()
    return turned(u), turned(m), basis


def _scale_by_dion_update(grads, state, params=None, *, beta, eps, layout, strategy, **extra):
    del params, extra
    strategy = strategy_here(strategy)
    updates, mu, basis = grads, {}, {}
    for side, (part, groups) in _by_side(grads, layout, strategy).items():
        run = functools.partial(on_stacks, structure={"side": side}, strategy=strategy, beta=beta, eps=eps)
        u, mu[side], basis[side] = run(_dion_rule, groups.stack(part), [state.mu[side], state.basis[side]])
        updates = jax.tree.map(lambda old, new: old if new is None else new, updates, groups.unstack(u))
    return updates, ScaleByDionState(optax.safe_increment(state.count), mu, basis)


def scale_by_dion(
    beta: Any = 0.95,
    eps: Any = 1e-8,
    *,
    rank: int | None = None,
    rank_fraction: float | None = None,
    key: Any = 0,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction P Q^H of `dion`; all parameters must be matrices.

    >>> tx, grads = scale_by_dion(rank=1), jnp.outer(jnp.array([3.0, -4.0]), jnp.array([5.0, 12.0]))
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> round(float(jnp.linalg.norm(updates)), 4)  # of rank one: its singular value becomes one
    1.0
    """
    check.decay_rate(beta=beta)
    check.non_negative(eps=eps)
    check_rank(rank, rank_fraction)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    ranks = {"rank": static(rank), "rank_fraction": static(rank_fraction)}
    seed = static(key) if isinstance(key, int) else key_data(key)
    return transform(
        _scale_by_dion_init,
        _scale_by_dion_update,
        at_init={"key": seed, **ranks, **fixed},
        beta=beta,
        eps=eps,
        **fixed,
    )


def check_rank(rank: Any, rank_fraction: Any) -> None:
    """Raises unless at most one of the two is given, an int of at least 1 or a number in (0, 1]."""
    if rank is not None and rank_fraction is not None:
        raise ValueError(
            f"the rank is `rank` or `rank_fraction` of the shorter side, not both: got rank={rank!r} and "
            f"rank_fraction={rank_fraction!r}; drop one"
        )
    if not isinstance(rank, int | None):
        raise TypeError(f"`rank` must be an int, got {type(rank).__name__}: it is structure, not data")
    check.in_range("rank", rank, 1)
    check.in_range("rank_fraction", rank_fraction, 0, 1, open_low=True)


@storable
def dion(
    learning_rate: Any,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    weight_decay_mask: Any = None,
    *,
    rank: int | None = None,
    rank_fraction: float | None = None,
    key: Any = 0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.95,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.01,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """Dion (Ahn et al. 2025, arXiv 2504.05295) for matrices, AdamW for everything else.

    The recurrence heads this module.  A matrix (in, out) costs its sum of gradients and ``in * r`` numbers.  At full
    rank a step has the length of Muon's with ``shape_scale='scion'``, but the singular values that it brings to one
    are those of the momentum in the subspace Q, which turns towards its own.  The derivative of the orthonormal factor
    does not exist where the columns of M Q depend on each other: derivatives through such a step are not finite.

    Args:
      learning_rate: a number or a schedule; about 0.01 for all parameters.
      beta: what stays of the part of the momentum that a step has seen, in [0, 1).
      eps: added to the norms of the columns of R.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      rank: (static) of the subspace; the shorter side of a matrix if that is less, or if neither is given.
      rank_fraction: (static) in its place a part of the shorter side, in (0, 1].
      key: of the first Q: an integer (static), or a random key, whose data is a leaf that lanes can vary.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, both ranks, a layout that does not fit, with the path.
      TypeError: ``rank`` is no int.

    >>> params = {'kernel': jnp.diag(jnp.array([3.0, -0.5])), 'bias': jnp.array([1.0])}
    >>> tx = dion(0.1, weight_decay=0.0, rank=1)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.linalg.norm(updates['kernel'])), 4)  # the learning rate, whatever the gradient's length
    0.1
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_dion(
        beta,
        eps,
        rank=rank,
        rank_fraction=rank_fraction,
        key=key,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    of_matrices = chain(
        direction,
        scale_by_shape(within(layout), shape_scale="scion"),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    return beside_adamw(
        of_matrices,
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
