r"""PSGD with Kronecker factors: momentum times a preconditioner that is fitted until it whitens the momentum.

With G a matrix's gradient (m, n), Q_L and Q_R upper triangular (diagonal for a side longer than ``max_precond_dim``)
and sqrt(precond_init_scale) * I before the first step, count = 1, 2, ... and V normal with mean 0 and variance 1::

    mu = b1 * mu + (1 - b1) * G
    m = mu / (1 - b1^count)
    where due and m is not zero:
        with probability balance_prob:  Q_L and Q_R are scaled to equal max |Q|, their product kept
        H = m + damping * (mean of |m|) * V
        A = Q_L H Q_R^T,  B = Q_L^-H V conj(Q_R)^-1
        Q_L = Q_L - precond_lr * triu(A A^H - B B^H) Q_L / |A A^H + B B^H|
        Q_R = Q_R - precond_lr * triu(A^T conj(A) - B^T conj(B)) Q_R / |A^T conj(A) + B^T conj(B)|
    u = Q_L^H Q_L m Q_R^T conj(Q_R)
    p = p - learning_rate * (u / max(1, rms(u) / max_rms) + weight_decay * p)             arXiv 2402.04553, 2402.11858

``|.|`` is an estimate of the spectral norm; of a diagonal factor only the diagonals are computed, and their maximum
takes the place of the norm.  A fit is due when 1 / prob steps have passed since the last::

    prob = max(min_update_prob, min(max_update_prob, exp(-update_prob_decay * (count - update_prob_flat))))

In expectation the fit rests where Q^H Q, Q the Kronecker product of both, is the covariance of H to the power -1/2.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve_triangular
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.kronecker import precise
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, debias, safe_quotient
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.clip import shrink_factor
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.noise import key_data
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

DAMPING = 2.0**-11.5  # the root of float32's machine epsilon


class ScaleByPsgdKronState(NamedTuple):
    """State of `scale_by_psgd_kron`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    since_fit: jax.Array  # () int32, steps since the last fit
    rng_key: jax.Array  # the noise of a step is drawn from this key and ``count``
    mu: dict[str, Any]  # (k, m, n)
    left: dict[str, Any]  # (k, m, m), upper triangular; (k, m) for a diagonal
    right: dict[str, Any]  # (k, n, n) or (k, n)


def _scale_by_psgd_kron_init(params, *, key, precond_init_scale, max_precond_dim, layout, strategy):
    count, since_fit, rng_key = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), jnp.array(key_data(key))
    if stands_for_params(params):
        return ScaleByPsgdKronState(count, since_fit, rng_key, params, params, params)
    mu = Groups(params, layout, strategy=strategy_here(strategy)).zeros()

    def factor(stack, side):
        k, size = stack.shape[0], stack.shape[side]
        is_diagonal = size == 1 or size > max_precond_dim
        one = jnp.ones(size, stack.dtype) if is_diagonal else jnp.eye(size, dtype=stack.dtype)
        return jnp.broadcast_to(jnp.sqrt(precond_init_scale).astype(one.dtype) * one, (k, *one.shape))

    left, right = ({name: factor(stack, side) for name, stack in mu.items()} for side in (1, 2))
    return ScaleByPsgdKronState(count, since_fit, rng_key, mu, left, right)


def _average_rule(mu, g, *, b1):
    return (b1 * mu + (1 - b1) * g,)


def _on_both_sides(function, left, right, x):
    return function(right, function(left, x).mT).mT


def _times(q, x):
    return q[:, None] * x if q.ndim == 1 else q @ x


def _adjoint_times(q, x):
    return _times(q.mT.conj() if q.ndim == 2 else q.conj(), x)


def _adjoint_solve(q, x):
    return x / q.conj()[:, None] if q.ndim == 1 else solve_triangular(q, x, trans="C")


def _norm_estimate(s: jax.Array) -> jax.Array:
    """The spectral norm of a Hermitian matrix, from below: a power step from its longest column."""
    longest = s[:, jnp.argmax(jnp.sum(abs_sq(s), axis=0))]
    x = s @ longest
    return safe_quotient(norm(s @ x), norm(x))


def _refitted(q, a, b, *, precond_lr):
    if q.ndim == 1:
        of_a, of_b = jnp.sum(abs_sq(a), axis=1), jnp.sum(abs_sq(b), axis=1)
        return q - precond_lr * safe_quotient(of_a - of_b, jnp.max(of_a + of_b)) * q
    of_a, of_b = a @ a.mT.conj(), b @ b.mT.conj()
    return q - precond_lr * safe_quotient(jnp.triu(of_a - of_b), _norm_estimate(of_a + of_b)) @ q


def _fit_rule(left, right, mu, v, *, weight, damping, precond_lr, balanced):
    sizes = jnp.max(jnp.abs(left)), jnp.max(jnp.abs(right))
    factor = jnp.where(balanced > 0, jnp.sqrt(sizes[1] / sizes[0]), 1)
    old = left * factor, right / factor
    m = mu / weight
    h = m + damping * jnp.mean(jnp.abs(m)) * v
    with precise():
        a, b = _on_both_sides(_times, *old, h), _on_both_sides(_adjoint_solve, *old, v)
        scale = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b))))  # cancels; no overflow
        a, b = a * (1 / scale), b * (1 / scale)
        new = _refitted(old[0], a, b, precond_lr=precond_lr), _refitted(old[1], a.mT, b.mT, precond_lr=precond_lr)
    return tuple(jnp.where(jnp.any(mu != 0), fitted, q) for fitted, q in zip(new, (left, right), strict=True))


def _direction_rule(g, mu, left, right, *, weight, max_rms):
    del g
    with precise():
        u = _on_both_sides(_adjoint_times, left, right, _on_both_sides(_times, left, right, mu / weight))
    return (u * shrink_factor(norm(u) / u.size**0.5, max_rms),)


def _noise(key: jax.Array, tree: Any) -> Any:
    """Normal numbers of at least float32 for every leaf, however the leaves are grouped later."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
    wide = [jnp.promote_types(jnp.float32, leaf.dtype) for leaf in leaves]
    drawn = [jax.random.normal(one, g.shape, dtype) for one, g, dtype in zip(keys, leaves, wide, strict=True)]
    return treedef.unflatten(drawn)


def _scale_by_psgd_kron_update(
    grads,
    state,
    params=None,
    *,
    b1,
    precond_lr,
    damping,
    balance_prob,
    max_rms,
    max_update_prob,
    min_update_prob,
    update_prob_decay,
    update_prob_flat,
    layout,
    strategy,
    **extra,
):
    del params, extra
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy)
    g, count, since_fit = groups.stack(grads), optax.safe_increment(state.count), state.since_fit + 1
    weight = debias(b1, count)
    (mu,) = run(_average_rule, state.mu, (), [g], b1=b1)

    def fit():
        balance_key, noise_key = jax.random.split(jax.random.fold_in(state.rng_key, state.count))
        v = groups.stack(_noise(noise_key, grads))
        numbers = {"weight": weight, "damping": damping, "precond_lr": precond_lr}
        balanced = jax.random.bernoulli(balance_key, balance_prob)
        return (), run(_fit_rule, state.left, [state.right], [mu, v], balanced=balanced, **numbers)

    prob = jnp.minimum(max_update_prob, jnp.exp(-update_prob_decay * (count - update_prob_flat)))
    is_due = since_fit >= 1 / jnp.maximum(min_update_prob, prob)
    _, (left, right) = update_if(is_due, fit, (state.left, state.right))
    (u,) = run(_direction_rule, g, (), [mu, left, right], weight=weight, max_rms=max_rms)
    since_fit = jnp.where(is_due, 0, since_fit)
    return groups.unstack(u), ScaleByPsgdKronState(count, since_fit, state.rng_key, mu, left, right)


def scale_by_psgd_kron(
    b1: Any = 0.9,
    precond_lr: Any = 0.1,
    precond_init_scale: Any = 1.0,
    damping: Any = DAMPING,
    balance_prob: Any = 0.01,
    max_rms: Any = 1.1,
    max_update_prob: Any = 1.0,
    min_update_prob: Any = 0.03,
    update_prob_decay: Any = 0.001,
    update_prob_flat: Any = 500.0,
    *,
    max_precond_dim: int = 8192,
    key: Any = 0,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `psgd_kron`; all parameters must be matrices.

    >>> tx, grads = scale_by_psgd_kron(b1=0.0), jnp.diag(jnp.array([10.0, 0.1]))
    >>> updates, state = grads, tx.init(grads)
    >>> for _ in range(100):
    ...     updates, state = tx.update(grads, state)
    >>> bool(updates[1, 1] > 0.3 * updates[0, 0] > 0.0)  # where the gradients differ by a factor of 100
    True
    """
    check.decay_rate(b1=b1)
    check.non_negative(damping=damping)
    check.positive(precond_init_scale=precond_init_scale, max_rms=max_rms)
    check.in_range("precond_lr", precond_lr, 0.0, 0.7)
    check.in_range("balance_prob", balance_prob, 0.0, 1.0)
    check.in_range("max_update_prob", max_update_prob, 0.0, 1.0, open_low=True)
    check.in_range("min_update_prob", min_update_prob, 0.0, 1.0, open_low=True)
    check.non_negative(update_prob_decay=update_prob_decay, update_prob_flat=update_prob_flat)
    check.in_range("max_precond_dim", max_precond_dim, 1)
    check_strategy(strategy)
    fixed = {
        "layout": static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        "strategy": static(strategy),
    }
    return transform(
        _scale_by_psgd_kron_init,
        _scale_by_psgd_kron_update,
        at_init={
            "key": static(key) if isinstance(key, int) else key_data(key),
            "precond_init_scale": precond_init_scale,
            "max_precond_dim": static(max_precond_dim),
            **fixed,
        },
        b1=b1,
        precond_lr=precond_lr,
        damping=damping,
        balance_prob=balance_prob,
        max_rms=max_rms,
        max_update_prob=max_update_prob,
        min_update_prob=min_update_prob,
        update_prob_decay=update_prob_decay,
        update_prob_flat=update_prob_flat,
        **fixed,
    )


def psgd_kron(
    learning_rate: Any,
    b1: Any = 0.9,
    precond_lr: Any = 0.1,
    precond_init_scale: Any = 1.0,
    damping: Any = DAMPING,
    balance_prob: Any = 0.01,
    max_rms: Any = 1.1,
    max_update_prob: Any = 1.0,
    min_update_prob: Any = 0.03,
    update_prob_decay: Any = 0.001,
    update_prob_flat: Any = 500.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    max_precond_dim: int = 8192,
    key: Any = 0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """PSGD with Kronecker factors (Li 2024, arXiv 2402.04553 and 2402.11858) for matrices, AdamW for everything else.

    The recurrence heads this module; it is that of psgd-jax, but for parameters that are no matrices, and for a matrix
    without any gradient so far, whose factors stay as they are instead of growing without bound.  Steps have a root
    mean square of about 1 before the learning rate once the factors fit, and of ``max_rms`` at most before.

    Whether a fit is due depends on when the last one was, for which there is no closed form: the state counts, and the
    lanes of a sweep do the work of a fit only in steps in which one of them is due.  The noise of a matrix depends on
    ``key``, on the step and on its place among the matrices, not on ``strategy``; all lanes draw the same unless they
    have keys of their own.

    Args:
      learning_rate: a number or a schedule; about 0.001, a third of that for Adam's users.
      b1: decay of the average of gradients, in [0, 1).
      precond_lr: step of the fit, in [0, 0.7]: beyond, a factor could become singular.
      precond_init_scale: of the preconditioner before the first fit.
      damping: size of the noise in the fit as a fraction of the mean magnitude of what is fitted.
      balance_prob: chance in each fit that the factors are brought to one size.
      max_rms: bound on the root mean square of each matrix's direction.
      max_update_prob, min_update_prob, update_prob_decay, update_prob_flat: of the fraction of steps that fit: the
        maximum for ``update_prob_flat`` steps, then down exponentially to the minimum, in (0, 1].
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      max_precond_dim: (static) a longer side has a diagonal factor.
      key: of the noise: an integer (static), or a random key, whose data is a leaf of the optimizer.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.array([[30.0, 0.0], [0.0, -40.0]]), 'bias': jnp.array([1.0])}
    >>> tx = psgd_kron(0.1)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.sqrt(jnp.mean(updates['kernel'] ** 2))), 3), updates['bias'].round(3).tolist()
    (0.11, [-0.1])
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_psgd_kron(
        b1,
        precond_lr,
        precond_init_scale,
        damping,
        balance_prob,
        max_rms,
        max_update_prob,
        min_update_prob,
        update_prob_decay,
        update_prob_flat,
        max_precond_dim=max_precond_dim,
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
