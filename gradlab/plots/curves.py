"""Curves over steps: the best trials of a sweep, one run, a race of optimizers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from gradlab.plots.style import (
    CONTEXT,
    PALETTE,
    axes_or_new,
    label_of,
    legend_below,
    legend_beside,
    line_style,
    readable,
    spans_decades,
)
from gradlab.plots.ticks import logarithmic
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.outcomes.table import before_divergence, mode_of

CONTEXT_TRIALS = 400  # grey lines beyond this number are indistinguishable
ROOM_ABOVE = 100.0  # a race shows heights up to so many times the highest start
SMOOTHING_POINTS = 100  # a minibatch loss is averaged into about so many points


def learning_curves(
    result: SweepResult, metric: str | None = None, *, k: int = 5, mode: str | None = None, ax: Axes | None = None
) -> Axes:
    """The metric of the k best trials over the steps: mean and range over the seeds, the other trials in grey.

    Args:
      result: a sweep.
      metric: a metric, or ``'loss'`` for the training loss; by default the sweep's main metric.
      k: trials in colour.
      mode: ``'min'`` or ``'max'``; by default what suits the metric's name.
      ax: axes to draw in.
    """
    metric = metric or result.main_metric
    mode = mode or mode_of(metric)
    ax = axes_or_new(ax, width=7.5, height=4.2 + 0.2 * k)
    step, values = result.curve(metric)
    values = np.where(before_divergence(values, step, result.diverged_at), values, np.nan)
    position = {trial.uid: index for index, trial in enumerate(result.trials)}
    best = [position[uid] for uid in result.best(metric, mode, k)["uid"]]
    others = [index for index in range(len(result.trials)) if index not in best][:CONTEXT_TRIALS]
    mean = values.mean(1)  # NaN from where any seed diverged
    ax.add_collection(
        LineCollection([np.column_stack([step, mean[i]]) for i in others], colors=CONTEXT, lw=0.5, alpha=0.6)
    )
    for rank, index in enumerate(best):
        style = line_style(rank)
        chosen = {name: result.trials[index].values[name] for name in result.space.varying}
        ax.plot(step, mean[index], lw=1.8, label=label_of(chosen), zorder=3, **style)
        low, high = values[index].min(0), values[index].max(0)
        ax.fill_between(step, low, high, color=style["color"], alpha=0.18, lw=0, zorder=2)
    _scale_y(ax, np.concatenate([values[best].ravel(), mean[:, 0]]), mode)
    ax.margins(x=0)
    diverged = int((result.diverged_at >= 0).any(1).sum())
    ax.set_title(f"{len(best)} best of {len(result.trials)} trials" + (f", {diverged} diverged" if diverged else ""))
    ax.set_xlabel("step")
    ax.set_ylabel(readable(metric))
    seeds = len(result.seeds)
    legend_below(ax, title=f"mean and range of {seeds} seeds" if seeds > 1 else "one seed", alignment="left")
    return ax


def _scale_y(ax: Axes, values: np.ndarray, mode: str) -> None:
    """Room for the finite ones of the values, on a logarithmic axis where it suits them."""
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    if spans_decades(values, mode):
        logarithmic(ax, "y")
        ax.set_ylim(low / (high / low) ** 0.05, high * (high / low) ** 0.15)
    else:
        margin = 0.05 * (high - low or abs(high) or 1.0)
        ax.set_ylim(low - margin, high + 3 * margin)


def history(run: Any, *, ax: Axes | None = None) -> Axes:
    """One run: training loss and evaluated losses on the left axis, other metrics on the right one.

    Args:
      run: what ``fit`` returns, or anything with ``loss`` (steps,), ``eval_step`` (evals,) and ``metrics``,
        name -> (evals,).
      ax: axes to draw in.
    """
    ax = axes_or_new(ax, width=8.0)
    loss = np.asarray(run.loss, np.float64)
    losses = {name: values for name, values in run.metrics.items() if name.endswith("loss")}
    others = {name: values for name, values in run.metrics.items() if name not in losses}
    center, smooth = _averaged(loss)
    averaged = len(smooth) < len(loss)
    thin, thick = {"color": CONTEXT, "lw": 0.6}, {"color": PALETTE[0], "lw": 1.6}
    ax.plot(np.arange(len(loss)), loss, label="training loss, each step", **(thin if averaged else thick))
    if averaged:
        ax.plot(center, smooth, label="training loss, averaged", **thick)
    color = iter(PALETTE[1:] * (1 + len(run.metrics)))
    for name, values in losses.items():
        label = "evaluated loss" if name == "loss" else readable(name)
        ax.plot(run.eval_step, values, color=next(color), marker="o", ms=3.5, lw=1.4, label=label)
    if spans_decades(np.concatenate([loss, *losses.values()]), "min"):
        logarithmic(ax, "y")
    handles = ax.get_legend_handles_labels()[0]
    if others:
        right = ax.twinx()
        right.spines[["top", "left"]].set_visible(False)
        for name, values in others.items():
            handles += right.plot(
                run.eval_step, values, color=next(color), marker="s", ms=3.5, ls="--", lw=1.2, label=readable(name)
            )
        right.set_ylabel(", ".join(readable(name) for name in others))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    columns = min(3, len(handles))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=9)
    return ax


def _averaged(loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means of consecutive windows and the middles of these; about 100 windows."""
    width = max(1, len(loss) // SMOOTHING_POINTS)
    first = np.arange(0, len(loss), width)
    last = np.minimum(first + width, len(loss))
    return (first + last - 1) / 2, np.add.reduceat(loss, first) / (last - first)


def race(
    curves: Mapping[str, Any],
    *,
    step: Any = None,
    floor: float = 1e-12,
    ylabel: str = "loss",
    xlabel: str = "step",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Curves of several optimizers on a logarithmic axis, the legend in the order in which they end.

    Args:
      curves: name -> (points,), or (seeds, points): then the median, and the range as a band.
      step: (points,), by default 0, 1, ...
      floor: what is smaller, zero and rounding errors included, is drawn at this height.
      ylabel: what the curves are.
      xlabel: what the steps are.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: no curves, or a floor that is not positive.
    """
    if not curves:
        raise ValueError("race needs at least one curve, got none")
    if floor <= 0:
        raise ValueError(f"`floor` must be positive, got {floor}: zero has no place on a logarithmic axis")
    ax = axes_or_new(ax, width=8.0)
    lines = []
    for index, (name, values) in enumerate(curves.items()):
        runs = np.maximum(np.atleast_2d(np.asarray(values, np.float64)), floor)
        runs[~np.isfinite(runs)] = np.nan
        x = np.arange(runs.shape[1]) if step is None else np.asarray(step)
        lines += ax.plot(x, np.median(runs, axis=0), lw=1.8, label=name, **line_style(index))
        if len(runs) > 1:
            ax.fill_between(x, runs.min(0), runs.max(0), color=lines[-1].get_color(), alpha=0.15, lw=0)
    logarithmic(ax, "y")
    _limit_race(ax, lines, floor)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    legend_beside(ax, handles=sorted(lines, key=_end_of))
    return ax


def _limit_race(ax: Axes, lines: list[Line2D], floor: float) -> None:
    """Ends the axis above the starts, names the curves that diverged beyond, and draws the floor if it is reached."""
    ax.margins(x=0)
    heights = np.concatenate([line.get_ydata() for line in lines])
    starts = np.array([line.get_ydata()[0] for line in lines])
    if not np.isfinite(heights).any():
        return
    ceiling = ROOM_ABOVE * np.nanmax(starts) if np.isfinite(starts).any() else np.inf
    low, high = np.nanmin(heights), min(ceiling, np.nanmax(heights))
    margin = max(high / low, 2.0) ** 0.07
    ax.set_ylim(low / margin, high * margin)
    for line in lines:
        if _end_of(line) > ceiling:
            line.set_label(f"{line.get_label()} (diverged)")
    if low <= floor:
        ax.axhline(floor, color=CONTEXT, lw=1, ls=":", zorder=1)
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "top"}
        ax.annotate(f"{floor:g} and less", (0.99, floor), fontsize=8, color="#777777", **place)


def _end_of(line: Line2D) -> float:
    """The last value of a line; infinite if it has ended before."""
    last = line.get_ydata()[-1]
    return float(last) if np.isfinite(last) else np.inf
