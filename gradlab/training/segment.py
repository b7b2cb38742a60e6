"""A piece of one training run as a compiled program: a scan of steps, without the host."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.schedule import Schedule, as_schedule
from gradlab.tasks.task import Task
from gradlab.training.batches import Feed, draw, make_feed, num_examples
from gradlab.training.step import Run, gradient_of_many, move, shapes_seen, start, watched_step
from gradlab.training.watch import OFF, Rows, Watch

INIT, DATA, NOISE = 0, 1, 2  # what a key is folded with: one stream for each purpose


class Settings(NamedTuple):
    """The structure of a compiled segment."""

    batch_size: int | None
    sampling: str
    accumulate: int
    trajectory: bool
    watch: Watch = OFF


class Place(NamedTuple):
    """All that a segment hands to the next."""

    run: Run
    feed: Feed
    read: jax.Array  # () int32: batches read so far


_start = jax.jit(start, static_argnames="watch")


def start_of(task: Task, tx: optax.GradientTransformation, key: jax.Array, watch: Watch = OFF) -> Place:
    """Where a run begins.

    Raises:
      ValueError: the task has no parameters.
    """
    run = _start(task, tx, jax.random.fold_in(key, INIT), watch=watch)
    if not jax.tree.leaves(run.params):
        raise ValueError(f"task {task.name!r} has no parameters to train")
    return Place(run, make_feed(task.train, jax.random.fold_in(key, DATA)), jnp.int32(0))


def check_micro_batches(micro_batches: Any, task: Task, epochs: int | None, accumulate: int) -> Schedule | None:
    if micro_batches is None:
        return None
    for name, given, remedy in (
        ("epochs", epochs is not None, "give steps: how long an epoch is depends on the number of batches in a step"),
        ("accumulate", accumulate > 1, "lower batch_size instead: each micro-batch is one batch"),
        ("no training data", not num_examples(task.train), "leave it out"),
    ):
        if given:
            raise ValueError(f"micro_batches does not go with {name}; {remedy}")
    check.in_range("micro_batches", micro_batches, 1)
    return as_schedule(micro_batches)


@functools.partial(jax.jit, static_argnames=("length", "settings"), donate_argnames="place")
def run_segment(task, tx, place, key, first, rules, micro_batches, length, settings):
    """The place after the segment, the losses, the trajectory if it is kept, and the rows that instruments filled."""
    noise = jax.random.fold_in(key, NOISE)
    take = functools.partial(draw, data=task.train, batch_size=settings.batch_size, sampling=settings.sampling)

    def one(carry, step):
        (run, feed, read), rows = carry
        path = jnp.concatenate([p.ravel() for p in jax.tree.leaves(run.params)]) if settings.trajectory else None
        key = jax.random.fold_in(noise, step)
        if micro_batches is None:
            feed, batch = take(feed, step=step)
            run, loss, seen = watched_step(task, tx, run, batch, key, step, settings.watch, rules, settings.accumulate)
            return (Place(run, feed, read + 1), rows.put(settings.watch, seen, first, step)), (loss, path)
        count = jnp.maximum(jnp.round(micro_batches(step)), 1).astype(jnp.int32)
        draw_one = lambda feed, index: take(feed, step=index)
        gradient, feed = gradient_of_many(task, run, feed, draw_one, read, count, key)
        run, loss = move(tx, run, gradient, step, rules)
        return (Place(run, feed, read + count), rows), (loss, path)

    _, batch = jax.eval_shape(take, place.feed, step=first)
    rows = Rows.empty(settings.watch, shapes_seen(task, tx, place.run, batch, settings.watch), length)
    (place, rows), (losses, path) = jax.lax.scan(one, (place, rows), first + jnp.arange(length, dtype=jnp.int32))
    return place, losses, path, rows.numbers
