"""``gradlab run``: one optimizer, or a race of several."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradlab.cli import outputs
from gradlab.cli.dry_run import show_runs
from gradlab.cli.experiments import run_experiment
from gradlab.cli.interruption import INTERRUPTED, control_c
from gradlab.cli.landscape import Landscape, landscape_of
from gradlab.cli.monitoring import save_looks, say_overhead
from gradlab.cli.rehearsal import rehearse
from gradlab.cli.terminal import Terminal, duration, short
from gradlab.config import (
    ConfigError,
    ContestConfig,
    Experiment,
    ExperimentConfig,
    Problem,
    RaceConfig,
    SweepConfig,
    load,
)
from gradlab.core.transform import Transform
from gradlab.core.values import describe, hyperparams
from gradlab.sweeps.engine.clock import compile_seconds
from gradlab.sweeps.engine.run import SweepProgress
from gradlab.sweeps.outcomes.provenance import provenance
from gradlab.sweeps.outcomes.table import mode_of
from gradlab.training.checkpoint import params_to_bytes
from gradlab.training.loop import History, Progress, fit


def run_config(
    path: Path, assignments: Sequence[str], out: Path | None, *, overwrite: bool, dry_run: bool, terminal: Terminal
) -> None:
    """What `gradlab run` does."""
    with terminal.caught_warnings():
        experiment = load(path, assignments)
        for kind, command in ((SweepConfig, "sweep"), (ContestConfig, "contest")):
            if isinstance(experiment.config, kind):
                message = f"`gradlab run` runs no {command}; type: gradlab {command} {path}"
                raise ConfigError([Problem(str(path), command, message)])
        if isinstance(experiment.config, ExperimentConfig):
            run_experiment(experiment, path, out, overwrite=overwrite, dry_run=dry_run, terminal=terminal)
            return
        recipes = _recipes(experiment, str(path))
        if dry_run:
            show_runs(experiment, recipes, terminal)
            return
        landscape = landscape_of(experiment.config.task)
        save = _save_race if isinstance(experiment.config, RaceConfig) else _save_run
        resolved = _resolved(experiment, recipes)
        with outputs.saved_folder(out or experiment.out, overwrite) as folder:
            histories = _train(experiment, recipes, landscape, terminal)
            with outputs.replacing(folder) as new:
                save(new, histories, landscape)
                if experiment.config.monitor is not None:
                    save_looks(new, histories)
                outputs.write_json(new / "resolved.json", _with_outcomes(resolved, histories))
                outputs.write_text(new / "config.yaml", experiment.to_yaml())
        _report(experiment, histories, folder, terminal)
        _tell_interruption(recipes, histories, folder)
        watch = experiment.config.watch(experiment.task)
        if watch.instruments:
            _, batch_size, _ = experiment.config.train.plan(experiment.task)
            say_overhead(experiment.task, next(iter(recipes.values())), batch_size, watch, terminal)


def _recipes(experiment: Experiment, source: str) -> dict[str, Transform]:
    """The optimizers by label, each of which fits the task."""
    config, task = experiment.config, experiment.task
    race = isinstance(config, RaceConfig)
    recipes = config.recipes if race else {config.optimizer["name"]: config.recipe}
    _, batch_size, _ = config.train.plan(task)
    for label, recipe in recipes.items():
        section = f"race.{label}" if race else "optimizer"
        size = {"batch_size": batch_size, "accumulate": config.train.accumulate}
        rehearse(recipe, task, source, optimizer=section, **size)
    return {label: recipe() for label, recipe in recipes.items()}


def _train(
    experiment: Experiment, recipes: Mapping[str, Transform], landscape: Landscape | None, terminal: Terminal
) -> dict[str, History]:
    """The runs by label, up to where Ctrl-C ends them."""
    histories = {}
    with control_c() as pressed:
        for label in recipes:
            histories[label] = _fit(experiment, recipes, label, landscape, terminal, pressed)
            if pressed():
                break
    return histories


def _tell_interruption(recipes: Mapping[str, Transform], histories: Mapping[str, History], folder: Path) -> None:
    cut = [label for label in recipes if label not in histories or histories[label].reason == INTERRUPTED]
    if cut:
        what = f"{', '.join(cut)} of this race" if len(recipes) > 1 else "this run"
        message = f"interrupted: {folder} holds what was done; {what} did not come to the end"
        raise KeyboardInterrupt(message)


def _fit(
    experiment: Experiment,
    recipes: Mapping[str, Transform],
    label: str,
    landscape: Landscape | None,
    terminal: Terminal,
    interrupted: Callable[[], bool],
) -> History:
    task, train = experiment.task, experiment.config.train
    steps, _, _ = train.plan(task)
    compiled, best = compile_seconds(), math.nan
    metric = "valid_loss" if task.valid is not None else "eval_loss"  # as a sweep calls it
    with terminal.progress(label, steps) as show:

        def tell(now: Progress) -> str | None:
            nonlocal best
            best = float(np.fmin(best, now.metrics["loss"]))
            compiling = compile_seconds() - compiled
            running = max(now.seconds - compiling, 0)
            remaining = running * (now.steps - now.step) / now.step
            place = list(recipes).index(label)
            standing = SweepProgress(
                now.step, steps, place, len(recipes), now.seconds, compiling, remaining, best, metric
            )
            metrics = ", ".join(f"{name} {short(value)}" for name, value in now.metrics.items())
            spent = f"{duration(running)} + {duration(compiling)} compiling"
            show(now.step, f"{metrics}, {spent}", standing._asdict())
            return INTERRUPTED if interrupted() and now.step < now.steps else None

        return fit(
            task,
            recipes[label],
            key=experiment.config.seed,
            trajectory=landscape is not None,
            progress=tell,
            **train.arguments(),
            **experiment.config.monitoring(task),
        )


def _save_run(folder: Path, histories: Mapping[str, History], landscape: Landscape | None) -> None:
    from gradlab.plots import history as draw
    from gradlab.plots import save_figure

    (history,) = histories.values()
    outputs.write_table(folder / "history.csv", *outputs.history_rows(history))
    outputs.write_arrays(folder / "curves.npz", outputs.history_arrays(history))
    outputs.write_bytes(folder / "params.msgpack", params_to_bytes(history.params))
    save_figure(draw(history), folder / "history.png")
    if landscape is not None:
        save_figure(landscape.draw(_paths(histories)), folder / "trajectory.png")


def _save_race(folder: Path, histories: Mapping[str, History], landscape: Landscape | None) -> None:
    from gradlab.plots import race, save_figure

    columns, _ = outputs.history_rows(next(iter(histories.values())))
    rows = [[label, *row] for label, run in histories.items() for row in outputs.history_rows(run)[1]]
    outputs.write_table(folder / "history.csv", ["optimizer", *columns], rows)
    arrays = {label: outputs.history_arrays(run) for label, run in histories.items()}
    named = {f"{label}/{name}": array for label, own in arrays.items() for name, array in own.items()}
    outputs.write_arrays(folder / "curves.npz", named)
    if landscape is not None:
        heights = {label: run.loss - landscape.lowest for label, run in histories.items()}
        save_figure(race(heights, ylabel=landscape.height_name), folder / "race.png")
        save_figure(landscape.draw(_paths(histories)), folder / "trajectories.png")
        landscape.animate(_paths(histories), heights, folder)
    else:
        steps = np.unique(np.concatenate([run.eval_step for run in histories.values()]))
        losses = {label: evaluated_at(run, steps) for label, run in histories.items()}
        save_figure(race(losses, step=steps, ylabel="evaluated loss"), folder / "race.png")


def _paths(histories: Mapping[str, History]) -> dict[str, np.ndarray]:
    return {label: run.trajectory for label, run in histories.items()}


def evaluated_at(run: History, steps: np.ndarray) -> np.ndarray:
    """The evaluated loss of a run at other steps: between two evaluations on their line, after the last one constant.

    A run that diverged has NaN from there on.
    """
    losses = np.interp(steps, run.eval_step, run.metrics["loss"])
    return np.where((run.reason == "diverged") & (steps >= run.eval_step[-1]), np.nan, losses)


def _resolved(experiment: Experiment, recipes: Mapping[str, Transform]) -> dict[str, Any]:
    """What is known before the training."""
    task = experiment.task
    runs = {
        label: {
            "optimizer": describe(tx).splitlines(),
            "hyperparameters": {name: np.asarray(value).tolist() for name, value in hyperparams(tx).items()},
        }
        for label, tx in recipes.items()
    }
    facts = {"name": task.name, "parameters": task.num_params, "examples": task.num_examples, **dict(task.facts)}
    return {"task": facts, "runs": runs, "device": jax.devices()[0].device_kind, **provenance()}


def _with_outcomes(resolved: dict[str, Any], histories: Mapping[str, History]) -> dict[str, Any]:
    outcome = lambda run: {"steps": run.steps, "ended": run.reason, "seconds": run.seconds, "final": run.final}
    return resolved | {"runs": {label: resolved["runs"][label] | outcome(run) for label, run in histories.items()}}


def _report(experiment: Experiment, histories: Mapping[str, History], folder: Path, terminal: Terminal) -> None:
    task = experiment.task
    data = "validation data" if task.valid is not None else "training data" if task.train is not None else "surface"
    names = sorted(next(iter(histories.values())).metrics, key=lambda name: name != "loss")
    rows = [
        [label, _ending(run), run.steps, duration(run.seconds), *(cell for name in names for cell in _cells(run, name))]
        for label, run in histories.items()
    ]
    metrics = [heading for name in names for heading in (name, f"best {name}")]
    title = f"{task.name}: {task.num_params:,} parameters, metrics on the {data}"
    terminal.table(title, ["optimizer", "ended by", "steps", "time", *metrics], rows, words=2)
    terminal.results_in(folder)


def _ending(run: History) -> str:
    return "divergence" if run.reason == "diverged" else run.reason


def _cells(run: History, name: str) -> list[str]:
    """The last value of a metric, and the best with its step."""
    values = run.metrics[name]
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [short(values[-1]), "-"]
    best = finite.max() if mode_of(name) == "max" else finite.min()
    return [short(values[-1]), f"{short(best)} at {run.eval_step[int((values == best).argmax())]}"]
