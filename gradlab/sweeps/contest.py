"""A contest: every optimizer tuned with the same budget, then run with fresh seeds, and compared with one of them.

::

    target   the reference's final value with the same seed: the same initialisation, the same batches
    steps    of a run until its curve, a line between two evaluations, reaches its target
    seconds  steps x seconds of a step, measured on the fresh runs, which are lanes of one program

The seeds of the tuning decide nothing but the hyperparameters: the best of several trials looks better than it is.
"""

import dataclasses
import functools
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradlab.core.check import in_range, one_of
from gradlab.sweeps.engine.journal import UNFINISHED as SWEEP_UNFINISHED
from gradlab.sweeps.engine.journal import is_unfinished
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.run import SweepProgress, run_into
from gradlab.sweeps.engine.setup import Make, Setup
from gradlab.sweeps.outcomes.files import make_run_folder, write_atomically
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of
from gradlab.tasks.task import Task

if TYPE_CHECKING:
    import pandas


UNFINISHED, RESULT = "unfinished.txt", "curves.npz"  # a contest that goes on; a sweep of it that is done


class Entrant(NamedTuple):
    """An optimizer and what may be tuned of it, as `gradlab.sweep` takes them."""

    make: Make | str
    space: Mapping[str, Any]


def contest(
    task: Task,
    entrants: Mapping[str, Entrant],
    *,
    reference: str | None = None,
    trials: int = 8,
    seeds: int = 1,
    fresh_seeds: int = 5,
    sampler: str = "grid",
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[str, SweepProgress], None] | None = None,
    **options: Any,
) -> "ContestResult":
    """Tunes each optimizer by a sweep, then runs the best trial of each with seeds that the sweep did not see.

    Args:
      task: what to minimise.
      entrants: label -> optimizer and space.
      reference: the label whose final values are the targets; the first if None.
      trials: of each sweep; for the grid, values of every range (see `gradlab.sweep`).
      seeds: of each sweep, counted from zero.
      fresh_seeds: of the comparison, counted on from those.
      sampler: as for `gradlab.sweep`.
      out: folder for the results; each sweep is saved when it is done, the table at the end.  If it holds the same
        contest unfinished, the sweeps that are done are read, and the others go on.
      overwrite: begin anew in a folder that holds results or an unfinished contest.
      progress: called with what runs, ``'Muon, tuning'``, and a `SweepProgress`, after every segment.
      **options: ``steps``, ``epochs``, ``batch_size`` and so on, as for `gradlab.sweep`.

    Raises:
      ValueError: no entrant, an unknown reference, a number of seeds below one, grids of different numbers of trials,
        or what `gradlab.sweep` refuses.
      FileExistsError: ``out`` holds files and ``overwrite`` is false.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> space = {'learning_rate': {'log': [1e-3, 1e-1]}}
    >>> result = contest(
    ...     surface_task(quadratic(condition=10.0)), {'SGD': Entrant('sgd', space), 'Adam': Entrant('adam', space)},
    ...     trials=3, fresh_seeds=2, steps=100, eval_every=5)
    >>> result.table[['optimizer', 'learning_rate', 'reached']].values.tolist()
    [['SGD', 0.1, 2], ['Adam', 0.1, 0]]
    """
    if not entrants:
        raise ValueError("a contest needs at least one entrant")
    reference = next(iter(entrants)) if reference is None else reference
    one_of("reference", reference, entrants)
    in_range("seeds", seeds, 1)
    _require_own_folders(entrants)
    in_range("fresh_seeds", fresh_seeds, 1)
    setup_of = lambda label, trials, seeds, sampler: prepare(
        task, *entrants[label], trials=trials, seeds=seeds, sampler=sampler, **options
    )
    tunings = {label: setup_of(label, trials, seeds, sampler) for label in entrants}
    require_one_budget(tunings)
    folder = None if out is None else _open_folder(Path(out), overwrite)

    def run(label, what, setup):
        tell = None if progress is None else functools.partial(progress, f"{label}, {what}")
        return _run_or_read(setup, folder and folder / slug(label) / what, tell)

    tuned, fresh = {}, {}
    for label in entrants:
        tuned[label] = run(label, "tuning", tunings[label])
        best = tuned[label].best()["uid"].iloc[0]
        (trial,) = [trial for trial in tuned[label].trials if trial.uid == best]
        fresh[label] = run(label, "fresh seeds", setup_of(label, [trial], range(seeds, seeds + fresh_seeds), "grid"))
    result = ContestResult(reference, tuned, fresh)
    if folder is not None:
        write_atomically(folder / "contest.csv", lambda file: result.table.to_csv(file, index=False))
        (folder / UNFINISHED).unlink()
    return result


def _open_folder(folder: Path, overwrite: bool) -> Path:
    """The folder of a new contest, or of one that did not come to its end."""
    if overwrite or not (folder / UNFINISHED).exists():
        make_run_folder(folder, overwrite)
        for sweep in {path.parent for path in folder.glob("*/*/*")}:
            (sweep / RESULT).unlink(missing_ok=True)
            shutil.rmtree(sweep / SWEEP_UNFINISHED, ignore_errors=True)
        write_atomically(folder / UNFINISHED, lambda file: file.write(b"a contest that has not come to its end\n"))
    return folder


def _run_or_read(setup: Setup, place: Path | None, tell: Callable[[SweepProgress], None] | None) -> SweepResult:
    """Runs a sweep of the contest, unless an earlier process has done so."""
    if place is None or not (place / RESULT).exists():
        if place is not None:
            place.parent.mkdir(exist_ok=True)
        return run_into(setup, place, overwrite=place is not None and not is_unfinished(place), progress=tell)
    result = SweepResult.load(place)
    if result.facts["identity"] != setup.digest():
        raise ValueError(
            f"{place} holds the sweep of another contest: its data, space or plan differ; run that to its end as it "
            "was, begin anew (`overwrite`, --overwrite), or choose another folder (`out`, --out)"
        )
    if tell is not None:
        total, metric = setup.lane_steps, result.main_metric
        best = float(result.best()["mean"].iloc[0])
        tell(SweepProgress(total, total, 0, len(result.methods), 0.0, 0.0, 0.0, best, metric))
    return result


def require_one_budget(tunings: Mapping[str, Setup]) -> None:
    """Raises if grids give the entrants different numbers of trials; a sampler draws as many for each as there are."""
    counts = {label: setup.drawing.count for label, setup in tunings.items() if setup.drawing.sampler == "grid"}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{label!r} {count}" for label, count in counts.items())
        raise ValueError(
            f"sampler 'grid' gives the entrants different numbers of trials, {listed}, since `trials` is the number of "
            "values of every range; take another sampler, such as 'sobol', or spaces that give one number"
        )


def _require_own_folders(entrants: Mapping[str, Entrant]) -> None:
    folders: dict[str, str] = {}
    for label in entrants:
        other = folders.setdefault(slug(label), label)
        if other != label:
            raise ValueError(f"{other!r} and {label!r} would both have the folder {slug(label)!r}; rename one")


def slug(label: str) -> str:
    """A label as the name of a folder.

    >>> slug('SOAP, f = 1')
    'soap-f-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "entrant"


@dataclasses.dataclass(frozen=True, eq=False)
class ContestResult:
    """The sweeps of a contest by label, and the table made of them."""

    reference: str
    tuned: dict[str, SweepResult]
    fresh: dict[str, SweepResult]  # of one trial each

    @property
    def metric(self) -> str:
        """What is compared: the main metric of the sweeps."""
        return self.fresh[self.reference].main_metric

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """(fresh seeds,) the reference's final values; NaN for a run that diverged."""
        result = self.fresh[self.reference]
        return result.final(self.metric)[0]

    def steps(self, label: str) -> np.ndarray:
        """(fresh seeds,) steps until the target is reached; NaN for a run that never reaches it."""
        result = self.fresh[label]
        step, values = result.curve(self.metric)
        values = np.where(before_divergence(values, step, result.diverged_at), values, np.nan)
        pairs = zip(values[0], self.targets, strict=True)
        return np.asarray([steps_to(step, run, target, mode_of(self.metric)) for run, target in pairs])

    def difference(self, label: str) -> np.ndarray:
        """(fresh seeds,) final value minus the reference's with the same seed; NaN where either diverged."""
        return self.fresh[label].final(self.metric)[0] - self.targets

    def seconds_per_step(self, label: str) -> float:
        """Of one run."""
        result = self.fresh[label]
        return float(result.run_seconds.sum() / (result.steps * len(result.seeds)))

    @functools.cached_property
    def table(self) -> "pandas.DataFrame":
        """One row for each optimizer.

        Columns: optimizer; the tuned hyperparameters by name, or by its last part if each optimizer has one; the final
        value's ``mean`` and ``std`` over the fresh seeds, its mean ``difference`` from the reference's with the same
        seed and the standard ``error`` of that, and how many runs ``diverged``; how many runs ``reached`` their target,
        and the ``steps`` and ``seconds`` it took these, with the standard deviation of the steps; ``step_cost``,
        seconds of a step in multiples of the reference's.
        """
        import pandas

        return pandas.DataFrame([self._row(label) for label in self.fresh])

    def _row(self, label: str) -> dict[str, Any]:
        (summary,) = self.fresh[label].summary(self.metric).to_dict("records")
        alone = all(len(result.space) == 1 for result in self.fresh.values())
        chosen = {name.rpartition(".")[2] if alone else name: summary[name] for name in self.fresh[label].space}
        steps, seconds = self.steps(label), self.seconds_per_step(label)
        reached, apart = steps[np.isfinite(steps)], self.difference(label)
        return {
            "optimizer": label,
            **chosen,
            "mean": summary["mean"],
            "std": summary["std"],
            "difference": apart.mean(),
            "error": apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan,
            "diverged": summary["diverged"],
            "reached": len(reached),
            "steps": reached.mean() if len(reached) else np.nan,
            "steps_std": reached.std(ddof=1) if len(reached) > 1 else np.nan,
            "seconds": reached.mean() * seconds if len(reached) else np.nan,
            "step_cost": seconds / self.seconds_per_step(self.reference),
        }


def steps_to(step: np.ndarray, values: np.ndarray, target: float, mode: str = "min") -> float:
    """The first step at which a curve, linear between its points, reaches a target; NaN if it never does.

    >>> float(steps_to(np.array([0, 10, 20]), np.array([3.0, 2.0, 1.0]), 1.5))
    15.0
    """
    gap = (values - target) * (1 if mode == "min" else -1)
    below = np.flatnonzero(gap <= 0)
    if not len(below):
        return np.nan
    last = below[0]
    if last == 0 or not np.isfinite(gap[last - 1]):
        return float(step[last])
    share = gap[last - 1] / (gap[last - 1] - gap[last])
    return float(step[last - 1] + share * (step[last] - step[last - 1]))
