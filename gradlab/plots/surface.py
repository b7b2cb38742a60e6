"""Optimizers on a surface of two variables, seen from above."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from gradlab.plots.style import COLORMAP, axes_or_new, legend_beside, line_style

LEVELS = 16


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
    x, y, z = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(z, np.float64)
    if z.shape != (len(y), len(x)):
        raise ValueError(f"`z` must have shape (len(y), len(x)) = ({len(y)}, {len(x)}), got {z.shape}")
    ax = axes_or_new(ax, width=7.4, height=5.0)
    ax.grid(False)
    _contours(ax, x, y, z)
    box = np.array([[x.min(), x.max()], [y.min(), y.max()]])
    for index, (name, path) in enumerate(paths.items()):
        points = _finite_part(name, path)
        outside = "" if _inside(points[-1], box) else " (leaves the picture)"
        style = line_style(index)
        width = 1.3 + 2.0 * (1 - index / len(paths))  # the later ones thinner, so that none covers another
        ax.plot(*points.T, lw=width, zorder=3, label=f"{name}{outside}", **style)
        ax.plot(*points[-1:].T, "s", ms=6.5, mfc=style["color"], mec="white", mew=0.9, zorder=5)
    starts = np.unique([_finite_part(name, path)[0] for name, path in paths.items()], axis=0)
    ax.plot(*starts.T, "o", ms=8, mfc="white", mec="black", mew=1.4, zorder=4, ls="none", label="start")
    ax.plot([], [], "s", ms=6.5, mfc="#777777", mec="white", ls="none", label="end")
    for points, marker, label in ((minima, "*", "minimum"), (saddles, "X", "saddle point")):
        points = np.asarray(points, np.float64).reshape(-1, 2)
        if len(points):
            size = 14 if marker == "*" else 9
            ax.plot(*points.T, marker, ms=size, mfc="#F0E442", mec="black", mew=0.8, zorder=4, ls="none", label=label)
    ax.set(xlim=box[0], ylim=box[1], xlabel=labels[0], ylabel=labels[1], title=title)
    legend_beside(ax)
    return ax


def _contours(ax: Axes, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    height = z - np.nanmin(z)
    top = np.nanmax(height)
    if top > 0:
        levels = top * np.logspace(-4, 0, LEVELS)
        ax.contourf(
            x, y, np.maximum(height, levels[0]), levels=levels, norm=LogNorm(levels[0], top), cmap=COLORMAP, alpha=0.3
        )
        ax.contour(x, y, height, levels=levels, colors="#8A8A8A", linewidths=0.5)


def _finite_part(name: str, path: Any) -> np.ndarray:
    points = np.asarray(path, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"path {name!r} must have shape (steps, 2), got {points.shape}")
    finite = np.isfinite(points).all(1)
    if not finite[0]:
        raise ValueError(f"path {name!r} begins at {points[0]}, which is no place on the surface")
    return points if finite.all() else points[: int(finite.argmin())]


def _inside(point: np.ndarray, box: np.ndarray) -> bool:
    return bool(((point >= box[:, 0]) & (point <= box[:, 1])).all())
