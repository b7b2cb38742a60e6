r"""What lies between two solutions: the barrier on the straight line, and a curve that goes around it.

::

    barrier = max over x of L((1 - x) a + x b) - ((1 - x) L(a) + x L(b))        arXiv 2110.06296
    curve(x) = (1 - x)^2 a + 2 x (1 - x) m + x^2 b                              arXiv 1802.10026

Two networks that are the same function up to the order of their hidden units have a barrier between them all the same;
`gradlab.instruments.symmetry` removes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core.curvature import cast_like, widen
from gradlab.instruments.arguments import real_params, require_outputs
from gradlab.instruments.landscape import interpolate

Tree = Any


class Barrier(NamedTuple):
    """A loss along a path from a (0) to b (1)."""

    xs: jax.Array  # (points,)
    losses: jax.Array  # (points,)
    height: jax.Array  # () the largest excess over the straight line between the losses at the ends; at least 0
    error: jax.Array  # () by how much the height falls with every second point left out: small if there are enough
    place: jax.Array  # () the x of the largest excess


class Curve(NamedTuple):
    """A quadratic Bezier curve between two solutions."""

    middle: Tree  # the control point m, in at least float32; the curve does not pass it
    history: jax.Array  # (steps,) the mean loss over the random points of each step
    barrier: Barrier  # along the curve


def barrier(
    loss: Callable, start: Tree, end: Tree, batch: Any, *, points: int = 25, batch_size: int | None = None
) -> Barrier:
    """The loss on the straight line between two solutions.  Cost: ``points`` forward passes.

    The height is that of the points, so it is at most the true one.  It is NaN where a loss is.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic; static under `jax.jit`.
      start: any tree of real floating-point arrays.
      end: a tree like ``start``.
      batch: what the loss gets.
      points: (static) odd, at least 5, both ends included.
      batch_size: (static) points that are evaluated together; all by default.

    Raises:
      ValueError: an even number of points or fewer than 5, or the loss is no scalar.

    >>> double_well = lambda p, batch: (p**2 - 1) ** 2
    >>> found = barrier(double_well, jnp.array(-1.0), jnp.array(1.0), None)
    >>> float(found.height), float(found.place), float(found.error)
    (1.0, 0.5, 0.0)
    """
    xs = _positions(points)
    return _barrier(xs, interpolate(loss, start, end, batch, xs, batch_size=batch_size))


def bezier(start: Tree, middle: Tree, end: Tree, x: Any) -> Tree:
    """The point of the quadratic Bezier curve at x: ``start`` at 0, ``end`` at 1, in at least float32.

    >>> bezier(jnp.array(0.0), jnp.array(2.0), jnp.array(1.0), 0.5).item()
    1.25
    """
    weights = (1 - x) ** 2, 2 * x * (1 - x), x**2
    point = lambda *places: sum(jnp.asarray(w, p.dtype) * p for w, p in zip(weights, places, strict=True))
    return jax.tree.map(point, widen(start), widen(middle), widen(end))


def connect(
    loss: Callable,
    start: Tree,
    end: Tree,
    batch: Any,
    key: jax.Array,
    tx: optax.GradientTransformation,
    *,
    steps: int = 200,
    draws: int = 4,
    middle: Tree = None,
    points: int = 25,
) -> Curve:
    """A curve of low loss between two solutions: its middle is trained, both ends are held.

    Each step descends the mean loss at random points of the curve, one in each of ``draws`` equal parts of [0, 1].
    Cost: ``steps * draws`` G, and ``points`` forward passes.

    Args:
      loss: see `barrier`.
      start: see `barrier`.
      end: see `barrier`.
      batch: see `barrier`.
      key: of the random points.
      tx: the optimizer of the middle, of gradlab or Optax; static.
      steps: (static) of ``tx``.
      draws: (static) points of the curve at each step.
      middle: where to begin, a tree like ``start``; by default halfway between the ends, which is a saddle point of
        the curve's loss where everything is symmetric.
      points: (static) see `barrier`.

    Raises:
      ValueError: see `barrier`; no steps or no draws.

    >>> ring = lambda p, batch: (jnp.sum(p**2) - 1) ** 2
    >>> ends = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
    >>> tx, middle = optax.adam(0.1), jnp.array([0.0, 0.1])
    >>> curve = jax.jit(lambda key: connect(ring, *ends, None, key, tx, middle=middle))(jax.random.key(0))
    >>> float(barrier(ring, *ends, None).height), float(curve.barrier.height) < 0.2
    (1.0, True)
    """
    start, end = real_params("connect", start), real_params("connect", end)
    require_outputs("connect", loss, start, batch, axes=0)
    check.in_range("steps", steps, 1)
    check.in_range("draws", draws, 1)
    xs = _positions(points)
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, widen(start), widen(end))
    middle = halfway if middle is None else widen(middle)
    at = lambda middle, x: loss(cast_like(bezier(start, middle, end, x), start), batch)

    def step(carry, key):
        middle, state = carry
        drawn = (jnp.arange(draws) + jax.random.uniform(key, (draws,))) / draws
        mean = lambda middle: jnp.mean(jax.vmap(lambda x: at(middle, x))(drawn))
        value, grads = jax.value_and_grad(mean)(middle)
        updates, state = tx.update(grads, state, middle)
        return (optax.apply_updates(middle, updates), state), value

    (middle, _), history = jax.lax.scan(step, (middle, tx.init(middle)), jax.random.split(key, steps))
    return Curve(middle, history, _barrier(xs, jax.lax.map(lambda x: at(middle, x), xs)))


def _positions(points: int) -> jax.Array:
    check.in_range("points", points, 5)
    if points % 2 == 0:
        raise ValueError(f"`points` must be odd, got {points}: every second point, both ends included, gives the error")
    return jnp.linspace(0.0, 1.0, points)


def _barrier(xs: jax.Array, losses: jax.Array) -> Barrier:
    excess = losses - ((1 - xs) * losses[0] + xs * losses[-1])
    height = jnp.max(excess)
    return Barrier(xs, losses, height, height - jnp.max(excess[::2]), xs[jnp.argmax(excess)])
