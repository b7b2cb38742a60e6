"""What the host knows of a sweep while it runs: curves that fill up segment by segment, costs, progress."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradlab.sweeps.engine.chunks import Chunk, Report
from gradlab.sweeps.engine.clock import compile_seconds
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import is_seen, main_of, mode_of
from gradlab.sweeps.schedulers.named import as_data
from gradlab.sweeps.search import COMPLETED, DIVERGED
from gradlab.sweeps.spaces.trial import Trial
from gradlab.training import step as training

CURVE_POINTS = 500  # a training-loss curve keeps at most so many points, each the mean of the steps it stands for


class SweepProgress(NamedTuple):
    """What a sweep tells its ``progress`` callback after every segment."""

    done: int  # lane-steps, those included that need not be run because their trials were stopped
    total: int
    bucket: int
    buckets: int  # so far
    seconds: float
    compile_seconds: float
    remaining: float  # estimated seconds to the end, compiling left out
    best: float  # best finite value so far of the metric that trials are compared by
    metric: str


class Record:
    """Trials and their curves, in the order in which they began."""

    def __init__(self, setup: Setup, progress: Callable[[SweepProgress], None] | None):
        self.setup, self.progress = setup, progress
        self.trials: list[Trial] = []
        self.structures: list[dict[str, Any]] = []  # of the buckets
        self.methods: list[str] = []
        self.lineage: list[dict[str, Any]] = []  # which trial took over whose state, and with what values
        self.eval_step = np.asarray([0, *setup.evals])
        empty = (0, len(setup.seeds))
        self.losses = np.empty((*empty, setup.plan.steps), np.float32)
        self.metrics: dict[str, np.ndarray] = {}
        self.diverged_at = np.empty(empty, np.int32)
        self.bucket = np.empty(0, np.int32)
        self.steps_done = np.empty(0, np.int32)
        self.outcome = np.empty(0, "U9")
        self.seconds = np.empty(0)  # of the trials
        self.compiling = np.empty(0)  # of the buckets
        self.prefix = "valid_" if setup.task.valid is not None else "eval_"
        self.began, self.compiled = time.perf_counter(), compile_seconds()
        self.done = self.known = self.spared = 0  # lane-steps: all, run by an earlier process, not to be run

    def add(self, trials: Sequence[Trial], buckets: Sequence[int]) -> int:
        """Makes room for trials; returns the position of the first."""
        first, count = len(self.trials), len(trials)
        longer = lambda array, value: np.concatenate([array, np.full((count, *array.shape[1:]), value, array.dtype)])
        self.trials += trials
        self.losses = longer(self.losses, np.nan)
        self.metrics = {name: longer(values, np.nan) for name, values in self.metrics.items()}
        self.diverged_at = longer(self.diverged_at, -1)
        self.steps_done = longer(self.steps_done, 0)
        self.outcome = longer(self.outcome, COMPLETED)
        self.seconds = longer(self.seconds, 0.0)
        self.bucket = np.concatenate([self.bucket, np.asarray(buckets, np.int32)])
        return first

    def bucket_of(self, structure: Mapping[str, Any]) -> int:
        """The number of the bucket of this structure."""
        if structure not in self.structures:
            self.structures.append(dict(structure))
            self.compiling = np.append(self.compiling, 0.0)
        return self.structures.index(structure)

    def count_compiling(self, bucket: int, seconds: float) -> None:
        """Adds what a bucket took to compile."""
        self.compiling[bucket] += seconds

    def keep(self, report: Report, first: int) -> None:
        """Takes over what a chunk reported of the cohort whose first trial this is."""
        chunk, result = report.chunk, report.result
        places = first + np.asarray(chunk.lanes)
        rows = np.ix_(places, [self.setup.seeds.index(seed) for seed in chunk.seeds])
        real = slice(0, len(places))
        column = int(np.searchsorted(self.eval_step, result.steps_done))
        for name, values in result.metrics.items():
            shape = (*self.diverged_at.shape, len(self.eval_step))
            name = name if is_seen(name) else self.prefix + name
            kept = self.metrics.setdefault(name, np.full(shape, np.nan, np.float32))
            with np.errstate(over="ignore"):  # a float64 loss on its way to infinity
                kept[(*rows, column)] = values[real]
        taken = result.loss.shape[-1]
        with np.errstate(over="ignore"):  # a float64 loss on its way to infinity
            self.losses[rows[0], rows[1], result.steps_done - taken : result.steps_done] = result.loss[real]
        self.diverged_at[rows] = np.where(result.status == training.DIVERGED, result.ended_at, -1)[real]
        self.steps_done[places] = result.steps_done
        self.seconds[places] += (result.seconds - result.compile_seconds) / len(places)
        self.count_compiling(chunk.bucket, result.compile_seconds)
        lane_steps = taken * len(chunk.lanes) * len(chunk.seeds)
        self.done += lane_steps
        self.known += lane_steps * report.known
        if self.progress is not None and lane_steps and not report.known:
            self.progress(self._progress(chunk))

    def costs(self, first: int, count: int) -> np.ndarray:
        """(trials, evals) of a cohort: the main metric, mean over seeds, less is better, infinite once one diverged."""
        metric = self.main_metric
        own = slice(first, first + count)
        values, diverged = self.metrics[metric][own], self.diverged_at[own]
        sign = 1 if mode_of(metric) == "min" else -1
        bad = (diverged >= 0)[..., None] & (self.eval_step > diverged[..., None])
        ran = self.eval_step <= self.steps_done[own, None]
        with np.errstate(invalid="ignore"):
            cost = np.where(bad | ~np.isfinite(values), np.inf, sign * values.astype(np.float64)).mean(1)
        return np.where(ran, cost, np.nan)

    def outcomes(self, first: int, count: int) -> list[str]:
        """What became of the trials of a cohort."""
        diverged = (self.diverged_at[first : first + count] >= 0).any(1)
        return np.where(diverged, DIVERGED, self.outcome[first : first + count]).tolist()

    def end(self, places: np.ndarray, outcome: str, step: int) -> None:
        """Trials that do not go on."""
        self.outcome[places] = outcome
        self.spared += len(places) * len(self.setup.seeds) * (self.setup.plan.steps - step)

    @property
    def main_metric(self) -> str:
        """What trials are compared by."""
        return main_of(self.metrics)

    def _progress(self, chunk: Chunk) -> SweepProgress:
        seconds = time.perf_counter() - self.began
        compiling = compile_seconds() - self.compiled
        metric = self.main_metric
        finite = self.metrics[metric][np.isfinite(self.metrics[metric])]
        best = np.nan if not finite.size else finite.max() if mode_of(metric) == "max" else finite.min()
        done, total = self.done + self.spared, max(self.setup.lane_steps, self.done + self.spared)
        remaining = max(seconds - compiling, 0) * (total - done) / (self.done - self.known)
        return SweepProgress(
            done, total, chunk.bucket, len(self.structures), seconds, compiling, remaining, float(best), metric
        )

    def _thinned(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows of the loss curves begin, and the means over the steps in them that ran."""
        steps = self.setup.plan.steps
        starts = np.arange(0, steps, max(1, -(-steps // CURVE_POINTS)))
        ran = np.arange(steps) < self.steps_done[:, None]
        sums = np.add.reduceat(np.where(ran[:, None], self.losses, 0), starts, axis=-1)
        counts = np.add.reduceat(ran, starts, axis=-1, dtype=np.int64)[:, None]
        return starts, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)

    def result(self) -> SweepResult:
        """The result of a sweep that is done."""
        setup = self.setup
        starts, loss = self._thinned()
        return SweepResult.from_lanes(
            setup.space,
            self.trials,
            setup.seeds,
            steps=setup.plan.steps,
            loss=loss,
            loss_step=starts,
            metrics=self.metrics,
            eval_step=self.eval_step,
            diverged_at=self.diverged_at,
            outcome=self.outcome,
            steps_done=self.steps_done,
            bucket=self.bucket,
            methods=self.methods,
            compile_seconds=self.compiling,
            run_seconds=self.seconds,
            lineage=self.lineage,
            facts={
                "task": setup.task.name,
                "identity": setup.digest(),
                "plan": setup.plan.data(),
                "drawing": setup.drawing._asdict(),
                "scheduler": as_data(setup.refinement or setup.scheduler),
                "limits": setup.limits._asdict(),
                "parameters": setup.task.num_params,
            },
        )


def last_costs(costs: np.ndarray) -> np.ndarray:
    """(trials,) the last cost of each that is not NaN.

    >>> last_costs(np.array([[3.0, 2.0, np.nan], [3.0, np.inf, np.inf]]))
    array([ 2., inf])
    """
    known = ~np.isnan(costs)
    return costs[np.arange(len(costs)), costs.shape[1] - 1 - known[:, ::-1].argmax(1)]
