"""Curvature along a run against what its optimizer can stand, and the spectrum of a Hessian."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradlab.plots.style import DIVERGED, PALETTE, axes_or_new, legend_beside, line_style, short
from gradlab.plots.ticks import logarithmic


def sharpness_curves(
    steps: Any,
    sharpness: Mapping[str, Any] | Any,
    threshold: Any,
    *,
    label: str = "sharpness",
    ax: Axes | None = None,
) -> Axes:
    """Sharpness against training steps, on a logarithmic axis where it spans decades, with the threshold dotted.

    What is not finite or not positive is left out of a curve.  The region above the threshold, where a quadratic would
    diverge, is shaded.

    Args:
      steps: (records,) steps done at each measurement.
      sharpness: (records,), or name -> (records,).
      threshold: a number such as 2 / learning rate, or (records,) where the learning rate changes.
      label: of the vertical axis.
      ax: axes to draw in.

    Raises:
      ValueError: arrays of other lengths, a threshold that is not above zero, nothing finite to draw.
    """
    steps = np.asarray(steps, np.float64)
    curves = sharpness if isinstance(sharpness, Mapping) else {label: sharpness}
    curves = {name: _records(f"sharpness {name!r}", values, steps) for name, values in curves.items()}
    bound = np.broadcast_to(np.asarray(threshold, np.float64), np.shape(threshold) or steps.shape)
    bound = _records("threshold", bound, steps)
    if not (np.isfinite(bound) & (bound > 0)).all():
        raise ValueError(f"`threshold` must be above 0 at every step, got {bound[~(bound > 0)][:1]}")
    shown = {name: np.where(np.isfinite(values) & (values > 0), values, np.nan) for name, values in curves.items()}
    heights = np.concatenate([bound, *shown.values()])
    if np.isnan(heights[len(bound) :]).all():
        raise ValueError("sharpness_curves has nothing to draw: no sharpness is finite and above 0")
    ax = axes_or_new(ax)
    low, high = np.nanmin(heights), np.nanmax(heights)
    in_decades = high > 30 * low
    top = high * (high / low) ** 0.08 if in_decades else high + 0.12 * (high - min(low, 0))
    ax.fill_between(steps, bound, top, color=DIVERGED, alpha=0.09, lw=0)
    constant = f" {short(float(bound[0]))}" if np.ptp(bound) == 0 else ""
    ax.plot(steps, bound, color=DIVERGED, ls=":", lw=1.8, label=f"threshold{constant}", zorder=3)
    for index, (name, values) in enumerate(shown.items()):
        ax.plot(steps, values, lw=1.6, label=name, **line_style(index))
    if in_decades:
        logarithmic(ax, "y")
    ax.set(xlabel="step", ylabel=label, xlim=(steps[0], steps[-1]))
    ax.set_ylim(low / (high / low) ** 0.08 if in_decades else 0, top)
    legend_beside(ax)
    return ax


def eigenvalue_density(
    grid: Any,
    density: Any,
    *,
    error: Any = None,
    outliers: Any = None,
    label: str = "eigenvalue",
    floor: float = 1e-6,
    ax: Axes | None = None,
) -> Axes:
    """The density of a spectrum on a logarithmic axis, which shows single outliers beside thousands of small values.

    Args:
      grid: (points,) eigenvalues.
      density: (points,) at them; what is not finite is left out.
      error: (points,) standard errors of the density, drawn as a band.
      outliers: (k,) eigenvalues that were computed one by one, marked below the curve.
      label: of the horizontal axis.
      floor: densities below this part of the largest one are not shown.
      ax: axes to draw in.

    Raises:
      ValueError: arrays of other lengths, a floor outside of (0, 1), no density above zero.
    """
    grid = np.asarray(grid, np.float64)
    density = _records("density", density, grid)
    if not 0 < floor < 1:
        raise ValueError(f"`floor` must be between 0 and 1, a part of the largest density, got {floor}")
    heights = density[np.isfinite(density)]
    if not heights.size or heights.max() <= 0:
        raise ValueError("eigenvalue_density has nothing to draw: no density is above 0")
    top = heights.max()
    bottom = floor * top
    ax = axes_or_new(ax)
    if error is not None:
        error = _records("error", error, grid)
        low, high = np.maximum(density - error, bottom), np.maximum(density + error, bottom)
        ax.fill_between(grid, low, high, color=PALETTE[0], alpha=0.25, lw=0, label="standard error")
    ax.plot(grid, np.maximum(density, bottom), color=PALETTE[0], lw=1.5, label="density")
    if outliers is not None:
        marks = np.asarray(outliers, np.float64)
        height = np.full(len(marks), 2 * bottom)
        ax.plot(marks, height, "|", color=PALETTE[1], ms=13, mew=1.8, label=f"{len(marks)} largest eigenvalues")
    ax.axvline(0, color=DIVERGED, lw=0.8, zorder=1)
    logarithmic(ax, "y")
    ax.set(xlabel=label, ylabel="density", ylim=(bottom, 3 * top), xlim=(grid.min(), grid.max()))
    legend_beside(ax)
    return ax


def _records(name: str, values: Any, like: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if like.ndim != 1 or not like.size or values.shape != like.shape:
        raise ValueError(f"{name} must have one number for each point along the axis, got {values.shape}, {like.shape}")
    return values


def eigenvalue_ranks(
    eigenvalues: Any, outliers: int, *, label: str = "eigenvalue", title: str = "", ax: Axes | None = None
) -> Axes:
    """The largest eigenvalues by their rank on a logarithmic axis, with the gap below the outliers.

    Args:
      eigenvalues: (k,) descending, more than ``outliers``; those that are not above zero are left out.
      outliers: how many lie above the gap, at least 1.
      label: of the vertical axis.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: eigenvalues that ascend, or outliers that are not fewer than the eigenvalues above zero.
    """
    values = np.asarray(eigenvalues, np.float64)
    if values.ndim != 1 or (np.diff(values) > 0).any():
        raise ValueError("`eigenvalues` must descend along one axis")
    values = values[values > 0]
    if not 1 <= outliers < len(values):
        raise ValueError(f"`outliers` must be from 1 to {len(values) - 1}, below the {len(values)} eigenvalues above 0")
    ax = axes_or_new(ax)
    rank = np.arange(1, len(values) + 1)
    ax.plot(rank[outliers:], values[outliers:], "o", color=PALETTE[0], ms=5, label="the next ones")
    ax.plot(rank[:outliers], values[:outliers], "D", color=PALETTE[1], ms=6, label=f"{outliers} outliers")
    above, below = values[outliers - 1 : outliers + 1]
    ax.axhspan(below, above, color=DIVERGED, alpha=0.12, lw=0, label=f"gap: a factor of {short(float(above / below))}")
    logarithmic(ax, "y")
    ax.set(xlabel="rank", ylabel=label, title=title)
    legend_beside(ax)
    return ax


def sharpness_by_loss(
    curves: Mapping[str, tuple[Any, Any]], *, at: float | None = None, label: str = "sharpness", ax: Axes | None = None
) -> Axes:
    """Sharpness against the training loss of several runs, training from left to right, both axes logarithmic.

    Args:
      curves: name -> the losses (records,) and the sharpnesses (records,); what is not above zero is left out.
      at: a loss at which the runs are compared, marked with a dotted line.
      label: of the vertical axis.
      ax: axes to draw in.

    Raises:
      ValueError: no curves, or arrays of different lengths.
    """
    if not curves:
        raise ValueError("sharpness_by_loss needs at least one curve, got none")
    ax = axes_or_new(ax)
    for index, (name, pair) in enumerate(curves.items()):
        losses = np.asarray(pair[0], np.float64)
        sharpness = _records(f"sharpness {name!r}", pair[1], losses)
        seen = (losses > 0) & (sharpness > 0) & np.isfinite(losses) & np.isfinite(sharpness)
        ax.plot(losses[seen], sharpness[seen], marker="o", ms=4, lw=1.6, label=name, **line_style(index))
    if at is not None:
        ax.axvline(at, color=DIVERGED, ls=":", lw=1.6, label=f"compared at {short(at)}")
    logarithmic(ax, "x")
    logarithmic(ax, "y")
    ax.set(xlabel="training loss", ylabel=label)
    ax.invert_xaxis()
    legend_beside(ax)
    return ax
