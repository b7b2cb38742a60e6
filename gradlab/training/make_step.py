"""A training step that changes its buffers in place: one compiled function from a state and a batch to the next state.

::

    state = start_step(tx, params)
    step = make_step(loss)
    state, metrics = step(state, batch)      the old state is gone: its memory holds the new one

With ``parts`` the batch is cut along the examples, and the gradients are added up in a scan with one accumulator; with
``remat`` the activations of the forward pass are computed again instead of kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.buckets import unbucket
from gradlab.core.norms import global_norm
from gradlab.core.transform import from_optax
from gradlab.core.update import apply_updates
from gradlab.training.layouts import Layout, split_gradient, within

Tree = Any


class StepState(NamedTuple):
    """All of a training run: a pytree, so that it may be donated, sharded, saved and batched."""

    step: jax.Array  # () int32, steps done
    params: Tree
    opt_state: Tree
    tx: optax.GradientTransformation  # the optimizer: its hyperparameters are leaves


def start_step(tx: optax.GradientTransformation, params: Tree, layout: Layout | None = None) -> StepState:
    """The state before the first step; it holds a copy of the parameters, since steps destroy what they are given.

    With a layout it is made where it shall lie: no buffer is first on one device.

    >>> import gradlab
    >>> state = start_step(gradlab.sgd(0.5), {'w': jnp.ones(2)})
    >>> int(state.step), state.params['w'].tolist()
    (0, [1.0, 1.0])
    """
    tx = jax.tree.map(jnp.asarray, from_optax(tx))
    if layout is None:
        params = trees.copied(params)
        return StepState(jnp.zeros([], jnp.int32), params, tx.init(params), tx)
    begin = lambda tx, params: StepState(jnp.zeros([], jnp.int32), params, tx.init(params), tx)
    params = jax.tree.map(lambda p, sharding: jax.device_put(p, sharding, may_alias=False), params, layout.params)
    near = layout if layout.near is None else layout._replace(opt_state=layout.near)
    state = jax.jit(within(layout, begin), out_shardings=_shardings(near))(tx, params)
    return state if layout.near is None else state._replace(opt_state=jax.device_put(state.opt_state, layout.opt_state))


def _shardings(layout: Layout) -> StepState:
    """A prefix of the state's tree."""
    return StepState(layout.everywhere, layout.params, layout.opt_state, layout.everywhere)


def make_step(
    loss: Callable,
    *,
    donate: bool = True,
    parts: int = 1,
    remat: bool | Callable = False,
    accumulator_dtype: Any = None,
    layout: Layout | None = None,
) -> Callable[[StepState, Any], tuple[StepState, dict[str, jax.Array]]]:
    """A compiled training step for a loss.

    Args:
      loss: ``(params, batch) -> scalar``, a mean over the batch, or ``-> (scalar, metrics)`` with a dictionary.  Where
        the state holds `gradlab.bucket` of a tree it sees the tree.
      donate: whether the state is updated in place; false keeps the old one.
      parts: pieces of one size that a batch is cut into along its first axis, to hold the activations of one at a
        time; gradients, loss and metrics are means over them.
      remat: true keeps no activations for the backward pass but computes them again; a policy of
        ``jax.checkpoint_policies`` says which are kept.
      accumulator_dtype: in which the gradients of the parts are added up; the parameters', but at least float32, if
        None.
      layout: where the state lies and batches are split, from `zero_layout`, `fsdp_layout` or `layout_of`; with the
        first two the loss sees the share of one device.

    Returns:
      ``(state, batch) -> (state, metrics)``, jitted, with ``lower`` as jitted functions have it.  The metrics are
      those of the loss, ``'loss'`` and ``'grad_norm'``.

    Raises:
      ValueError: a loss that is no scalar, metrics with a name that is taken, a batch that the parts do not divide.

    >>> import gradlab
    >>> step = make_step(lambda params, batch: jnp.mean((batch - params['w']) ** 2), parts=2)
    >>> state = start_step(gradlab.sgd(0.25), {'w': jnp.zeros(())})
    >>> state, metrics = step(state, jnp.array([1.0, 3.0, 1.0, 3.0]))
    >>> float(state.params['w']), float(metrics['loss']), float(metrics['grad_norm'])
    (1.0, 5.0, 4.0)
    """
    check.in_range("parts", parts, 1)
    with_metrics = lambda params, batch: _with_metrics(loss, unbucket(params), batch)
    if remat:
        with_metrics = jax.checkpoint(with_metrics, policy=remat if callable(remat) else None)
    gradient = jax.value_and_grad(with_metrics, has_aux=True)
    if parts > 1:
        gradient = partial(_over_parts, gradient, parts=parts, dtype=accumulator_dtype)
    if layout is not None and layout.axis is not None:
        gradient = split_gradient(gradient, layout)

    def step(state: StepState, batch: Any) -> tuple[StepState, dict[str, jax.Array]]:
        (value, metrics), grads = gradient(state.params, batch)
        told = {
            "value": value,
            "grad": grads,
            "step": state.step,
            "value_fn": lambda params: with_metrics(params, batch)[0],
        }
        held = state.params if layout is None else jax.lax.with_sharding_constraint(state.params, layout.grads)
        slots = (
            state.opt_state if layout is None or layout.near is None else jax.device_put(state.opt_state, layout.near)
        )
        updates, slots = state.tx.update(grads, slots, held, **told)
        params = apply_updates(held, updates)
        opt_state = slots if layout is None or layout.near is None else jax.device_put(slots, layout.opt_state)
        new = StepState(state.step + 1, params, opt_state, state.tx)
        return new, {**metrics, "loss": value, "grad_norm": global_norm(grads)}

    placed = {} if layout is None else _placed(layout)
    return jax.jit(within(layout, step), donate_argnums=0 if donate else (), **placed)


def _placed(layout: Layout) -> dict[str, Any]:
    state = _shardings(layout)
    return {"in_shardings": (state, layout.batch), "out_shardings": (state, layout.everywhere)}


def _with_metrics(loss: Callable, params: Tree, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    returned = loss(params, batch)
    value, metrics = returned if isinstance(returned, tuple) else (returned, {})
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"make_step: the loss must be one real number, the mean over the batch; got "
            f"{jnp.result_type(value)}{list(jnp.shape(value))}"
        )
    if not isinstance(metrics, dict) or {"loss", "grad_norm"} & metrics.keys():
        got = jax.tree.map(jnp.shape, metrics)
        raise ValueError(f"make_step: metrics must be a dictionary without 'loss' and 'grad_norm', got {got}")
    return value, metrics


def _over_parts(gradient: Callable, params: Tree, batch: Any, parts: int, dtype: Any) -> tuple[tuple, Tree]:
    """The mean over the parts, added up in one accumulator."""
    pieces = jax.tree_util.tree_map_with_path(lambda path, x: _cut(path, x, parts), batch)
    first = jax.tree.map(lambda x: x[0], pieces)
    wide = lambda shape: dtype or jnp.promote_types(shape.dtype, jnp.float32)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, wide(shape)), jax.eval_shape(gradient, params, first))

    def add(sums, piece):
        return jax.tree.map(
            lambda total, x: total + (x / parts).astype(total.dtype), sums, gradient(params, piece)
        ), None

    (aux, sums), _ = jax.lax.scan(add, zeros, pieces)
    return aux, jax.tree.map(lambda total, p: total.astype(p.dtype), sums, params)


def _cut(path: tuple, x: jax.Array, parts: int) -> jax.Array:
    if not jnp.ndim(x) or jnp.shape(x)[0] % parts:
        raise ValueError(
            f"make_step: the batch's leaf at '{trees.path_name(path)}' of shape {jnp.shape(x)} does not divide into "
            f"parts={parts} along its first axis"
        )
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
