"""A sweep before it runs: what varies, how it is drawn, who decides, everything checked, nothing compiled."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core.values import describe
from gradlab.sweeps.engine.arguments import check_made
from gradlab.sweeps.engine.lanes import Lanes, LaneState, Plan, state_shapes
from gradlab.sweeps.engine.width import Limits
from gradlab.sweeps.samplers.adaptive import ADAPTIVE, make_sampler
from gradlab.sweeps.schedulers.hypergrad import Hypergrad
from gradlab.sweeps.schedulers.named import as_data, make_scheduler
from gradlab.sweeps.search import Sampler, Scheduler
from gradlab.sweeps.spaces.space import Bucket, Space
from gradlab.sweeps.spaces.trial import Trial, canonical_json
from gradlab.tasks.task import Task

TASK = "task."  # begins the names of a space that are numbers or arguments of the task

Make = Callable[..., optax.GradientTransformation]


class Drawing(NamedTuple):
    """How trials come about."""

    sampler: str
    seed: int
    count: int  # trials in all, those of a refinement by hypergradients left out
    batch: int | None  # of a sampler that looks at results: trials in a round


class Setup(NamedTuple):
    """A sweep before it runs: everything checked, nothing compiled."""

    task: Task  # of the first trial
    make_task: Callable[..., Task] | None  # called with the task's structure, where the sweep varies it
    make: Make
    space: Space
    trials: list[Trial]  # of a design; of a sampler that looks at results, a few that show what there may be
    drawing: Drawing
    scheduler: Scheduler
    refinement: Hypergrad | None
    seeds: list[int]
    plan: Plan
    limits: Limits

    @property
    def adaptive(self) -> bool:
        """Whether the trials are chosen by what became of others."""
        return self.drawing.sampler in ADAPTIVE

    @property
    def evals(self) -> list[int]:
        """Steps after which lanes are evaluated, without 0."""
        return [first + length for first, length in self.plan.segments()]

    @property
    def lane_steps(self) -> int:
        """Steps of all runs, if each went to its end."""
        refined = self.refinement.best * self.refinement.rounds if self.refinement else 0
        return (self.drawing.count + refined) * len(self.seeds) * self.plan.steps

    @property
    def buckets(self) -> list[Bucket]:
        """The trials by structure."""
        return self.space.bucket(self.trials)

    def sampler(self) -> Sampler:
        """A new one, that has not been asked yet."""
        name, seed, _, batch = self.drawing
        return make_sampler(name, self.space, seed=seed, batch=batch)

    def task_of(self, structure: Mapping[str, Any]) -> Task:
        """The task of the trials with these structural values."""
        if self.make_task is None:
            return self.task
        return self.make_task(canonical_json(task_values(structure)))

    def lanes(self, values: Sequence[Mapping[str, Any]]) -> Lanes:
        """Values of one structure as one batch of optimizers and task numbers."""
        columns = {name: [one[name] for one in values] for name in self.space}
        own = {name: column for name, column in columns.items() if name.startswith(TASK) and self.space[name].dynamic}
        rest = {name: column for name, column in columns.items() if not name.startswith(TASK)}
        numbers = {name.removeprefix(TASK): _column(column) for name, column in own.items()}
        return Lanes(_population(self.make, self.space, rest, len(values)), numbers)

    def state_shapes(
        self, structure: Mapping[str, Any], values: Sequence[Mapping[str, Any]], seeds: Sequence[int] | None = None
    ) -> LaneState:
        """Shapes and dtypes of the state of lanes of one structure; nothing is computed."""
        used = self.seeds if seeds is None else seeds
        return state_shapes(self.task_of(structure), self.lanes(values), used, self.plan.watch)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers of the sweep, as JSON data: an unfinished one goes on only as it was."""
        first = self.trials[0].values
        own = {name: value for name, value in first.items() if not name.startswith(TASK)}
        drawn = {"drawing": self.drawing._asdict()} if self.adaptive else {"trials": [one.uid for one in self.trials]}
        return {
            "task": {"name": self.task.name, "numbers": _plain(self.task.hyperparams()), "data": self._data_digest()},
            "optimizer": describe(self.make(**own)).splitlines(),
            "space": self.space.spec(),
            **drawn,
            "scheduler": as_data(self.refinement or self.scheduler),
            "seeds": self.seeds,
            "plan": self.plan.data(),
            **self.limits._asdict(),
        }

    def digest(self) -> str:
        """The identity in 16 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()[:16]

    def _data_digest(self) -> str:
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((self.task.train, self.task.valid)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def alone_setup(setup: Setup, trial: Trial, seeds: Sequence[int]) -> Setup:
    """The same sweep with one trial, to its end, whoever drew it."""
    drawing = Drawing("grid", 0, 1, None)
    everything = {"scheduler": make_scheduler("all"), "refinement": None, "seeds": list(seeds)}
    return setup._replace(trials=[trial], drawing=drawing, **everything)


def task_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(TASK): value for name, value in values.items() if name.startswith(TASK)}


def round_of(setup: Setup) -> int:
    """Trials that are drawn together."""
    if not setup.adaptive:
        return setup.drawing.count
    return min(setup.drawing.count, setup.sampler().batch)


def _population(make: Make, space: Space, values: dict[str, list], count: int) -> optax.GradientTransformation:
    structure = {name: column[0] for name, column in values.items() if not space[name].dynamic}
    numbers = {name: column for name, column in values.items() if space[name].dynamic}
    for index in range(count):
        tx = make(**structure, **{name: column[index] for name, column in numbers.items()})
    check_made(tx, make)
    build = lambda numbers: make(**structure, **numbers)
    return jax.vmap(build, axis_size=count)({name: _column(column) for name, column in numbers.items()})


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value is None else np.asarray(value).tolist() for name, value in values.items()}


def _column(values: list) -> jax.Array:
    return jnp.asarray(np.asarray(values, np.float64), dtype=float)
