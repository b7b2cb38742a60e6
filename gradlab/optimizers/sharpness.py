r"""Sharpness-aware minimisation: the gradient taken where the loss nearby is larger, the step made at home.

With g the gradient at p, w = |p| + eta elementwise and ``|.|`` the norm of all parameters together::

    p_adv = p + rho * g / |g|                            SAM, arXiv 2010.01412
    p_adv = p + rho * w^2 * g / |w * g|                  ASAM, arXiv 2102.11600
    p = p + step(gradient at p_adv)                      the optimizer's step

Where the norm is zero there is nothing to climb, and p_adv is p.

A second gradient needs the loss.  `sam` in its opaque mode and `asam` take it inside of ``update`` from ``grad_fn`` or
``value_fn``, which `gradlab.fit` and sweeps supply; `sam` in its transparent mode spends two calls on a step.
`gradlab.msam` does without a second gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import SAMState

from gradlab.core import check
from gradlab.core.branch import own_clock
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import global_norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import copied, is_none
from gradlab.core.update import apply_updates, readout_map, register_readout
from gradlab.core.values import relabel
from gradlab.transforms.lookahead import initializer
from gradlab.transforms.scaling import scale_by_learning_rate

Tree = Any


def _product_rule(g, *, factor):
    return (factor * g,)


def _normalize_update(grads, state, params=None, **extra):
    del params, extra
    (updates,) = leafwise(_product_rule, grads, factor=safe_quotient(1.0, global_norm(grads)))
    return updates, state


def normalize() -> Transform:
    """Divides the updates by their common norm, and leaves zeros zero: the ascent of SAM, before its rho.

    >>> tx = normalize()
    >>> updates, _ = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [0.6, 0.8]
    """
    return transform(empty_init, _normalize_update)


def _weighed_rule(g, p, *, eta):
    return ((jnp.abs(p) + eta) * g,)


def _adaptive_rule(weighed, p, *, eta, factor):
    return (factor * (jnp.abs(p) + eta) * weighed,)


def _normalize_adaptively_update(grads, state, params=None, *, eta, **extra):
    del extra
    params = check.required_params("asam", params)
    (weighed,) = leafwise(_weighed_rule, grads, params=params, eta=eta)
    (updates,) = leafwise(
        _adaptive_rule, weighed, params=params, eta=eta, factor=safe_quotient(1.0, global_norm(weighed))
    )
    return updates, state


def _sam_init(params, *, inner, opaque_mode):
    return SAMState(
        steps_since_sync=jnp.zeros([], jnp.int32),
        opt_state=inner["outer"](params),
        adv_state=inner["adversary"](params),
        cache=None if opaque_mode else copied(params),
    )


def _climb(grads, adv_state, params, inner, extra):
    """The updates of the adversary turned uphill, and its state."""
    updates, adv_state = inner["adversary"](grads, adv_state, params, **own_clock(extra))
    return jax.tree.map(jnp.negative, updates), adv_state


def _at_rest(adv_state, params, inner):
    """The adversary's state after a synchronisation."""
    return inner["start"](params) if "start" in inner else adv_state


def _transparent(grads, state, params, inner, sync_period, extra):
    first, last = state.steps_since_sync == 0, state.steps_since_sync == sync_period - 1
    cache = jax.tree.map(lambda p, home: jnp.where(first, p, home), params, state.cache)

    def ascend():
        updates, adv_state = _climb(grads, state.adv_state, params, inner, extra)
        return updates, state.opt_state, adv_state

    def descend():
        updates, opt_state = inner["outer"](grads, state.opt_state, cache, **own_clock(extra))
        updates, _ = leafwise(_home_rule, updates, [cache], params)
        return updates, opt_state, _at_rest(state.adv_state, params, inner)

    updates, opt_state, adv_state = jax.lax.cond(last, descend, ascend)
    return updates, SAMState(jnp.where(last, 0, state.steps_since_sync + 1), opt_state, adv_state, cache)


def _home_rule(u, home, p):
    """The step back to where the ascent began, and from there the optimizer's."""
    return home - p + u, home


def _second_gradient(grads: Tree, grad_fn: Callable | None, value_fn: Callable | None) -> Callable:
    """``(params, i) -> gradient``, None where ``grads`` has None."""
    if grad_fn is None and value_fn is None:
        raise ValueError(
            "grad_fn must be provided when opaque_mode=True: sam takes a second gradient inside of update; call "
            "tx.update(grads, state, params, grad_fn=lambda params, i: gradient) or value_fn=lambda params: loss"
        )
    keep = lambda g, new: None if g is None else new

    def gradient(params, i):
        new = jax.tree.map(jnp.conj, jax.grad(value_fn)(params)) if grad_fn is None else grad_fn(params, i)
        return jax.tree.map(keep, grads, new, is_leaf=is_none)

    return gradient


def _opaque(grads, state, params, inner, sync_period, batch_axis_name, extra):
    gradient = _second_gradient(grads, extra.get("grad_fn"), extra.get("value_fn"))
    adversarial, adv_state = params, state.adv_state
    for i in range(sync_period - 1):
        climb, adv_state = _climb(grads, adv_state, adversarial, inner, extra)
        adversarial = apply_updates(adversarial, climb)
        grads = gradient(adversarial, i)
        if batch_axis_name is not None:
            grads = jax.lax.pmean(grads, axis_name=batch_axis_name)
    updates, opt_state = inner["outer"](grads, state.opt_state, params, **extra)
    return updates, SAMState(jnp.zeros([], jnp.int32), opt_state, _at_rest(adv_state, params, inner), None)


def _sam_update(grads, state, params=None, *, inner, sync_period, opaque_mode, batch_axis_name, grad=None, **extra):
    """``grad`` stays behind: the parts see gradients of their own, which chains among them supply."""
    del grad
    params = check.required_params("sam", params)
    if opaque_mode:
        return _opaque(grads, state, params, inner, sync_period, batch_axis_name, extra)
    return _transparent(grads, state, params, inner, sync_period, extra)


def _sam_readout(state: SAMState, params: Tree) -> Tree:
    """Home; in the opaque mode the parameters never leave it, and nothing is claimed."""
    if state.cache is None:
        return jax.tree.map(lambda p: optax.MaskedNode(), params)
    at_home = state.steps_since_sync == 0
    return readout_map(lambda home, p: jnp.where(at_home, p, home), state.cache, params)


register_readout(SAMState, _sam_readout)


def sam(
    optimizer: optax.GradientTransformation,
    adv_optimizer: optax.GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Transform:
    """Sharpness-aware minimisation (Foret et al., arXiv 2010.01412) around any optimizer.

    The recurrence heads this module; ``adv_optimizer = gradlab.chain(gradlab.normalize(), gradlab.sgd(rho))`` is the
    paper's, with rho 0.05.  In the transparent mode every ``sync_period``-th call steps and the others climb: the
    gradients are to be taken at the parameters as they are, ``gradlab.eval_params`` returns those to evaluate at.  In
    the opaque mode every call steps; inside of `gradlab.fit` and sweeps it needs nothing more.  Batch statistics then
    stay those of the parameters.

    Args:
      optimizer: the whole optimizer that makes the step.
      adv_optimizer: an optimizer whose updates, with the other sign, make the climb.
      sync_period: (static) one more than the climbs before each step.
      reset_state: (static) true starts the adversary's state anew after each step.
      opaque_mode: (static) true climbs inside of ``update``, which then needs ``grad_fn``, ``(params, i) -> gradient``
        for the climbs i = 0, 1, ..., or ``value_fn``, ``params -> loss``.
      batch_axis_name: (static) mapped axis over which the gradients taken inside are averaged.

    Raises:
      ValueError: a ``sync_period`` below 1; ``update`` without ``params``, or in the opaque mode without a function.

    >>> import gradlab
    >>> tx = sam(gradlab.sgd(0.5), gradlab.chain(normalize(), gradlab.sgd(0.25)), opaque_mode=True)
    >>> params = jnp.array([4.0])
    >>> updates, _ = tx.update(params, tx.init(params), params, value_fn=lambda p: 0.5 * jnp.sum(p**2))
    >>> updates.tolist()  # the gradient at 4.25
    [-2.125]
    """
    check.in_range("sync_period", sync_period, 1)
    inner = {"outer": optimizer, "adversary": adv_optimizer}
    return transform(
        _sam_init,
        _sam_update,
        inner={**inner, "start": initializer(adv_optimizer)} if reset_state else inner,
        at_init={"opaque_mode": static(opaque_mode)},
        sync_period=static(int(sync_period)),
        opaque_mode=static(opaque_mode),
        batch_axis_name=static(batch_axis_name),
    )


def asam(optimizer: optax.GradientTransformation, rho: Any = 0.5, eta: Any = 0.01) -> Transform:
    """Adaptive SAM (Kwon et al., arXiv 2102.11600): the climb of each weight in proportion to its size.

    Rescaling the weights of two layers without changing what they compute leaves its sharpness alone.  It works as
    `sam` in the opaque mode does.

    Args:
      optimizer: the whole optimizer that makes the step.
      rho: length of the climb in units of the weights, 0.5 to 2.
      eta: added to the sizes of the weights.

    Raises:
      ValueError: a negative number; ``update`` without ``params`` or without ``grad_fn`` or ``value_fn``.

    >>> import gradlab
    >>> tx = asam(gradlab.sgd(0.5), rho=0.25, eta=0.0)
    >>> params = jnp.array([4.0])
    >>> updates, _ = tx.update(params, tx.init(params), params, value_fn=lambda p: 0.5 * jnp.sum(p**2))
    >>> updates.tolist()  # the gradient at 4 + 0.25 * 4
    [-2.5]
    """
    check.non_negative(rho=rho, eta=eta)
    direction = transform(empty_init, _normalize_adaptively_update, eta=eta)
    climb = chain(direction, relabel(scale_by_learning_rate(rho), learning_rate="rho"))
    return sam(optimizer, climb, opaque_mode=True)
