r"""Sophia: momentum divided by an occasional estimate of the Hessian's diagonal, with the quotient clipped.

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    mu_hat = mu / (1 - b1^count)
    u = clip(mu_hat / max(gamma * nu, eps), clip_threshold)       denominator='max'
    u = clip(mu_hat / (gamma * nu + eps), clip_threshold)         denominator='sum'
    p = p - learning_rate * (u + weight_decay * p)                arXiv 2305.14342
    nu = b2 * nu + (1 - b2) * h                                   every update_interval steps, from the first on

where h estimates the diagonal of the Hessian of the loss at the p before the step: by
`hutchinson_estimator_diag_hessian` (Sophia-H) or `gauss_newton_bartlett` (Sophia-G).  The first step sees nu = 0: its
length is the learning rate in every coordinate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import debias
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.hessian_diagonal import hutchinson_estimator_diag_hessian
from gradlab.transforms.decay import with_weight_decay

DENOMINATORS = ("max", "sum")


def _scale_by_sophia_init(params, *, inner, mu_dtype):
    return optax.contrib.SophiaState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        hessian_fn_state=inner(params),
    )


def _sophia_rule(g, mu, nu, *, count, b1, eps, gamma, clip_threshold, bias_correction, denominator):
    mu = b1 * mu + (1 - b1) * g
    mu_hat = mu / debias(b1, count) if bias_correction else mu
    u = mu_hat / (jnp.maximum(gamma * nu, eps) if denominator == "max" else gamma * nu + eps)
    return jnp.clip(u, -clip_threshold, clip_threshold), mu, nu


def _average_rule(h, nu, *, b2):
    return h, b2 * nu + (1 - b2) * h


def _scale_by_sophia_update(
    grads,
    state,
    params=None,
    *,
    inner,
    b1,
    b2,
    eps,
    gamma,
    clip_threshold,
    update_interval,
    bias_correction,
    denominator,
    print_every,
    step=None,
    **extra,
):
    params = check.required_params("sophia", params)
    extra = {**extra, "step": step, "obj_fn": extra.get("obj_fn") or extra.get("value_fn")}
    count = optax.safe_increment(state.count)
    bound = jnp.inf if clip_threshold is None else clip_threshold
    hyper = {"count": count, "b1": b1, "eps": eps, "gamma": gamma, "clip_threshold": bound}
    structure = {"bias_correction": bias_correction, "denominator": denominator}
    updates, mu, nu = leafwise(_sophia_rule, grads, [state.mu, state.nu], structure=structure, **hyper)
    if print_every:
        _print_win_rate(updates, clip_threshold, count, print_every)

    def refresh():
        h, inner_state = inner(grads, state.hessian_fn_state, params, **extra)
        _, refreshed = leafwise(_average_rule, h, [nu], b2=b2)
        return refreshed, inner_state

    clock = state.count if step is None else step
    nu, inner_state = jax.lax.cond(clock % update_interval == 0, refresh, lambda: (nu, state.hessian_fn_state))
    return updates, optax.contrib.SophiaState(count=count, mu=mu, nu=nu, hessian_fn_state=inner_state)


def _print_win_rate(updates, clip_threshold, count, print_every):
    """Prints the part of the coordinates that are not clipped."""
    inside = jnp.sum(jnp.stack([jnp.sum(jnp.abs(u) < clip_threshold) for u in jax.tree.leaves(updates)]))
    rate = inside / optax.tree.size(updates)
    report = lambda: jax.debug.print("sophia: step {}, win rate {}", count, rate)
    jax.lax.cond(count % print_every == 0, report, lambda: None)


def scale_by_sophia(
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = None,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
    *,
    bias_correction: bool = True,
    denominator: str = "max",
) -> Transform:
    """The direction of Sophia: ``clip(mu_hat / max(gamma * nu, eps), clip_threshold)``; see `sophia`.

    >>> tx, params = scale_by_sophia(b1=0.0, b2=0.0, gamma=1.0), jnp.array([0.5])
    >>> loss = lambda p: jnp.sum(2 * p**2)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(4 * params, state, params, value_fn=loss)
    >>> updates.tolist(), state.nu.tolist()
    ([0.5], [4.0])
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, gamma=gamma, clip_threshold=clip_threshold)
    check.in_range("update_interval", update_interval, 1)
    check.one_of("denominator", denominator, DENOMINATORS)
    estimator = hutchinson_estimator_diag_hessian() if hessian_diagonal_fn is None else hessian_diagonal_fn
    clipped = verbose and clip_threshold is not None
    return transform(
        _scale_by_sophia_init,
        _scale_by_sophia_update,
        inner=estimator,
        at_init={"mu_dtype": static(mu_dtype)},
        b1=b1,
        b2=b2,
        eps=eps,
        gamma=gamma,
        clip_threshold=clip_threshold,
        update_interval=static(update_interval),
        bias_correction=static(bias_correction),
        denominator=static(denominator),
        print_every=static(print_win_rate_every_n_steps if clipped else 0),
    )


@storable
def sophia(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    weight_decay_mask: Any = None,
    gamma: Any = 0.01,
    clip_threshold: Any = 1.0,
    update_interval: int = 10,
    hessian_diagonal_fn: Any = None,
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int = 0,
    *,
    bias_correction: bool = True,
    denominator: str = "max",
) -> Transform:
    """Sophia (Liu et al., arXiv 2305.14342): Newton's scale where the curvature is known and large, signs elsewhere.

    The recurrence heads this module.  Every ``update_interval`` steps it needs the loss of the batch as ``value_fn`` or
    ``obj_fn``, a function of the parameters.  The authors' Sophia-G is ``sophia(lr, b2=0.99, eps=1e-15,
    weight_decay=0.1, gamma=rho, hessian_diagonal_fn=gauss_newton_bartlett(seed, batch_size), bias_correction=False,
    denominator='sum')`` with their rho = 0.04, whose denominator is ``rho * batch_size * (average of g_s^2) + 1e-15``.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of diagonals, in [0, 1), once every ``update_interval`` steps.
      eps: least denominator, or what is added to it.
      weight_decay: the factor of the parameter in the step; ``None`` leaves decay out.
      weight_decay_mask: which parameters decay; as for `gradlab.masked`.
      gamma: factor of the diagonal; larger clips fewer coordinates.
      clip_threshold: bound on every coordinate of the direction; ``None`` for no bound.
      update_interval: (static) steps from one estimate to the next.  With ``step``, which `gradlab.fit` and
        `gradlab.sweep` supply, all lanes of a sweep pause together and the estimate costs nothing in between.
      hessian_diagonal_fn: a transform whose update is the estimate; Hutchinson's if None.  It receives the extra
        arguments of ``update``.
      mu_dtype: (static) dtype in which ``mu`` is stored; the parameter's if None.
      verbose: (static) true prints the win rate, the part of the coordinates that are not clipped.
      print_win_rate_every_n_steps: (static) how often; 0 never.
      bias_correction: (static) false leaves ``mu`` as it is, the paper's algorithm; Optax corrects it.
      denominator: (static) ``'max'``, the paper's and Optax's; ``'sum'``, that of the authors' program.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an interval below 1, an unknown ``denominator``;
        ``update`` without ``params`` or the loss.

    >>> tx, params = sophia(0.1, weight_decay=0.0), jnp.array([3.0, -0.2])
    >>> loss = lambda p: jnp.sum(p**2)
    >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(float(u), 4) for u in updates]
    [-0.1, 0.1]
    """
    direction = scale_by_sophia(
        b1,
        b2,
        eps,
        gamma,
        clip_threshold,
        update_interval,
        hessian_diagonal_fn,
        mu_dtype,
        verbose,
        print_win_rate_every_n_steps,
        bias_correction=bias_correction,
        denominator=denominator,
    )
    return with_weight_decay(direction, learning_rate, weight_decay, weight_decay_mask, "decoupled")
