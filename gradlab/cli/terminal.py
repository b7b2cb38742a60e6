"""Where commands write: results to the standard output, progress, warnings and errors to the standard error."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

USER_ERROR, INTERRUPTED = 2, 130  # exit codes
WIDE = 100  # columns that leave room for a bar
MOST_COLUMNS = 1000  # of a table that does not fit: a terminal wraps it, and a file keeps it whole

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

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Show]:
        """A bar to ``total``; the function that it yields moves it."""
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
        ]
        if self.notes.width < WIDE:
            del columns[1]
        bar = Progress(*columns, console=self.notes, disable=self.quiet)
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
    except KeyboardInterrupt as error:
        _fail(str(error) or "interrupted: nothing of this run was saved", INTERRUPTED)


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
    last = [name.rpartition(".")[2] for name in names]
    words = [name.replace("valid_", "validation_").replace("_", " ") for name in last]
    return [word if last.count(part) == 1 else name for word, part, name in zip(words, last, names, strict=True)]
