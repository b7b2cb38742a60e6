"""The curve of a learning-rate range test, with the rates that it suggests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradlab.plots.style import CONTEXT, DIVERGED, PALETTE, axes_or_new, legend_beside, line_style, short
from gradlab.plots.ticks import logarithmic

ROOM_ABOVE = 0.4  # of the range from the lowest loss to the first, above the first
MARKERS = "oDsv^"


def lr_finder(
    learning_rates: Any,
    losses: Any,
    *,
    smoothed: Any = None,
    suggestions: Mapping[str, float] | None = None,
    diverged_at: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Losses against learning rates on a logarithmic axis, and a mark for each suggestion.

    The axis ends a little above the first loss: what explodes beyond says no more than where it begins.

    Args:
      learning_rates: (steps,) as `gradlab.instruments.lr_range` returns them.
      losses: (steps,), or (seeds, steps): then their median, and their range as a band.
      smoothed: like the losses, the curve to read; by default the losses are.
      suggestions: name -> learning rate; those that are NaN are said not to exist.
      diverged_at: the index of the first rate after which the loss diverged; none if it is beyond the rates.
      ax: axes to draw in.

    Raises:
      ValueError: arrays that do not fit, rates that are not above 0, no finite loss.
    """
    rates, raw = np.asarray(learning_rates, np.float64), _runs("losses", losses, learning_rates)
    if rates.ndim != 1 or not (rates > 0).all():
        raise ValueError("`learning_rates` must be numbers above 0 along one axis: they are drawn on a logarithmic one")
    if not np.isfinite(raw).any():
        raise ValueError("lr_finder has nothing to draw: no loss is finite")
    curves = raw if smoothed is None else _runs("smoothed", smoothed, learning_rates)
    ax = axes_or_new(ax)
    middle, low, high = _quantiles(curves)
    if smoothed is not None:
        ax.plot(rates, _quantiles(raw)[0], color=CONTEXT, lw=0.8, label="loss")
    if len(curves) > 1:
        ax.fill_between(rates, low, high, color=PALETTE[0], alpha=0.18, lw=0, label=f"range of {len(curves)} seeds")
    ax.plot(rates, middle, color=PALETTE[0], lw=1.8, label="loss" if smoothed is None else "smoothed loss")
    if diverged_at is not None and 0 <= diverged_at < len(rates):
        rate = rates[diverged_at]
        ax.axvline(rate, color=DIVERGED, lw=1.2, ls=":", label=f"diverged at {short(float(rate))}")
    _mark(ax, rates, middle, suggestions or {})
    _limit(ax, curves, _quantiles(raw)[0])
    logarithmic(ax, "x")
    ax.set(xlim=(rates[0], rates[-1]), xlabel="learning rate", ylabel="loss after the update")
    legend_beside(ax)
    return ax


def _runs(name: str, values: Any, learning_rates: Any) -> np.ndarray:
    runs = np.atleast_2d(np.asarray(values, np.float64))
    if runs.ndim != 2 or runs.shape[1] != len(learning_rates):
        raise ValueError(f"`{name}` must have the shape ([seeds,] {len(learning_rates)}), got {np.shape(values)}")
    return np.where(np.isfinite(runs), runs, np.nan)


def _quantiles(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, lowest and highest of the runs; NaN where any of them is."""
    return np.median(runs, axis=0), runs.min(0), runs.max(0)


def _mark(ax: Axes, rates: np.ndarray, curve: np.ndarray, suggestions: Mapping[str, float]) -> None:
    known = np.isfinite(curve)
    for index, (name, rate) in enumerate(suggestions.items()):
        style = line_style(index + 1)
        mark = {"marker": MARKERS[index % len(MARKERS)], "ms": 8, "mec": "white", "mew": 0.9, "color": style["color"]}
        if not np.isfinite(rate):
            ax.plot([], [], ls="none", label=f"{name}: no suggestion", **mark)
            continue
        height = np.interp(np.log(rate), np.log(rates[known]), curve[known]) if known.any() else np.nan
        ax.axvline(rate, color=style["color"], lw=1.0, ls="--", alpha=0.7, zorder=2)
        ax.plot(rate, height, ls="none", label=f"{name}: {short(float(rate))}", zorder=4, **mark)


def _limit(ax: Axes, curves: np.ndarray, raw: np.ndarray) -> None:
    """Room for all that is finite, but not much more than the first losses need above them."""
    heights = np.concatenate([curves.ravel(), raw])
    finite, starts = heights[np.isfinite(heights)], curves[np.isfinite(curves[:, 0]), 0]
    low, first = finite.min(), starts.max() if starts.size else finite.max()
    margin = (first - low) or abs(low) or 1.0
    ax.set_ylim(low - 0.1 * margin, min(finite.max() + 0.1 * margin, first + ROOM_ABOVE * margin))
