"""Optimizers on a surface of two variables, seen from above."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from gradlab.plots.style import COLORMAP, axes_or_new, legend_beside, line_style

LEVELS = 16
MARK = "#F0E442"  # fills what marks minima and saddle points


def trajectory(
    x: Any,
    y: Any,
    z: Any,
    paths: Mapping[str, Any],
    *,
    minima: Any = (),
    saddles: Any = (),
    labels: tuple[str, str] = ("x", "y"),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Contours of a surface and the paths of optimizers on it, from a circle to a square.

    The contours are evenly spaced in the logarithm of the height above the lowest point.  A path is drawn up to
    its first point that is not finite; the legend says which paths end outside of the picture.

    Args:
      x: (nx,), coordinates along the horizontal axis.
      y: (ny,), coordinates along the vertical axis.
      z: (ny, nx), the heights.
      paths: name -> (steps, 2).
      minima: (k, 2), marked with stars.
      saddles: (m, 2), marked with crosses.
      labels: of the axes.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: heights or paths of another shape, a path that begins with NaN or infinity.
    """
    ax = axes_or_new(ax, width=7.4, height=5.0)
    box = np.array([[np.min(x), np.max(x)], [np.min(y), np.max(y)]])
    for index, (name, path) in enumerate(paths.items()):
        points = finite_part(name, path)
        outside = "" if _inside(points[-1], box) else " (leaves the picture)"
        style = line_style(index)
        width = 1.3 + 2.0 * (1 - index / len(paths))  # the later ones thinner, so that none covers another
        ax.plot(*points.T, lw=width, zorder=3, label=f"{name}{outside}", **style)
        ax.plot(*points[-1:].T, "s", ms=6.5, mfc=style["color"], mec="white", mew=0.9, zorder=5)
    starts = np.unique([finite_part(name, path)[0] for name, path in paths.items()], axis=0)
    ax.plot(*starts.T, "o", ms=8, mfc="white", mec="black", mew=1.4, zorder=4, ls="none", label="start")
    ax.plot([], [], "s", ms=6.5, mfc="#777777", mec="white", ls="none", label="end")
    ground(ax, x, y, z, minima=minima, saddles=saddles, labels=labels)
    ax.set_title(title)
    legend_beside(ax)
    return ax


def ground(
    ax: Axes, x: Any, y: Any, z: Any, *, minima: Any = (), saddles: Any = (), labels: tuple[str, str] = ("x", "y")
) -> None:
    """Draws a surface's contours with its minima and saddle points; see `trajectory`."""
    x, y, z = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(z, np.float64)
    if z.shape != (len(y), len(x)):
        raise ValueError(f"`z` must have shape (len(y), len(x)) = ({len(y)}, {len(x)}), got {z.shape}")
    ax.grid(False)
    contours(ax, x, y, z)
    for points, marker, label in ((minima, "*", "minimum"), (saddles, "X", "saddle point")):
        points = np.asarray(points, np.float64).reshape(-1, 2)
        if len(points):
            size = 14 if marker == "*" else 9
            ax.plot(*points.T, marker, ms=size, mfc=MARK, mec="black", mew=0.8, zorder=4, ls="none", label=label)
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), xlabel=labels[0], ylabel=labels[1])


def ground_png(x: Any, y: Any, z: Any, size: tuple[int, int]) -> bytes:
    """The contours alone, without axes and margins, as a PNG of this many pixels."""
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ground(ax, x, y, z)
    ax.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def contours(ax: Axes, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    """Draws contours, evenly spaced in the logarithm of the height above the lowest point."""
    height = z - np.nanmin(z)
    top = np.nanmax(height)
    if top > 0:
        levels = top * np.logspace(-4, 0, LEVELS)
        ax.contourf(
            x, y, np.maximum(height, levels[0]), levels=levels, norm=LogNorm(levels[0], top), cmap=COLORMAP, alpha=0.3
        )
        ax.contour(x, y, height, levels=levels, colors="#8A8A8A", linewidths=0.5)


def finite_part(name: str, path: Any) -> np.ndarray:
    """The points of a path up to the first that is no place on the surface."""
    points = np.asarray(path, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"path {name!r} must have shape (steps, 2), got {points.shape}")
    finite = np.isfinite(points).all(1)
    if not finite[0]:
        raise ValueError(f"path {name!r} begins at {points[0]}, which is no place on the surface")
    return points if finite.all() else points[: int(finite.argmin())]


def _inside(point: np.ndarray, box: np.ndarray) -> bool:
    return bool(((point >= box[:, 0]) & (point <= box[:, 1])).all())
