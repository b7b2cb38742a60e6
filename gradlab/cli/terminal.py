"""Where commands write: results to the standard output, progress, warnings and errors to the standard error."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

USER_ERROR, INTERRUPTED = 2, 130

Show = Callable[[int, str], None]  # how much is done, and a note


class Terminal:
    """The two streams of a command; ``quiet`` leaves the errors."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.results = Console(quiet=quiet)
        self.notes = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Prints a line as it is: brackets in it are no markup."""
        self.results.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        self.notes.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[Any]], left: int = 1) -> None:
        """Prints a table whose first ``left`` columns are words and whose others are numbers."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index < left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(str(cell).replace("[", r"\[") for cell in row))
        self.results.print(table)

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str) -> Iterator[Show]:
        """A bar to ``total`` units; the function that it yields moves it."""
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            console=self.notes,
            disable=self.quiet,
        )
        with bar:
            task = bar.add_task(what, total=total, note="compiling")
            yield lambda done, note: bar.update(task, completed=done, note=note)

    @contextlib.contextmanager
    def caught_warnings(self) -> Iterator[None]:
        """Prints Python's warnings as lines without the code that raised them."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: self.warn(str(message))
            yield


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns what a user can mend into a message and exit code 2, and Ctrl-C into exit code 130."""
    try:
        yield
    except (OSError, ModuleNotFoundError) as error:
        _fail("\n".join([str(error), *getattr(error, "__notes__", [])]), USER_ERROR)
    except ValueError as error:
        from gradlab.config import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _fail(str(error), USER_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted: nothing of this run was saved", INTERRUPTED)


def _fail(text: str, code: int) -> NoReturn:
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
    ('3.2 s', '1 min 15 s', '1 h 07 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def short(value: float) -> str:
    """Four significant digits.

    >>> short(0.00123456), short(12345.6)
    ('0.001235', '1.235e+04')
    """
    return f"{value:.4g}"
