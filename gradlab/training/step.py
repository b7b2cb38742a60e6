"""One training step as a pure function: what `fit` scans and what a sweep vmaps over its lanes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core.update import apply_updates, eval_params
from gradlab.tasks.task import Task

RUNNING, DIVERGED, STOPPED = 0, 1, 2


class Run(NamedTuple):
    """All of one training run that changes from step to step."""

    params: Any
    model_state: Any
    opt_state: Any
    loss: jax.Array  # () the loss of the step before
    status: jax.Array  # () int32: 0 running, 1 diverged, 2 + i stopped by rule i
    ended_at: jax.Array  # () int32: the step at which it diverged or stopped, -1 before


def start(task: Task, tx: optax.GradientTransformation, key: jax.Array) -> Run:
    """The run before its first step."""
    return start_at(tx, *task.init(key))


def start_at(tx: optax.GradientTransformation, params: Any, model_state: Any) -> Run:
    """The run before its first step, at given parameters."""
    wide = jnp.promote_types(jnp.float32, jnp.result_type(jnp.float16, *jax.tree.leaves(params)))
    return Run(
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        loss=jnp.full([], jnp.inf, jnp.finfo(wide).dtype),
        status=jnp.zeros([], jnp.int32),
        ended_at=jnp.full([], -1, jnp.int32),
    )


def train_step(
    task: Task,
    tx: optax.GradientTransformation,
    run: Run,
    batch: Any,
    key: jax.Array,
    step: jax.Array,
    stop: tuple = (),
    accumulate: int = 1,
) -> tuple[Run, jax.Array]:
    """One step; returns the run after it and the loss before it.

    A run whose loss is not finite, or for which a stop rule holds, keeps its parameters from then on: its lane
    stays in the program, but nothing of it moves.
    """
    loss, model_state, grads = _gradient(task, run, batch, key, accumulate)
    loss = loss.astype(run.loss.dtype)
    status = jnp.where(jnp.isfinite(loss), RUNNING, DIVERGED)
    for index, rule in reversed(list(enumerate(stop))):
        status = jnp.where((status == RUNNING) & rule.holds(run.loss, loss), STOPPED + index, status)
    status = jnp.where(run.status == RUNNING, status, run.status).astype(jnp.int32)
    alive = status == RUNNING
    value_fn = lambda params: task.loss(params, run.model_state, batch, key)[0]
    extra = {"value": loss, "grad": grads, "step": step, "value_fn": value_fn}
    updates, opt_state = tx.update(grads, run.opt_state, run.params, **extra)
    held = lambda new, old: jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, old)
    updates = jax.tree.map(lambda u: jnp.where(alive, u, jnp.zeros_like(u)), updates)
    ended_at = jnp.where(alive | (run.ended_at >= 0), run.ended_at, step).astype(jnp.int32)
    new = Run(
        params=apply_updates(run.params, updates),
        model_state=held(model_state, run.model_state),
        opt_state=opt_state,
        loss=loss,
        status=status,
        ended_at=ended_at,
    )
    return new, loss


def _gradient(task: Task, run: Run, batch: Any, key: jax.Array, accumulate: int) -> tuple[jax.Array, Any, Any]:
    def loss_of(params, model_state, batch, key):
        return task.loss(params, model_state, batch, key)

    value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate == 1:
        (loss, model_state), grads = value_and_grad(run.params, run.model_state, batch, key)
        return loss, model_state, grads
    return _accumulated(value_and_grad, run, batch, key, accumulate)


def _accumulated(value_and_grad: Callable, run: Run, batch: Any, key: jax.Array, accumulate: int):
    """The mean over ``accumulate`` micro-batches, with memory for the activations of one."""
    micro = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)
    zeros = jax.tree.map(jnp.zeros_like, run.params)

    def add(carry, item):
        model_state, total, loss_sum = carry
        index, batch = item
        (loss, model_state), grads = value_and_grad(run.params, model_state, batch, jax.random.fold_in(key, index))
        return (model_state, jax.tree.map(jnp.add, total, grads), loss_sum + loss.astype(loss_sum.dtype)), None

    carry = (run.model_state, zeros, jnp.zeros([], run.loss.dtype))
    (model_state, total, loss_sum), _ = jax.lax.scan(add, carry, (jnp.arange(accumulate), micro))
    return loss_sum / accumulate, model_state, jax.tree.map(lambda g: g / accumulate, total)


def evaluate(task: Task, tx: optax.GradientTransformation, run: Run, data: Any) -> dict[str, jax.Array]:
    """The task's metrics on ``data`` at the weights that the optimizer reports."""
    return task.metrics(eval_params(tx, run.opt_state, run.params), run.model_state, data)
