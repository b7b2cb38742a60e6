"""Panels of what was measured leaf by leaf at every step: norms, ratios, cosines, counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.plots.style import axes_or_new, line_style, spans_decades
from gradlab.plots.ticks import logarithmic

MOST_LINES = 14
LEGEND_COLUMN = 28  # characters of a name


def health_panels(
    names: Sequence[str],
    panels: Mapping[str, Any],
    *,
    step: Any = None,
    references: Mapping[str, float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """One panel below the other, with one line for each leaf, over the steps.

    Values that are not finite are gaps; a panel counts them beside it.  Of more than 14 leaves those are drawn whose
    last finite values of the first panel are the largest, and the legend says how many there are.

    Args:
      names: of the leaves, as `gradlab.instruments.leaf_names` gives them.
      panels: title -> (steps, leaves), or (steps,) for one line of the whole model.
      step: (steps,), by default 0, 1, ...
      references: title -> a height to mark in that panel with a dotted line, such as 0.001 for ``|u| / |p|``.
      axes: one for each panel; by default those of a new figure.

    Raises:
      ValueError: no panels, arrays that do not fit the names or each other, references or axes for other panels.
    """
    values = {title: np.asarray(panel, np.float64) for title, panel in panels.items()}
    _check(names, values, step, references or {}, axes)
    if axes is None:
        figure = Figure(figsize=(8.0, 0.8 + 1.9 * len(values)), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(len(values), 1, sharex=True)))
    shown = _largest(values, len(names))
    handles = {}
    for ax, (title, panel) in zip(axes, values.items(), strict=True):
        axes_or_new(ax)
        x = np.arange(len(panel)) if step is None else np.asarray(step)
        handles |= _panel(ax, x, panel, names, shown)
        ax.set_ylabel(title)
        ax.margins(x=0)
        if title in (references or {}):
            ax.axhline(references[title], color="#777777", lw=1.2, ls=":", zorder=2)
    axes[-1].set_xlabel("step")
    if handles:
        hidden = len(names) - len(shown)
        title = f"the {len(shown)} largest of {len(names)}" if hidden else None
        columns = max(1, min(4, 100 // max(LEGEND_COLUMN, *map(len, handles))))
        axes[0].legend(
            handles.values(), handles, title=title, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns,
            frameon=False, fontsize=9, alignment="left",
        )  # fmt: skip
    return list(axes)


def _check(names: Sequence[str], values: Mapping[str, np.ndarray], step: Any, references: Any, axes: Any) -> None:
    if not values:
        raise ValueError("health_panels needs at least one panel, got none")
    steps = len(next(iter(values.values()))) if step is None else len(step)
    for title, panel in values.items():
        if panel.shape not in ((steps, len(names)), (steps,)):
            raise ValueError(
                f"panel {title!r} must have the shape (steps, leaves) = ({steps}, {len(names)}), or ({steps},), "
                f"got {panel.shape}"
            )
    unknown = set(references) - set(values)
    if unknown:
        raise ValueError(f"references are given for {sorted(unknown)}, but the panels are {list(values)}")
    if axes is not None and len(axes) != len(values):
        raise ValueError(f"give one axes for each of the {len(values)} panels, got {len(axes)}")


def _largest(values: Mapping[str, np.ndarray], leaves: int) -> list[int]:
    """The leaves that are drawn, in their own order."""
    tables = [panel for panel in values.values() if panel.ndim == 2]
    if not tables or leaves <= MOST_LINES:
        return list(range(leaves))
    last = [column[np.isfinite(column)][-1:] for column in tables[0].T]
    heights = np.array([end[0] if end.size else np.inf for end in last])  # what was never finite is worth seeing
    return sorted(np.argsort(-heights, kind="stable")[:MOST_LINES].tolist())


def _panel(ax: Axes, x: np.ndarray, panel: np.ndarray, names: Sequence[str], shown: list[int]) -> dict[str, Any]:
    """Draws the lines; returns their handles by the names of the leaves."""
    finite = np.where(np.isfinite(panel), panel, np.nan)
    lost = int(np.isnan(finite).sum())
    if lost:
        ax.text(1.0, 1.0, f"{lost} not finite", ha="right", va="bottom", transform=ax.transAxes, fontsize=8)
    if spans_decades(finite, "min"):
        logarithmic(ax, "y")
    if panel.ndim == 1:
        ax.plot(x, finite, color="black", lw=1.8)
        return {}
    return {names[leaf]: ax.plot(x, finite[:, leaf], lw=1.3, **line_style(i))[0] for i, leaf in enumerate(shown)}
