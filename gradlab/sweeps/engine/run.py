"""`sweep`: trials x seeds as lanes of compiled programs, into one result."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradlab.sweeps.engine.chunks import run_here
from gradlab.sweeps.engine.cohorts import Search, Workers
from gradlab.sweeps.engine.journal import Journal, journal_of, open_journal
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.record import Record, SweepProgress
from gradlab.sweeps.engine.setup import Make, Setup
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.writers import write_files
from gradlab.sweeps.search import Scheduler
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial
from gradlab.tasks.task import Task


def sweep(
    task: Task | Callable[..., Task],
    make: Make | str,
    space: Space | Mapping[str, Any],
    *,
    trials: int | Mapping[str, int] | Sequence[Trial] = 64,
    seeds: int | Sequence[int] = 1,
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
    scheduler: str | Mapping[str, Any] | Scheduler = "all",
    chunk: int | None = None,
    lane_method: str = "auto",
    memory: float | None = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Trains every trial of a space with every seed, hundreds at once as lanes of one compiled program.

    Numbers vary between the lanes of one program; what changes structure (a flag, a name, the width of a layer) makes
    buckets, one program each.  A run that diverges is frozen where it is and recorded; the others do not notice.

    Args:
      task: what to minimise; or, where the space varies its structure, a function that makes it from the structural
        values whose names begin with ``task.``.
      make: a factory of optimizers, called with the values of a trial by name; or the name of one in the registry.
      space: dotted name -> dimension (see `gradlab.sweeps.spaces.space`).  Names that begin with ``task.`` are numbers
        of the task (``task.label_smoothing``); all others are arguments of ``make``.
      trials: how many to sample (for the grid: values of every range, or of each by name), or the trials themselves.
      seeds: how many, or which.  All trials of a seed share initialisation, batches and noise.
      steps, epochs, batch_size, sampling, accumulate, eval_every: as for `gradlab.fit`.
      instruments, monitor_every: as for `gradlab.fit`; each evaluation has what they saw last, as further metrics.
      sampler: ``'grid'``, ``'random'``, ``'sobol'``, ``'halton'`` or ``'latin_hypercube'``, which draw all trials at
        once; ``'coordinate'``, ``'tpe'``, ``'cmaes'``, ``'gp'`` or ``'nsga2'``, which look at the results of a round
        before they draw the next.
      sampler_seed: seed of the sampler.
      batch: trials in a round of a sampler that looks at results.
      scheduler: who decides on the way which trials go on: ``'all'``, ``'halving'``, ``'hyperband'``, ``'median'``,
        ``'percentile'``, ``'patience'``, ``'pbt'``, or ``'hypergrad'``, which refines the best trials by the gradient
        of their final cost.  With options: ``{'name': 'halving', 'eta': 4}``, or a scheduler of `gradlab.sweeps`.
      chunk: configurations that run at once; by default 16 lanes on a CPU, 1024 elsewhere, or what fits into memory.
      lane_method: ``'vmap'`` runs the lanes of a chunk side by side, ``'map'`` one configuration after another inside
        of the program, ``'loop'`` each trial and seed by itself; ``'auto'`` measures which is fastest, if the sweep
        takes long enough.
      memory: bytes that the lanes may take; by default half of what is free.
      out: folder for the results; nothing is written if None.  If it holds the same sweep unfinished, because its
        process was killed or interrupted, the sweep goes on from there, to the numbers of an uninterrupted one.
      overwrite: begin anew in a folder that holds results or an unfinished sweep.
      progress: called with a `SweepProgress` after every segment.

    Raises:
      TypeError: an optimizer where its factory belongs, or one of Optax, whose numbers cannot be lanes.
      ValueError: an unknown sampler, optimizer or task number, names and values that the factory refuses, no trial, a
        grid of more than 10,000.
      FileExistsError: ``out`` holds files and ``overwrite`` is false, or another process is sweeping into it.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> result = gradlab.sweep(
    ...     surface_task(quadratic(condition=10.0)), gradlab.sgd, {'learning_rate': {'log': [1e-3, 1e-1]}},
    ...     trials=4, steps=50, sampler='grid')
    >>> round(float(result.best()['learning_rate'].iloc[0]), 4)
    0.1
    """
    setup = prepare(
        task, make, space, trials=trials, seeds=seeds, steps=steps, epochs=epochs, batch_size=batch_size,
        sampling=sampling, accumulate=accumulate, eval_every=eval_every, instruments=instruments,
        monitor_every=monitor_every, sampler=sampler, sampler_seed=sampler_seed, batch=batch,
        scheduler=scheduler, chunk=chunk, lane_method=lane_method, memory=memory,
    )  # fmt: skip
    return run_into(setup, out, overwrite=overwrite, progress=progress)


def run_into(
    setup: Setup,
    out: str | os.PathLike | None,
    *,
    overwrite: bool = False,
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Runs a sweep that is prepared, and leaves its results in a folder, if there is one."""
    journal = None if out is None else open_journal(out, setup.identity(), overwrite=overwrite)
    with journal_of(journal):
        result = run_setup(setup, progress, journal)
        if journal is not None:
            result.save(journal.folder)
            write_files(result, journal.folder)
    return result


def run_setup(
    setup: Setup,
    progress: Callable[[SweepProgress], None] | None = None,
    journal: Journal | None = None,
    workers: Workers = run_here,
) -> SweepResult:
    """Runs a sweep that is prepared, from where its journal says it is; writes no results."""
    record = Record(setup, progress)
    Search(setup, record, journal, workers).run()
    return record.result()
