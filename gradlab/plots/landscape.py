"""A loss on a plane through parameter space, from above and as a surface, with the paths of training on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from gradlab.plots.style import COLORMAP, axes_or_new, legend_below, line_style, spans_decades

LEVELS = 19
CLIP = 0.98  # share of the losses that the colours tell apart; higher ones look like the highest of these
DOTS = 20  # about so many points of a path show their loss
NO_LOSS = "#D9D9D9"  # where the loss is NaN or infinite
EDGE = [Stroke(linewidth=3.6, foreground="white"), Normal()]  # keeps a path visible on any colour


def landscape(
    xs: Any,
    ys: Any,
    losses: Any,
    paths: Mapping[str, Any] | None = None,
    *,
    path_losses: Mapping[str, Any] | None = None,
    minima: Any = (),
    labels: tuple[str, str] = ("first direction", "second direction"),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Contours of a loss, coloured by its value, and paths from a circle to a square.

    The contours are evenly spaced in the logarithm if all losses are positive and one is 3 times another.  Where the
    loss is not finite the picture is grey.  With ``path_losses`` the points of a path have the colour of their true
    loss: a path that runs outside of the plane does not have the loss that the plane shows beneath it.

    Args:
      xs: (nx,), positions along the first direction.
      ys: (ny,), positions along the second one.
      losses: (ny, nx), as `gradlab.instruments.plane` gives them.
      paths: name -> (points, 2), coordinates in the plane; points that are not finite are left out.
      path_losses: name -> (points,), the loss at the points themselves, for all or some of the paths.
      minima: (k, 2), marked with stars.
      labels: of the axes.
      title: of the picture.
      ax: axes to draw in.

    Raises:
      ValueError: losses or paths of another shape, no finite loss, or losses of an unknown path.
    """
    x, y, z = _grid(xs, ys, losses)
    points, true = _paths(paths, path_losses)
    ax = axes_or_new(ax, width=7.4, height=5.6)
    ax.grid(False)
    ax.set_facecolor(NO_LOSS)
    norm, levels = _scale(z)
    shown = ax.contourf(x, y, np.clip(z, levels[0], levels[-1]), levels=levels, norm=norm, cmap=COLORMAP)
    ax.contour(x, y, z, levels=levels, colors="white", linewidths=0.4, alpha=0.5)
    bar = ax.figure.colorbar(shown, ax=ax, label="loss", ticks=levels[::3], format=lambda value, _: f"{value:.3g}")
    bar.minorticks_off()
    for index, (name, path) in enumerate(points.items()):
        style = line_style(index)
        ax.plot(*path.T, lw=1.4, zorder=3, label=name, path_effects=EDGE, **style)
        if name in true:
            some = slice(None, None, max(1, len(path) // DOTS))
            dots = {"cmap": COLORMAP, "norm": norm, "edgecolors": style["color"], "linewidths": 1.2, "s": 36}
            ax.scatter(*path[some].T, c=np.clip(true[name][some], levels[0], levels[-1]), zorder=4, **dots)
        ends = {"mfc": style["color"], "mec": "white", "ms": 8.5, "mew": 1.2, "zorder": 5}
        ax.plot(*path[:1].T, "o", **ends)
        ax.plot(*path[-1:].T, "s", **ends)
    stars = np.reshape(np.asarray(minima, np.float64), (-1, 2))
    ax.plot(*stars.T, "*", ms=15, mfc="white", mec="black", zorder=6, ls="none")
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), xlabel=labels[0], ylabel=labels[1], title=title)
    _explain(ax, bool(points), bool(true), bool(len(stars)))
    return ax


def path_plane(
    xs: Any,
    ys: Any,
    losses: Any,
    path: Any,
    *,
    path_losses: Any,
    distance: Any,
    shares: Any,
    null: Any,
    name: str = "path of training",
    minima: Any = (),
    ax: Axes | None = None,
) -> Axes:
    """The plane of a path's first two principal components, and all that keeps a reader from believing it too much.

    The axes say which share of the path each component explains and which one it would of a random walk; the title how
    far the path is from the plane; its points have the colour of their true loss.

    Args:
      xs: see `landscape`.
      ys: see `landscape`.
      losses: see `landscape`.
      path: (points, 2), coordinates in the plane.
      path_losses: (points,), the loss at the points themselves.
      distance: (points,) from the plane, as `gradlab.instruments.project` gives it.
      shares: (2,), explained by the components.
      null: (2,), the same of a random walk.
      name: of the path.
      minima: see `landscape`.
      ax: axes to draw in.

    Raises:
      ValueError: see `landscape`.
    """
    words = [f"component {k + 1}: {shares[k]:.1%} (a random walk: {null[k]:.1%})" for k in range(2)]
    length = np.nanmax(np.linalg.norm(np.diff(np.asarray(path, np.float64), axis=0), axis=1).cumsum())
    title = f"up to {np.nanmax(distance):.3g} from the plane, in which the path has length {length:.3g}"
    return landscape(
        xs,
        ys,
        losses,
        {name: path},
        path_losses={name: path_losses},
        minima=minima,
        labels=(words[0], words[1]),
        title=title,
        ax=ax,
    )


def landscape_surface(
    xs: Any,
    ys: Any,
    losses: Any,
    paths: Mapping[str, Any] | None = None,
    *,
    path_losses: Mapping[str, Any] | None = None,
    labels: tuple[str, str] = ("first direction", "second direction"),
    title: str = "",
    view: tuple[float, float] = (38.0, -60.0),
    ax: Axes | None = None,
) -> Axes:
    """The loss as a surface over the plane, and paths at the height of their true losses.

    Losses above the 98th percentile are cut off at it, and places without a finite loss are holes.

    Args:
      xs: see `landscape`.
      ys: see `landscape`.
      losses: see `landscape`.
      paths: see `landscape`.
      path_losses: name -> (points,), of every path.
      labels: of the axes.
      title: of the picture.
      view: elevation and azimuth in degrees.
      ax: axes with ``projection="3d"`` to draw in.

    Raises:
      ValueError: see `landscape`; a path without losses.
    """
    x, y, z = _grid(xs, ys, losses)
    points, true = _paths(paths, path_losses)
    if missing := [name for name in points if name not in true]:
        raise ValueError(f"landscape_surface needs the losses of every path: `path_losses` has none of {missing}")
    if ax is None:
        ax = Figure(figsize=(7.4, 5.8), layout="constrained").add_subplot(projection="3d", computed_zorder=False)
    norm, levels = _scale(z)
    logarithmic = isinstance(norm, LogNorm)
    height = np.log10 if logarithmic else np.asarray  # mplot3d has no logarithmic axes
    clipped = np.clip(z, levels[0], levels[-1])
    colors = colormaps[COLORMAP](norm(clipped))
    ax.plot_surface(*np.meshgrid(x, y), height(clipped), facecolors=colors, rcount=80, ccount=80, lw=0, shade=False)
    for index, (name, path) in enumerate(points.items()):
        style = line_style(index)
        heights = height(np.clip(true[name], levels[0], levels[-1]))
        ax.plot(*path.T, heights, lw=2.0, zorder=3, label=name, path_effects=EDGE, **style)
        ends = {"mfc": style["color"], "mec": "white", "ms": 8, "mew": 1.2, "zorder": 5}
        ax.plot(*path[:1].T, heights[:1], "o", **ends)
        ax.plot(*path[-1:].T, heights[-1:], "s", **ends)
    ax.set(xlabel=labels[0], ylabel=labels[1], zlabel="loss", title=title)
    if logarithmic:
        ax.zaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
    ax.zaxis.labelpad = 9
    ax.view_init(*view)
    ax.set_box_aspect(None, zoom=0.86)
    if points:
        ax.legend(loc="upper left", frameon=False, fontsize=9)
    return ax


def _grid(xs: Any, ys: Any, losses: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = (np.asarray(array, np.float64) for array in (xs, ys, losses))
    if z.shape != (len(y), len(x)):
        raise ValueError(f"`losses` must have shape (len(ys), len(xs)) = ({len(y)}, {len(x)}), got {z.shape}")
    if not np.isfinite(z).any():
        raise ValueError("`losses` has no finite number: there is nothing to draw")
    return x, y, np.where(np.isfinite(z), z, np.nan)


def _paths(paths: Any, path_losses: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Coordinates and true losses of each path, without the points of which any number is not finite."""
    points = {name: np.asarray(path, np.float64) for name, path in (paths or {}).items()}
    true = {name: np.asarray(values, np.float64) for name, values in (path_losses or {}).items()}
    if unknown := [name for name in true if name not in points]:
        raise ValueError(f"`path_losses` has {unknown}, but the paths are {list(points)}")
    for name, path in points.items():
        if path.ndim != 2 or path.shape[1] != 2:
            raise ValueError(f"path {name!r} must have shape (points, 2), got {path.shape}")
        if name in true and true[name].shape != path.shape[:1]:
            raise ValueError(f"path {name!r} has {len(path)} points, but losses of shape {true[name].shape}")
        kept = np.isfinite(path).all(1) & np.isfinite(true.get(name, np.zeros(len(path))))
        points[name] = path[kept]
        if name in true:
            true[name] = true[name][kept]
    return points, true


def _scale(z: np.ndarray) -> tuple[Normalize, np.ndarray]:
    """Colours and contour levels from the lowest loss up to nearly the highest one."""
    finite = z[np.isfinite(z)]
    low, high = finite.min(), np.quantile(finite, CLIP)
    if not high > low:
        high = low + max(abs(low), 1.0) * 1e-6
    if spans_decades(np.array([low, high]), "min"):
        return LogNorm(low, high), np.geomspace(low, high, LEVELS)
    return Normalize(low, high), np.linspace(low, high, LEVELS)


def _explain(ax: Axes, paths: bool, coloured: bool, stars: bool) -> None:
    """The legend: paths, and what the marks are."""
    marks: Sequence[tuple[bool, str, str]] = [(paths, "o", "start"), (paths, "s", "end"), (stars, "*", "minimum")]
    for shown, marker, label in marks:
        if shown:
            face = "white" if marker == "*" else "#777777"
            ax.plot([], [], marker, ls="none", mfc=face, mec="black" if marker == "*" else "white", ms=9, label=label)
    if coloured:
        ax.scatter([], [], s=36, c="none", edgecolors="#777777", label="true loss (colour)")
    if paths or stars:
        legend_below(ax, ncols=4)
