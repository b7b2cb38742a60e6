"""``gradlab bench storage``: bytes, time and losses of moments that are kept in fewer bits."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from gradlab.bench.storage import STORAGES, BytesRow, TimeRow, bytes_rows, time_rows
from gradlab.bench.storage_gaps import STORAGES as GAP_STORAGES
from gradlab.bench.storage_gaps import TASKS, Gap, gaps
from gradlab.bench.trees import gpt2_shapes
from gradlab.cli.outputs import saved_folder, write_table
from gradlab.cli.terminal import Terminal
from gradlab.core import check
from gradlab.optimizers import REGISTRY


class Part(NamedTuple):
    """One table."""

    title: str
    columns: list[str]
    count: int  # rows at most
    rows: Callable[[], Iterable[Any]]  # each as soon as it is known
    cells: Callable[[Any], list[str]]
    expected: Sequence[str] = ()  # optimizers


class Request(NamedTuple):
    """The options of the command; names with commas between them."""

    parts: str
    optimizers: str
    storages: str
    task: str
    layers: int
    rounds: int


def bench_storage(request: Request, *, out: Path | None, overwrite: bool, terminal: Terminal) -> None:
    """What the command does."""
    try:
        parts = _parts(request)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if out is None:
        _measure(parts, None, terminal)
        return
    with saved_folder(out, overwrite) as folder:
        _measure(parts, folder, terminal)
    terminal.results_in(folder)


def _parts(request: Request) -> dict[str, Part]:
    shapes = gpt2_shapes(layers=request.layers)
    names = _chosen("optimizer", request.optimizers, REGISTRY)
    optimizers = {name: REGISTRY[name] for name in names}
    storages = {name: GAP_STORAGES[name] for name in _chosen("storage", request.storages, GAP_STORAGES)}
    check.one_of("task", request.task, TASKS)
    task, run = TASKS[request.task]
    find = lambda: gaps(task(), optimizers, storages, **run)
    of = f"GPT-2 of {request.layers} layers"
    known = {
        "bytes": Part(f"Bytes a parameter, {of}", BYTES, len(STORAGES) + 2, lambda: bytes_rows(shapes), _bytes_cells),
        "time": Part(f"A step, {of}", TIME, len(STORAGES), lambda: time_rows(shapes, request.rounds), _time_cells),
        "gaps": Part(f"Final losses of {request.task}", GAPS, len(names) * len(storages), find, _gap_cells, names),
    }
    return {name: known[name] for name in _chosen("part", request.parts, known)}


def _chosen(what: str, names: str, known: Iterable[str]) -> list[str]:
    """The names with commas between them, or all."""
    if names == "all":
        return sorted(known)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        check.one_of(what, name, known)
    return chosen


def _measure(parts: dict[str, Part], folder: Path | None, terminal: Terminal) -> None:
    for name, part in parts.items():
        found = []
        with terminal.progress(f"bench storage, {name}", part.count) as show:
            for row in part.rows():
                found.append(row)
                show(len(found), _name(row))
                if folder is not None:
                    records = [_record(row) for row in found]
                    write_table(folder / f"storage_{name}.csv", list(records[0]), [list(r.values()) for r in records])
            show(part.count, "")
        terminal.table(part.title, part.columns, [part.cells(row) for row in found])
        without = [name for name in part.expected if name not in {row.optimizer for row in found}]
        if without:
            terminal.say(f"without moments, of which there is nothing to keep: {', '.join(without)}")


def _name(row: Any) -> str:
    return f"{row.optimizer}, {row.storage}" if isinstance(row, Gap) else row.what


def _record(row: BytesRow | TimeRow | Gap) -> dict[str, Any]:
    record = row._asdict()
    if isinstance(row, TimeRow):
        record |= {"ratio": row.ratio.median, "ratio_lower": row.ratio.lower, "ratio_upper": row.ratio.upper}
    return record | {"is_noticed": row.is_noticed} if isinstance(row, Gap) else record


BYTES = ["", "state", "arguments", "temporary"]
TIME = ["", "ms", "without", "ratio (quartiles)"]
GAPS = ["", "rate", "float32", "spread", "loss", "gap", "noticed"]


def _bytes_cells(row: BytesRow) -> list[str]:
    return [row.what, *(f"{size:.2f}" for size in row[1:])]


def _time_cells(row: TimeRow) -> list[str]:
    of = row.ratio
    return [
        row.what,
        f"{row.seconds * 1e3:.1f}",
        f"{row.without * 1e3:.1f}",
        f"{of.median:.2f} ({of.lower:.2f} to {of.upper:.2f})",
    ]


def _gap_cells(row: Gap) -> list[str]:
    rate = "its own" if row.learning_rate is None else f"{row.learning_rate:g}"
    numbers = (rate, *(f"{x:.4g}" for x in (row.exact, row.spread, row.loss)))
    return [_name(row), *numbers, f"{row.gap:+.2g} ± {row.error:.1g}", "yes" if row.is_noticed else ""]
