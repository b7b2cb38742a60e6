"""``gradlab sweep``: the run, its table, its warnings, its files."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradlab.cli.dry_run import show_sweep
from gradlab.cli.monitoring import say_overhead
from gradlab.cli.outputs import write_text
from gradlab.cli.pictures import draw_sweep
from gradlab.cli.programs import keep_programs
from gradlab.cli.rehearsal import rehearse_sweep
from gradlab.cli.terminal import Terminal, duration, headings, short
from gradlab.config import ConfigError, ContestConfig, Experiment, Problem, SweepConfig, load
from gradlab.sweeps.engine.chunks import run_here
from gradlab.sweeps.engine.cluster import ray_workers
from gradlab.sweeps.engine.cohorts import Workers
from gradlab.sweeps.engine.journal import Journal, is_unfinished, journal_of, open_journal
from gradlab.sweeps.engine.run import SweepProgress, run_setup
from gradlab.sweeps.engine.setup import TASK
from gradlab.sweeps.outcomes.boundary import edges
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import is_seen
from gradlab.sweeps.outcomes.writers import check_writers, write_files
from gradlab.sweeps.search import COMPLETED

TOP = 5  # trials in the table


def sweep_config(
    path: Path,
    assignments: Sequence[str],
    out: Path | None,
    *,
    overwrite: bool,
    resume: bool,
    cluster: str | None,
    dry_run: bool,
    terminal: Terminal,
) -> None:
    """What `gradlab sweep` does."""
    with terminal.caught_warnings():
        experiment = load(path, assignments)
        if not isinstance(experiment.config, SweepConfig):
            other = "contest" if isinstance(experiment.config, ContestConfig) else "run"
            message = f"missing section, which says what varies; for what this config says: gradlab {other} {path}"
            raise ConfigError([Problem(str(path), "sweep", message)])
        rehearse_sweep(experiment.setup, str(path))
        if dry_run:
            show_sweep(experiment.setup, terminal)
            return
        check_writers(experiment.config.writers)
        keep_programs()
        workers = run_here if cluster is None else ray_workers(cluster)
        folder = out or experiment.out
        if resume and not is_unfinished(folder):
            raise ConfigError([Problem(str(folder), "", "holds no unfinished sweep; leave out --resume to begin one")])
        plan = {"config": experiment.config.plain(), **experiment.setup.identity()}
        journal = _journal(folder, plan, overwrite)
        with journal_of(journal), stopped_by_control_c(journal, folder):
            result = _run(experiment, terminal, journal, workers)
            result.save(folder)
            write_text(folder / "config.yaml", experiment.to_yaml())
            write_files(result, folder, experiment.config.writers)
            draw_sweep(result, folder, terminal)
        _report(result, folder, terminal)
        if experiment.setup.plan.watch.instruments:
            _say_overhead(experiment, terminal)


def _journal(folder: Path, plan: dict[str, Any], overwrite: bool) -> Journal:
    try:
        return open_journal(folder, plan, overwrite=overwrite)
    except ValueError as error:
        raise ConfigError([Problem(str(folder), "", str(error).removeprefix(f"{folder} "))]) from None


@contextlib.contextmanager
def stopped_by_control_c(journal: Journal, folder: Path) -> Iterator[None]:
    """Ctrl-C ends the sweep after its segment, a second one at once; either way it can go on later."""

    def stop(*_: Any) -> None:
        if journal.stop_requested:
            raise KeyboardInterrupt
        journal.stop_requested = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        message = f"interrupted: {folder} holds what was done; the same command goes on from there"
        raise KeyboardInterrupt(message) from None
    finally:
        signal.signal(signal.SIGINT, before)


def _run(experiment: Experiment, terminal: Terminal, journal: Journal, workers: Workers) -> SweepResult:
    setup = experiment.setup
    with terminal.progress(setup.task.name, setup.lane_steps) as show:
        return run_setup(setup, lambda now: show(now.done, note_of(now), now._asdict()), journal, workers)


def note_of(now: SweepProgress) -> str:
    """How a sweep is doing, in words for below its bar."""
    spent = f"{duration(max(now.seconds - now.compile_seconds, 0))} + {duration(now.compile_seconds)} compiling"
    bucket = f", bucket {now.bucket + 1} of {now.buckets}" if now.buckets > 1 else ""
    return f"best {now.metric} {short(now.best)}, {spent}{bucket}"


def _report(result: SweepResult, folder: Path, terminal: Terminal) -> None:
    runs, diverged = len(result.trials) * len(result.seeds), int((result.diverged_at >= 0).sum())
    seconds = f"{duration(result.run_seconds.sum())} and {duration(result.compile_seconds.sum())} of compiling"
    terminal.say(f"{runs:,} runs of {result.steps:,} steps in {seconds}; {diverged} diverged")
    done, planned = int(result.steps_done.sum()), len(result.trials) * result.steps
    if done < planned:
        ended = int((result.outcome != COMPLETED).sum())
        terminal.say(f"{ended} of {len(result.trials)} trials ended early: {done / planned:.0%} of the steps were run")
    terminal.say("")
    if (result.summary()["diverged"] == 0).any():
        _print_best(result, terminal)
        for warning in edge_warnings(result):
            terminal.warn(warning)
    terminal.results_in(folder)


def _say_overhead(experiment: Experiment, terminal: Terminal) -> None:
    setup = experiment.setup
    first = setup.trials[0].values
    tx = setup.make(**{name: value for name, value in first.items() if not name.startswith(TASK)})
    say_overhead(setup.task, tx, setup.plan.batch_size, setup.plan.watch, terminal)


def _print_best(result: SweepResult, terminal: Terminal) -> None:
    best, names = result.top(TOP), result.space.varying
    metrics = [result.main_metric]
    metrics += [name for name in result.metrics if name != result.main_metric and not is_seen(name)]
    final = {metric: result.summary(metric).set_index("uid") for metric in metrics}
    rows = [
        [rank + 1, *(short(row[name]) for name in names)]
        + [_with_spread(final[metric].loc[row["uid"]]) for metric in metrics]
        + [row["uid"]]
        for rank, (_, row) in enumerate(best.iterrows())
    ]
    seeds = f"mean ± std of {len(result.seeds)} seeds" if len(result.seeds) > 1 else "one seed"
    title = f"The {len(best)} best of {len(result.trials)} trials; final values, {seeds}"
    terminal.table(title, ["", *headings([*names, *metrics]), "trial"], rows)


def _with_spread(row: Any) -> str:
    return short(float(row["mean"])) + (f" ± {row['std']:.2g}" if np.isfinite(row["std"]) else "")


def edge_warnings(result: SweepResult) -> list[str]:
    """For each number of the space in which the best trial lies at an end: a better one may lie outside."""
    return [
        f"the best trial is at the edge of the space, {edge.name} = {short(edge.value)} of {short(edge.low)} to "
        f"{short(edge.high)}: widen it"
        for edge in edges(result)
    ]
