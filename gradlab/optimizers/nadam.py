r"""NAdam: Adam whose average of gradients looks one step ahead, in its three published forms.

With g the gradient, p the parameter, count = 1, 2, ... and mu = nu = 0 before the first step::

    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * |g|^2
    u = mu_hat / (sqrt(nu / (1 - b2^count) + eps_root) + eps)
    p = p - learning_rate * u                                                      NAdam
    p = p - learning_rate * (u + weight_decay * p)                                 NAdamW

where, by the argument ``form``::

    mu_hat = b1 * mu / (1 - b1^(count+1)) + (1 - b1) * g / (1 - b1^count)          'dozat': Optax

    mu_hat = (b1 * mu + (1 - b1) * g) / (1 - b1^count)                             'algoperf': AlgoPerf, timm

    b_t = b1 * (1 - 0.96^(t * momentum_decay) / 2),  B_t = b_1 * ... * b_t         'torch': PyTorch
    mu_hat = b_(count+1) * mu / (1 - B_(count+1)) + (1 - b_count) * g / (1 - B_count)

The three differ from the first step on, and tend to one direction as the corrections end.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.leafwise import leafwise
from gradlab.core.numerics import abs_sq, debias, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import scalars_like, zeros_like
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.decay import with_weight_decay
from gradlab.transforms.scaling import scale_by_learning_rate

Tree = Any

FORMS = ("dozat", "torch", "algoperf")


class ScaleByNadamState(NamedTuple):
    """The averages of `scale_by_nadam` in PyTorch's form."""

    count: jax.Array  # () int32
    mu: Tree  # like params
    nu: Tree  # like params
    mu_product: Tree  # () for each parameter; of the scheduled decays so far


def _scale_by_nadam_init(params, *, mu_dtype):
    return optax.ScaleByAdamState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params)
    )


def _scale_by_scheduled_nadam_init(params, *, mu_dtype):
    return ScaleByNadamState(
        count=jnp.zeros([], jnp.int32),
        mu=zeros_like(params, mu_dtype),
        nu=zeros_like(params),
        mu_product=scalars_like(params, 1.0),
    )


def _nadam_rule(g, mu, nu, *, count, b1, b2, eps, eps_root):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    mu_hat = (b1 * mu + (1 - b1) * g) / debias(b1, count)
    return mu_hat / (safe_sqrt(nu / debias(b2, count) + eps_root) + eps), mu, nu


def _scheduled_nadam_rule(g, mu, nu, mu_product, *, count, b1, b2, eps, eps_root, momentum_decay):
    mu = b1 * mu + (1 - b1) * g
    nu = b2 * nu + (1 - b2) * abs_sq(g)
    now = b1 * (1 - 0.5 * 0.96 ** (count * momentum_decay))
    ahead = b1 * (1 - 0.5 * 0.96 ** ((count + 1) * momentum_decay))
    mu_product = mu_product * now
    mu_hat = ahead * mu / (1 - ahead * mu_product) + (1 - now) * g / (1 - mu_product)
    return mu_hat / (safe_sqrt(nu / debias(b2, count) + eps_root) + eps), mu, nu, mu_product


def _scale_by_nadam_update(grads, state, params=None, *, b1, b2, eps, eps_root, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, mu, nu = leafwise(
        _nadam_rule, grads, [state.mu, state.nu], count=count, b1=b1, b2=b2, eps=eps, eps_root=eps_root
    )
    return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)


def _scale_by_scheduled_nadam_update(grads, state, params=None, *, b1, b2, eps, eps_root, momentum_decay, **extra):
    del params, extra
    count = optax.safe_increment(state.count)
    updates, mu, nu, mu_product = leafwise(
        _scheduled_nadam_rule,
        grads,
        [state.mu, state.nu, state.mu_product],
        count=count,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        momentum_decay=momentum_decay,
    )
    return updates, ScaleByNadamState(count=count, mu=mu, nu=nu, mu_product=mu_product)


def scale_by_nadam(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    form: str = "dozat",
    momentum_decay: Any = None,
) -> Transform:
    """The direction of NAdam; see `nadam`.  In the form ``'dozat'`` it is ``scale_by_adam(nesterov=True)``.

    >>> for form in ('dozat', 'torch', 'algoperf'):
    ...     tx = scale_by_nadam(form=form)
    ...     updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    ...     print(form, round(float(updates[0]), 4))
    dozat 1.4737
    torch 1.0565
    algoperf 1.9
    """
    check.decay_rate(b1=b1, b2=b2)
    check.non_negative(eps=eps, eps_root=eps_root, momentum_decay=momentum_decay)
    check.one_of("form", form, FORMS)
    if momentum_decay is not None and form != "torch":
        raise ValueError(f"`momentum_decay` belongs to form='torch', got form={form!r}: leave it out")
    if form == "dozat":
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=True)
    values = {"at_init": {"mu_dtype": static(mu_dtype)}, "b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    if form == "algoperf":
        return transform(_scale_by_nadam_init, _scale_by_nadam_update, **values)
    return transform(
        _scale_by_scheduled_nadam_init,
        _scale_by_scheduled_nadam_update,
        momentum_decay=4e-3 if momentum_decay is None else momentum_decay,
        **values,
    )


def _direction(b1, b2, eps, eps_root, mu_dtype, nesterov, form, momentum_decay) -> Transform:
    if nesterov:
        return scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, form=form, momentum_decay=momentum_decay)
    return scale_by_adam(b1, b2, eps, eps_root, mu_dtype)


@storable
def nadam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    form: str = "dozat",
    momentum_decay: Any = None,
) -> Transform:
    """NAdam (Dozat 2016): Adam whose average of gradients looks one step ahead, as Nesterov's momentum does.

    The recurrence heads this module.

    Args:
      learning_rate, b1, b2, eps, eps_root, mu_dtype: as for `adam`; PyTorch's learning rate is 2e-3.
      nesterov: (static) false is Adam, whatever the form.
      form: (static) ``'dozat'`` (Optax), ``'torch'`` (PyTorch, which schedules ``b1``) or ``'algoperf'``.
      momentum_decay: how fast the schedule of ``'torch'`` ends, at least 0; 4e-3 if None.

    Raises:
      ValueError: as `adam`; an unknown ``form``, or a ``momentum_decay`` for a form without it.

    >>> tx = nadam(0.1)
    >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
    >>> round(float(updates[0]), 4)
    -0.1474
    """
    direction = _direction(b1, b2, eps, eps_root, mu_dtype, nesterov, form, momentum_decay)
    check.non_negative(learning_rate=learning_rate)
    return chain(direction, scale_by_learning_rate(learning_rate))


@storable
def nadamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
    decay: str = "decoupled",
    form: str = "dozat",
    momentum_decay: Any = None,
) -> Transform:
    """NAdam with weight decay beside the adaptive step; see `nadam` and `adamw`.

    >>> params = jnp.array([2.0])
    >>> tx = nadamw(0.1, weight_decay=0.5)
    >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(params), params)
    >>> round(float(updates[0]), 4)
    -0.2474
    """
    direction = _direction(b1, b2, eps, eps_root, mu_dtype, nesterov, form, momentum_decay)
    return with_weight_decay(direction, learning_rate, weight_decay, mask, decay)
