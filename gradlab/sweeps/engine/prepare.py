"""Checking a sweep and deciding how it runs."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradlab.core import check
from gradlab.sweeps.engine.arguments import about, check_names, parameters_of, resolve_make
from gradlab.sweeps.engine.lanes import Plan
from gradlab.sweeps.engine.setup import TASK, Drawing, Make, Setup, round_of, task_values
from gradlab.sweeps.engine.training_cost import check_metric, check_slopes, checked_horizon
from gradlab.sweeps.engine.width import METHODS, Limits
from gradlab.sweeps.samplers.adaptive import ADAPTIVE, make_sampler
from gradlab.sweeps.samplers.designs import SAMPLERS, draw
from gradlab.sweeps.schedulers.hypergrad import Hypergrad, moving
from gradlab.sweeps.schedulers.named import make_scheduler
from gradlab.sweeps.search import Scheduler
from gradlab.sweeps.spaces.dimensions import Choice
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial, canonical_json
from gradlab.tasks.task import Task
from gradlab.training.batches import check_batches, num_examples
from gradlab.training.loop import resolve_segment, resolve_steps, resolve_watch


def prepare(
    task: Task | Callable[..., Task],
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
    instruments: Any = (),
    monitor_every: int | None = None,
    sampler: str = "sobol",
    sampler_seed: int = 0,
    batch: int | None = None,
    scheduler: str | Mapping[str, Any] | Scheduler | Hypergrad = "all",
    chunk: int | None = None,
    lane_method: str = "auto",
    memory: float | None = None,
) -> Setup:
    """Checks a sweep and decides how it runs; arguments as for `sweep`."""
    make = resolve_make(make)
    space = space if isinstance(space, Space) else Space(space)
    check_names(make, task, space, TASK)
    task, make_task, space = _resolve_task(task, space)
    seeds = list(range(seeds)) if isinstance(seeds, int | np.integer) else [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"a sweep needs at least one seed, each once, got {seeds}")
    with about("sampler"):
        drawn, drawing = _drawn(space, trials, sampler, sampler_seed, batch)
    batch_size, sampling = check_batches(task.train, batch_size, sampling, accumulate)
    steps = resolve_steps(steps, epochs, num_examples(task.train), batch_size)
    segment = resolve_segment(eval_every, steps)
    watch = resolve_watch(instruments, monitor_every, segment, batch_size)
    if watch.instruments and watch.every > segment:
        raise ValueError(
            f"monitor_every={watch.every} is more than the {segment} steps between evaluations, at which a sweep keeps "
            "what its instruments saw last; lower it, or raise eval_every"
        )
    plan = Plan(steps, segment, batch_size, sampling, accumulate, watch)
    check.one_of("lane_method", lane_method, METHODS)
    check.in_range("chunk", 1 if chunk is None else chunk, 1)
    check.in_range("memory", 1 if memory is None else memory, 1)
    scheduler, refinement = resolve_scheduler(scheduler)
    setup = Setup(
        task,
        make_task,
        make,
        space,
        drawn,
        drawing,
        scheduler,
        refinement,
        seeds,
        plan,
        Limits(lane_method, chunk, memory),
    )
    for bucket in setup.buckets:
        setup.task_of(bucket.structure)
        setup.lanes([trial.values for trial in bucket.trials])
    with about("scheduler"):
        _check_search(setup)
    return setup


def _resolve_task(task: Any, space: Space) -> tuple[Task, Callable[..., Task] | None, Space]:
    """The task of the middle of the space, the factory of all, and the space with what the factory takes marked."""
    own = [name for name in space if name.startswith(TASK)]
    if isinstance(task, Task):
        return task, None, space
    if not callable(task):
        raise TypeError(f"`task` must be a Task, or a function that makes one, got {type(task).__name__}: {task!r}")
    middle = space.from_unit(np.full((1, len(space.varying)), 0.5))[0].values
    structure = {name: value for name, value in task_values(middle).items() if not space[TASK + name].dynamic}
    numbers = task(**structure).hyperparams()
    arguments = parameters_of(task)
    for name in own if arguments is not None else ():
        check.one_of("number or argument of the task", name.removeprefix(TASK), {**numbers, **arguments})
    marked = {
        name: dataclasses.replace(dimension, structural=True)
        for name, dimension in space.items()
        if name in own and isinstance(dimension, Choice) and name.removeprefix(TASK) not in numbers
    }
    for name in own:
        if space[name].dynamic and name not in marked and name.removeprefix(TASK) not in numbers:
            raise ValueError(
                f"`{name}` is no number of task {task(**structure).name!r}, which has {', '.join(numbers) or 'none'}; "
                "what changes its structure is a choice, or an integer with structural: true"
            )
    space = Space({**space, **marked})
    make_task = functools.cache(lambda text: _made(task, json.loads(text)))
    first = {name: value for name, value in middle.items() if name in space.structural}
    return make_task(canonical_json(task_values(first))), make_task, space


def _made(factory: Callable[..., Task], structure: Mapping[str, Any]) -> Task:
    task = factory(**structure)
    if not isinstance(task, Task):
        raise TypeError(f"`task` must make a Task, got {type(task).__name__} for {dict(structure)}")
    return task


def _drawn(space: Space, trials: Any, sampler: str, seed: int, batch: int | None) -> tuple[list[Trial], Drawing]:
    """The trials of a design; of a sampler that looks at results, one of every structure that random draws find."""
    if isinstance(trials, int | np.integer):
        trials = int(trials)
    check.one_of("sampler", sampler, [*SAMPLERS, *ADAPTIVE])
    if sampler not in ADAPTIVE:
        if batch is not None:
            raise ValueError(f"`batch` is the size of a round of {', '.join(ADAPTIVE)}; {sampler} draws all at once")
        drawn = list(trials) if isinstance(trials, Sequence) else draw(space, trials, sampler=sampler, seed=seed)
        if not drawn:
            raise ValueError("a sweep needs at least one trial")
        return drawn, Drawing(sampler, seed, len(drawn), None)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise ValueError(f"`trials` must be the number of trials for sampler {sampler!r}, got {trials!r}")
    check.in_range("batch", 1 if batch is None else batch, 1)
    make_sampler(sampler, space, seed=seed, batch=batch)
    probes = space.from_unit(np.random.default_rng(seed).random((64, len(space.varying))))
    shown = [bucket.trials[0] for bucket in space.bucket(probes)]
    return shown, Drawing(sampler, seed, trials, batch)


def resolve_scheduler(scheduler: Any) -> tuple[Scheduler, Hypergrad | None]:
    """A scheduler from its name, from its name and options, or as it is; and what refines its best trials."""
    if isinstance(scheduler, str):
        scheduler = {"name": scheduler}
    if isinstance(scheduler, Mapping):
        options = {name: value for name, value in scheduler.items() if name != "name"}
        if scheduler.get("name") == Hypergrad.name:
            for option in options:
                check.one_of("option of scheduler 'hypergrad'", option, Hypergrad.__dataclass_fields__)
            scheduler = Hypergrad(**options)
        else:
            scheduler = make_scheduler(scheduler.get("name"), **options)
    if isinstance(scheduler, Hypergrad):
        return make_scheduler("all"), scheduler
    return scheduler, None


def _check_search(setup: Setup) -> None:
    """What does not go together."""
    setup.scheduler.cohorts(round_of(setup), setup.evals)
    if setup.refinement is not None:
        checked_horizon(setup.refinement.horizon, setup.plan.steps)
        if not moving(setup.space):
            raise ValueError(
                f"scheduler 'hypergrad' moves numbers along their derivatives, and of {', '.join(setup.space)} none "
                "has a range; give one as {log: [low, high]} or the like"
            )
        for bucket in setup.buckets:
            first = setup.state_shapes(bucket.structure, [bucket.trials[0].values], setup.seeds[:1])
            check_slopes(first.runs.opt_state)
            check_metric(setup.task_of(bucket.structure), "loss")
    if setup.adaptive and setup.drawing.count % round_of(setup):
        try:
            setup.scheduler.cohorts(setup.drawing.count % round_of(setup), setup.evals)
        except ValueError as error:
            raise ValueError(f"the last round: {error}; or make `trials` a multiple of `batch`") from None
    if setup.scheduler.replaces and setup.adaptive:
        raise ValueError(
            f"scheduler {setup.scheduler.name!r} changes the hyperparameters of its trials on the way, so that sampler "
            f"{setup.drawing.sampler!r} has nothing to learn from them; use one of {', '.join(SAMPLERS)}"
        )
    if setup.scheduler.replaces and len(setup.buckets) > 1:
        raise ValueError(
            f"scheduler {setup.scheduler.name!r} copies states between trials, which needs one structure, but "
            f"{', '.join(setup.space.structural)} gives {len(setup.buckets)}; fix it, and run a sweep for each value"
        )
