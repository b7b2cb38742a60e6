"""``gradlab report``: the page of a sweep."""

from pathlib import Path

from gradlab.cli.terminal import Terminal
from gradlab.report import write_report
from gradlab.sweeps.engine.journal import is_unfinished


def report_sweep(folder: Path, out: Path | None, terminal: Terminal) -> None:
    """What `gradlab report` does.

    Args:
      folder: of a sweep that `gradlab sweep` ran.
      out: the file to write; by default report.html in the folder.
      terminal: where to write.
    """
    if is_unfinished(folder):
        message = f"{folder} holds a sweep that is not done; give its `gradlab sweep` command again, then report"
        raise FileNotFoundError(message)
    terminal.say(str(write_report(folder, out)))
