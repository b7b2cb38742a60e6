"""Functions of two and more variables to descend on, with minima and Hessians in closed form."""

import operator

import jax.numpy as jnp
import numpy as np

from gradlab.core import check
from gradlab.tasks.surface import Surface, make_surface
from gradlab.tasks.task import bind


def quadratic(condition: float = 100.0, dim: int = 2, rotation: int | None = None) -> Surface:
    """``1/2 x' H x``, the eigenvalues of H in geometric progression from 1 to ``condition``.

    The start has the same coordinate, 1, along every eigenvector.

    Args:
      condition: largest over smallest eigenvalue, at least 1.
      dim: (static) number of variables, at least 2.
      rotation: (static) seed of a random orthogonal matrix that turns the axes; ``None`` keeps H diagonal.

    >>> np.linalg.eigvalsh(quadratic(condition=9.0, dim=3, rotation=0).hessians[0]).round(6).tolist()
    [1.0, 3.0, 9.0]
    """
    check.in_range("condition", condition, 1.0)
    dim = _dimension(dim)
    axes = np.eye(dim) if rotation is None else _random_rotation(dim, rotation)
    eigenvalues = np.asarray(condition, np.float64) ** np.linspace(0.0, 1.0, dim)
    return make_surface(
        "quadratic",
        bind(_quadratic, condition=condition, axes=None if rotation is None else axes),
        start=axes @ np.ones(dim),
        bounds=(-1.5, 1.5),
        minima=np.zeros(dim),
        values=0.0,
        hessians=(axes * eigenvalues) @ axes.T,
    )


def _quadratic(x, *, condition, axes):
    exponents = jnp.linspace(0.0, 1.0, x.size, dtype=x.dtype)
    coordinates = x if axes is None else x @ jnp.asarray(axes, x.dtype)
    return 0.5 * jnp.sum(jnp.asarray(condition, x.dtype) ** exponents * coordinates**2)


def _dimension(dim: int) -> int:
    try:
        dim = operator.index(dim)
    except TypeError:
        raise TypeError(f"`dim` must be an integer, got {dim!r}") from None
    check.in_range("dim", dim, 2)
    return dim


def _random_rotation(dim: int, seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return q * np.sign(np.diag(r))


def rosenbrock(dim: int = 2, steepness: float = 100.0) -> Surface:
    """``sum_i steepness (x[i+1] - x[i]^2)^2 + (1 - x[i])^2``, a curved valley (doi 10.1093/comjnl/3.3.175).

    From four variables on there is a second local minimum, near (-1, 1, ..., 1), which is not listed
    (doi 10.1162/evco.2006.14.1.119).

    >>> float(rosenbrock().function(jnp.array([-1.0, 1.0])))
    4.0
    """
    check.positive(steepness=steepness)
    dim = _dimension(dim)
    hessian = np.diag([8.0 * steepness + 2] + [10.0 * steepness + 2] * (dim - 2) + [2.0 * steepness])
    off_diagonal = np.full(dim - 1, -4.0 * steepness)
    return make_surface(
        "rosenbrock",
        bind(_rosenbrock, steepness=steepness),
        start=np.resize([-1.2, 1.0], dim),
        bounds=np.resize([[-2.0, 2.0], [-1.0, 3.0]], (dim, 2)),
        minima=np.ones(dim),
        values=0.0,
        hessians=hessian + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1),
    )


def _rosenbrock(x, *, steepness):
    steepness = jnp.asarray(steepness, x.dtype)
    return jnp.sum(steepness * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale() -> Surface:
    """``sum_k (c[k] - x + x y^k)^2`` for k = 1, 2, 3 and c = 1.5, 2.25, 2.625: flat, with sharp peaks at the corners.

    >>> float(beale().function(jnp.array([3.0, 0.5])))
    0.0
    """
    return make_surface(
        "beale",
        _beale,
        start=[1.0, 1.0],
        bounds=(-4.5, 4.5),
        minima=[3.0, 0.5],
        values=0.0,
        hessians=[[101 / 32, -183 / 16], [-183 / 16, 369 / 8]],
    )


def _beale(x):
    x, y = x
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def himmelblau() -> Surface:
    """``(x^2 + y - 11)^2 + (x + y^2 - 7)^2``: four minima of value 0 and four saddle points.

    >>> himmelblau().minima.round(3).tolist()
    [[3.0, 2.0], [-2.805, 3.131], [-3.779, -3.283], [3.584, -1.848]]
    """
    minima = [
        [3.0, 2.0],
        [-2.805118086952745, 3.131312518250573],
        [-3.779310253377747, -3.283185991286169],
        [3.584428340330492, -1.8481265269644036],
    ]
    return make_surface(
        "himmelblau",
        _himmelblau,
        start=[0.0, 0.0],
        bounds=(-5.0, 5.0),
        minima=minima,
        values=np.zeros(4),
        hessians=[[[8 * x**2 + 2, 4 * (x + y)], [4 * (x + y), 8 * y**2 + 2]] for x, y in minima],
        saddles=[
            [-3.0730257507643896, -0.08135304428796751],
            [0.08667750455539635, 2.884254701174776],
            [3.385154183607021, 0.07385187983774928],
            [-0.12796134673068007, -1.9537149802445764],
        ],
    )


def _himmelblau(x):
    x, y = x
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def saddle() -> Surface:
    """``x^2 - y^2``, unbounded below; the start lies close to the ridge that leads to the saddle point.

    >>> saddle().saddles.tolist(), saddle().minima.tolist()
    ([[0.0, 0.0]], [])
    """
    return make_surface("saddle", _saddle, start=[1.0, 1e-3], bounds=(-1.5, 1.5), saddles=[0.0, 0.0])


def _saddle(x):
    x, y = x
    return x**2 - y**2


def bounded_saddle() -> Surface:
    """``x^2 - y^2 + y^4 / 2``: the saddle x^2 - y^2 near the origin, with minima at (0, -1) and (0, 1).

    >>> float(bounded_saddle().function(jnp.array([0.0, 1.0])))
    -0.5
    """
    return make_surface(
        "bounded_saddle",
        _bounded_saddle,
        start=[1.0, 1e-3],
        bounds=(-1.5, 1.5),
        minima=[[0.0, -1.0], [0.0, 1.0]],
        values=[-0.5, -0.5],
        hessians=[np.diag([2.0, 4.0])] * 2,
        saddles=[0.0, 0.0],
    )


def _bounded_saddle(x):
    x, y = x
    return x**2 - y**2 + y**4 / 2


def plateau(width: float = 1.0) -> Surface:
    """``1 - exp(-(x^2 + y^2) / (2 width^2))``: a bowl in a plain on which gradient and Hessian vanish.

    >>> float(plateau().function(jnp.zeros(2)))
    0.0
    """
    check.positive(width=width)
    return make_surface(
        "plateau",
        bind(_plateau, width=width),
        start=[2.5 * width, 1.5 * width],
        bounds=(-4.0 * width, 4.0 * width),
        minima=[0.0, 0.0],
        values=0.0,
        hessians=np.eye(2) / width**2,
    )


def _plateau(x, *, width):
    return -jnp.expm1(-0.5 * jnp.sum((x / jnp.asarray(width, x.dtype)) ** 2))


def cliff(slope: float = 1.0, wall: float = 1000.0) -> Surface:
    """``-slope x + wall max(x, 0)^2 / 2 + y^2 / 2``: a gentle slope that ends in a steep wall.

    A step that overshoots the foot of the wall by d meets a gradient of wall * d and is thrown far back, unless it is
    clipped.  The minimum lies on the wall, at x = slope / wall.

    >>> cliff(slope=1.0, wall=1000.0).minima.tolist()
    [[0.001, 0.0]]
    """
    check.positive(slope=slope, wall=wall)
    return make_surface(
        "cliff",
        bind(_cliff, slope=slope, wall=wall),
        start=[-1.95, 1.0],
        bounds=[(-3.0, 0.5), (-1.5, 1.5)],
        minima=[slope / wall, 0.0],
        values=-(slope**2) / (2 * wall),
        hessians=np.diag([wall, 1.0]),
    )


def _cliff(x, *, slope, wall):
    slope, wall = jnp.asarray(slope, x.dtype), jnp.asarray(wall, x.dtype)
    x, y = x
    return -slope * x + wall * jnp.maximum(x, 0) ** 2 / 2 + y**2 / 2
