r"""Shampoo: the gradient between inverse roots of averaged G G^H and G^H G.

With G a matrix's gradient (m, n), t = 1, 2, ..., everything zero before the first step but the roots, which are the
identity, and e = ``exponent``, by default 1 / (2 k) for k sides with a factor::

    L = b2 * L + (1 - b2) * G G^H,  R likewise with G^H G                        plain sums where b2 = 1
    at t = s, and for t > s at every ``precondition_frequency``-th t, s = ``start_preconditioning_step``:
        P_L = (L / (1 - b2^t) + eps I)^-e,  P_R likewise                         sums are not divided
    mu = b1 * mu + (1 - b1) * G
    u = P_L [mu / (1 - b1^t)] P_R                                                arXiv 1802.09568
    u = u * |d| / |u|, and u = d before t = s                                    grafting, arXiv 2002.09018
    p = p - learning_rate * (u + weight_decay * p)

The graft d is ``mu / (1 - b1^t)``, as it is ('sgd') or over the root of nu, ``nu = graft_b2 * nu + (1 - graft_b2) *
|G|^2``, plus ``graft_eps``; nu's bias is corrected ('adam') or not ('rmsprop').  Norms are those of a matrix.  The form
is that of Meta's distributed Shampoo, arXiv 2309.06497.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.kronecker import grams, inverse_power, newton_inverse_root, sandwiched
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.soap import factors, identities
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

GRAFTS = (None, "adam", "rmsprop", "sgd")
ROOTS = ("eigh", "newton")


class ScaleByShampooState(NamedTuple):
    """State of `scale_by_shampoo`: by group, for its k wide matrices (m, n); None for a side that is too long."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m), the average or sum of G G^H
    right: dict[str, Any]  # (k, n, n)
    left_root: dict[str, Any]
    right_root: dict[str, Any]
    mu: dict[str, Any]  # (k, m, n)
    nu: dict[str, Any]  # (k, m, n), real; None if the graft needs none


def _scale_by_shampoo_init(params, *, graft, layout, max_precond_dim, block_size, strategy):
    if stands_for_params(params):
        return ScaleByShampooState(jnp.zeros([], jnp.int32), *[params] * 6)
    stacks = Groups(params, layout, strategy=strategy_here(strategy), block_size=block_size).zeros()
    left, right = factors(stacks, max_precond_dim)
    has_nu = graft in ("adam", "rmsprop")
    return ScaleByShampooState(
        count=jnp.zeros([], jnp.int32),
        left=left,
        right=right,
        left_root=identities(left),
        right_root=identities(right),
        mu=stacks,
        nu={name: jnp.zeros(stack.shape, real_dtype(stack)) if has_nu else None for name, stack in stacks.items()},
    )


def _gained(decay):
    """The weight of a new term: that of an average, or at decay one that of a sum."""
    return jnp.where(decay < 1, 1 - decay, 1.0)


def _total(decay, count):
    return jnp.where(decay < 1, debias(decay, count), 1.0)


def _factors_rule(left, right, g, *, b2):
    new = grams(g, left, right)
    return jax.tree.map(lambda old, gram: b2 * old + _gained(b2) * gram, (left, right), new)


def _roots_rule(left_root, right_root, left, right, *, b2, eps, count, exponent, root, bias_correction):
    del left_root, right_root
    total = _total(b2, count) if bias_correction else 1.0
    exponent = exponent or 1 / (2 * max(1, len(jax.tree.leaves((left, right)))))

    def root_of(a):
        return newton_inverse_root(a, round(1 / exponent), eps) if root == "newton" else inverse_power(a, exponent, eps)

    return jax.tree.map(lambda a: root_of(a / total), (left, right))


def _shampoo_rule(
    g, mu, nu, left_root, right_root, *, b1, graft_b2, graft_eps, count, has_started, graft, bias_correction
):
    mu = b1 * mu + (1 - b1) * g
    mu_hat = mu / debias(b1, count) if bias_correction else mu
    u = sandwiched(mu_hat, left_root, right_root)
    if graft is None:
        return u, mu, nu
    d = mu_hat
    if graft != "sgd":
        nu = graft_b2 * nu + _gained(graft_b2) * abs_sq(g)
        nu_hat = nu / _total(graft_b2, count) if graft == "adam" and bias_correction else nu
        d = safe_quotient(mu_hat, safe_sqrt(nu_hat) + graft_eps)
    return jnp.where(has_started > 0, u * safe_quotient(norm(d), norm(u)), d), mu, nu


def _scale_by_shampoo_update(
    grads,
    state,
    params=None,
    *,
    b1,
    b2,
    eps,
    graft_b2,
    graft_eps,
    graft,
    exponent,
    root,
    precondition_frequency,
    start,
    bias_correction,
    layout,
    block_size,
    strategy,
    step=None,
    **extra,
):
    del params, extra
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy, block_size=block_size)
    g, count = groups.stack(grads), optax.safe_increment(state.count)
    sides = run(_factors_rule, state.left, [state.right], [g], b2=b2)
    roots, flags = (state.left_root, state.right_root), {"bias_correction": bias_correction}
    choices = {"exponent": exponent, "root": root, **flags}
    refresh = lambda: run(_roots_rule, roots[0], [roots[1]], sides, structure=choices, b2=b2, eps=eps, count=count)
    clock = (state.count if step is None else step) + 1
    is_due = (clock == start) | (clock > start) & (clock % precondition_frequency == 0)
    _, roots = update_if(is_due, lambda: ((), refresh()), roots)
    numbers = {"b1": b1, "graft_b2": graft_b2, "graft_eps": graft_eps, "count": count, "has_started": clock >= start}
    flags |= {"graft": graft}
    u, mu, nu = run(_shampoo_rule, g, [state.mu, state.nu], roots, structure=flags, **numbers)
    return groups.unstack(u), ScaleByShampooState(count, *sides, *roots, mu, nu)


def scale_by_shampoo(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-12,
    *,
    graft: str | None = "adam",
    graft_b2: Any = 0.999,
    graft_eps: Any = 1e-8,
    exponent: float | None = None,
    root: str = "eigh",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    max_precond_dim: int = 10_000,
    block_size: int | None = None,
    bias_correction: bool = True,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `shampoo`; all parameters must be matrices.

    >>> tx = scale_by_shampoo(graft=None, start_preconditioning_step=1)
    >>> grads = jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx.update(grads, tx.init(grads))[0].round(3).tolist()  # the first gradient is orthogonalised
    [[1.0, 0.0], [0.0, -1.0]]
    """
    check.decay_rate(b1=b1)
    check.in_range("b2", b2, 0.0, 1.0)
    check.in_range("graft_b2", graft_b2, 0.0, 1.0)
    check.non_negative(eps=eps, graft_eps=graft_eps)
    check.one_of("graft", graft, GRAFTS)
    check.one_of("root", root, ROOTS)
    check.in_range("exponent", exponent, 0.0, open_low=True)
    if root == "newton" and exponent is not None and abs(1 / exponent - round(1 / exponent)) > 1e-6:
        raise ValueError(f"root='newton' takes a root of whole order, and 1 / exponent={exponent} is none; use 'eigh'")
    check.in_range("precondition_frequency", precondition_frequency, 1)
    start = precondition_frequency if start_preconditioning_step is None else start_preconditioning_step
    check.in_range("start_preconditioning_step", start, 1)
    check.in_range("max_precond_dim", max_precond_dim, 1)
    check.in_range("block_size", block_size, 1)
    check_strategy(strategy)
    fixed = {
        "graft": static(graft),
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "block_size": static(block_size),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_shampoo_init,
        _scale_by_shampoo_update,
        at_init={"max_precond_dim": static(max_precond_dim), **fixed},
        b1=b1,
        b2=b2,
        eps=eps,
        graft_b2=graft_b2,
        graft_eps=graft_eps,
        exponent=static(exponent),
        root=static(root),
        precondition_frequency=static(precondition_frequency),
        start=static(start),
        bias_correction=static(bias_correction),
        **fixed,
    )


@storable
def shampoo(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-12,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    graft: str | None = "adam",
    graft_b2: Any = 0.999,
    graft_eps: Any = 1e-8,
    exponent: float | None = None,
    root: str = "eigh",
    precondition_frequency: int = 10,
    start_preconditioning_step: int | None = None,
    max_precond_dim: int = 10_000,
    block_size: int | None = None,
    bias_correction: bool = True,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """Distributed Shampoo (Gupta et al. 2018, arXiv 1802.09568; Shi et al. 2023, arXiv 2309.06497) for matrices.

    The recurrence heads this module; everything that is no matrix goes to AdamW.  Meta's code divides by ``|u| +
    1e-16`` where this leaves a zero u zero, and makes vectors of matrices that are small enough for one factor.

    One-sided Shampoo preconditions the shorter side alone: let ``max_precond_dim`` lie between the sides, then k is 1
    and the root the inverse square root; with ``graft='adam'`` it needs no other learning rate than Adam.

    Args:
      learning_rate: a number or a schedule; with ``graft='adam'`` that of Adam, about 0.001.
      b1: decay of the average of the gradients, in [0, 1).
      b2: decay of the averages of G G^H and G^H G, in [0, 1]; 1 sums them, as in the first paper.
      eps: added to their eigenvalues after the bias correction; 0 leaves out directions that no gradient has reached.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      graft: (static) whose length the steps have: ``'adam'``, ``'rmsprop'``, ``'sgd'``, or None for Shampoo's own.
      graft_b2: decay of the graft's average of squares, in [0, 1]; 1 sums them, which makes ``'rmsprop'`` AdaGrad.
      graft_eps: added to the root of that average.
      exponent: (static) of the inverse power, above zero; None for 1/4, or 1/2 where one side alone has a factor.
      root: (static) how it is computed: ``'eigh'`` by eigenvalues; ``'newton'`` by products, for accelerators, if
        ``1 / exponent`` is whole.
      precondition_frequency: (static) steps between two computations of the roots.
      start_preconditioning_step: (static) the first step with roots, before which the graft steps, or the average
        itself without one; ``precondition_frequency`` if None.
      max_precond_dim: (static) a longer side has no factor.
      block_size: (static) longer sides are split into blocks of this size, each block a matrix of its own; it must
        divide them.
      bias_correction: (static) whether averages are divided by their weight.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout or a block size that does not fit, with the path.

    >>> params = {'kernel': jnp.array([[7.0, 0.0], [0.0, -1.0]]), 'bias': jnp.array([1.0])}
    >>> tx = shampoo(0.1, graft='sgd', precondition_frequency=1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jnp.diag(updates['kernel']).round(3).tolist()  # orthogonal, as long as the gradient
    [-0.5, 0.5]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_shampoo(
        b1,
        b2,
        eps,
        graft=graft,
        graft_b2=graft_b2,
        graft_eps=graft_eps,
        exponent=exponent,
        root=root,
        precondition_frequency=precondition_frequency,
        start_preconditioning_step=start_preconditioning_step,
        max_precond_dim=max_precond_dim,
        block_size=block_size,
        bias_correction=bias_correction,
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
