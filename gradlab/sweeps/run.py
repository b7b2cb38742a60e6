"""`sweep`: trials x seeds as lanes, bucket by bucket and chunk by chunk, into one result."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradlab.sweeps.clock import compile_seconds
from gradlab.sweeps.journal import Journal, journal_of, open_journal
from gradlab.sweeps.lanes import SegmentResult, lane_segments, state_shapes
from gradlab.sweeps.results import VALID_LOSS, SweepResult
from gradlab.sweeps.setup import Make, Setup, prepare
from gradlab.sweeps.space import Space
from gradlab.sweeps.table import mode_of
from gradlab.sweeps.trial import Trial
from gradlab.tasks.task import Task
from gradlab.training.step import DIVERGED

CURVE_POINTS = 500  # a training-loss curve keeps at most so many points, each the mean of the steps it stands for


class SweepProgress(NamedTuple):
    """What a sweep tells its ``progress`` callback after every segment."""

    done: int  # lane-steps
    total: int
    bucket: int
    buckets: int
    seconds: float
    compile_seconds: float
    remaining: float  # estimated seconds to the end, compiling left out
    best: float  # best finite value so far of the first metric
    metric: str


def sweep(
    task: Task,
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
    sampler: str = "sobol",
    sampler_seed: int = 0,
    chunk: int | None = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Trains every trial of a space with every seed, hundreds at once as lanes of one compiled program.

    Numbers vary between the lanes of one program; what changes structure (a flag, a name) makes buckets, one program
    each.  A run that diverges is frozen where it is and recorded; the others do not notice.

    Args:
      task: what to minimise.
      make: a factory of optimizers, called with the values of a trial by name; or the name of one in the registry.
      space: dotted name -> dimension (see `gradlab.sweeps.space`).  Names that begin with ``task.`` are numbers of the
        task (``task.label_smoothing``); all others are arguments of ``make``.
      trials: how many to sample (for the grid: values of every range, or of each by name), or the trials themselves.
      seeds: how many, or which.  All trials of a seed share initialisation, batches and noise.
      steps, epochs, batch_size, sampling, accumulate, eval_every: as for `gradlab.fit`.
      sampler: ``'grid'``, ``'random'``, ``'sobol'``, ``'halton'`` or ``'latin_hypercube'``.
      sampler_seed: seed of the sampler.
      chunk: configurations that run at once; fewer need less memory.  The default suits CPUs.
      out: folder for the results; nothing is written if None.  If it holds the same sweep unfinished, because its
        process was killed or interrupted, the sweep goes on from there, to the numbers of an uninterrupted one.
      overwrite: begin anew in a folder that holds results or an unfinished sweep.
      progress: called with a `SweepProgress` after every segment.

    Raises:
      ValueError: an unknown sampler, optimizer or task number, values that the factory refuses, no trial.
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
        sampling=sampling, accumulate=accumulate, eval_every=eval_every, sampler=sampler, sampler_seed=sampler_seed,
        chunk=chunk,
    )  # fmt: skip
    journal = None if out is None else open_journal(out, setup.identity(), overwrite=overwrite)
    with journal_of(journal):
        result = run_setup(setup, progress, journal)
        if journal is not None:
            result.save(journal.folder)
    return result


def run_setup(
    setup: Setup, progress: Callable[[SweepProgress], None] | None = None, journal: Journal | None = None
) -> SweepResult:
    """Runs a sweep that is prepared, from where its journal says it is; writes no results."""
    plan, chunks = setup.plan, itertools.count()
    stride = max(1, -(-plan.steps // CURVE_POINTS))
    record = _Record(setup, stride, progress)
    compiling, running = np.zeros(len(setup.buckets)), np.zeros(len(setup.buckets))
    for index, bucket in enumerate(setup.buckets):
        for number, group in enumerate(setup.chunks(bucket)):
            places = list(bucket.positions)[number * len(group) : (number + 1) * len(group)]
            began, compiled = time.perf_counter(), compile_seconds()
            record.run_chunk(index, places, _segments(setup, group, next(chunks), journal))
            compiling[index] += compile_seconds() - compiled
            running[index] += time.perf_counter() - began
    bucket_of = np.empty(len(setup.trials), np.int32)
    for index, bucket in enumerate(setup.buckets):
        bucket_of[list(bucket.positions)] = index
    return SweepResult.from_lanes(
        setup.space,
        setup.trials,
        setup.seeds,
        steps=plan.steps,
        loss=record.loss,
        loss_step=record.loss_step,
        metrics=record.metrics,
        eval_step=record.eval_step,
        diverged_at=record.diverged_at,
        bucket=bucket_of,
        compile_seconds=compiling,
        run_seconds=np.maximum(running - compiling, 0),
        facts={
            "task": setup.task.name,
            "plan": plan._asdict(),
            "chunk": setup.chunk,
            "parameters": setup.task.num_params,
        },
    )


def _segments(
    setup: Setup, group: list[Trial], chunk: int, journal: Journal | None
) -> Iterator[tuple[SegmentResult, bool]]:
    """What the segments of a chunk report, and whether the journal knew it; the others are run and written down."""
    lanes = functools.partial(lane_segments, setup.task, setup.lanes(group), setup.seeds, setup.plan)
    if journal is None:
        yield from ((result, False) for result, _ in lanes())
        return
    results = journal.finished(chunk)
    if results is not None:
        yield from ((result, True) for result in results)
        return
    known = journal.running(chunk, state_shapes(setup.task, setup.lanes(group), setup.seeds))
    results, after = ([], None) if known is None else (known[0], (known[0][-1].steps_done, known[1]))
    yield from ((result, True) for result in list(results))
    for result, state in lanes(after=after):
        results.append(result)
        stop = journal.stop_requested
        journal.keep_running(chunk, results, state, now=stop)
        if stop:
            raise KeyboardInterrupt
        yield result, False
    journal.keep_chunk(chunk, results)


class _Record:
    """The host's side of a sweep: arrays that fill up segment by segment, and progress."""

    def __init__(self, setup: Setup, stride: int, progress: Callable | None):
        self.setup, self.stride, self.progress = setup, stride, progress
        shape = (len(setup.trials), len(setup.seeds))
        self.all_losses = np.full((*shape, setup.plan.steps), np.nan, np.float32)
        self.diverged_at = np.full(shape, -1, np.int32)
        self.eval_step = np.asarray([0] + [first + length for first, length in setup.plan.segments()])
        self.metrics: dict[str, np.ndarray] = {}
        self.prefix = "valid_" if setup.task.valid is not None else "eval_"
        self.began, self.compiled, self.done = time.perf_counter(), compile_seconds(), 0
        self.known = 0  # lane-steps that an earlier process did
        self.total = setup.plan.steps * sum(
            len(group) * len(setup.seeds) for bucket in setup.buckets for group in setup.chunks(bucket)
        )

    def run_chunk(self, bucket: int, places: list[int], segments: Iterator[tuple[SegmentResult, bool]]) -> None:
        before = 0
        for column, (result, was_known) in enumerate(segments):
            self._keep(places, column, before, result)
            steps = (result.steps_done - before) * result.status.size
            self.done += steps
            self.known += steps * was_known
            before = result.steps_done
            if self.progress is not None and before and not was_known:
                self.progress(self._progress(bucket))

    def _keep(self, places: list[int], column: int, before: int, result: SegmentResult) -> None:
        real = slice(0, len(places))
        for name, values in result.metrics.items():
            shape = (*self.diverged_at.shape, len(self.eval_step))
            kept = self.metrics.setdefault(self.prefix + name, np.full(shape, np.nan, np.float32))
            kept[places, :, column] = values[real]
        with np.errstate(over="ignore"):  # a float64 loss on its way to infinity
            self.all_losses[places, :, before : result.steps_done] = result.loss[real]
        self.diverged_at[places] = np.where(result.status == DIVERGED, result.ended_at, -1)[real]

    def _progress(self, bucket: int) -> SweepProgress:
        seconds = time.perf_counter() - self.began
        compiling = compile_seconds() - self.compiled
        metric = VALID_LOSS if VALID_LOSS in self.metrics else next(iter(self.metrics))
        finite = self.metrics[metric][np.isfinite(self.metrics[metric])]
        best = np.nan if not finite.size else finite.max() if mode_of(metric) == "max" else finite.min()
        remaining = max(seconds - compiling, 0) * (self.total - self.done) / (self.done - self.known)
        return SweepProgress(
            self.done, self.total, bucket, len(self.setup.buckets), seconds, compiling, remaining, float(best), metric
        )

    @property
    def loss_step(self) -> np.ndarray:
        return np.arange(0, self.setup.plan.steps, self.stride)

    @property
    def loss(self) -> np.ndarray:
        """Means over ``stride`` steps: (trials, seeds, points)."""
        starts = self.loss_step
        counts = np.diff(np.append(starts, self.setup.plan.steps))
        return np.add.reduceat(self.all_losses, starts, axis=-1) / counts
