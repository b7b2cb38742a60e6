"""How a sweep's outcome depends on one hyperparameter, or on two."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.tri import LinearTriInterpolator, TriAnalyzer, Triangulation

from gradlab.plots.scales import (
    CROSS,
    Scale,
    before_training,
    cell_borders,
    color_norm,
    draw_color_bar,
    outcomes_of,
    scale_of,
)
from gradlab.plots.style import (
    COLORMAP,
    CONTEXT,
    PALETTE,
    axes_or_new,
    legend_beside,
    line_style,
    readable,
    short,
    spans_decades,
)
from gradlab.plots.ticks import logarithmic
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import mode_of

BINS = 12  # of an axis with more values than that
POINTS = {"ls": "none", "marker": "o", "ms": 4.5, "mew": 0, "alpha": 0.75}
RESOLUTION = 300  # points along each side of an interpolated map
FLAT = 0.05  # thinner triangles, by the ratio of inscribed to circumscribed circle, lie along the border


def sensitivity(
    result: SweepResult,
    x: str = "learning_rate",
    metric: str | None = None,
    *,
    by: str | None = None,
    mode: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The final metric of every trial against one hyperparameter, with the best and the median along it.

    A point is the mean over the seeds.  Trials of which a seed diverged are crosses on the upper edge, those that were
    stopped because others were better are grey.

    Args:
      result: a sweep.
      x: the hyperparameter.
      metric: by default the sweep's main one.
      by: another hyperparameter, such as ``'optimizer.name'``, each of whose values gets points and a line of the best
        of its own.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.

    Raises:
      ValueError: an unknown hyperparameter, metric or mode, or no trial that completed.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    best = result.best(metric, mode)
    summary, scale = result.summary(metric), scale_of(result, x)
    completed, stopped, diverged = outcomes_of(summary)
    score = summary["mean"].to_numpy()
    ax = axes_or_new(ax, width=8.0)
    if stopped.any():
        ax.plot(scale.values[stopped], score[stopped], **POINTS, color=CONTEXT, label=f"stopped: {stopped.sum()}")
    along = {"ls": "none", "marker": "_", "ms": 22, "mew": 2} if scale.ticks else {"lw": 1.7}
    if by is None:
        ax.plot(scale.values[completed], score[completed], **POINTS, color=PALETTE[4], label="a trial")
        envelope, middle = _along(scale, score, completed, mode)
        ax.plot(*middle, **({"color": PALETTE[5], "ls": "--", "label": "median of a bin"} | along))
        ax.plot(*envelope, **({"color": PALETTE[0], "label": "best of a bin"} | along))
    for index, (value, members) in enumerate(_groups(result, by)):
        own, style = completed & members, line_style(index)
        if own.any():
            ax.plot(scale.values[own], score[own], **POINTS, color=style["color"])
            ax.plot(*_along(scale, score, own, mode)[0], **(style | {"label": f"{value}, best of a bin"} | along))
    winner = int((summary["uid"] == best["uid"][0]).to_numpy().argmax())
    label = f"best: {short(score[winner])} at {scale.label} {scale.text(winner)}"
    ax.plot(scale.values[winner], score[winner], "o", ms=11, mfc="none", mec=PALETTE[1], mew=1.8, label=label)
    _cross_out(ax, scale.values[diverged])
    scale.label_axis(ax, "x")
    if spans_decades(score[~diverged], mode):
        logarithmic(ax, "y")
    ax.set_ylabel(f"final {readable(metric)}")
    ax.set_title(f"Sensitivity to {scale.label}, {len(score)} trials", pad=12)
    legend_beside(ax)
    return ax


def _groups(result: SweepResult, by: str | None) -> Iterator[tuple[Any, np.ndarray]]:
    """Each value of a hyperparameter, and which trials have it."""
    values = [] if by is None else result.values(by)
    for value in dict.fromkeys(values):
        yield value, np.asarray([one == value for one in values])


def _along(scale: Scale, score: np.ndarray, completed: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """The best and the median of the completed trials in each bin of the axis: two arrays (2, bins) of x and y."""
    position = scale.positions()
    distinct = np.unique(position)
    if len(distinct) <= BINS:
        bins = np.searchsorted(distinct, position)
    else:
        edges = np.linspace(distinct[0], distinct[-1], BINS + 1)
        bins = np.clip(np.searchsorted(edges, position, side="right") - 1, 0, BINS - 1)
    best, median = [], []
    for index in np.unique(bins[completed]):
        members = np.flatnonzero(completed & (bins == index))
        leader = members[score[members].argmin() if mode == "min" else score[members].argmax()]
        best.append((scale.values[leader], score[leader]))
        middle = np.median(position[members])
        median.append((10.0**middle if scale.log else middle, np.median(score[members])))
    return np.transpose(best), np.transpose(median)


def _cross_out(ax: Axes, x: np.ndarray) -> None:
    """Crosses on the upper edge of the axes."""
    if len(x):
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 4}
        ax.plot(x, np.ones(len(x)), **CROSS, **edge, label=f"diverged: {len(x)}")


def heat_map(
    result: SweepResult,
    x: str,
    y: str,
    metric: str | None = None,
    *,
    mode: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The final metric over two hyperparameters: cells for a grid, contours with the trials as points otherwise.

    Where several trials share a cell, it shows the best of them.  Trials of which a seed diverged are crosses.  Colours
    end at the loss before training: what ended above it was no use.

    Args:
      result: a sweep.
      x: the hyperparameter along the horizontal axis.
      y: the one along the vertical axis.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.

    Raises:
      ValueError: an unknown hyperparameter, metric or mode.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    summary, across, up = result.summary(metric), scale_of(result, x), scale_of(result, y)
    completed = (summary["diverged"] == 0).to_numpy()
    score = np.where(completed, summary["mean"].to_numpy(), np.nan)
    ax = axes_or_new(ax, width=6.4, height=4.8)
    cells = len(np.unique(across.values)) * len(np.unique(up.values))
    start = before_training(result, metric, mode) if mode == "min" else np.nan
    useful = score[~(score > start)]
    norm = color_norm(useful if np.isfinite(useful).any() else score, mode)
    style = {"cmap": COLORMAP if mode == "max" else f"{COLORMAP}_r", "norm": norm}
    shown = (
        _cells(ax, across, up, score, mode, style) if cells <= len(score) else _contours(ax, across, up, score, style)
    )
    ax.plot(across.values[~completed], up.values[~completed], **CROSS, label=f"diverged: {(~completed).sum()}")
    across.label_axis(ax, "x")
    up.label_axis(ax, "y")
    draw_color_bar(ax, shown, score, f"final {readable(metric)}")
    ax.set_title(f"{len(score)} trials", loc="left")
    if not completed.all():
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, handletextpad=0.1)
    return ax


def _cells(ax: Axes, across: Scale, up: Scale, score: np.ndarray, mode: str, style: dict[str, Any]) -> Any:
    columns, column = np.unique(across.values, return_inverse=True)
    rows, row = np.unique(up.values, return_inverse=True)
    worst = np.inf if mode == "min" else -np.inf
    table = np.full((len(rows), len(columns)), worst)
    better = np.minimum if mode == "min" else np.maximum
    better.at(table, (row, column), np.where(np.isfinite(score), score, worst))
    edges = [cell_borders(values, scale.log) for values, scale in ((columns, across), (rows, up))]
    return ax.pcolormesh(*edges, np.ma.masked_invalid(table), **style)


def _contours(ax: Axes, across: Scale, up: Scale, score: np.ndarray, style: dict[str, Any]) -> Any:
    """Contours between scattered trials, interpolated in the coordinates of the paper, and the trials themselves."""
    finite = np.isfinite(score)
    x, y, z = across.values[finite], up.values[finite], score[finite]
    paper = np.column_stack([across.positions()[finite], up.positions()[finite]])
    ax.use_sticky_edges = False
    levels = np.unique(np.quantile(z, np.linspace(0, 1, 13))) if len(z) else z
    if len(levels) > 1 and np.linalg.matrix_rank(paper - paper[:1]) == 2:
        low, span = paper.min(0), np.ptp(paper, axis=0)
        triangles = Triangulation(*((paper - low) / span).T)
        triangles.set_mask(TriAnalyzer(triangles).get_flat_tri_mask(FLAT))
        unit = np.linspace(0, 1, RESOLUTION)
        heights = LinearTriInterpolator(triangles, z)(*np.meshgrid(unit, unit))
        places = low + np.outer(unit, span)
        columns, rows = (10.0**p if scale.log else p for p, scale in zip(places.T, (across, up), strict=True))
        ax.contourf(columns, rows, heights, levels=levels, **style)
    return ax.scatter(x, y, c=z, s=26, edgecolors="white", linewidths=0.9, zorder=3, **style)
