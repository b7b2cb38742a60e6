r"""KL-Shampoo and KL-SOAP: factors that know of each other, so that no grafting is needed.

Shampoo's L = E[G G^H] ignores what R explains.  The Gaussian nearest to the gradients, by the divergence of Kullback
and Leibler, has factors that are averages of the gradient whitened on the other side.  With G a matrix's gradient
(m, n), which the first time only makes L = G G^H / n, R = G^H G / m and their eigenbases Q_L and Q_R, and with
l = r = ``initial_value`` for their eigenvalues::

    P = Q_L^H G Q_R
    l = shampoo_beta * l + (1 - shampoo_beta) * mean over the columns of |P|^2 / r       r of the step before
    r = shampoo_beta * r + (1 - shampoo_beta) * mean over the rows of |P|^2 / l          l of the step before
    L = shampoo_beta * L + (1 - shampoo_beta) * G R^-1 G^H / n,  R^-1 = Q_R diag(1/r) Q_R^H;  R likewise
    mu = b1 * mu + (1 - b1) * P                                                kept in the bases
    u = Q_L [mu / sqrt(l r^T)] Q_R^H                                           KL-Shampoo
    nu = b2 * nu + (1 - b2) * |P|^2;  u = Q_L [mu / (sqrt(nu) + eps)] Q_R^H    KL-SOAP
    p = p - learning_rate * (u + weight_decay * p)                             arXiv 2509.03378
    every ``precondition_frequency`` steps:  Q_L = qr(L Q_L),  Q_R = qr(R Q_R);  mu is turned into the new bases

Inverse roots of eigenvalues are at most ``max_inverse_root``.  No average is corrected for its bias.
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
from gradlab.core.kronecker import into_bases, out_of_bases, precise, refined
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, require_same_stacks, strategy_here
from gradlab.core.numerics import abs_sq, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.soap import factors, first_bases, identities
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params


class ScaleByKlShampooState(NamedTuple):
    """State of `scale_by_kl_shampoo` and `scale_by_kl_soap`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m)
    right: dict[str, Any]  # (k, n, n)
    left_basis: dict[str, Any]
    right_basis: dict[str, Any]
    left_values: dict[str, Any]  # (k, m), eigenvalues of left in the basis, real
    right_values: dict[str, Any]  # (k, n)
    mu: dict[str, Any]  # (k, m, n), in the bases
    nu: dict[str, Any]  # (k, m, n), in the bases, real; None for KL-Shampoo


def _scale_by_kl_init(params, *, initial_value, adam, layout, strategy):
    if stands_for_params(params):
        return ScaleByKlShampooState(jnp.zeros([], jnp.int32), *[params] * 8)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    left, right = factors(stacks, max(stack.shape[2] for stack in stacks.values()) if stacks else 1)
    values = lambda a: jnp.full(a.shape[:2], initial_value, real_dtype(a))
    return ScaleByKlShampooState(
        count=jnp.zeros([], jnp.int32),
        left=left,
        right=right,
        left_basis=identities(left),
        right_basis=identities(right),
        left_values=jax.tree.map(values, left),
        right_values=jax.tree.map(values, right),
        mu=stacks,
        nu={name: jnp.zeros(stack.shape, real_dtype(stack)) if adam else None for name, stack in stacks.items()},
    )


def _kl_rule(g, left, right, values, mu, nu, bases, *, b1, b2, eps, beta, bound, count):
    """The direction, the factors, their eigenvalues and the averages after one gradient."""
    m, n = g.shape
    turned = into_bases(g, *bases)
    is_first = count == 0
    rows, columns = (jnp.minimum(safe_quotient(1, jnp.sqrt(x)), bound) for x in values)
    rows, columns = (jnp.where(is_first, 1, root)[:, None] for root in (rows, columns))
    by_columns, by_rows = turned * columns.mT, rows * turned
    average = lambda old, new: jnp.where(is_first, new, beta * old + (1 - beta) * new)
    with precise():
        left = average(left, out_of_bases(by_columns @ by_columns.mT.conj() / n, bases[0], bases[0]))
        right = average(right, out_of_bases(by_rows.mT.conj() @ by_rows / m, bases[1], bases[1]))
    new_values = (jnp.mean(abs_sq(by_columns), axis=1), jnp.mean(abs_sq(by_rows), axis=0))
    values = tuple(jnp.where(is_first, old, average(old, new)) for old, new in zip(values, new_values, strict=True))
    turned = jnp.where(is_first, 0, 1) * turned
    mu = b1 * mu + (1 - b1) * turned
    if nu is None:
        rows, columns = (jnp.minimum(safe_quotient(1, jnp.sqrt(x)), bound) for x in values)
        u = rows[:, None] * mu * columns
    else:
        nu = b2 * nu + (1 - b2) * abs_sq(turned)
        u = safe_quotient(mu, safe_sqrt(nu) + eps)
    return out_of_bases(u, *bases), left, right, values, mu, nu


def _refresh_rule(left_basis, right_basis, mu, left, right):
    mu = out_of_bases(mu, left_basis, right_basis)
    left_basis, right_basis = (refined(a, q, sort=False)[0] for a, q in ((left, left_basis), (right, right_basis)))
    return left_basis, right_basis, into_bases(mu, left_basis, right_basis)


def _scale_by_kl_update(
    grads,
    state,
    params=None,
    *,
    max_inverse_root,
    shampoo_beta,
    precondition_frequency,
    layout,
    strategy,
    step=None,
    **own,
):
    del params
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy)
    g, bases = groups.stack(grads), (state.left_basis, state.right_basis)
    require_same_stacks(g, state.left)
    pairs = lambda left, right: {name: (left[name], right[name]) for name in g}
    numbers = {name: own.get(name, 0.0) for name in ("b1", "b2", "eps")}
    u, *sides, values, mu, nu = run(
        _kl_rule,
        g,
        [state.left, state.right, pairs(state.left_values, state.right_values), state.mu, state.nu],
        [pairs(*bases)],
        beta=shampoo_beta,
        bound=max_inverse_root,
        count=state.count,
        **numbers,
    )
    clock = state.count if step is None else step
    bases = first_bases(clock == 0, tuple(sides), bases, run)
    refresh = lambda: ((), run(_refresh_rule, bases[0], [bases[1], mu], sides))
    is_due = (clock > 0) & (clock % precondition_frequency == 0)
    _, (*bases, mu) = update_if(is_due, refresh, (*bases, mu))
    left_values, right_values = ({name: values[name][side] for name in values} for side in (0, 1))
    count = optax.safe_increment(state.count)
    return groups.unstack(u), ScaleByKlShampooState(count, *sides, *bases, left_values, right_values, mu, nu)


def scale_by_kl(
    *, adam, shampoo_beta, initial_value, max_inverse_root, precondition_frequency, layout, strategy, **numbers
):
    check.decay_rate(shampoo_beta=shampoo_beta, **{name: numbers[name] for name in numbers if name != "eps"})
    check.non_negative(eps=numbers.get("eps", 0.0))
    check.positive(initial_value=initial_value, max_inverse_root=max_inverse_root)
    check.in_range("precondition_frequency", precondition_frequency, 1)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if layout is None else layout),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_kl_init,
        _scale_by_kl_update,
        at_init={"initial_value": initial_value, "adam": static(adam), **fixed},
        shampoo_beta=shampoo_beta,
        max_inverse_root=max_inverse_root,
        precondition_frequency=static(precondition_frequency),
        **numbers,
        **fixed,
    )


def scale_by_kl_shampoo(
    b1: Any = 0.95,
    shampoo_beta: Any = 0.9,
    *,
    initial_value: Any = 0.1,
    max_inverse_root: Any = 4000.0,
    precondition_frequency: int = 1,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `kl_shampoo`; all parameters must be matrices.

    >>> tx, grads = scale_by_kl_shampoo(b1=0.0, shampoo_beta=0.0, initial_value=1.0), jnp.diag(jnp.array([2.0, -1.0]))
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> jnp.diag(tx.update(grads, state)[0]).round(3).tolist()  # l and r are half the squared gradient
    [1.0, -2.0]
    """
    return scale_by_kl(
        adam=False,
        b1=b1,
        shampoo_beta=shampoo_beta,
        initial_value=initial_value,
        max_inverse_root=max_inverse_root,
        precondition_frequency=precondition_frequency,
        layout=weight_dimension_numbers,
        strategy=strategy,
    )


@storable
def kl_shampoo(
    learning_rate: Any,
    b1: Any = 0.95,
    shampoo_beta: Any = 0.9,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    initial_value: Any = 0.1,
    max_inverse_root: Any = 4000.0,
    precondition_frequency: int = 1,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """KL-Shampoo (Lin et al. 2025, arXiv 2509.03378) for matrices, AdamW for everything else.

    The recurrence heads this module.  ``initial_value`` is the eigenvalue of the first step, so the first steps are
    short or long as the gradients are; the paper's estimator is what its average forgets it for.

    Args:
      learning_rate: a number or a schedule.
      b1: decay of the average of the turned gradients, in [0, 1).
      shampoo_beta: decay of the factors and of their eigenvalues, in [0, 1).
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      initial_value: of the eigenvalues, positive.
      max_inverse_root: the largest inverse root of an eigenvalue.
      precondition_frequency: (static) steps between two refreshments of the bases.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.diag(jnp.array([2.0, -1.0])), 'bias': jnp.array([1.0])}
    >>> tx = kl_shampoo(0.1, b1=0.0)
    >>> updates, state = tx.update(params, tx.init(params), params)  # the first step of the matrices is empty
    >>> [round(float(u), 3) for u in jnp.diag(tx.update(params, state, params)[0]['kernel'])]
    [-0.096, 0.169]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_kl_shampoo(
        b1,
        shampoo_beta,
        initial_value=initial_value,
        max_inverse_root=max_inverse_root,
        precondition_frequency=precondition_frequency,
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
