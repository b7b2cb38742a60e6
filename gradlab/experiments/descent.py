"""Training with a measurement every few steps, as one compiled program: what the experiments share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.tasks.task import Task
from gradlab.training.batches import draw, make_feed
from gradlab.training.step import Run, start, start_at, train_step


class Descent(NamedTuple):
    """A run with what was measured on the way."""

    steps: jax.Array  # (records,) int32, steps done at each measurement; the first is 0
    measured: Any  # what `measure` returned, with a leading axis (records,)
    run: Run  # at the end


def descend(
    task: Task,
    tx: optax.GradientTransformation,
    steps: int,
    every: int,
    measure: Callable[[Run], Any],
    *,
    key: jax.Array,
    batch_size: int | None = None,
    params: Any = None,
) -> Descent:
    """Trains for ``steps`` steps and measures before the first and after every ``every`` of them.

    Args:
      task: what is minimised.
      tx: the optimizer.
      steps: a multiple of ``every``.
      every: steps between measurements.
      measure: ``run -> tree of arrays``.
      key: of the initial parameters and of the data's order.
      batch_size: all examples if None.
      params: where to start instead of the task's own start.
    """
    begin, order, noise = jax.random.split(key, 3)
    run = start(task, tx, begin) if params is None else start_at(tx, params, task.init(begin)[1])
    sampling = "full" if batch_size is None else "epoch"
    take = functools.partial(draw, data=task.train, batch_size=batch_size, sampling=sampling)

    def one(carry, step):
        run, feed = carry
        feed, batch = take(feed, step=step)
        run, _ = train_step(task, tx, run, batch, jax.random.fold_in(noise, step), step)
        return (run, feed), None

    def some(carry, first):
        carry, _ = jax.lax.scan(one, carry, first + jnp.arange(every, dtype=jnp.int32))
        return carry, measure(carry[0])

    @jax.jit
    def whole(run, feed):
        before = measure(run)
        (run, _), after = jax.lax.scan(some, (run, feed), every * jnp.arange(steps // every, dtype=jnp.int32))
        joined = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), before, after)
        return joined, run

    measured, run = whole(run, make_feed(task.train, order))
    return Descent(every * jnp.arange(steps // every + 1), measured, run)


def training_loss(task: Task) -> Callable[..., jax.Array]:
    """``(params, batch) -> loss`` of a task without state and noise; of all training data unless a batch is given."""
    return lambda params, batch=None: task.loss(params, {}, task.train if batch is None else batch, None)[0]
