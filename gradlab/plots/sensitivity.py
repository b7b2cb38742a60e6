"""How a sweep's outcome depends on one hyperparameter, or on two."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.tri import LinearTriInterpolator, TriAnalyzer, Triangulation

from gradlab.plots.style import COLORMAP, DIVERGED, PALETTE, axes_or_new, legend_beside, readable, short, spans_decades
from gradlab.sweeps.dimensions import Choice, Fixed, Integer, Log, OneMinus
from gradlab.sweeps.results import SweepResult
from gradlab.sweeps.table import mode_of
from gradlab.sweeps.trial import canonical_json

CROSS = {"ls": "none", "marker": "x", "ms": 6, "color": DIVERGED, "alpha": 0.8}  # a trial that diverged
BINS = 12  # of an axis with more values than that
RESOLUTION = 300  # points along each side of an interpolated map
FLAT = 0.05  # thinner triangles, by the ratio of inscribed to circumscribed circle, lie along the border


class Scale(NamedTuple):
    """A hyperparameter as coordinates of an axis."""

    values: np.ndarray  # (trials,)
    label: str
    log: bool = False
    ticks: tuple[str, ...] = ()  # the categories at 0, 1, ..., if the values are no numbers

    def positions(self) -> np.ndarray:
        """(trials,), in proportion to the distances on paper."""
        return np.log10(self.values) if self.log else self.values

    def text(self, trial: int) -> str:
        """The value of a trial in words."""
        return self.ticks[int(self.values[trial])] if self.ticks else short(self.values[trial])

    def label_axis(self, ax: Axes, which: str) -> None:
        ax.set(**{f"{which}label": self.label})
        if self.log:
            ax.set(**{f"{which}scale": "log"})
        if self.ticks:
            ax.set(**{f"{which}lim": (-0.5, len(self.ticks) - 0.5)})
            ax.set(**{f"{which}ticks": range(len(self.ticks)), f"{which}ticklabels": self.ticks})


def scale_of(result: SweepResult, name: str) -> Scale:
    """A hyperparameter of a sweep as an axis: logarithmic if it was drawn so, 1 - x if 1 - x was drawn so."""
    values, dimension = result.values(name), result.space[name]
    if isinstance(dimension, Choice | Fixed) and not dimension.dynamic:
        texts = [canonical_json(value) for value in dimension.grid()]
        index = [texts.index(canonical_json(value)) for value in values]
        ticks = tuple(str(value) for value in dimension.grid())
        return Scale(np.array(index, np.float64), readable(name), ticks=ticks)
    numbers = np.array(values, np.float64)
    if isinstance(dimension, OneMinus) and isinstance(dimension.inner, Log):
        return Scale(1.0 - numbers, f"1 - {readable(name)}", log=True)
    return Scale(
        numbers, readable(name), log=isinstance(dimension, Log) or isinstance(dimension, Integer) and dimension.log
    )


def sensitivity(
    result: SweepResult,
    x: str = "learning_rate",
    metric: str | None = None,
    *,
    mode: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The final metric of every trial against one hyperparameter, with the best and the median along it.

    A point is the mean over the seeds.  Trials of which a seed diverged are crosses on the upper edge.

    Args:
      result: a sweep.
      x: the hyperparameter.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.

    Raises:
      ValueError: an unknown hyperparameter, metric or mode, or no trial that completed.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    best = result.best(metric, mode)
    summary, scale = result.summary(metric), scale_of(result, x)
    completed = (summary["diverged"] == 0).to_numpy()
    score = summary["mean"].to_numpy()
    ax = axes_or_new(ax, width=8.0)
    points = {"ls": "none", "marker": "o", "ms": 4.5, "mew": 0, "alpha": 0.75, "color": PALETTE[4]}
    ax.plot(scale.values[completed], score[completed], **points, label="a trial")
    envelope, middle = _along(scale, score, completed, mode)
    along = {"ls": "none", "marker": "_", "ms": 22, "mew": 2} if scale.ticks else {"lw": 1.7}
    ax.plot(*middle, **({"color": PALETTE[5], "ls": "--", "label": "median of a bin"} | along))
    ax.plot(*envelope, **({"color": PALETTE[0], "label": "best of a bin"} | along))
    winner = int((summary["uid"] == best["uid"][0]).to_numpy().argmax())
    label = f"best: {short(score[winner])} at {scale.label} {scale.text(winner)}"
    ax.plot(scale.values[winner], score[winner], "o", ms=11, mfc="none", mec=PALETTE[1], mew=1.8, label=label)
    _cross_out(ax, scale.values[~completed])
    scale.label_axis(ax, "x")
    if spans_decades(score[completed], mode):
        ax.set_yscale("log")
    ax.set_ylabel(f"final {readable(metric)}")
    ax.set_title(f"Sensitivity to {scale.label}, {len(score)} trials", pad=12)
    legend_beside(ax)
    return ax


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

    Where several trials share a cell, it shows the best of them.  Trials of which a seed diverged are crosses.

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
    style = {"cmap": COLORMAP if mode == "max" else f"{COLORMAP}_r", "norm": _norm(score, mode)}
    shown = (
        _cells(ax, across, up, score, mode, style) if cells <= len(score) else _contours(ax, across, up, score, style)
    )
    ax.plot(across.values[~completed], up.values[~completed], **CROSS, label=f"diverged: {(~completed).sum()}")
    across.label_axis(ax, "x")
    up.label_axis(ax, "y")
    bar = ax.figure.colorbar(shown, ax=ax, label=f"final {readable(metric)}")
    bar.outline.set_visible(False)
    ax.set_title(f"{len(score)} trials", loc="left")
    if not completed.all():
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9, handletextpad=0.1)
    return ax


def _norm(score: np.ndarray, mode: str) -> Normalize:
    """Colours from the lowest to the highest finite score."""
    finite = score[np.isfinite(score)]
    if not finite.size:
        return Normalize(0.0, 1.0)
    return (LogNorm if spans_decades(finite, mode) else Normalize)(finite.min(), finite.max())


def _cells(ax: Axes, across: Scale, up: Scale, score: np.ndarray, mode: str, style: dict[str, Any]) -> Any:
    columns, column = np.unique(across.values, return_inverse=True)
    rows, row = np.unique(up.values, return_inverse=True)
    worst = np.inf if mode == "min" else -np.inf
    table = np.full((len(rows), len(columns)), worst)
    better = np.minimum if mode == "min" else np.maximum
    better.at(table, (row, column), np.where(np.isfinite(score), score, worst))
    edges = [_edges(values, scale.log) for values, scale in ((columns, across), (rows, up))]
    return ax.pcolormesh(*edges, np.ma.masked_invalid(table), **style)


def _edges(centers: np.ndarray, log: bool) -> np.ndarray:
    """The borders of cells around sorted centers, half-way between them."""
    centers = np.log10(centers) if log else centers
    if len(centers) == 1:
        edges = centers[0] + np.array([-0.5, 0.5])
    else:
        middles = (centers[1:] + centers[:-1]) / 2
        edges = np.concatenate([[2 * centers[0] - middles[0]], middles, [2 * centers[-1] - middles[-1]]])
    return 10.0**edges if log else edges


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
