r"""SOAP: Adam in the eigenbases of Shampoo's factors.

With G a matrix's gradient (m, n), L = R = 0 before the first step, t = 1, 2, ... from the second gradient on, and
``f = precondition_frequency``::

    g = Q_L^H G Q_R                                        the first gradient only makes L, R, Q_L and Q_R
    mu = b1 * mu + (1 - b1) * g                            kept in the bases
    nu = b2 * nu + (1 - b2) * g^2
    u = Q_L [mu / (1 - b1^t) / (sqrt(nu / (1 - b2^t)) + eps)] Q_R^H
    p = p - learning_rate * (u + weight_decay * p)         arXiv 2409.11321
    L = shampoo_beta * L + (1 - shampoo_beta) * G G^H,  R likewise with G^H G
    every f-th t:  Q_L = qr(L Q_L), its columns sorted by diag(Q_L^H L Q_L) first,  Q_R likewise;
                   mu is turned into the new bases, nu is sorted with them but not turned

A side longer than ``max_precond_dim`` keeps the identity for its basis.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.kronecker import eigenbasis, grams, into_bases, out_of_bases, refined
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.numerics import abs_sq, debias, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params


class ScaleBySoapState(NamedTuple):
    """State of `scale_by_soap`: by group, for its k wide matrices (m, n); None for a side that is too long."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m), the average of G G^H
    right: dict[str, Any]  # (k, n, n)
    left_basis: dict[str, Any]
    right_basis: dict[str, Any]
    mu: dict[str, Any]  # (k, m, n), in the bases
    nu: dict[str, Any]  # (k, m, n), in the bases, real


def _scale_by_soap_init(params, *, layout, max_precond_dim, strategy):
    if stands_for_params(params):
        return ScaleBySoapState(jnp.zeros([], jnp.int32), *[params] * 6)
    groups = Groups(params, layout, strategy=strategy_here(strategy))
    stacks = groups.zeros()
    left, right = factors(stacks, max_precond_dim)
    return ScaleBySoapState(
        count=jnp.zeros([], jnp.int32),
        left=left,
        right=right,
        left_basis=identities(left),
        right_basis=identities(right),
        mu=stacks,
        nu={name: jnp.zeros(stack.shape, real_dtype(stack)) for name, stack in stacks.items()},
    )


def factors(stacks: dict[str, jax.Array], max_precond_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Zeros (k, m, m) and (k, n, n) for every stack (k, m, n); None for the sides that are too long."""

    def zeros(stack, side):
        k, size = stack.shape[0], stack.shape[side]
        return None if size > max_precond_dim else jnp.zeros((k, size, size), stack.dtype)

    return tuple({name: zeros(stack, side) for name, stack in stacks.items()} for side in (1, 2))


def identities(factors: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape), factors)


def _soap_rule(g, mu, nu, left_basis, right_basis, *, b1, b2, eps, count, bias_correction):
    turned = jnp.where(count > 0, 1, 0) * into_bases(g, left_basis, right_basis)
    mu = b1 * mu + (1 - b1) * turned
    nu = b2 * nu + (1 - b2) * abs_sq(turned)
    weights = [debias(b, jnp.maximum(count, 1)) if bias_correction else 1.0 for b in (b1, b2)]
    u = safe_quotient(mu / weights[0] * jnp.sqrt(weights[1]), safe_sqrt(nu) + eps)
    return out_of_bases(u, left_basis, right_basis), mu, nu


def averaged_grams_rule(left, right, g, *, beta):
    new = grams(g, left, right)
    return jax.tree.map(lambda old, gram: beta * old + (1 - beta) * gram, (left, right), new)


def _first_bases_rule(left_basis, right_basis, left, right):
    del left_basis, right_basis
    return tuple(None if a is None else eigenbasis(a) for a in (left, right))


def _refresh_rule(left_basis, right_basis, mu, nu, left, right):
    mu = out_of_bases(mu, left_basis, right_basis)
    if left is not None:
        left_basis, order = refined(left, left_basis)
        nu = nu[order]
    if right is not None:
        right_basis, order = refined(right, right_basis)
        nu = nu[:, order]
    return left_basis, right_basis, into_bases(mu, left_basis, right_basis), nu


def _scale_by_soap_update(
    grads,
    state,
    params=None,
    *,
    b1,
    b2,
    eps,
    shampoo_beta,
    precondition_frequency,
    bias_correction,
    layout,
    strategy,
    step=None,
    **extra,
):
    del params, extra
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy)
    g, bases = groups.stack(grads), (state.left_basis, state.right_basis)
    flags = {"bias_correction": bias_correction}
    numbers = {"b1": b1, "b2": b2, "eps": eps, "count": state.count}
    u, mu, nu = run(_soap_rule, g, [state.mu, state.nu], bases, structure=flags, **numbers)
    sides = run(averaged_grams_rule, state.left, [state.right], [g], beta=b2 if shampoo_beta is None else shampoo_beta)
    clock = state.count if step is None else step
    bases = first_bases(clock == 0, sides, bases, run)
    refresh = lambda: ((), run(_refresh_rule, bases[0], [bases[1], mu, nu], sides))
    is_due = (clock > 0) & (clock % precondition_frequency == 0)
    _, turned = update_if(is_due, refresh, (*bases, mu, nu))
    return groups.unstack(u), ScaleBySoapState(optax.safe_increment(state.count), *sides, *turned)


def first_bases(is_first: jax.Array, sides: tuple, bases: tuple, run: Callable) -> tuple:
    """The eigenbases of both sides at the first step, the bases themselves later."""
    return update_if(is_first, lambda: ((), run(_first_bases_rule, bases[0], [bases[1]], sides)), bases)[1]


def scale_by_soap(
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    *,
    shampoo_beta: Any = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
    bias_correction: bool = True,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `soap`; all parameters must be matrices.

    >>> tx, grads = scale_by_soap(), jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> tx.update(grads, state)[0].round(3).tolist()  # along the eigenvectors the step forgets the gradient's length
    [[1.0, 0.0], [0.0, -1.0]]
    """
    check.decay_rate(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check.non_negative(eps=eps)
    check.in_range("precondition_frequency", precondition_frequency, 1)
    check.in_range("max_precond_dim", max_precond_dim, 1)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_soap_init,
        _scale_by_soap_update,
        at_init={"max_precond_dim": static(max_precond_dim), **fixed},
        b1=b1,
        b2=b2,
        eps=eps,
        shampoo_beta=shampoo_beta,
        precondition_frequency=static(precondition_frequency),
        bias_correction=static(bias_correction),
        **fixed,
    )


@storable
def soap(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.01,
    weight_decay_mask: Any = None,
    *,
    shampoo_beta: Any = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
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
    """SOAP (Vyas et al. 2024, arXiv 2409.11321) for matrices, AdamW for everything else.

    The recurrence heads this module; ``eps`` is added before the bias correction, as in the authors' code, which
    decays the new parameters where this decays the old.  The first step of the matrices is their decay.  On a matrix
    that is not square, the bases of directions that no gradient has reached are arbitrary, and runs on two machines can
    differ by what Adam makes of rounding there.  On the CPU set the environment variable ``OPENBLAS_NUM_THREADS=1``
    before JAX is imported, as the command line does: the threads of the decompositions and those of XLA fight for the
    cores.

    Args:
      learning_rate: a number or a schedule; about 0.003.
      b1: decay of the average of the turned gradients, in [0, 1).
      b2: decay of the average of their squares, in [0, 1).
      eps: added to its root.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      shampoo_beta: decay of the averages of G G^H and G^H G, in [0, 1); ``b2`` if None.
      precondition_frequency: (static) steps between two refreshments of the bases; 1 takes the fewest steps to train.
      max_precond_dim: (static) a longer side keeps the identity.
      bias_correction: (static) whether the averages are divided by their weight.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.array([[3.0, 0.0], [0.0, -0.5]]), 'bias': jnp.array([1.0])}
    >>> tx = soap(0.1, weight_decay=0.0)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates, _ = tx.update(params, state, params)
    >>> jnp.diag(updates['kernel']).round(3).tolist(), updates['bias'].round(3).tolist()
    ([-0.1, 0.1], [-0.1])
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_soap(
        b1,
        b2,
        eps,
        shampoo_beta=shampoo_beta,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
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
