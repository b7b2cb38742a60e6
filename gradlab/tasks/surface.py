"""A surface is a function of one flat array with what is known of it, and a task without data."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradlab.core import check
from gradlab.core.rule import Rule, static
from gradlab.tasks.task import Task, bind, make_task


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """A function of one flat array with what is known of it; numbers are float64 NumPy arrays."""

    name: str
    function: Partial  # (dim,) -> scalar
    start: np.ndarray  # (dim,)
    bounds: np.ndarray  # (dim, 2), the box worth drawing

    # local minima with their values and Hessians, the global one first; saddle points
    minima: np.ndarray  # (minima, dim)
    values: np.ndarray  # (minima,)
    hessians: np.ndarray  # (minima, dim, dim)
    saddles: np.ndarray  # (saddles, dim)


def make_surface(
    name: str,
    function: Callable,
    start: Sequence[float],
    *,
    bounds: Sequence[float] | Sequence[Sequence[float]] = (-3.0, 3.0),
    minima: Any = (),
    values: Any = (),
    hessians: Any = (),
    saddles: Any = (),
) -> Surface:
    """A surface of one's own.

    Args:
      name: shown in tables and messages.
      function: ``(dim,) -> scalar``, bound to its numbers with `bind` if it has any.
      start: (dim,), where a descent begins.
      bounds: the box to draw, (low, high) for all axes or for each.
      minima: (k, dim), the known local minima.
      values: (k,), the values there.
      hessians: (k, dim, dim), the Hessians there.
      saddles: (m, dim), the known saddle points.

    >>> surface = make_surface('bowl', lambda x: x @ x, [1.0, 2.0], minima=[[0.0, 0.0]], values=[0.0])
    >>> float(surface.function(jnp.array([1.0, 2.0]))), surface.bounds.tolist()
    (5.0, [[-3.0, 3.0], [-3.0, 3.0]])
    """
    start = np.asarray(start, np.float64)
    if start.ndim != 1 or start.size == 0:
        raise ValueError(f"`start` of surface {name!r} must be a flat array of coordinates, got shape {start.shape}")
    dim = start.size
    return Surface(
        name=name,
        function=function if isinstance(function, Partial) else bind(function),
        start=start,
        bounds=np.broadcast_to(np.asarray(bounds, np.float64), (dim, 2)),
        minima=np.asarray(minima, np.float64).reshape(-1, dim),
        values=np.asarray(values, np.float64).reshape(-1),
        hessians=np.asarray(hessians, np.float64).reshape(-1, dim, dim),
        saddles=np.asarray(saddles, np.float64).reshape(-1, dim),
    )


def surface_task(surface: Surface, *, start: Any = None, jitter: float | None = None) -> Task:
    """The task of descending on a surface: its parameters are one array (dim,), and there are no data.

    Args:
      surface: what to minimise; its numbers (``condition``, ``steepness``) become the task's.
      start: (dim,), instead of the surface's own start.
      jitter: standard deviation of normal noise that ``init`` adds to the start; ``None`` starts at one point whatever
        the key.

    Raises:
      ValueError: a start of another dimension, or a negative jitter.

    >>> from gradlab.tasks import himmelblau
    >>> params, _ = surface_task(himmelblau(), start=[3.0, 2.0]).init(jax.random.key(0))
    >>> params.tolist()
    [3.0, 2.0]
    """
    check.non_negative(jitter=jitter)
    start = surface.start if start is None else start
    if np.shape(start) != surface.start.shape:
        raise ValueError(
            f"`start` of surface {surface.name!r} must have shape {surface.start.shape}, got {np.shape(start)}"
        )
    start = start if isinstance(start, jax.Array) else np.asarray(start, np.float64)
    rule = Rule(_surface_loss, (("function", static(surface.function.func)),))
    loss = Partial(rule, *surface.function.args, **surface.function.keywords)
    return make_task(bind(_surface_init, start=start, jitter=jitter), loss, name=surface.name)


def on_grid(surface: Surface, points: int = 201) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A surface of two variables over the box worth drawing.

    Args:
      surface: of two variables.
      points: along each axis.

    Returns:
      x (points,), y (points,) and the heights (points, points), a row for each y.

    Raises:
      ValueError: the surface has another number of variables.

    >>> x, y, z = on_grid(make_surface('slope', lambda x: x[0] + 10 * x[1], [0.0, 0.0], bounds=(0, 1)), 2)
    >>> z.tolist()
    [[0.0, 1.0], [10.0, 11.0]]
    """
    if len(surface.start) != 2:
        raise ValueError(f"surface {surface.name!r} has {len(surface.start)} variables; only two can be drawn")
    x, y = (np.linspace(low, high, points) for low, high in surface.bounds)
    places = jnp.stack(jnp.meshgrid(jnp.asarray(x, float), jnp.asarray(y, float)), axis=-1)
    return x, y, np.asarray(jax.vmap(jax.vmap(surface.function))(places))


def _surface_init(key, *, start, jitter):
    params = jnp.asarray(start, dtype=float)
    if jitter is not None:
        params = params + jnp.asarray(jitter, params.dtype) * jax.random.normal(key, params.shape, params.dtype)
    return params, {}


def _surface_loss(*args, function, **values):
    *bound, params, model_state, batch, key = args
    del batch, key
    return function(*bound, params, **values), model_state
