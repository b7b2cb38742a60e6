r"""SPlus: signs in the eigenbases of Shampoo's factors, read out as an average of the weights.

With G a matrix's gradient (m, n), t = 1, 2, ..., everything zero before the first step but Q_L and Q_R, which are the
identity::

    mu = b1 * mu + (1 - b1) * G
    u = Q_L sign(Q_L^H mu Q_R) Q_R^H
    p = p - learning_rate * 2 / (m + n) * (u + weight_decay * p)                 arXiv 2506.07254
    L = b2 * L + (1 - b2) * G G^H,  R likewise with G^H G
    at t = 1 and every ``precondition_frequency``-th t:  Q_L, Q_R = eigenvectors of L, R
    mean = ema_rate * mean + (1 - ema_rate) * p                                  evaluate at mean / (1 - ema_rate^t)

Neither the order of the eigenvectors nor their signs matter, and averages need no correction within a sign.  A number
that is zero to rounding in the bases, within 8 units of the norm of mu, has the sign zero.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.compose import chain, empty_init
from gradlab.core.kronecker import eigenbasis, into_bases, out_of_bases
from gradlab.core.layouts import matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.soap import averaged_grams_rule, factors, identities
from gradlab.transforms.average import ema_params
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

ROUNDINGS = 8
"""The error of an entry of Q_L^H mu Q_R was at most 3 units of the norm of mu, for matrices of rank 1 to 64."""


class ScaleBySplusState(NamedTuple):
    """State of `scale_by_splus`: by group, for its k wide matrices (m, n); None for a side that is too long."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m), the average of G G^H
    right: dict[str, Any]  # (k, n, n)
    left_basis: dict[str, Any]
    right_basis: dict[str, Any]
    mu: dict[str, Any]  # (k, m, n)


def _scale_by_splus_init(params, *, layout, max_precond_dim, strategy):
    if stands_for_params(params):
        return ScaleBySplusState(jnp.zeros([], jnp.int32), *[params] * 5)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    left, right = factors(stacks, max_precond_dim)
    return ScaleBySplusState(jnp.zeros([], jnp.int32), left, right, identities(left), identities(right), stacks)


def _splus_rule(g, mu, left_basis, right_basis, *, b1):
    mu = b1 * mu + (1 - b1) * g
    turned, length = into_bases(mu, left_basis, right_basis), norm(mu)
    rounding = jnp.where(jnp.isfinite(length), ROUNDINGS * jnp.finfo(g.dtype).eps * length, -1)
    signs = jnp.where(jnp.abs(turned) <= rounding, 0, jnp.sign(turned))
    return out_of_bases(signs, left_basis, right_basis), mu


def _bases_rule(left_basis, right_basis, left, right):
    del left_basis, right_basis
    return jax.tree.map(eigenbasis, (left, right))


def _scale_by_splus_update(
    grads, state, params=None, *, b1, b2, precondition_frequency, layout, strategy, step=None, **extra
):
    del params, extra
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy)
    g, bases = groups.stack(grads), (state.left_basis, state.right_basis)
    u, mu = run(_splus_rule, g, [state.mu], bases, b1=b1)
    sides = run(averaged_grams_rule, state.left, [state.right], [g], beta=b2)
    clock = (state.count if step is None else step) + 1
    is_due = (clock == 1) | (clock % precondition_frequency == 0)
    _, bases = update_if(is_due, lambda: ((), run(_bases_rule, bases[0], [bases[1]], sides)), bases)
    return groups.unstack(u), ScaleBySplusState(optax.safe_increment(state.count), *sides, *bases, mu)


def scale_by_splus(
    b1: Any = 0.9,
    b2: Any = 0.999,
    *,
    precondition_frequency: int = 100,
    max_precond_dim: int = 10_000,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `splus`; all parameters must be matrices.

    >>> tx, grads = scale_by_splus(), jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx.update(grads, tx.init(grads))[0].tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.in_range("precondition_frequency", precondition_frequency, 1)
    check.in_range("max_precond_dim", max_precond_dim, 1)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_splus_init,
        _scale_by_splus_update,
        at_init={"max_precond_dim": static(max_precond_dim), **fixed},
        b1=b1,
        b2=b2,
        precondition_frequency=static(precondition_frequency),
        **fixed,
    )


def _sides_rule(u, *, sides, nonstandard_constant):
    return (u * (nonstandard_constant if sides is None else 2 / sides),)


def _scale_by_sides_update(grads, state, params=None, *, nonstandard_constant, layout, max_precond_dim, **extra):
    del params, extra
    sides = lambda matrices: None if max(matrices.upright) > max_precond_dim else sum(matrices.upright)
    own = {"sides": jax.tree.map(lambda matrices: static(sides(matrices)), matrices_in(grads, layout))}
    (updates,) = leafwise(_sides_rule, grads, leaf_structure=own, nonstandard_constant=nonstandard_constant)
    return updates, state


def _scale_by_sides(nonstandard_constant: Any, max_precond_dim: int, layout: Any) -> Transform:
    """Divides by the mean of a matrix's sides; with one that is too long it multiplies by a constant."""
    fixed = {"max_precond_dim": static(max_precond_dim), "layout": static(layout)}
    return transform(empty_init, _scale_by_sides_update, nonstandard_constant=nonstandard_constant, **fixed)


@storable
def splus(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    weight_decay: Any = 0.01,
    weight_decay_mask: Any = None,
    ema_rate: Any = 0.999,
    nonstandard_constant: Any = 0.001,
    *,
    precondition_frequency: int = 100,
    max_precond_dim: int = 10_000,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """SPlus (Frans et al. 2025, arXiv 2506.07254) for matrices, AdamW for everything else.

    The recurrence heads this module.  Evaluate and save ``gradlab.eval_params(tx, state, params)``, the average of all
    parameters after each step; the authors' code for PyTorch averages before the decay, which there is one of the new
    parameters, and that for Optax before the step.  They move what is no matrix by ``learning_rate *
    nonstandard_constant * sign(mu)``; here it goes to AdamW, whose learning rate should be a smaller one of its own.
    On a matrix that is not square, bases of directions that no gradient has reached are arbitrary, and runs on two
    machines can part.

    Args:
      learning_rate: a number or a schedule; about 0.1.
      b1: decay of the average of the gradients, in [0, 1).
      b2: decay of the averages of G G^H and G^H G, in [0, 1).
      weight_decay: factor of the matrices; the scale of the shape and the learning rate multiply it.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      ema_rate: decay of the average of the parameters, in [0, 1); None keeps none.
      nonstandard_constant: in the place of 2 / (m + n) for a matrix with a side that is too long.
      precondition_frequency: (static) steps between two decompositions, beside that of the first step.
      max_precond_dim: (static) a longer side keeps the identity for its basis.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW, about 0.001; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> import gradlab
    >>> params = {'kernel': jnp.array([[3.0, 0.0], [0.0, -0.5]])}
    >>> tx = splus(0.5, weight_decay=0.0, ema_rate=0.5, adam_learning_rate=0.001)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(params, state, params)
    ...     params = gradlab.apply_updates(params, updates)
    >>> jnp.diag(params['kernel']).tolist()
    [2.5, 0.0]
    >>> average = gradlab.eval_params(tx, state, params)
    >>> (3 * jnp.diag(average['kernel'])).round(3).tolist()  # 2.75 + 2 * 2.5 and -0.25 + 2 * 0
    [7.75, -0.25]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check.non_negative(nonstandard_constant=nonstandard_constant)
    check.decay_rate(ema_rate=ema_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_splus(
        b1,
        b2,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    of_shape = _scale_by_sides(nonstandard_constant, max_precond_dim, within(layout) or MuonDimensionNumbers())
    decay = add_decayed_weights(weight_decay, weight_decay_mask)
    step = beside_adamw(
        chain(direction, decay, of_shape, scale_by_learning_rate(learning_rate)),
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
    return step if ema_rate is None else chain(step, relabel(ema_params(ema_rate), decay="ema_rate"))
