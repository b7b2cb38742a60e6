"""Where commands write: results to the standard output, progress, warnings and errors to the standard error.

With the progress in JSON every line of the standard error is an object, for programs::

    {"time": "2026-01-31T12:00:00.000+00:00", "event": "progress", "what": "digits_mlp", "done": 512, "total": 4096,
     "seconds": 9.5, "compile_seconds": 2.5, "remaining": 49.0, "best": 0.25, "metric": "valid_loss",
     "bucket": 0, "buckets": 2}
    {"time": ..., "event": "warning", "message": ...}            "error" likewise
    {"time": ..., "event": "done", "folder": "runs/digits_sweep"}

Numbers that are not finite are null.
"""

import contextlib
import datetime
import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, Protocol

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

USER_ERROR, INTERRUPTED = 2, 130  # exit codes
MOST_COLUMNS = 1000  # of a table that does not fit: a terminal wraps it, and a file keeps it whole


class ProgressMode(StrEnum):
    """How commands tell how far they are."""

    bar = "bar"
    json = "json"
    none = "none"


class Show(Protocol):
    """What moves a bar."""

    def __call__(self, done: int, note: str, facts: Mapping[str, Any] = {}) -> None:
        """Shows how much is done.

        Args:
          done: of the total.
          note: words, the important ones first.
          facts: the same for programs; ``remaining`` are seconds, which the bar shows too.
        """


class Terminal:
    """The two streams of a command; ``quiet`` leaves the errors."""

    def __init__(self, quiet: bool = False, mode: ProgressMode = ProgressMode.bar):
        self.mode = ProgressMode.none if quiet else mode
        self.results = Console(quiet=quiet)
        self.notes = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Prints a line as it is: brackets in it are no markup."""
        self.results.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        if self.mode is ProgressMode.json:
            self.event("warning", message=text)
            return
        self.notes.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], words: int = 1) -> None:
        """Prints a table of names, other words up to column ``words``, and numbers; names and numbers do not wrap."""
        table = Table(
            title=Text(title, style="bold"), title_justify="left", header_style="bold", box=None, pad_edge=False
        )
        for index, column in enumerate(columns):
            width = max((len(str(row[index])) for row in rows), default=0) if index == 0 or index >= words else None
            table.add_column(
                Text(column), justify="left" if index < words else "right", overflow="fold", min_width=width
            )
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        least = self.results.measure(table, options=self.results.options.update(max_width=MOST_COLUMNS)).minimum
        self.results.print(table, width=max(least, self.results.width), crop=False)

    def event(self, kind: str, **facts: Any) -> None:
        """Prints a line of JSON, if the progress is for programs."""
        if self.mode is ProgressMode.json:
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            line = {"time": time, "event": kind, **facts}
            line = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in line.items()}
            print(json.dumps(line, allow_nan=False), file=sys.stderr, flush=True)

    def results_in(self, folder: Path) -> None:
        """Says what a folder holds: the last that a command says."""
        self.say(f"\nresults in {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
        self.event("done", folder=str(folder))

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Show]:
        """Progress to ``total``; the function that it yields tells it."""
        if self.mode is not ProgressMode.bar:
            yield lambda done, note, facts={}: self.event(
                "progress", **{"what": what, "done": done, "total": total, **facts}
            )
            return
        with _Bar(console=self.notes) as bar:
            task = bar.add_task(what, total=total, note="compiling", left="")

            def show(done: int, note: str, facts: Mapping[str, Any] = {}) -> None:
                most = facts.get("total", total)
                left = f"{duration(facts['remaining'])} left" if done < most and "remaining" in facts else ""
                bar.update(task, completed=done, total=most, note=note, left=left)

            yield show

    @contextlib.contextmanager
    def caught_warnings(self) -> Iterator[None]:
        """Prints Python's warnings as lines without the code that raised them."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: self.warn(str(message))
            yield


class _Bar(Progress):
    """What, how far and how long, and a line of words below: both fit into 80 columns."""

    @classmethod
    def get_default_columns(cls) -> tuple[Any, ...]:
        """The columns of the upper line."""
        name, left = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[left]}"))
        return name, BarColumn(bar_width=20), TaskProgressColumn(), left

    def get_renderables(self) -> Iterable[RenderableType]:
        """Both lines."""
        yield from super().get_renderables()
        yield from (Text(task.fields["note"], "dim", overflow="ellipsis", no_wrap=True) for task in self.tasks)


@contextlib.contextmanager
def user_errors(terminal: Terminal | None = None) -> Iterator[None]:
    """Turns what a user can mend into a message and exit code 2, and Ctrl-C into exit code 130."""
    terminal = terminal or Terminal()
    try:
        yield
    except (OSError, ModuleNotFoundError) as error:
        _fail(terminal, "\n".join([str(error), *getattr(error, "__notes__", [])]), USER_ERROR)
    except ValueError as error:
        from gradlab.config import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _fail(terminal, str(error), USER_ERROR)
    except KeyboardInterrupt as error:
        _fail(terminal, str(error) or "interrupted: nothing of this run was saved", INTERRUPTED)


def _fail(terminal: Terminal, text: str, code: int) -> NoReturn:
    if terminal.mode is ProgressMode.json:
        terminal.event("error", message=text)
    else:
        Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code) from None


def amount_of_bytes(count: float) -> str:
    """Bytes for reading.

    >>> amount_of_bytes(999), amount_of_bytes(36_136), amount_of_bytes(2.5e12)
    ('999 B', '36.1 kB', '2500.0 GB')
    """
    units = ["B", "kB", "MB", "GB"]
    power = min(int(math.log10(max(count, 1))) // 3, len(units) - 1)
    return f"{count / 1000**power:.{min(power, 1)}f} {units[power]}"


def duration(seconds: float) -> str:
    """Seconds for reading.

    >>> duration(3.21), duration(75.0), duration(4000.0)
    ('3.2 s', '1 min 15 s', '1 h 06 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(value: Any) -> str:
    """A number in four significant digits, anything else as it is.

    >>> short(0.00123456), short(0.99987), short(True)
    ('0.001235', '0.9999', 'True')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headings(names: Sequence[str]) -> list[str]:
    """The last parts of dotted names as words, where these differ.

    >>> headings(['optimizer.learning_rate', 'valid_loss']), headings(['task.l2', 'after.l2'])
    (['learning rate', 'validation loss'], ['task.l2', 'after.l2'])
    """
    last = [name.removesuffix(".name").rpartition(".")[2] for name in names]
    words = [name.replace("valid_", "validation_").replace("_", " ") for name in last]
    return [word if last.count(part) == 1 else name for word, part, name in zip(words, last, names, strict=True)]
