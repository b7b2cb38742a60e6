"""A training step on shapes before anything is computed: what does not fit the parameters is told where it is named.

Masks, storage types and trees of learning rates can be read only beside the parameters of the task.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.config import ConfigError, Problem
from gradlab.config.recipe import STAGES, Recipe
from gradlab.core.compose import identity
from gradlab.core.transform import Transform
from gradlab.sweeps.engine.setup import TASK, Setup
from gradlab.tasks.task import Task
from gradlab.training.step import start, train_step


def rehearse_sweep(setup: Setup, source: str, place: Sequence[str] = ()) -> None:
    """`rehearse` of the first trial of each structure."""
    for bucket in setup.buckets:
        values = {name: value for name, value in bucket.trials[0].values.items() if not name.startswith(TASK)}
        size = {"batch_size": setup.plan.batch_size, "accumulate": setup.plan.accumulate}
        rehearse(setup.make, setup.task_of(bucket.structure), source, place, values=values, **size)


def rehearse(
    recipe: Recipe,
    task: Task,
    source: str,
    place: Sequence[str] = (),
    *,
    batch_size: int | None,
    accumulate: int = 1,
    values: Mapping[str, Any] = {},
    optimizer: str = "optimizer",
) -> None:
    """Traces a step of an optimizer on a task.

    Args:
      recipe: the optimizer.
      task: what it trains.
      source: the file of the config.
      place: where ``recipe`` stands in the config.
      batch_size: examples in a step; all of them if None.
      accumulate: micro-batches that a batch is divided into.
      values: of a trial, by their places.
      optimizer: the section that names it.

    Raises:
      ConfigError: a part of the recipe refuses the task's parameters or their gradients.
    """
    step = lambda tx: _trace(task, tx, batch_size, accumulate)
    try:
        step(recipe(**values))
    except (TypeError, ValueError) as error:
        section, error = _refusing(recipe, values, step, error)
        if isinstance(error, jax.errors.JAXTypeError) or section is None:
            raise
        where = ".".join([*place, optimizer if section == "optimizer" else section])
        trial = ", ".join(f"{name} = {value}" for name, value in values.items())
        message = f"does not fit the task {task.name}{f' with {trial}' if trial else ''}: {error}"
        raise ConfigError([Problem(source, where, message)]) from None


def _trace(task: Task, tx: Transform, batch_size: int | None, accumulate: int) -> None:
    """The first step, on shapes alone."""
    size = lambda leaf: jax.ShapeDtypeStruct((batch_size or leaf.shape[0], *leaf.shape[1:]), leaf.dtype)
    batch = jax.tree.map(size, task.train)

    def first(task, tx, batch):
        key = jax.random.key(0)
        return train_step(task, tx, start(task, tx, key), batch, key, jnp.int32(0), accumulate=accumulate)

    jax.eval_shape(first, task, tx, batch)


def _refusing(
    recipe: Recipe, values: Mapping[str, Any], step: Callable, error: Exception
) -> tuple[str | None, Exception]:
    """The first section with which the step fails, None if it is the task's own, and its error."""
    try:
        step(identity())
    except (TypeError, ValueError) as own:
        return None, own
    sections = ["optimizer", *STAGES]
    for index, section in enumerate(sections, 1):
        without = dict.fromkeys(sections[index:], ())
        kept = {name: value for name, value in values.items() if name.partition(".")[0] not in without}
        try:
            step(dataclasses.replace(recipe, **without)(**kept))
        except (TypeError, ValueError) as found:
            return section, found
    return sections[-1], error
