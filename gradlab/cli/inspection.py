"""``gradlab inspect``: a run that was saved, measured where it was best, where it ended, or at any of its steps.

The run is made again up to that step: its state is what the optimizer's next step depends on, and the numbers come out
as they did, which is checked against the curves that were saved.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from gradlab.cli import outputs
from gradlab.cli.terminal import Terminal, short
from gradlab.config import ConfigError, Problem, RaceConfig, RunConfig, load
from gradlab.core.check import suggestion
from gradlab.sweeps.outcomes.provenance import provenance
from gradlab.tasks.task import Task
from gradlab.training.inspection import INSPECTORS, Reading, inspect
from gradlab.training.loop import Progress, fit, resolve_segment
from gradlab.training.segment import start_of
from gradlab.training.step import Run

BEST, LAST = "best", "last"
MOST_APART = 1e-3  # of a loss: what other machines and versions may change


def inspect_run(
    folder: Path, at: str, instruments: Sequence[str], examples: int, optimizer: str | None, terminal: Terminal
) -> None:
    """What `gradlab inspect` does.

    Args:
      folder: that `gradlab run` made.
      at: ``'best'``, ``'last'``, or a number of steps.
      instruments: names; all that the task allows if empty.
      examples: of the training data, drawn at random, on which the loss is taken.
      optimizer: which run of a race.
      terminal: where to write.
    """
    if not (folder / "curves.npz").is_file():
        raise _problem(folder, "holds no curves.npz; give a folder that `gradlab run` made")
    experiment = load(folder / "config.yaml")
    if not isinstance(experiment.config, RunConfig | RaceConfig):
        raise _problem(folder, "is no run; of a sweep, make the trial a config of its own and run that")
    _check_instruments(instruments, experiment.task)
    label, prefix = _label(experiment.config, optimizer, folder)
    with np.load(folder / "curves.npz") as saved:
        curves = {name.removeprefix(prefix): saved[name] for name in saved.files if name.startswith(prefix)}
    step = _step(at, curves, folder)
    run, gap = _again(experiment, label, step, curves["loss"], terminal)
    if gap > MOST_APART:
        terminal.warn(
            f"{folder} was not reproduced: made again, the losses differ from those saved by {gap:.2g} of themselves, "
            "and what is measured is of the new run; config.yaml may not be that of curves.npz, or the code has changed"
        )
    tx = _recipes(experiment.config)[label]()
    readings = inspect(
        experiment.task, tx, run, _some(experiment.task, examples), instruments=instruments or None,
        key=experiment.config.seed,
    )  # fmt: skip
    _report(folder, label, step, gap, readings, examples, experiment.task, terminal)


def _problem(folder: Path, message: str) -> ConfigError:
    return ConfigError([Problem(str(folder), "", message)])


def _check_instruments(names: Sequence[str], task: Task) -> None:
    problems = [
        Problem("--instruments", "", f"unknown instrument {name!r}{suggestion(name, INSPECTORS)}")
        for name in names
        if name not in INSPECTORS
    ]
    if "noise" in names and not task.num_examples:
        problems.append(Problem("--instruments", "", f"noise needs examples, and the task {task.name} has none"))
    if problems:
        raise ConfigError(problems)


def _recipes(config: RunConfig | RaceConfig) -> dict:
    return config.recipes if isinstance(config, RaceConfig) else {config.optimizer["name"]: config.recipe}


def _label(config: RunConfig | RaceConfig, optimizer: str | None, folder: Path) -> tuple[str, str]:
    """The run's label, and what the names of its curves begin with."""
    labels = list(_recipes(config))
    if isinstance(config, RunConfig):
        if optimizer not in (None, *labels):
            raise _problem(folder, f"has no run of {optimizer!r}; leave --optimizer out")
        return labels[0], ""
    if optimizer is None:
        raise _problem(folder, f"is a race: say which run, with --optimizer {' or '.join(map(repr, labels))}")
    alike = [label for label in labels if label.casefold() == optimizer.casefold()]
    if optimizer not in labels and len(alike) != 1:
        raise _problem(folder, f"has no run {optimizer!r}{suggestion(optimizer, labels)}")
    label = optimizer if optimizer in labels else alike[0]
    return label, f"{label}/"


def _step(at: str, curves: dict[str, np.ndarray], folder: Path) -> int:
    """Steps done at the point in question; the loss of a run that diverged ends with the step that it did not make."""
    last = int(curves["eval_step"][-1])
    if at == LAST:
        return last
    if at == BEST:
        losses = curves["metric.loss"]
        if not np.isfinite(losses).any():
            raise _problem(folder, "has no finite loss, so that none is best; use --at with a step")
        return int(curves["eval_step"][np.nanargmin(np.where(np.isfinite(losses), losses, np.nan))])
    if not at.isdecimal():
        raise _problem(folder, f"--at is best, last or a number of steps, got {at!r}{suggestion(at, [BEST, LAST])}")
    if int(at) > last:
        raise _problem(folder, f"ended after {last} steps, so there is no step {at}")
    return int(at)


def _again(experiment, label: str, step: int, losses: np.ndarray, terminal: Terminal) -> tuple[Run, float]:
    """The run up to a step, and the largest relative difference of its losses from those that were saved."""
    task, train = experiment.task, experiment.config.train
    tx, key = _recipes(experiment.config)[label](), experiment.config.seed
    if step == 0:
        return start_of(task, tx, jax.random.key(key)).run, 0.0
    steps, _, _ = train.plan(task)
    with terminal.progress(f"{label} again", step) as show:
        tell = lambda now: show(now.step, f"loss {short(now.loss)}", Progress._asdict(now))
        history = fit(
            task, tx, steps=step, key=key, batch_size=train.batch_size, sampling=train.sampling,
            accumulate=train.accumulate, eval_every=resolve_segment(train.eval_every, steps), progress=tell,
        )  # fmt: skip
    saved = losses[: history.steps]
    apart = np.abs(history.loss - saved) / np.maximum(np.abs(saved), 1e-30)
    apart[np.isnan(apart)] = np.inf
    apart[(history.loss == saved) | np.isnan(history.loss) & np.isnan(saved)] = 0.0
    return history.run, float(np.max(apart, initial=0.0))


def _some(task: Task, examples: int):
    """Examples of the training data, at random but always the same."""
    if not task.num_examples:
        return None
    chosen = np.random.default_rng(0).permutation(task.num_examples)[:examples]
    return jax.tree.map(lambda x: x[np.sort(chosen)], task.train)


def _report(
    folder: Path, label: str, step: int, gap: float, readings: list[Reading], examples: int, task: Task,
    terminal: Terminal,
) -> None:  # fmt: skip
    name = f"inspect_{label}_{step}"
    columns = ["instrument", "quantity", "value", "error", "about"]
    outputs.write_table(folder / f"{name}.csv", columns, [list(reading) for reading in readings])
    used = min(examples, task.num_examples) if task.num_examples else 0
    facts = {"label": label, "step": step, "examples": used, "largest_difference": gap, **provenance()}
    outputs.write_json(folder / f"{name}.json", facts | {"readings": [reading._asdict() for reading in readings]})
    text = lambda value: value if isinstance(value, str) else short(value)
    rows = [
        [one.instrument, one.name, text(one.value), "" if np.isnan(one.error) else f"± {short(one.error)}", one.about]
        for one in readings
    ]
    on = f"on {used:,} training examples" if used else "of the surface"
    terminal.table(f"{label} after {step:,} steps, {on}", columns, rows, words=2)
    if step:
        terminal.say(f"Made again, the losses up to there differ from those saved by at most {gap:.1g} of themselves.")
    terminal.results_in(folder)
