"""How fast ways to train many configurations are, against their number."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from gradlab.plots.style import DIVERGED, axes_or_new, line_style
from gradlab.plots.ticks import logarithmic

KINDS = {"steps_per_second": "compiling included", "warm_steps_per_second": "compiled before"}
MARKERS = "os^vDPX*"


def sweep_speed(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Training steps a second of all configurations together: a column of panels for each task, both axes logarithmic.

    Args:
      records: rows of ``gradlab bench sweep`` with ``task``, ``lanes``, ``contender``, ``estimated``,
        ``steps_per_second`` and ``warm_steps_per_second``; the last two are None where nothing was measured.
    """
    tasks = list(dict.fromkeys(record["task"] for record in records))
    contenders = list(dict.fromkeys(record["contender"] for record in records))
    figure = Figure(figsize=(3.6 * len(tasks) + 1.6, 6.4), layout="constrained")
    panels = figure.subplots(len(KINDS), len(tasks), squeeze=False, sharex="col")
    for column, task in enumerate(tasks):
        own = [record for record in records if record["task"] == task]
        for row, (kind, words) in enumerate(KINDS.items()):
            ax = axes_or_new(panels[row, column])
            for index, contender in enumerate(contenders):
                _line(ax, index, contender, [record for record in own if record["contender"] == contender], kind)
            _label(ax, sorted({record["lanes"] for record in own}))
            ax.set_title(f"{task}, {words}", fontsize=10)
        panels[-1, column].set_xlabel("configurations")
    for row in range(len(KINDS)):
        panels[row, 0].set_ylabel("training steps a second")
    panels[0, 0].plot([], [], "o", color=DIVERGED, mfc="white", ms=5.5, label="estimated")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _line(ax: Axes, index: int, contender: str, records: Sequence[Mapping[str, Any]], kind: str) -> None:
    known = sorted((record for record in records if record[kind] is not None), key=lambda record: record["lanes"])
    lanes, rates = [record["lanes"] for record in known], [record[kind] for record in known]
    style = {**line_style(index), "marker": MARKERS[index % len(MARKERS)], "ms": 5.5, "lw": 1.4}
    measured = [place for place, record in enumerate(known) if not record["estimated"]]
    estimated = [place for place, record in enumerate(known) if record["estimated"]]
    ax.plot(lanes, rates, label=contender, markevery=measured, **style)
    ax.plot(lanes, rates, markevery=estimated, mfc="white", **{**style, "linestyle": "none"})


def _label(ax: Axes, lanes: Sequence[int]) -> None:
    ax.set_xscale("log")
    logarithmic(ax, "y")
    ax.xaxis.set_major_locator(FixedLocator(lanes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
