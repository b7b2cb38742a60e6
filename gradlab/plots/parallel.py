"""Every trial of a sweep as a line across the axes of its hyperparameters."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from gradlab.plots.scales import Scale, ceiling_of, outcomes_of, scale_of
from gradlab.plots.style import COLORMAP, CONTEXT, DIVERGED, axes_or_new, readable, short, spans_decades
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import mode_of

PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}  # under labels that lines cross
DOTTED = {"color": DIVERGED, "lw": 0.8, "ls": ":"}  # a trial that diverged
GREY = {"color": CONTEXT, "lw": 0.8}  # one that was stopped


def parallel_coordinates(
    result: SweepResult, metric: str | None = None, *, mode: str | None = None, ax: Axes | None = None
) -> Axes:
    """Each trial as a line through its values; the darker, the better its rank by the last axis.

    Trials that were stopped are grey, as they have no rank; those of which a seed diverged are dotted, and end before
    the last axis.  That axis ends at ten times the loss before training.

    Args:
      result: a sweep.
      metric: by default the sweep's main one.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.

    Raises:
      ValueError: an unknown metric or mode, or no trial that completed.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    best = result.best(metric, mode, len(result.trials))
    summary = result.summary(metric)
    outcomes = outcomes_of(summary)
    ceiling = ceiling_of(result, metric, mode)
    score = np.where(outcomes.diverged, np.nan, np.minimum(summary["mean"], ceiling))
    more = f",\n{short(ceiling)} and more on top" if np.nanmax(score) == ceiling else ""
    last = Scale(score, f"final {readable(metric)}{more}", log=spans_decades(score, mode))
    scales = [*(scale_of(result, name) for name in result.space.varying), last]
    ax = axes_or_new(ax, width=1.9 * len(scales) + 1.2, height=4.6)
    heights = np.column_stack([_add_axis(ax, place, scale) for place, scale in enumerate(scales)])
    places = np.arange(len(scales))
    lines = [np.column_stack([places, row]) for row in heights]
    diverged = [lines[index] for index in np.flatnonzero(outcomes.diverged)]  # their last height is NaN
    stopped = [lines[index] for index in np.flatnonzero(outcomes.stopped)]
    ax.add_collection(LineCollection(diverged, **DOTTED, zorder=1))
    ax.add_collection(LineCollection(stopped, **GREY, zorder=1))
    position = {uid: index for index, uid in enumerate(summary["uid"])}
    order = [position[uid] for uid in best["uid"][::-1]]  # the best one on top
    ranked = {"array": np.arange(len(order))[::-1], "cmap": COLORMAP, "linewidths": [1.2] * (len(order) - 1) + [3.0]}
    ax.add_collection(LineCollection([lines[index] for index in order], **ranked, alpha=0.85, zorder=2))
    handles = [Line2D([], [], color="#00224E", lw=3.0, label=f"best: {short(float(best['mean'][0]))}")]
    handles += [Line2D([], [], **GREY, label=f"stopped: {len(stopped)}")] if stopped else []
    handles += [Line2D([], [], **DOTTED, label=f"diverged: {len(diverged)}")] if diverged else []
    _finish(ax, scales, handles)
    return ax


def _add_axis(ax: Axes, place: int, scale: Scale) -> np.ndarray:
    """Draws the axis of a hyperparameter at x = place; (trials,) heights on it, 0 to 1, NaN where it has no value."""
    position = scale.positions()
    low, high = np.nanmin(position), np.nanmax(position)
    if scale.ticks:
        low, high = -0.25, len(scale.ticks) - 0.75
    if low == high:
        low, high = low - 0.5, high + 0.5
    own = ax.twinx()
    own.set_ylim(*((10.0**low, 10.0**high) if scale.log else (low, high)))
    scale.scale_axis(own, "y")
    if scale.ticks:
        own.set_yticks(range(len(scale.ticks)), scale.ticks)
    own.spines[["left", "top", "bottom"]].set_visible(False)
    own.spines["right"].set_position(("data", place))
    own.tick_params(labelsize=8)
    for label in own.get_yticklabels():
        label.set_bbox(PAPER)
    return (position - low) / (high - low)


def _finish(ax: Axes, scales: list[Scale], handles: list[Line2D]) -> None:
    """The names of the axes, and what the lines are."""
    ax.set_xlim(0, len(scales) - 1)
    ax.set_ylim(0, 1)
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.yaxis.set_visible(False)
    ax.set_xticks(range(len(scales)), [scale.label for scale in scales])
    ax.tick_params(axis="x", length=0, pad=8)
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.02), ncols=3, frameon=False, fontsize=9)
