r"""SOAP-Muon: Muon of a momentum whose entries are brought to one size in SOAP's bases first.

With G the gradient of a matrix (m, n), and Q_L, Q_R the eigenbases of the averages L of G G^H and R of G^H G, which are
made and refreshed after the step as in `gradlab.optimizers.soap`::

    mu = beta * mu + (1 - beta) * G,  w = beta * mu + (1 - beta) * G             nesterov=False: w = mu
    P = Q_L^H w Q_R
    nu = b2 * nu + (1 - b2) * |P|^2
    v = Q_L [P / max(nu, floor)^power] Q_R^H
    u = orthogonalised v * |w| / |v|                             the first step is Muon's, of w
    p = p - learning_rate * (scale * u + weight_decay * p)       scale is Muon's

nu is sorted with the bases but not turned.
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
from gradlab.core.kronecker import into_bases, out_of_bases, refined
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, safe_quotient
from gradlab.core.rule import static
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.muon import scale_by_shape
from gradlab.optimizers.orthogonal import orthogonalize
from gradlab.optimizers.soap import averaged_grams_rule, factors, first_bases, identities
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params


class ScaleByWhitenedMomentumState(NamedTuple):
    """State of `scale_by_whitened_momentum`: by group, for its k wide matrices (m, n); None for too long a side."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m), the average of G G^H
    right: dict[str, Any]  # (k, n, n)
    left_basis: dict[str, Any]
    right_basis: dict[str, Any]
    mu: dict[str, Any]  # (k, m, n)
    nu: dict[str, Any]  # (k, m, n), in the bases, real


def _scale_by_whitened_momentum_init(params, *, layout, max_precond_dim, strategy):
    if stands_for_params(params):
        return ScaleByWhitenedMomentumState(jnp.zeros([], jnp.int32), *[params] * 6)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    left, right = factors(stacks, max_precond_dim)
    nu = {name: jnp.zeros(stack.shape, real_dtype(stack)) for name, stack in stacks.items()}
    return ScaleByWhitenedMomentumState(
        jnp.zeros([], jnp.int32), left, right, identities(left), identities(right), stacks, nu
    )


def _whiten_rule(g, mu, nu, left_basis, right_basis, *, beta, b2, power, floor, count, nesterov):
    mu = beta * mu + (1 - beta) * g
    w = beta * mu + (1 - beta) * g if nesterov else mu
    turned = jnp.where(count > 0, 1, 0) * into_bases(w, left_basis, right_basis)
    nu = b2 * nu + (1 - b2) * abs_sq(turned)
    v = out_of_bases(turned / jnp.maximum(nu, floor) ** power, left_basis, right_basis)
    return jnp.where(count > 0, safe_quotient(norm(w), norm(v)) * v, w), mu, nu


def _refresh_rule(left_basis, right_basis, nu, left, right):
    if left is not None:
        left_basis, order = refined(left, left_basis)
        nu = nu[order]
    if right is not None:
        right_basis, order = refined(right, right_basis)
        nu = nu[:, order]
    return left_basis, right_basis, nu


def _scale_by_whitened_momentum_update(
    grads,
    state,
    params=None,
    *,
    beta,
    b2,
    power,
    floor,
    shampoo_beta,
    precondition_frequency,
    nesterov,
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
    numbers = {"beta": beta, "b2": b2, "power": power, "floor": floor, "count": state.count}
    u, mu, nu = run(_whiten_rule, g, [state.mu, state.nu], bases, structure={"nesterov": nesterov}, **numbers)
    sides = run(averaged_grams_rule, state.left, [state.right], [g], beta=shampoo_beta)
    clock = state.count if step is None else step
    bases = first_bases(clock == 0, sides, bases, run)
    is_due = (clock > 0) & (clock % precondition_frequency == 0)
    refresh = lambda: ((), run(_refresh_rule, bases[0], [bases[1], nu], sides))
    _, (*bases, nu) = update_if(is_due, refresh, (*bases, nu))
    return groups.unstack(u), ScaleByWhitenedMomentumState(optax.safe_increment(state.count), *sides, *bases, mu, nu)


def scale_by_whitened_momentum(
    beta: Any = 0.95,
    b2: Any = 0.9,
    power: Any = 0.5,
    *,
    floor: Any = 1e-16,
    shampoo_beta: Any = 0.9,
    nesterov: bool = True,
    precondition_frequency: int = 1,
    max_precond_dim: int = 10_000,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """Momentum over a power of its average square in the eigenbases of the gradient; see `soap_muon`.

    Each matrix keeps the norm of its momentum.

    >>> tx, updates = scale_by_whitened_momentum(0.0), jnp.diag(jnp.array([3.0, -0.5]))
    >>> _, state = tx.update(updates, tx.init(updates))
    >>> whitened, _ = tx.update(updates, state)
    >>> [round(float(u), 2) for u in jnp.diag(whitened)], round(float(jnp.linalg.norm(updates)), 2)
    ([2.15, -2.15], 3.04)
    """
    check.decay_rate(beta=beta, b2=b2, shampoo_beta=shampoo_beta)
    check.non_negative(power=power)
    check.positive(floor=floor)
    check.in_range("precondition_frequency", precondition_frequency, 1)
    check.in_range("max_precond_dim", max_precond_dim, 1)
    check_strategy(strategy)
    layout = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    fixed = {"layout": static(layout), "strategy": static(strategy)}
    return transform(
        _scale_by_whitened_momentum_init,
        _scale_by_whitened_momentum_update,
        at_init={"max_precond_dim": static(max_precond_dim), **fixed},
        beta=beta,
        b2=b2,
        power=power,
        floor=floor,
        shampoo_beta=shampoo_beta,
        nesterov=static(nesterov),
        precondition_frequency=static(precondition_frequency),
        **fixed,
    )


@storable
def soap_muon(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    b2: Any = 0.9,
    eps: Any = 1e-7,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    power: Any = 0.5,
    floor: Any = 1e-16,
    shampoo_beta: Any = 0.9,
    nesterov: bool = True,
    precondition_frequency: int = 1,
    max_precond_dim: int = 10_000,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    consistent_rms: Any = None,
    shape_scale: str = "jordan",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """SOAP-Muon (Vyas, in the records of modded-nanogpt, 2026) for matrices, AdamW for everything else.

    The recurrence heads this module.  A direction in which the gradient vanishes but for rounding is brought to the
    size of the others as soon as its squares exceed ``floor``.

    Args:
      learning_rate: a number or a schedule; as for Muon.
      ns_coeffs, ns_steps, eps, consistent_rms, shape_scale, spectral_map: as for `muon`.
      beta: decay of the momentum, in [0, 1).
      b2: decay of the average of squares in the bases, in [0, 1).
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      power: of the average of squares, by which the momentum is divided; at 0 this is Muon, at 0.5 SOAP's direction.
      floor: the least average of squares, positive.
      shampoo_beta: decay of the averages of G G^H and G^H G, in [0, 1).
      nesterov: (static) whether the momentum looks ahead.
      precondition_frequency: (static) steps between two refreshments of the bases.
      max_precond_dim: (static) a longer side keeps the identity.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.diag(jnp.array([3.0, -0.5])), 'bias': jnp.array([1.0])}
    >>> tx = soap_muon(0.1, 'polar_express_8')
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jnp.diag(updates['kernel']).round(3).tolist()
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    matrices = {"weight_dimension_numbers": within(layout), "strategy": strategy}
    of_matrices = chain(
        scale_by_whitened_momentum(
            beta,
            b2,
            power,
            floor=floor,
            shampoo_beta=shampoo_beta,
            nesterov=nesterov,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            **matrices,
        ),
        orthogonalize(ns_coeffs, ns_steps, eps, spectral_map=spectral_map, **matrices),
        scale_by_shape(within(layout), consistent_rms, shape_scale=shape_scale),
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
