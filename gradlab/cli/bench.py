"""``gradlab bench speed``: the measurements, their table and files."""

from collections.abc import Sequence
from pathlib import Path

import typer

from gradlab.bench import speed
from gradlab.bench.paired import Ratio
from gradlab.bench.rows import Row
from gradlab.cli.outputs import saved_folder, write_text
from gradlab.cli.terminal import Terminal, amount_of_bytes, short


def bench_speed(
    patterns: Sequence[str], *, quick: bool, rounds: int | None, out: Path | None, overwrite: bool, terminal: Terminal
) -> None:
    """What `gradlab bench speed` does."""
    try:
        count = len(speed._select(speed.cases(quick=quick), patterns))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rows") from error
    if out is None:
        _measure(patterns, count, quick, rounds, terminal)
        return
    with saved_folder(out, overwrite) as folder:
        report = _measure(patterns, count, quick, rounds, terminal)
        write_text(folder / "speed.json", report.to_json() + "\n")
        write_text(folder / "speed.csv", report.to_csv())
    terminal.say(f"results in {folder}: speed.csv, speed.json")


def _measure(patterns: Sequence[str], count: int, quick: bool, rounds: int | None, terminal: Terminal) -> speed.Report:
    with terminal.progress("bench speed", count) as show:
        report = speed.run(patterns, quick=quick, rounds=rounds, progress=lambda index, _, name: show(index, name))
        show(count, "")
    machine = report.machine
    terminal.say(f"{machine['cpu']}, {machine['cores']} cores (load {machine['load']}), {machine['device']}")
    with_torch = any(row.torch_ratio is not None for row in report.rows)
    columns = ["row", "gradlab", "optax", "ratio (quartiles)", "goal"] + ["torch", "ratio to torch"] * with_torch
    title = "Medians over paired rounds; a ratio below 1 favours gradlab"
    terminal.table(title, columns, [_cells(row)[: len(columns)] for row in report.rows])
    return report


def _cells(row: Row) -> list[str]:
    goal = "" if row.met is None else f"{short(row.at_most)} {'met' if row.met else 'missed'}"
    cells = [row.name, quantity(row.gradlab, row.unit), quantity(row.optax, row.unit), _spread(row.ratio), goal]
    return cells + ([quantity(row.torch, row.unit), _spread(row.torch_ratio)] if row.torch_ratio else ["", ""])


def _spread(ratio: Ratio) -> str:
    return f"{ratio.median:.3g} ({ratio.lower:.3g} to {ratio.upper:.3g})"


def quantity(value: float, unit: str) -> str:
    """A measured value with its unit.

    >>> quantity(0.00123, 's'), quantity(2.5, 's'), quantity(3.0, 'traces')
    ('1.23 ms', '2.5 s', '3 traces')
    """
    if unit == "bytes":
        return amount_of_bytes(value)
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} {unit}"
