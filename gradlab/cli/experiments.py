"""``gradlab run`` of a config with the section `experiment`: a published result, and whether it holds here."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradlab.cli import outputs
from gradlab.cli.terminal import Terminal, duration
from gradlab.config import ConfigError, Experiment, ExperimentConfig, Problem
from gradlab.config.parts import located
from gradlab.experiments.registry import EXPERIMENTS, reproduce
from gradlab.experiments.reproduction import Check
from gradlab.sweeps.outcomes.provenance import provenance

COLUMNS = ["published", "measured here", "value", "tolerance", "holds"]


def run_experiment(
    experiment: Experiment, path: Path, out: Path | None, *, overwrite: bool, dry_run: bool, terminal: Terminal
) -> None:
    """Runs an experiment, leaves its files, and prints what was published beside what was measured."""
    config = experiment.config
    if dry_run:
        _show(config, terminal)
        return
    one = EXPERIMENTS[config.name]
    with outputs.saved_folder(out or experiment.out, overwrite) as folder:
        start = time.perf_counter()
        with terminal.progress(config.name, 1) as show:
            result = _run(config, path)
            checks = one.checks(result)
            show(1, f"{sum(check.holds for check in checks)} of {len(checks)} claims hold")
        seconds = time.perf_counter() - start
        with outputs.replacing(folder) as new:
            _save(new, config, result, checks, seconds)
            outputs.write_text(new / "config.yaml", experiment.to_yaml())
    _report(config, checks, seconds, terminal)
    terminal.results_in(folder)


def _run(config: ExperimentConfig, path: Path) -> Any:
    """What the experiment returns, or an error at the argument that it refuses."""
    try:
        return reproduce(config.name, **config.arguments)
    except (TypeError, ValueError) as error:
        found = located(error, config.arguments)
        if not found["loc"]:
            raise
        place = ".".join(["experiment", *found["loc"]])
        raise ConfigError([Problem(str(path), place, found["type"].message())]) from None


def _save(folder: Path, config: ExperimentConfig, result: Any, checks: Sequence[Check], seconds: float) -> None:
    from gradlab.plots import save_figure

    one = EXPERIMENTS[config.name]
    columns = one.table(result)
    rows = zip(*(np.asarray(cells).tolist() for cells in columns.values()), strict=True)
    outputs.write_table(folder / "results.csv", list(columns), [list(row) for row in rows])
    save_figure(one.draw(result), folder / "picture.png")
    facts = {
        "experiment": config.name,
        "published": one.source,
        "arguments": config.arguments,
        "checks": [{**check._asdict(), "value": float(check.value), "holds": check.holds} for check in checks],
        "note": one.note,
        "seconds": seconds,
        "device": jax.devices()[0].device_kind,
    }
    outputs.write_json(folder / "resolved.json", {**facts, **provenance()})


def _report(config: ExperimentConfig, checks: Sequence[Check], seconds: float, terminal: Terminal) -> None:
    one = EXPERIMENTS[config.name]
    title = f"{config.name}: {one.source}; {duration(seconds)}"
    columns, rows = verdict(checks)
    terminal.table(title, columns, rows, words=len(columns) - 3)
    if one.note:
        terminal.say(f"\nnote: {one.note}")
    failed = [check.claim for check in checks if check.expected and not check.holds]
    if failed:
        terminal.warn(f"not borne out here: {'; '.join(failed)}")


def verdict(checks: Sequence[Check]) -> tuple[list[str], list[list[str]]]:
    """The table of the verdict for reading: columns and rows; with who said it, where several did.

    >>> verdict([Check('arXiv 1', 'it grows', 'last / first', 2.0, 10, expected=False)])[1]
    [['it grows', 'last / first', '2', 'at least 10', 'no, as known']]
    """
    sources = {check.source for check in checks}
    verdicts = {(True, True): "yes", (True, False): "yes, unlike before", (False, True): "NO"}
    rows = []
    for check in checks:
        answer = verdicts.get((check.holds, check.expected), "no, as known")
        row = [check.claim, check.measure, f"{check.value:.4g}", check.tolerance, answer]
        rows.append([row[0], check.source, *row[1:]] if len(sources) > 1 else row)
    return [COLUMNS[0], *(["by"] * (len(sources) > 1)), *COLUMNS[1:]], rows


def _show(config: ExperimentConfig, terminal: Terminal) -> None:
    one = EXPERIMENTS[config.name]
    terminal.say(f"{config.name}: {one.source}")
    for name, value in config.arguments.items():
        terminal.say(f"  {name}: {value}")
