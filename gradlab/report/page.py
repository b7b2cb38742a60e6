"""One self-contained HTML file: the data of a sweep as JSON, the code that draws it, and plotly.js.

What comes from data is text to the page and never markup.  Besides, the policy in its head names the scripts by
their hashes and allows no address at all: the page runs nothing else and loads nothing.
"""

import json
import os
from pathlib import Path
from string import Template

from gradlab.report.data import page_data
from gradlab.report.parts import as_script, hash_of, part
from gradlab.sweeps.engine.journal import EVENTS
from gradlab.sweeps.outcomes.files import write_atomically
from gradlab.sweeps.outcomes.results import SweepResult

PAGE, CONFIG = "report.html", "config.yaml"
CODE = ("page", "table", "charts", "parallel", "curves", "sensitivity", "start")  # .js, in this order, as one script


def write_report(folder: str | os.PathLike, out: str | os.PathLike | None = None) -> Path:
    """Writes the page of a sweep that is done, whole or not at all.

    Args:
      folder: of the sweep; its config.yaml and events.jsonl are shown where they exist.
      out: the file to write, by default report.html in the folder; what has that name is replaced.

    Returns:
      Where the page is.

    Raises:
      FileNotFoundError: the folder holds no results of a sweep.
      ModuleNotFoundError: plotly is not installed.

    >>> import tempfile, numpy as np
    >>> from gradlab.sweeps.spaces.space import Space
    >>> space = Space({'learning_rate': {'log': [0.01, 1.0]}})
    >>> result = SweepResult.from_lanes(
    ...     space, space.from_unit([[0.0], [1.0]]), seeds=[0], steps=1, loss=np.ones((2, 1, 1)), loss_step=[0],
    ...     metrics={}, eval_step=[], diverged_at=[[-1], [-1]], bucket=[0, 0], compile_seconds=[1.0],
    ...     run_seconds=[1.0, 1.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(folder)
    ...     write_report(folder).name
    'report.html'
    """
    folder = Path(folder)
    result = SweepResult.load(folder)
    page = page_of(result, config=_text(folder / CONFIG), events=_text(folder / EVENTS))
    path = folder / PAGE if out is None else Path(out)
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def page_of(result: SweepResult, config: str | None = None, events: str | None = None) -> str:
    """The page as text.

    Args:
      result: of the sweep.
      config: what it ran from, as YAML.
      events: what happened, one JSON object a line.
    """
    plotly, code = _plotly(), "\n".join(part(f"{name}.js") for name in CODE)
    return Template(part("page.html")).substitute(
        hashes=f"{hash_of(plotly)} {hash_of(code)}",
        style=part("page.css"),
        data=as_script(json.dumps(page_data(result, config, events), allow_nan=False, separators=(",", ":"))),
        plotly=plotly,
        code=code,
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        message = "a report needs plotly, which the extra `lab` installs: pip install 'gradlab[lab]'"
        raise ModuleNotFoundError(message, name=error.name) from None
    return get_plotlyjs()


def _text(path: Path) -> str | None:
    return path.read_text("utf-8", errors="replace") if path.exists() else None
