"""A sweep before it runs: its trials, buckets and chunks decided, everything checked, nothing compiled."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core.values import describe
from gradlab.optimizers import REGISTRY
from gradlab.sweeps.lanes import Lanes, Plan
from gradlab.sweeps.samplers import draw
from gradlab.sweeps.space import Bucket, Space
from gradlab.sweeps.trial import Trial
from gradlab.tasks.task import Task
from gradlab.training.batches import check_batches, num_examples
from gradlab.training.loop import resolve_segment, resolve_steps

TASK = "task."  # begins the names of a space that are numbers of the task

Make = Callable[..., optax.GradientTransformation]


class Setup(NamedTuple):
    """A sweep before it runs: everything checked, nothing compiled."""

    task: Task
    make: Make
    space: Space
    trials: list[Trial]
    seeds: list[int]
    plan: Plan
    buckets: list[Bucket]
    chunk: int

    def chunks(self, bucket: Bucket) -> list[list[Trial]]:
        """The bucket's trials in groups of equal size; the last is filled up with copies of its last trial."""
        size = min(self.chunk, len(bucket.trials))
        groups = [list(bucket.trials[first : first + size]) for first in range(0, len(bucket.trials), size)]
        return [group + [group[-1]] * (size - len(group)) for group in groups]

    def identity(self) -> dict[str, Any]:
        """What decides the numbers of the sweep, as JSON data: an unfinished one goes on only as it was."""
        first = self.trials[0].values
        own = {name: value for name, value in first.items() if not name.startswith(TASK)}
        return {
            "task": {"name": self.task.name, "numbers": _plain(self.task.hyperparams()), "data": self._data_digest()},
            "optimizer": describe(self.make(**own)).splitlines(),
            "space": self.space.spec(),
            "trials": [trial.uid for trial in self.trials],
            "seeds": self.seeds,
            "plan": self.plan._asdict(),
            "chunk": self.chunk,
        }

    def _data_digest(self) -> str:
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((self.task.train, self.task.valid)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def lanes(self, trials: Sequence[Trial]) -> Lanes:
        """Trials of one bucket as one batch of optimizers and task numbers."""
        values = {name: [trial.values[name] for trial in trials] for name in self.space}
        own = {name.removeprefix(TASK): column for name, column in values.items() if name.startswith(TASK)}
        rest = {name: column for name, column in values.items() if not name.startswith(TASK)}
        return Lanes(_population(self.make, self.space, rest, len(trials)), {k: _column(v) for k, v in own.items()})


def prepare(
    task: Task,
    make: Make | str,
    space: Space | Mapping[str, Any],
    *,
    trials: int | Mapping[str, int] | Sequence[Trial],
    seeds: int | Sequence[int],
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    sampling: str = "epoch",
    accumulate: int = 1,
    eval_every: int | None = None,
    sampler: str = "sobol",
    sampler_seed: int = 0,
    chunk: int | None = None,
) -> Setup:
    """Checks a sweep and decides its trials, buckets and chunks; arguments as for `sweep`."""
    if isinstance(make, str):
        check.one_of("optimizer", make, REGISTRY)
        make = REGISTRY[make]
    space = space if isinstance(space, Space) else Space(space)
    own = [name.removeprefix(TASK) for name in space if name.startswith(TASK)]
    for name in own:
        check.one_of("number of the task", name, task.hyperparams())
    if isinstance(trials, int | np.integer):
        trials = int(trials)
    given = isinstance(trials, Sequence)
    drawn = list(trials) if given else draw(space, trials, sampler=sampler, seed=sampler_seed)
    if not drawn:
        raise ValueError("a sweep needs at least one trial")
    seeds = list(range(seeds)) if isinstance(seeds, int | np.integer) else [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"a sweep needs at least one seed, each once, got {seeds}")
    batch_size, sampling = check_batches(task.train, batch_size, sampling, accumulate)
    steps = resolve_steps(steps, epochs, num_examples(task.train), batch_size)
    segment = resolve_segment(eval_every, steps)
    plan = Plan(steps, segment, batch_size, sampling, accumulate)
    chunk = max(1, 16 // len(seeds)) if chunk is None else chunk
    check.in_range("chunk", chunk, 1)
    setup = Setup(task, make, space, drawn, seeds, plan, space.bucket(drawn), int(chunk))
    for bucket in setup.buckets:
        setup.lanes(bucket.trials)
    return setup


def _population(make: Make, space: Space, values: dict[str, list], count: int) -> optax.GradientTransformation:
    structure = {name: column[0] for name, column in values.items() if not space[name].dynamic}
    numbers = {name: column for name, column in values.items() if space[name].dynamic}
    for index in range(count):
        make(**structure, **{name: column[index] for name, column in numbers.items()})
    build = lambda numbers: make(**structure, **numbers)
    return jax.vmap(build, axis_size=count)({name: _column(column) for name, column in numbers.items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else np.asarray(value).tolist() for name, value in values.items()}


def _column(values: list) -> jax.Array:
    return jnp.asarray(np.asarray(values, np.float64), dtype=float)
