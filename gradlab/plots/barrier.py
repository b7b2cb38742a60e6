"""The loss on the way from one solution to another, and the barrier between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gradlab.plots.style import CONTEXT, axes_or_new, legend_beside, line_style, short


def barrier_curves(
    xs: Any,
    losses: Mapping[str, Any] | Any,
    *,
    ends: tuple[str, str] = ("a", "b"),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Losses along paths between two solutions, and an arrow for the height of each barrier.

    The height is the largest excess over the straight line between the losses at the ends, which is drawn in grey.  It
    stands in the legend, and an arrow marks it where it is above zero.  A loss that is not finite is a gap, and its
    path has no known height.

    Args:
      xs: (points,) from 0 to 1, as `gradlab.instruments.barrier` returns them.
      losses: (points,), or name -> (points,) for several paths: the straight line, after matching, a curve.
      ends: names of the solutions at 0 and at 1.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: positions that do not ascend from 0 to 1, no paths, losses of another length, nothing finite to draw.
    """
    places = np.asarray(xs, np.float64)
    if places.ndim != 1 or len(places) < 3 or (np.diff(places) <= 0).any() or (places[0], places[-1]) != (0, 1):
        raise ValueError("`xs` must ascend from 0 to 1, with at least one position between")
    curves = losses if isinstance(losses, Mapping) else {"straight line": losses}
    paths = {name: np.asarray(values, np.float64) for name, values in curves.items()}
    for name, values in paths.items():
        if values.shape != places.shape:
            raise ValueError(f"path {name!r} must have {len(places)} losses, got the shape {values.shape}")
    if not any(np.isfinite(values).any() for values in paths.values()):
        raise ValueError("barrier_curves has nothing to draw: no loss is finite")
    ax = axes_or_new(ax)
    for index, (name, values) in enumerate(paths.items()):
        _path(ax, places, name, np.where(np.isfinite(values), values, np.nan), line_style(index))
    ax.set(xlabel=f"position between {ends[0]} (0) and {ends[1]} (1)", ylabel="loss", xlim=(0, 1), title=title)
    legend_beside(ax)
    return ax


def _path(ax: Axes, places: np.ndarray, name: str, values: np.ndarray, style: Mapping[str, Any]) -> None:
    """One path with its barrier."""
    below = values[0] + places * (values[-1] - values[0])
    excess = values - below
    height = max(float(excess.max()), 0.0)  # NaN if any loss is
    known = "height unknown" if np.isnan(excess).any() else f"barrier {short(height)}"
    ax.plot(places, below, color=CONTEXT, lw=1.0, ls="--", zorder=1)
    ax.plot(places, values, marker="o", ms=3.5, lw=1.7, label=f"{name}: {known}", zorder=3, **style)
    if height > 0:
        top = int(excess.argmax())
        arrow = {"arrowstyle": "<->", "color": style["color"], "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (places[top], values[top]), (places[top], below[top]), arrowprops=arrow)
