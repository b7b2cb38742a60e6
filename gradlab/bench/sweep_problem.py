"""What the contenders of a sweep are given: a task, learning rates, and the start and minibatches that a seed means."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.tasks.catalogue import chars, digits_cnn, digits_mlp
from gradlab.tasks.task import Task
from gradlab.training.batches import draw, make_feed
from gradlab.training.segment import DATA, INIT

SEED = 0
LOWEST_RATE, HIGHEST_RATE = 1e-4, 1e-2
GOLDEN = (5**0.5 - 1) / 2


class Sweep(NamedTuple):
    """Adam with each of some learning rates."""

    task: Task
    learning_rates: np.ndarray  # (configurations,)
    steps: int
    batch_size: int

    def first(self, configurations: int) -> "Sweep":
        """The same with the first learning rates only."""
        return self._replace(learning_rates=self.learning_rates[:configurations])


class Fixture(NamedTuple):
    """The start and the minibatches that the seed stands for in gradlab's sweeps."""

    params: Any
    model_state: Any
    rows: jax.Array  # (steps, batch) int32: examples of each minibatch


class Problem(NamedTuple):
    """A network to train, and how much."""

    make: Callable[[], Task]
    steps: int
    batch_size: int
    parity_lanes: tuple[int, ...]  # at which lanes written by hand are raced, ascending

    def sweep(self, steps: int | None = None) -> Callable[[int], Sweep]:
        """The sweep with so many configurations: the larger one begins with the learning rates of the smaller.

        Its task has one batch of validation examples, so that evaluation takes a small part of the time.
        """
        task = self.make()
        valid = jax.tree.map(lambda x: x[: self.batch_size], task.valid)
        task = dataclasses.replace(task, valid=valid, test=None)
        return lambda configurations: Sweep(
            task, learning_rates(configurations), self.steps if steps is None else steps, self.batch_size
        )


PROBLEMS = {
    "mlp": Problem(digits_mlp, steps=200, batch_size=64, parity_lanes=(16, 64)),
    "cnn": Problem(digits_cnn, steps=4, batch_size=64, parity_lanes=(16,)),
    "chars": Problem(functools.partial(chars, max_characters=100_000), steps=8, batch_size=4, parity_lanes=(16,)),
}


def learning_rates(count: int) -> np.ndarray:
    """The first ``count`` terms of one sequence that fills the logarithmic range from 1e-4 to 1e-2 evenly.

    >>> learning_rates(3).round(5).tolist()
    [0.001, 0.00017, 0.00297]
    """
    place = (0.5 + GOLDEN * np.arange(count)) % 1.0
    return LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** place


def fixture_of(sweep: Sweep) -> Fixture:
    """The initial parameters and the order of examples that gradlab derives from the seed."""
    return _fixture(sweep.task, sweep.steps, sweep.batch_size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fixture(task: Task, steps: int, batch_size: int) -> Fixture:
    key = jax.random.key(SEED)
    params, model_state = task.init(jax.random.fold_in(key, INIT))
    examples = jnp.arange(task.num_examples, dtype=jnp.int32)
    take = functools.partial(draw, data=examples, batch_size=batch_size, sampling="epoch")
    feed = make_feed(examples, jax.random.fold_in(key, DATA))
    _, rows = jax.lax.scan(lambda feed, step: take(feed, step=step), feed, jnp.arange(steps))
    return Fixture(params, model_state, rows)
