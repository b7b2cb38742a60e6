r"""AdaBelief and ACProp: steps divided by how far the gradients stray from their own average.

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g - mu|^2 + eps_root               with the new mu
    mu_hat = mu / (1 - b1^count)
    nu_hat = nu / (1 - b2^count)

    u = mu_hat / (sqrt(nu_hat) + eps)                             AdaBelief, arXiv 2010.07468
    u = g / (sqrt(nu_hat of the step before) + eps)               ACProp, arXiv 2110.05454; g / (1 + eps) at first

    p = p - learning_rate * u
    p = p - learning_rate * (u + weight_decay * p)

``eps_root`` enters the average undamped at every step: it adds up to ``eps_root / (1 - b2)``, and the bias correction
divides the whole, so that even the first corrected average holds that much of it.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.adam import corrected_mu
from gradlab.transforms.decay import with_weight_decay

FORMS = ("paper", "optax")


def _scale_by_belief_init(params):
    return optax.ScaleByBeliefState(count=jnp.zeros([], jnp.int32), mu=zeros_like(params), nu=zeros_like(params))


def _belief_rule(g, mu, nu, *, count, b1, b2, eps, eps_root, nesterov):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g - mu) + eps_root
    mu_hat = corrected_mu(g, mu, count=count, b1=b1, nesterov=nesterov, bias_correction=True)
    return mu_hat / (safe_sqrt(nu / debias(b2, count)) + eps), mu, nu


def _scale_by_belief_update(grads, state, params=None, *, b1, b2, eps, eps_root, nesterov, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    hyper = {"count": count, "b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    updates, mu, nu = leafwise(_belief_rule, grads, [state.mu, state.nu], structure={"nesterov": nesterov}, **hyper)
    return updates, optax.ScaleByBeliefState(count=count, mu=mu, nu=nu)


def _acprop_rule(g, mu, nu, *, count, b1, b2, eps, eps_root, form):
    first = count == 1
    nu_hat = jnp.where(first, 1, nu / debias(b2, jnp.where(first, 1, count - 1)))
    error = g - mu
    mu = b1 * mu + (1 - b1) * g
    if form == "paper":
        error = g - mu
    nu = b2 * nu + (1 - b2) * abs_sq(error) + eps_root
    return g / (safe_sqrt(nu_hat) + eps), mu, nu


def _scale_by_acprop_update(grads, state, params=None, *, b1, b2, eps, eps_root, form, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    hyper = {"count": count, "b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    updates, mu, nu = leafwise(_acprop_rule, grads, [state.mu, state.nu], structure={"form": form}, **hyper)
    return updates, optax.ScaleByBeliefState(count=count, mu=mu, nu=nu)


def scale_by_belief(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16, *, nesterov: bool = False
) -> Transform:
    """The direction of AdaBelief: ``mu_hat / (sqrt(nu_hat) + eps)``; see `adabelief`.

    >>> tx = scale_by_belief(b1=0.75)
    >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [1.3333, -1.3333]
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    return transform(
        _scale_by_belief_init,
        _scale_by_belief_update,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        nesterov=static(nesterov),
    )


@storable
def adabelief(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    *,
    nesterov: bool = False,
    weight_decay: Any = None,
    mask: Any = None,
    decay: str = "decoupled",
) -> Transform:
    """AdaBelief (Zhuang et al. 2020, arXiv 2010.07468): long steps where the gradient is what its average predicts.

    The recurrence heads this module.  Its first step has the length ``learning_rate / b1``, as the first error is
    ``b1 * g``.  On a constant gradient the error vanishes, and only the two epsilons bound the growth of the steps.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared errors, in [0, 1).
      eps: added to the root.
      eps_root: added to the average at every step, undamped.
      nesterov: (static) true takes Dozat's mix for ``mu_hat``, which looks one step ahead; see `gradlab.nadam`.
      weight_decay: the factor of the parameter; ``None`` for no stage of decay.
      mask, decay: as for `gradlab.adamw`.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``decay``.

    >>> params = jnp.array([1.0, -2.0])
    >>> tx = adabelief(learning_rate=0.09)
    >>> updates, state = tx.update(2 * params, tx.init(params), params)
    >>> [round(float(p), 4) for p in params + updates]
    [0.9, -1.9]
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)


def scale_by_acprop(
    b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-16, eps_root: Any = 1e-16, *, form: str = "paper"
) -> Transform:
    """The direction of ACProp: ``g / (sqrt(nu_hat) + eps)`` with the average of the step before; see `acprop`.

    >>> tx = scale_by_acprop(b1=0.75)
    >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> updates.tolist(), [round(float(u), 4) for u in tx.update(jnp.array([1.0]), state)[0]]
    ([4.0], [0.3333])
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root)
    check.one_of("form", form, FORMS)
    return transform(
        _scale_by_belief_init, _scale_by_acprop_update, b1=b1, b2=b2, eps=eps, eps_root=eps_root, form=static(form)
    )


@storable
def acprop(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    form: str = "paper",
    decay: str = "decoupled",
) -> Transform:
    """ACProp (Zhuang et al. 2021, arXiv 2110.05454): the plain gradient over the error of the steps before.

    The recurrence heads this module.  The denominator does not know the gradient that it divides, so the expected step
    is the expected gradient, each coordinate rescaled.  The first step, without an average, is the gradient itself.
    A gradient that was zero until now, as that of a pixel which is rarely lit, is divided by next to nothing: ``eps``
    bounds that step, and has to be much larger then.

    ``optax.contrib.acprop`` (0.2.8) measures the error from the average of the step before, against the equation of
    its own documentation and the authors' program.  That error is ``1 / b1`` times as large, so its steps after
    the first are shorter by that factor.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      b1: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared errors, in [0, 1).
      eps: added to the root.
      eps_root: added to the average at every step, undamped.
      weight_decay: the factor of the parameter.
      mask, decay: as for `gradlab.adamw`.
      form: (static) ``'paper'`` measures the error from the new average; ``'optax'`` from the one before.

    Raises:
      ValueError: a decay outside of [0, 1), a negative number, an unknown ``form`` or ``decay``.

    >>> params = jnp.array([1.0])
    >>> tx = acprop(learning_rate=0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.25
    """
    check.non_negative(learning_rate=learning_rate)
    direction = scale_by_acprop(b1, b2, eps, eps_root, form=form)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
