"""``gradlab bench speed``, ``sweep`` and ``instruments``: the measurements, their tables and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from gradlab.bench import instruments, speed, sweep_speed
from gradlab.bench.instrument_rows import InstrumentRow
from gradlab.bench.paired import Ratio
from gradlab.bench.rows import Report, Row, select
from gradlab.bench.sweep_memory import MemoryRow
from gradlab.bench.sweep_race import SpeedRow
from gradlab.cli.outputs import saved_folder, write_json, write_text
from gradlab.cli.terminal import Terminal, amount_of_bytes, short

TITLE = "Medians over paired rounds; a ratio below 1 favours gradlab"
COLUMNS = ["row", "gradlab", "optax", "ratio (quartiles)", "goal"]
SPEED_COLUMNS = ["contender", "", "lanes", "time", "compiling", "trials/min", "steps/s", "to gradlab", "goal"]
SPEED_COLUMNS += ["| time", "steps/s", "to gradlab"]
INSTRUMENT_COLUMNS = ["row", "against", "its value", "row's value", "ratio (quartiles)", "stated", "goal"]
MEMORY_COLUMNS = ["task", "lanes", "predicted", "planned", "ratio", "measured", "ratio", "within 10 %"]


def bench_speed(
    patterns: Sequence[str],
    *,
    quick: bool,
    rounds: int | None,
    device: str | None,
    out: Path | None,
    overwrite: bool,
    terminal: Terminal,
) -> None:
    """What `gradlab bench speed` does."""
    try:
        count = speed.count_rows(patterns, quick=quick, device=device)
    except ValueError as error:
        hint = "--device" if str(error).startswith("device=") else "--rows"
        raise typer.BadParameter(str(error), param_hint=hint) from error
    options = {"quick": quick, "rounds": rounds, "device": device}
    if out is None:
        _measure(patterns, count, terminal, options)
        return
    with saved_folder(out, overwrite) as folder:
        report = _measure(patterns, count, terminal, options)
        write_text(folder / "speed.json", report.to_json() + "\n")
        write_text(folder / "speed.csv", report.to_csv())
    terminal.say(f"results in {folder}: speed.csv, speed.json")


def _measure(patterns: Sequence[str], count: int, terminal: Terminal, options: Mapping[str, Any]) -> Report:
    with terminal.progress("bench speed", count) as show:
        report = speed.run(patterns, progress=lambda index, _, name: show(index, name), **options)
        show(count, "")
    _say_machine(report.machine, terminal)
    with_torch = any(row.torch_ratio is not None for row in report.rows)
    columns = [*COLUMNS, *(["torch", "ratio to torch"] * with_torch)]
    terminal.table(TITLE, columns, [_cells(row)[: len(columns)] for row in report.rows])
    return report


def bench_instruments(
    patterns: Sequence[str], *, quick: bool, rounds: int | None, out: Path | None, overwrite: bool, terminal: Terminal
) -> None:
    """What `gradlab bench instruments` does."""
    try:
        cases = select(instruments.instrument_cases(), patterns)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rows") from error
    if out is None:
        _measure_instruments(cases, quick, rounds, terminal)
        return
    with saved_folder(out, overwrite) as folder:
        report = _measure_instruments(cases, quick, rounds, terminal)
        write_text(folder / "instruments.json", report.to_json() + "\n")
        write_text(folder / "instruments.csv", report.to_csv())
    terminal.results_in(folder)


def _measure_instruments(
    cases: list[instruments.InstrumentCase], quick: bool, rounds: int | None, terminal: Terminal
) -> Report:
    with terminal.progress("bench instruments", len(cases)) as show:
        tell = lambda index, _, name: show(index, name)
        report = instruments.run_instruments(cases, quick=quick, rounds=rounds, progress=tell)
        show(len(cases), "")
    _say_machine(report.machine, terminal)
    title = "Medians over paired rounds, and their ratios to what they are held against"
    terminal.table(title, INSTRUMENT_COLUMNS, [_instrument_cells(row) for row in report.rows], words=2)
    for row in report.rows:
        terminal.say(f"{row.name}: {row.what}")
    return report


def _instrument_cells(row: InstrumentRow) -> list[str]:
    goal = "" if row.met is None else f"{short(row.at_most)} {'met' if row.met else 'missed'}"
    values = [quantity(value, row.unit) for value in (row.other, row.value)]
    return [row.name, row.against, *values, _spread(row.ratio), row.stated, goal]


def sweep_request(*, lanes: str | None, steps: int | None, quick: bool, **names: str) -> sweep_speed.Request:
    """The options of `gradlab bench sweep`, whose lists have commas between their items, checked."""
    try:
        numbers = None if lanes is None else tuple(int(number) for number in _items(lanes))
    except ValueError:
        raise typer.BadParameter(f"lanes are whole numbers with commas between them, got {lanes!r}") from None
    lists = {name: _items(text) for name, text in names.items()}
    try:
        return sweep_speed.Request(lanes=numbers, steps=steps, quick=quick, **lists).checked()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def bench_sweep(request: sweep_speed.Request, *, out: Path | None, overwrite: bool, terminal: Terminal) -> None:
    """What `gradlab bench sweep` does."""
    if out is None:
        _measure_sweep(request, terminal)
        return
    with saved_folder(out, overwrite) as folder:
        report = _measure_sweep(request, terminal)
        write_json(folder / "sweep_speed.json", report.data())
        for part, text in report.tables().items():
            write_text(folder / ("sweep_speed.csv" if part == "speed" else f"sweep_{part}.csv"), text)
        if report.speed:
            from gradlab.plots.style import save_figure
            from gradlab.plots.sweep_speed import sweep_speed as draw

            save_figure(draw([row.record() for row in report.speed]), folder / "sweep_speed.png")
    terminal.results_in(folder)


def _measure_sweep(request: sweep_speed.Request, terminal: Terminal) -> sweep_speed.SweepReport:
    with terminal.progress("bench sweep", sweep_speed.count_rows(request)) as show:
        tell = lambda index, _, name, left: show(index, name, {} if left is None else {"remaining": left})
        report = sweep_speed.run(request, progress=tell)
        show(sweep_speed.count_rows(request), "")
    _say_machine(report.machine, terminal)
    for task in request.tasks if report.speed else ():
        rows = [row for row in report.speed if row.task == task]
        title = f"{task}, {rows[0].steps} steps of {rows[0].batch_size} examples, compiling included | compiled before"
        terminal.table(title, SPEED_COLUMNS, [_speed_cells(row) for row in rows], words=2)
    if report.parity:
        terminal.table(TITLE, COLUMNS, [_cells(row)[: len(COLUMNS)] for row in report.parity])
    if report.memory:
        title = "Memory of lanes side by side; the others by the prediction"
        terminal.table(title, MEMORY_COLUMNS, [_memory_cells(row) for row in report.memory])
    for name, what in report.contenders().items() if report.speed else ():
        terminal.say(f"{name}: {what}")
    for text in (*report.left_out, *sweep_speed.disagreements(report.speed)):
        terminal.warn(text)
    return report


def _say_machine(machine: Mapping[str, Any], terminal: Terminal) -> None:
    terminal.say(f"{machine['cpu']}, {machine['cores']} cores (load {machine['load']}), {machine['device']}")


def _speed_cells(row: SpeedRow) -> list[str]:
    record = row.record()
    number = lambda key: "" if record[key] is None else f"{record[key]:.3g}"
    seconds = lambda key: "" if record[key] is None else quantity(record[key], "s")
    times = [f"{number(key)}x" if record[key] is not None else "" for key in ("times_gradlab", "warm_times_gradlab")]
    goal = "" if record["goal"] is None else f"{record['goal']:g}x {'met' if record['met'] else 'missed'}"
    cold = [seconds("seconds"), seconds("compile_seconds"), number("trials_per_minute"), number("steps_per_second")]
    warm = [seconds("warm_seconds"), number("warm_steps_per_second")]
    return [row.contender, row.note, str(row.lanes), *cold, times[0], goal, *warm, times[1]]


def _memory_cells(row: MemoryRow) -> list[str]:
    record = row.record()
    by = lambda key: "" if record[key] is None else f"{record[key]:.3g}"
    amounts = [amount_of_bytes(row.predicted), amount_of_bytes(row.planned), by("planned_to_predicted")]
    measured = "" if row.measured is None else amount_of_bytes(row.measured)
    return [row.task, str(row.lanes), *amounts, measured, by("measured_to_predicted"), "met" if row.met else "missed"]


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
