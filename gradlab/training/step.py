"""One training step as a pure function: what `fit` scans and what a sweep vmaps over its lanes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core.update import apply_updates, eval_params
from gradlab.tasks.task import Task
from gradlab.training.watch import OFF, Watch, sight_of

RUNNING, DIVERGED, STOPPED = 0, 1, 2


class Run(NamedTuple):
    """All of one training run that changes from step to step."""

    params: Any
    model_state: Any
    opt_state: Any
    loss: jax.Array  # () the loss of the step before
    status: jax.Array  # () int32: 0 running, 1 diverged, 2 + i stopped by rule i
    ended_at: jax.Array  # () int32: the step at which it diverged or stopped, -1 before
    memory: Any = ()  # of the instruments that watch it


def start(task: Task, tx: optax.GradientTransformation, key: jax.Array, watch: Watch = OFF) -> Run:
    """The run before its first step."""
    return start_at(tx, *task.init(key), watch)


def start_at(tx: optax.GradientTransformation, params: Any, model_state: Any, watch: Watch = OFF) -> Run:
    """The run before its first step, at given parameters."""
    wide = jnp.promote_types(jnp.float32, jnp.result_type(jnp.float16, *jax.tree.leaves(params)))
    return Run(
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        loss=jnp.full([], jnp.inf, jnp.finfo(wide).dtype),
        status=jnp.zeros([], jnp.int32),
        ended_at=jnp.full([], -1, jnp.int32),
        memory=watch.start(params),
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
    run, loss, _ = watched_step(task, tx, run, batch, key, step, OFF, stop, accumulate)
    return run, loss


def watched_step(
    task: Task,
    tx: optax.GradientTransformation,
    run: Run,
    batch: Any,
    key: jax.Array,
    step: jax.Array,
    watch: Watch,
    stop: tuple = (),
    accumulate: int = 1,
) -> tuple[Run, jax.Array, dict[str, jax.Array]]:
    """`train_step`, and what the instruments saw of it by name; NaN where they did not look."""
    gradient = _gradient(task, run, batch, key, accumulate)
    value_fn = lambda params: task.loss(params, run.model_state, batch, key)[0]
    new, loss = move(tx, run, gradient, step, stop, value_fn=value_fn)
    sight = sight_of(task, tx, run, new, gradient.grads, batch, key, step)
    seen, memory = watch.look(sight, run.memory)
    return new._replace(memory=memory), loss, seen


def shapes_seen(
    task: Task, tx: optax.GradientTransformation, run: Run, batch: Any, watch: Watch
) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and dtypes of what the instruments will see of a run; nothing is computed."""
    step = lambda tx, run, batch: watched_step(task, tx, run, batch, jax.random.key(0), jnp.int32(0), watch)[2]
    return jax.eval_shape(step, tx, run, batch) if watch.instruments else {}


class Gradient(NamedTuple):
    """What a step needs to know of the loss at the run's parameters."""

    loss: jax.Array  # ()
    model_state: Any  # the state after the forward pass
    grads: Any


def move(
    tx: optax.GradientTransformation,
    run: Run,
    gradient: Gradient,
    step: jax.Array,
    stop: tuple = (),
    **extra: Any,
) -> tuple[Run, jax.Array]:
    """The half of `train_step` that follows the gradient; ``extra`` goes to the optimizer."""
    loss = gradient.loss.astype(run.loss.dtype)
    status = jnp.where(jnp.isfinite(loss), RUNNING, DIVERGED)
    for index, rule in reversed(list(enumerate(stop))):
        status = jnp.where((status == RUNNING) & rule.holds(run.loss, loss), STOPPED + index, status)
    status = jnp.where(run.status == RUNNING, status, run.status).astype(jnp.int32)
    alive = status == RUNNING
    extra = {"value": loss, "grad": gradient.grads, "step": step, **extra}
    updates, opt_state = tx.update(gradient.grads, run.opt_state, run.params, **extra)
    held = lambda new, old: jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, old)
    updates = jax.tree.map(lambda u: jnp.where(alive, u, jnp.zeros_like(u)), updates)
    ended_at = jnp.where(alive | (run.ended_at >= 0), run.ended_at, step).astype(jnp.int32)
    new = Run(
        params=apply_updates(run.params, updates),
        model_state=held(gradient.model_state, run.model_state),
        opt_state=opt_state,
        loss=loss,
        status=status,
        ended_at=ended_at,
        memory=run.memory,
    )
    return new, loss


def _value_and_grad(task: Task) -> Callable:
    """The task's loss with the way up: of complex parameters that is the conjugate of JAX's gradient."""
    of_loss = jax.value_and_grad(lambda *arguments: task.loss(*arguments), has_aux=True)

    def value_and_grad(*arguments):
        value, grads = of_loss(*arguments)
        return value, jax.tree.map(jnp.conj, grads)

    return value_and_grad


def _gradient(task: Task, run: Run, batch: Any, key: jax.Array, accumulate: int) -> Gradient:
    """The gradient on a batch, or its mean over ``accumulate`` parts, with memory for the activations of one."""
    if accumulate == 1:
        (loss, model_state), grads = _value_and_grad(task)(run.params, run.model_state, batch, key)
        return Gradient(loss, model_state, grads)
    parts = jax.tree.map(lambda x: x.reshape(accumulate, x.shape[0] // accumulate, *x.shape[1:]), batch)
    add = lambda sums, item: (_add(task, run, sums, item[1], jax.random.fold_in(key, item[0])), None)
    sums, _ = jax.lax.scan(add, _no_gradient(run), (jnp.arange(accumulate), parts))
    return _mean(sums, accumulate)


def gradient_of_many(
    task: Task, run: Run, feed: Any, draw: Callable, read: jax.Array, count: jax.Array, key: jax.Array
) -> tuple[Gradient, Any]:
    """The mean gradient over ``count`` batches, a number that may change from step to step, and the feed after them.

    Args:
      task, run: what is trained, and where it stands.
      feed: where the reading of the data stands.
      draw: ``(feed, index) -> (feed, batch)``.
      read: () int32, batches read before.
      count: () int32, at least 1.
      key: of this step.
    """

    def one(index, carry):
        sums, feed = carry
        feed, batch = draw(feed, read + index)
        return _add(task, run, sums, batch, jax.random.fold_in(key, index)), feed

    sums, feed = jax.lax.fori_loop(0, count, one, (_no_gradient(run), feed))
    return _mean(sums, count), feed


def _no_gradient(run: Run) -> Gradient:
    return Gradient(jnp.zeros([], run.loss.dtype), run.model_state, jax.tree.map(jnp.zeros_like, run.params))


def _add(task: Task, run: Run, sums: Gradient, batch: Any, key: jax.Array) -> Gradient:
    (loss, model_state), grads = _value_and_grad(task)(run.params, sums.model_state, batch, key)
    return Gradient(sums.loss + loss.astype(sums.loss.dtype), model_state, jax.tree.map(jnp.add, sums.grads, grads))


def _mean(sums: Gradient, count: Any) -> Gradient:
    grads = jax.tree.map(lambda g: (g / count).astype(g.dtype), sums.grads)
    return Gradient(sums.loss / count, sums.model_state, grads)


def evaluate(task: Task, tx: optax.GradientTransformation, run: Run, data: Any) -> dict[str, jax.Array]:
    """The task's metrics on ``data`` at the weights that the optimizer reports."""
    return task.metrics(eval_params(tx, run.opt_state, run.params), run.model_state, data)
