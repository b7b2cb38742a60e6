"""What instruments cost a run, measured: a step at which they look beside one at which they do not."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.tasks.task import Task
from gradlab.training.step import Run, watched_step
from gradlab.training.watch import Watch

ROUNDS = 5


class Overhead(NamedTuple):
    """Seconds of one run's steps, alone on the device."""

    step: float  # without a look
    look: float  # what a look adds
    every: int  # steps from one look to the next

    @property
    def share(self) -> float:
        """What the looks add to the time of the training steps, as a part of it."""
        return self.look / (self.every * self.step)


def overhead(task: Task, tx: optax.GradientTransformation, run: Run, batch_size: int | None, watch: Watch) -> Overhead:
    """Measures the instruments of a watch on a run that it watched: medians of paired rounds.

    Args:
      task: what is trained.
      tx: the optimizer.
      run: where it stands; it is not changed.
      batch_size: examples in a step, all of them if None.
      watch: at least one instrument.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> from gradlab.training.instruments import Norms
    >>> task, tx, watch = surface_task(quadratic(condition=10.0)), gradlab.sgd(0.1), Watch((Norms(),), every=10)
    >>> run = gradlab.fit(task, tx, steps=2, instruments=watch.instruments).run
    >>> measured = overhead(task, tx, run, None, watch)
    >>> measured.every, measured.step > 0
    (10, True)
    """
    batch = jax.tree.map(lambda x: x[:batch_size], task.train)
    alternating = dataclasses.replace(watch, every=2)
    alive = run._replace(status=jnp.zeros_like(run.status))
    once = jax.jit(lambda task, tx, run, batch, step: _once(task, tx, run, batch, step, alternating))
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for step in (0, 1) * (1 + ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(once(task, tx, alive, batch, np.int32(step)))
        seconds[step].append(time.perf_counter() - began)
    with_look, without = (float(np.median(seconds[step][1:])) for step in (0, 1))
    return Overhead(without, max(with_look - without, 0.0), watch.every)


def _once(task: Task, tx: Any, run: Run, batch: Any, step: jax.Array, watch: Watch) -> Any:
    return watched_step(task, tx, run, batch, jax.random.key(0), step, watch)
