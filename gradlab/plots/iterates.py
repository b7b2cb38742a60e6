"""Optimizers on a function of one variable: their iterates on its curve, above the iterates against the step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradlab.plots.style import axes_or_new, legend_beside, line_style

MARKED = 60  # the first iterates, which are drawn as points on the curve


def iterates(
    x: Any,
    y: Any,
    paths: Mapping[str, Any],
    *,
    minima: Any = (),
    labels: tuple[str, str] = ("x", "f(x)"),
    title: str = "",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    """The curve with the iterates of each path as points on it, and the same iterates over the steps below.

    Both have x as their horizontal axis, so that a point lies above its place in the lower picture, in which the steps
    go downwards.  A path is drawn up to its first point outside of the picture; the legend says which leave it.

    Args:
      x: (n,), ascending: where the curve is drawn.
      y: (n,), the heights.
      paths: name -> (steps,), the iterates; their heights are read off the curve.
      minima: (k,), marked with stars.
      labels: of the variable and of the function.
      title: of the picture.
      axes: the upper and the lower one; by default those of a new figure.

    Raises:
      ValueError: a curve of two shapes or whose x does not ascend, no paths, one that begins outside.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not (np.diff(x) > 0).all():
        raise ValueError(f"give an ascending `x` and one `y` for each; got the shapes {x.shape} and {y.shape}")
    if not paths:
        raise ValueError("iterates needs at least one path, got none")
    if axes is None:
        figure = Figure(figsize=(8.0, 6.4), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.0))
    upper, lower = (axes_or_new(ax) for ax in axes)
    upper.plot(x, y, color="black", lw=1.3, zorder=2)
    for index, (name, path) in enumerate(paths.items()):
        points, leaves = _shown_part(name, path, x)
        style = line_style(index)
        on_curve = points[: min(MARKED, len(points) - leaves)]
        size = 7.5 - 3.5 * index / len(paths)  # the later ones smaller, so that none covers another
        marks = {"ms": size, "color": style["color"], "mec": "white", "mew": 0.6, "zorder": 3}
        upper.plot(on_curve, np.interp(on_curve, x, y), "o", **marks)
        label = f"{name} (leaves the picture)" if leaves else name
        lower.plot(points, np.arange(len(points)), lw=1.3, marker="o", ms=3, label=label, **style)
    minima = np.asarray(minima, np.float64).ravel()
    if minima.size:
        star = {"ms": 13, "mfc": "#F0E442", "mec": "black", "mew": 0.8, "zorder": 4, "ls": "none"}
        upper.plot(minima, np.interp(minima, x, y), "*", label="minimum", **star)
        legend_beside(upper)
    lower.invert_yaxis()
    upper.set(ylabel=labels[1], title=title, xlim=(x[0], x[-1]))
    lower.set(xlabel=labels[0], ylabel="step", xlim=(x[0], x[-1]))
    legend_beside(lower)
    return upper, lower


def _shown_part(name: str, path: Any, x: np.ndarray) -> tuple[np.ndarray, bool]:
    """The path up to its first point outside of the picture, to which a line may point, and whether it has one."""
    points = np.asarray(path, np.float64)
    if points.ndim != 1 or not points.size:
        raise ValueError(f"path {name!r} must have the shape (steps,), got {points.shape}")
    inside = (points >= x[0]) & (points <= x[-1])
    if not inside[0]:
        raise ValueError(f"path {name!r} begins at {points[0]:g}, outside of the picture from {x[0]:g} to {x[-1]:g}")
    if inside.all():
        return points, False
    end = int(inside.argmin())
    return points[: end + 1], True
