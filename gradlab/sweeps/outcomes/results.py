"""What a sweep leaves: arrays, the table made from them, and what may be asked of both."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlab.core.check import one_of
from gradlab.sweeps.outcomes.provenance import provenance
from gradlab.sweeps.outcomes.result_files import read_fields, write_result
from gradlab.sweeps.outcomes.table import final_of, main_of, make_table, mode_of, value_column
from gradlab.sweeps.search import COMPLETED, STOPPED
from gradlab.sweeps.spaces.space import Space
from gradlab.sweeps.spaces.trial import Trial

if TYPE_CHECKING:
    import optuna
    import pandas

LOSS = "loss"  # the name of the training-loss curve, beside those of the metrics


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """The trials of a sweep, each run with every seed; made with `SweepResult.from_lanes` or `SweepResult.load`."""

    space: Space
    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    steps: int  # of every run

    # curves; what a run reports after it diverged has no meaning
    loss: np.ndarray  # (trials, seeds, points), training loss
    loss_step: np.ndarray  # (points,)
    metrics: dict[str, np.ndarray]  # name -> (trials, seeds, evals)
    eval_step: np.ndarray  # (evals,)
    diverged_at: np.ndarray  # (trials, seeds), -1 for never

    # how it ran
    outcome: np.ndarray  # (trials,) str: completed; stopped because others were better; ended because it had settled
    steps_done: np.ndarray  # (trials,)
    bucket: np.ndarray  # (trials,), the compiled program of each trial
    methods: list[str]  # (buckets,), how its lanes ran: vmap, map or loop
    compile_seconds: np.ndarray  # (buckets,)
    run_seconds: np.ndarray  # (trials,), of all its seeds together
    lineage: list[dict[str, Any]]  # of a population: step, uid, parent and values of each trial that took over another
    facts: dict[str, Any]  # versions, platform, date, and what the caller added

    @classmethod
    def from_lanes(
        cls,
        space: Space,
        trials: Sequence[Trial],
        seeds: Sequence[int],
        *,
        steps: int,
        loss: Any,
        loss_step: Any,
        metrics: Mapping[str, Any],
        eval_step: Any,
        diverged_at: Any,
        bucket: Any,
        compile_seconds: Sequence[float],
        run_seconds: Sequence[float],
        outcome: Any = None,
        steps_done: Any = None,
        methods: Sequence[str] | None = None,
        lineage: Sequence[dict[str, Any]] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> "SweepResult":
        """The result of a sweep from the arrays of its lanes.

        Args:
          space: what the trials were drawn from.
          trials: T of them.
          seeds: S of them; every trial ran with each.
          steps: steps of a run that does not diverge.
          loss: (T, S, points), training loss.
          loss_step: (points,), the step of each point.
          metrics: name -> (T, S, evals).
          eval_step: (evals,), steps done at each evaluation.
          diverged_at: (T, S), the step of the first loss that is not finite; -1 for never.
          bucket: (T,), index of the compiled program of each trial.
          compile_seconds: for each bucket.
          run_seconds: for each trial, all seeds together, compiling left out.
          outcome: (T,), what became of each trial; by default all are ``'completed'``.
          steps_done: (T,); by default ``steps``.
          methods: how the lanes of each bucket ran; by default ``'vmap'``.
          lineage: which trials of a population took over which others.
          facts: what else to write down (JSON data: the task's name, the devices).

        Raises:
          ValueError: an array whose shape does not fit the others, a trial given twice, a metric called ``loss``.

        >>> space = Space({'learning_rate': {'log': [0.01, 1.0]}})
        >>> trials = space.from_unit([[0.0], [0.5], [1.0]])
        >>> result = SweepResult.from_lanes(
        ...     space, trials, seeds=[0], steps=2, loss=np.ones((3, 1, 2)), loss_step=[0, 1],
        ...     metrics={'valid_loss': [[[0.3]], [[0.2]], [[0.1]]]}, eval_step=[2], diverged_at=[[-1], [-1], [1]],
        ...     bucket=[0, 0, 0], compile_seconds=[1.0], run_seconds=[1.0] * 3)
        >>> result.table['status'].tolist(), result.best()['learning_rate'].tolist()
        (['completed', 'completed', 'diverged'], [0.1])
        """
        result = cls(
            space=space,
            trials=tuple(trials),
            seeds=tuple(int(seed) for seed in seeds),
            steps=int(steps),
            loss=np.asarray(loss),
            loss_step=np.asarray(loss_step),
            metrics={name: np.asarray(values) for name, values in metrics.items()},
            eval_step=np.asarray(eval_step),
            diverged_at=np.asarray(diverged_at),
            bucket=np.asarray(bucket),
            compile_seconds=np.asarray(compile_seconds, np.float64),
            run_seconds=np.asarray(run_seconds, np.float64),
            outcome=np.full(len(trials), COMPLETED) if outcome is None else np.asarray(outcome),
            steps_done=np.full(len(trials), steps) if steps_done is None else np.asarray(steps_done),
            methods=["vmap"] * len(compile_seconds) if methods is None else list(methods),
            lineage=list(lineage),
            facts=provenance() | dict(facts or {}),
        )
        _check_result(result)
        return result

    @functools.cached_property
    def table(self) -> "pandas.DataFrame":
        """One row for each trial and seed; `gradlab.sweeps.outcomes.table` says what the columns are."""
        return make_table(self, self._curves)

    @property
    def main_metric(self) -> str:
        """What `gradlab.sweeps.outcomes.table.main_of` takes of the metrics, else the training loss."""
        return main_of([*self.metrics, LOSS])

    @property
    def _curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        metrics = {name: (self.eval_step, values) for name, values in self.metrics.items()}
        return {LOSS: (self.loss_step, self.loss), **metrics}

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (points,) and values (trials, seeds, points) of a metric, or of ``'loss'``, the training loss."""
        one_of("metric", metric, self._curves)
        return self._curves[metric]

    def final(self, metric: str) -> np.ndarray:
        """(trials, seeds) the last value of a metric, or of ``'loss'``; NaN where the run diverged."""
        done = self.steps_done - (metric == LOSS)  # a loss is that before its step, a metric that after so many steps
        return final_of(*self.curve(metric), self.diverged_at, done)

    def values(self, name: str) -> list[Any]:
        """What each trial gives to a hyperparameter."""
        one_of("hyperparameter", name, self.space)
        return [trial.values[name] for trial in self.trials]

    def curves(self, uid: str) -> dict[str, np.ndarray]:
        """The curves of one trial: ``loss_step`` and ``eval_step`` (points,), and (seeds, points) by name."""
        uids = [trial.uid for trial in self.trials]
        one_of("trial", uid, uids)
        own = {name: values[uids.index(uid)] for name, (_, values) in self._curves.items()}
        return {"loss_step": self.loss_step, "eval_step": self.eval_step, **own}

    def summary(self, metric: str | None = None) -> "pandas.DataFrame":
        """One row for each trial: uid, hyperparameters, the final values' mean, std, n, diverged over seeds, outcome.

        ``mean`` and ``std`` (with n - 1; NaN for one seed) are over the n runs that ended with a finite value, where
        they ended; ``diverged`` counts the others.
        """
        import pandas

        metric = metric or self.main_metric
        final = self.final(metric)
        finite = np.isfinite(final)
        n = finite.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(finite, final, 0).sum(1) / n
            variance = np.where(finite, (final - mean[:, None]) ** 2, 0).sum(1) / (n - 1)
        std = np.sqrt(np.where(n > 1, variance, np.nan))
        values = {name: value_column(self.space, name, self.trials) for name in self.space}
        uid = [trial.uid for trial in self.trials]
        spread = {"mean": mean, "std": std, "n": n, "diverged": (~finite).sum(1)}
        return pandas.DataFrame({"uid": uid, **values, **spread, "outcome": self.outcome})

    def best(self, metric: str | None = None, mode: str | None = None, k: int = 1) -> "pandas.DataFrame":
        """The k best rows of `summary`, best first.

        A trial of which any seed diverged is not among them, nor one that was stopped because others were better.

        Args:
          metric: by default the main one.
          mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
          k: rows; fewer if not so many trials completed.

        Raises:
          ValueError: an unknown metric or mode, or no trial that completed.
        """
        metric = metric or self.main_metric
        mode = mode or mode_of(metric)
        one_of("mode", mode, ("min", "max"))
        summary = self.summary(metric)
        completed = summary[(summary["diverged"] == 0) & (summary["outcome"] != STOPPED)]
        if completed.empty:
            raise ValueError(
                f"no trial is best: each of the {len(self.trials)} has a run that diverged or ended with a "
                f"{metric} that is not finite; lower the learning rates of the space, or clip the gradients"
            )
        ordered = completed.sort_values("mean", ascending=mode == "min", kind="stable")
        return ordered.head(k).reset_index(drop=True)

    def top(self, k: int = 10, metric: str | None = None, mode: str | None = None) -> "pandas.DataFrame":
        """The k best rows, as `best` orders them."""
        return self.best(metric, mode, k)

    def to_optuna(self, metric: str | None = None, mode: str | None = None) -> "optuna.Study":
        """The sweep as an Optuna study in memory, for its pictures, importances and dashboards.

        A trial that diverged or was stopped is pruned; `gradlab.sweeps.outcomes.optuna_export` says how values are
        written.

        Args:
          metric: by default the main one.
          mode: ``'min'`` or ``'max'``; by default what suits the metric's name.

        Raises:
          ModuleNotFoundError: Optuna is not installed.
          ValueError: an unknown metric or mode.
        """
        from gradlab.sweeps.outcomes.optuna_export import to_study

        return to_study(self, metric, mode)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files of a sweep into a folder, made if need be; each replaces its predecessor when complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_result(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "SweepResult":
        """The result that `save` wrote.

        Raises:
          FileNotFoundError: the folder holds no curves.npz.
        """
        return cls(**read_fields(Path(folder)))


def _check_result(result: SweepResult) -> None:
    trials, seeds = len(result.trials), len(result.seeds)
    if not trials or not seeds:
        raise ValueError(f"a result needs a trial and a seed, got {trials} trials and {seeds} seeds")
    if len({trial.uid for trial in result.trials}) < trials:
        raise ValueError("a trial is given twice; the samplers keep equal trials once")
    if LOSS in result.metrics:
        raise ValueError(f"a metric cannot be called {LOSS!r}, which is the training loss; call it 'valid_loss'")
    buckets = int(result.bucket.max(initial=-1)) + 1
    shapes = {
        "loss": (trials, seeds, len(result.loss_step)),
        "diverged_at": (trials, seeds),
        "outcome": (trials,),
        "steps_done": (trials,),
        "bucket": (trials,),
        "compile_seconds": (buckets,),
        "run_seconds": (trials,),
    }
    arrays = {name: getattr(result, name) for name in shapes} | result.metrics
    shapes |= dict.fromkeys(result.metrics, (trials, seeds, len(result.eval_step)))
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"`{name}` must have shape {shape}, got {arrays[name].shape}")
