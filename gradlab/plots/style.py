"""How pictures look: colours that colour-blind readers tell apart, axes without pyplot, files written whole."""

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.sweeps.outcomes.files import write_atomically

# Okabe and Ito's palette without its yellow, which white paper swallows; the darker ones first
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.")
CONTEXT = "#B8B8B8"  # what is shown for comparison only
DIVERGED = "#555555"
COLORMAP = "cividis"


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with this index: different for 28 lines.

    >>> line_style(0), line_style(7)
    ({'color': '#0072B2', 'linestyle': '-'}, {'color': '#0072B2', 'linestyle': '--'})
    """
    cycle, color = divmod(index, len(PALETTE))
    return {"color": PALETTE[color], "linestyle": DASHES[cycle % len(DASHES)]}


def axes_or_new(ax: Axes | None, width: float = 7.0, height: float = 4.3) -> Axes:
    """The axes given, or those of a new figure of this size in inches that no global state knows of."""
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
    ax.set_axisbelow(True)
    return ax


def legend_beside(ax: Axes, **options: Any) -> None:
    """A legend to the right of the axes, where it covers no data."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, frameon=False, fontsize=9, **options)


def legend_below(ax: Axes, **options: Any) -> None:
    """A legend of long lines under the axes."""
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), borderaxespad=0.0, frameon=False, fontsize=9, **options)


def readable(name: str) -> str:
    """A metric's or hyperparameter's name as words.

    >>> readable('valid_loss'), readable('optimizer.learning_rate'), readable('optimizer.name')
    ('validation loss', 'learning rate', 'optimizer')
    """
    words = name.removesuffix(".name").split(".")[-1].replace("valid_", "validation_").replace("train_", "training_")
    return words.replace("_", " ")


def short(value: Any) -> str:
    """A number in three digits, with more where it is close to 1, as decay rates are; anything else as it is.

    >>> short(0.00123456), short(0.99963), short(True), short('cosine')
    ('0.00123', '0.99963', 'True', 'cosine')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    nines = -math.floor(math.log10(1 - value)) - 1 if 0.9 < value < 1 else 0
    return f"{value:.{max(3, nines + 2)}g}"


def label_of(values: Mapping[str, Any]) -> str:
    """Hyperparameters on one line.

    >>> label_of({'optimizer.learning_rate': 0.00123456, 'nesterov': True})
    'learning rate 0.00123, nesterov True'
    """
    return ", ".join(f"{readable(name)} {short(value)}" for name, value in values.items())


def spans_decades(values: np.ndarray, mode: str) -> bool:
    """Whether a logarithmic axis shows the values better: positive losses of which one is 3 times another.

    >>> spans_decades(np.array([0.01, 2.0]), 'min'), spans_decades(np.array([0.01, 1.0]), 'max')
    (True, False)
    """
    finite = values[np.isfinite(values)]
    return mode == "min" and finite.size > 0 and bool(0 < 3 * finite.min() < finite.max())


def save_figure(figure: Figure | Axes, path: str | os.PathLike, dpi: int = 150) -> None:
    """Writes a figure, or the figure of axes, in the format of the file's ending; the file is whole or as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(axes_or_new(None), Path(folder, 'empty.png'))
    ...     os.listdir(folder)
    ['empty.png']
    """
    figure = figure.figure if isinstance(figure, Axes) else figure
    ending = Path(path).suffix.removeprefix(".") or "png"
    write_atomically(path, functools.partial(figure.savefig, format=ending, dpi=dpi, facecolor="white"))
