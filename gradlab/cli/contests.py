"""``gradlab contest``: optimizers tuned with one budget and compared on fresh seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gradlab.cli.dry_run import show_sweep
from gradlab.cli.outputs import write_text
from gradlab.cli.programs import keep_programs
from gradlab.cli.rehearsal import rehearse_sweep
from gradlab.cli.sweeps import edge_warnings, note_of
from gradlab.cli.terminal import Terminal, headings, short
from gradlab.config import ConfigError, ContestConfig, Experiment, Problem, load
from gradlab.sweeps.contest import ContestResult, contest
from gradlab.sweeps.engine.clock import Stopwatch
from gradlab.sweeps.engine.run import SweepProgress


def contest_config(
    path: Path, assignments: Sequence[str], out: Path | None, *, overwrite: bool, dry_run: bool, terminal: Terminal
) -> None:
    """What `gradlab contest` does."""
    with terminal.caught_warnings():
        experiment = load(path, assignments)
        if not isinstance(experiment.config, ContestConfig):
            message = "missing section, which names the optimizers; see configs/digits_contest.yaml"
            raise ConfigError([Problem(str(path), "contest", message)])
        for label, setup in experiment.setup.items():
            rehearse_sweep(setup, str(path), ("contest", label))
        if dry_run:
            for label, setup in experiment.setup.items():
                terminal.say(f"{label}, tuning")
                show_sweep(setup, terminal)
            return
        keep_programs()
        folder = out or experiment.out
        result = _run(experiment, folder, overwrite, terminal)
        write_text(folder / "config.yaml", experiment.to_yaml())
        _draw(result, folder)
        _report(result, folder, terminal)


def _run(experiment: Experiment, folder: Path, overwrite: bool, terminal: Terminal) -> ContestResult:
    config = experiment.config
    tuning = config.tuning
    of_label = {}
    for label, setup in experiment.setup.items():
        of_label[label] = (setup.lane_steps, tuning.fresh_seeds * setup.plan.steps)
    total, finished = sum(map(sum, of_label.values())), 0
    watch = Stopwatch()
    with terminal.progress(experiment.task.name, total) as show:

        def progress(what: str, now: SweepProgress) -> None:
            nonlocal finished
            if now.done == now.total:
                finished += now.total
            done = finished + now.done * (now.done < now.total)
            seconds, compiling = watch.read()
            remaining = max(seconds - compiling, 0) * (total - done) / done
            now = now._replace(done=done, total=total, seconds=seconds, compile_seconds=compiling, remaining=remaining)
            show(done, f"{what}: {note_of(now)}", {"what": what, **now._asdict()})

        return contest(
            experiment.task,
            config.entrants,
            out=folder,
            overwrite=overwrite,
            progress=progress,
            **tuning.model_dump(),
            **config.train.model_dump(),
        )


def _draw(result: ContestResult, folder: Path) -> None:
    from gradlab.plots import contest_curves, save_figure

    save_figure(contest_curves(result), folder / "contest.png")


def _report(result: ContestResult, folder: Path, terminal: Terminal) -> None:
    columns, rows = contest_table(result)
    seeds = len(result.fresh[result.reference].seeds)
    what = headings([result.metric])[0]
    terminal.table(
        f"{what} at the end, and until where {result.reference} ends; {seeds} fresh seeds",
        columns,
        rows,
    )
    for label, tuned in result.tuned.items():
        for warning in edge_warnings(tuned):
            terminal.warn(f"{label}: {warning}")
    terminal.results_in(folder)


def contest_table(result: ContestResult) -> tuple[list[str], list[list[str]]]:
    """The table of a contest for reading: columns and rows."""
    names = list(dict.fromkeys(name for one in result.fresh.values() for name in one.space.varying))
    short_names = {name: headings([name])[0] for name in names}
    columns = [
        "optimizer",
        "tuned to",
        headings([result.metric])[0],
        f"minus {result.reference}",
        "reached by",
        "steps",
        "seconds",
        "cost of a step",
    ]
    rows = []
    for row in result.table.to_dict("records"):
        label = row["optimizer"]
        values = {name: result.fresh[label].values(name)[0] for name in result.fresh[label].space.varying}
        tuned = ", ".join(f"{short_names[name]} {short(value)}" for name, value in values.items())
        reached = np.isfinite(row["steps"])
        rows.append(
            [
                label,
                tuned,
                _with_spread(row["mean"], row["std"], ".4f"),
                "-" if label == result.reference else f"{row['difference']:+.4f} ± {row['error']:.2g}",
                f"{row['reached']} of {len(result.fresh[label].seeds)}",
                _with_spread(row["steps"], row["steps_std"], ".0f") if reached else "-",
                short(row["seconds"]) if reached else "-",
                f"{row['step_cost']:.2f}",
            ]
        )
    return columns, rows


def _with_spread(mean: float, std: float, digits: str) -> str:
    return f"{mean:{digits}}" + (f" ± {std:{digits}}" if np.isfinite(std) else "")
