r"""PSGD with Kronecker factors: momentum times a preconditioner that is fitted until it whitens the momentum.

With G a matrix's gradient (m, n), Q_L and Q_R the identity times sqrt(precond_init_scale) before the first step,
count = 1, 2, ... and V normal with mean 0 and variance 1::

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

``|.|`` is an estimate of the spectral norm.  The factor of a side longer than ``max_precond_dim`` is a diagonal: of
the products only the diagonals are computed, and their maximum takes the place of the norm.  A fit without inverses,
``geometry='pro'``, is that of `gradlab.optimizers.whitening.symmetric_fit` for H.  A fit is due when 1 / prob steps
have passed since the last::

    prob = max(min_update_prob, min(max_update_prob, exp(-update_prob_decay * (count - update_prob_flat))))

In expectation a fit rests where Q^H Q, Q the Kronecker product of both factors, is cov(H)^(-1/2).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.axes import automatic
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.norms import norm
from gradlab.core.numerics import debias
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.whitening import balance, precondition, symmetric_fit, triangular_fit
from gradlab.transforms.clip import shrink_factor
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.noise import key_data
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params

DAMPING = 2.0**-11.5  # the root of float32's machine epsilon
GEOMETRIES = ("triangular", "pro")


class ScaleByPsgdKronState(NamedTuple):
    """State of `scale_by_psgd_kron`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    since_fit: jax.Array  # () int32, steps since the last fit
    rng_key: jax.Array  # the noise of a step is drawn from this key and ``count``
    mu: dict[str, Any]  # (k, m, n)
    left: dict[str, Any]  # (k, m, m); (k, m) for a diagonal
    right: dict[str, Any]  # (k, n, n) or (k, n)
    bounds: dict[str, Any]  # (k, 2), real, of `symmetric_fit`; else None


def _scale_by_psgd_kron_init(params, *, key, precond_init_scale, max_precond_dim, geometry, layout, strategy):
    count, since_fit, rng_key = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), jnp.array(key_data(key))
    if stands_for_params(params):
        return ScaleByPsgdKronState(count, since_fit, rng_key, *[params] * 4)
    mu = Groups(params, layout, strategy=strategy_here(strategy)).zeros()

    def factor(stack, side):
        k, size = stack.shape[0], stack.shape[side]
        is_diagonal = size == 1 or size > max_precond_dim
        one = jnp.ones(size, stack.dtype) if is_diagonal else jnp.eye(size, dtype=stack.dtype)
        return jnp.broadcast_to(jnp.sqrt(precond_init_scale).astype(one.dtype) * one, (k, *one.shape))

    left, right = ({name: factor(stack, side) for name, stack in mu.items()} for side in (1, 2))
    no_bound = lambda stack: jnp.zeros((stack.shape[0], 2), real_dtype(stack)) if geometry == "pro" else None
    bounds = {name: no_bound(stack) for name, stack in mu.items()}
    return ScaleByPsgdKronState(count, since_fit, rng_key, mu, left, right, bounds)


def _average_rule(mu, g, *, b1):
    return (b1 * mu + (1 - b1) * g,)


def _fit_rule(left, right, bounds, mu, v, *, geometry, weight, damping, precond_lr, balanced):
    is_balanced = lambda new, old: jnp.where(balanced > 0, new, old)
    old = jax.tree.map(is_balanced, balance((left, right)), (left, right))
    m = mu / weight
    h = m + damping * jnp.mean(jnp.abs(m)) * v
    if geometry == "triangular":
        new = (*triangular_fit(old, h, v, precond_lr), bounds)
    else:
        factors, moved = symmetric_fit(old, bounds, h, precond_lr)
        new = (*factors, moved)
    return jax.tree.map(lambda fitted, kept: jnp.where(jnp.any(mu != 0), fitted, kept), new, (left, right, bounds))


def _direction_rule(g, mu, left, right, *, weight, max_rms):
    del g
    u = precondition((left, right), mu / weight)
    return (u * shrink_factor(norm(u) / u.size**0.5, max_rms),)


def _noise(key: jax.Array, tree: Any) -> Any:
    """Normal numbers of at least float32 for every leaf, however the leaves are grouped later."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
    wide = [jnp.promote_types(jnp.float32, leaf.dtype) for leaf in leaves]
    drawn = [_drawn_like(*each) for each in zip(keys, leaves, wide, strict=True)]
    return treedef.unflatten(drawn)


def _drawn_like(key: jax.Array, g: jax.Array, dtype: Any) -> jax.Array:
    return automatic(lambda key: jax.random.normal(key, g.shape, dtype), (key,), like=g)


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
    geometry,
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
        fitted, chosen = [state.right, state.bounds], {"geometry": geometry}
        return (), run(_fit_rule, state.left, fitted, [mu, v], structure=chosen, balanced=balanced, **numbers)

    prob = jnp.minimum(max_update_prob, jnp.exp(-update_prob_decay * (count - update_prob_flat)))
    is_due = since_fit >= 1 / jnp.maximum(min_update_prob, prob)
    _, (left, right, bounds) = update_if(is_due, fit, (state.left, state.right, state.bounds))
    (u,) = run(_direction_rule, g, (), [mu, left, right], weight=weight, max_rms=max_rms)
    since_fit = jnp.where(is_due, 0, since_fit)
    return groups.unstack(u), ScaleByPsgdKronState(count, since_fit, state.rng_key, mu, left, right, bounds)


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
    geometry: str = "triangular",
    key: Any = 0,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `psgd_kron`; all parameters must be matrices.

    >>> grads = jax.random.normal(jax.random.key(0), (500, 2, 3)) * jnp.array([[4.0], [0.25]])
    >>> tx = scale_by_psgd_kron(b1=0.0)
    >>> _, updates = jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(grads[0]), grads)
    >>> jnp.sqrt(jnp.mean(updates[-200:] ** 2, axis=(0, 2))).round(1).tolist()  # both rows move alike
    [0.9, 1.0]
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
    check.one_of("geometry", geometry, GEOMETRIES)
    check_strategy(strategy)
    fixed = {
        "geometry": static(geometry),
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


@storable
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
    geometry: str = "triangular",
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
      learning_rate: a number or a schedule; about 0.001, or a third of Adam's.
      b1: decay of the average of gradients, in [0, 1).
      precond_lr: step of the fit, in [0, 0.7]: beyond, a factor could become singular.
      precond_init_scale: of Q before the first fit; the preconditioner starts at its square.  For gradients k times as
        long take it 1 / sqrt(k) times as large; a k of 1000 is made up for in about 50 fits.
      damping: size of the noise in the fit as a fraction of the mean magnitude of what is fitted.
      balance_prob: chance in each fit that the factors are brought to one size.
      max_rms: bound on the root mean square of each matrix's direction.
      max_update_prob, min_update_prob, update_prob_decay, update_prob_flat: of the fraction of steps that fit: the
        maximum for ``update_prob_flat`` steps, then down exponentially to the minimum, in (0, 1].
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      max_precond_dim: (static) a longer side has a diagonal factor.
      geometry: (static) ``'triangular'``, or ``'pro'``, which needs no triangular solves and keeps dense factors near
        Hermitian ones.  From a start that is too small it is faster, from one that is too large several times slower:
        take a small ``precond_init_scale``.  The author's later code fits the gradient, not its average, by it.
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
        geometry=geometry,
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
