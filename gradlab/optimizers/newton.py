r"""Newton's method on all parameters as one vector, plain and free of its attraction to saddles.

With g the gradient, p the parameters, H the Hessian of ``value_fn`` at p, and ``|H|`` the matrix of its eigenvectors
and the absolute values of its eigenvalues::

    u = (H + damping * I)^-1 @ g                                  newton
    u = (|H| + damping * I)^-1 @ g                                saddle_free_newton, arXiv 1406.2572
    u = Q.T @ (|Q @ H @ Q.T| + damping * I)^-1 @ Q @ g            its Krylov form: the rows of Q span g, H g, H^2 g, ...
    p = p - learning_rate * u

Along an eigenvector of curvature l the gradient is ``l * e`` at the distance e from the critical point of the local
quadratic.  Newton's method moves by ``-e``, to that point, whatever the sign of l: to a minimum, a maximum or a saddle.
With ``|l|`` it moves by ``-sign(l) * e``: towards minima, and as far away from saddles.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.curvature import cast_like, free, hessian, ravel, raveled_map, required_value_fn, unravel
from gradlab.core.decompositions import solve
from gradlab.core.krylov import lanczos, solve_abs
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.transforms.scaling import scale_by_learning_rate


def _scale_by_newton_update(grads, state, params=None, *, damping, value_fn=None, **extra):
    del extra
    loss, moved = _problem("newton", grads, params, value_fn)
    if not jax.tree.leaves(grads):
        return grads, state
    matrix = hessian(loss, moved)
    u = solve(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype), ravel(grads))
    return cast_like(unravel(u, grads), grads), state


def _scale_by_saddle_free_newton_update(grads, state, params=None, *, damping, rank, value_fn=None, **extra):
    del extra
    loss, moved = _problem("saddle_free_newton", grads, params, value_fn)
    if not jax.tree.leaves(grads):
        return grads, state
    g = ravel(grads)
    if rank is None:
        u = solve_abs(hessian(loss, moved), damping, g)
    else:
        basis, matrix, _ = lanczos(raveled_map(loss, moved), g, min(rank, g.size))
        u = basis.T @ solve_abs(matrix, damping, basis @ g)
    return cast_like(unravel(u, grads), grads), state


def _problem(stage, grads, params, value_fn):
    return free(required_value_fn(stage, value_fn), check.required_params(stage, params), grads)


def scale_by_newton(damping: Any = 0.0) -> Transform:
    """Newton's direction: ``(H + damping * I)^-1 @ g``; see `newton`.

    >>> tx, params = scale_by_newton(), jnp.array([3.0, -1.0])
    >>> loss = lambda p: 2 * p[0] ** 2 + 3 * p[1] ** 2
    >>> tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)[0].tolist()
    [3.0, -1.0]
    """
    check.non_negative(damping=damping)
    return transform(empty_init, _scale_by_newton_update, damping=damping)


@storable
def newton(learning_rate: Any = 1.0, damping: Any = 0.0) -> Transform:
    """Damped Newton: the minimum of a convex quadratic in one step, and the nearest critical point of anything else.

    The recurrence heads this module.  It needs the loss of the batch, ``tx.update(grads, state, params,
    value_fn=loss)``, forms the whole Hessian (n Hessian-vector products, n^2 numbers) and solves with it (n^3): for
    some thousand parameters.  Saddles attract it unless ``damping`` exceeds the largest negative curvature.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      damping: added to every curvature; a number or a schedule.  At zero a singular Hessian gives steps that are not
        finite.

    Raises:
      ValueError: a negative number; ``update`` without ``params`` or ``value_fn``.

    >>> tx, params = newton(), jnp.array([3.0, -1.0])
    >>> loss = lambda p: (p[0] - 1) ** 2 + (p[0] - 1) * (p[1] - 2) + 2 * (p[1] - 2) ** 2
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(float(x), 4) for x in params + updates]
    [1.0, 2.0]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_newton(damping), scale_by_learning_rate(learning_rate))


def scale_by_saddle_free_newton(damping: Any = 1e-3, *, rank: int | None = None) -> Transform:
    """The direction ``(|H| + damping * I)^-1 @ g``; see `saddle_free_newton`.

    >>> tx, params = scale_by_saddle_free_newton(damping=0.0), jnp.array([3.0, -1.0])
    >>> loss = lambda p: 2 * p[0] ** 2 - 3 * p[1] ** 2
    >>> tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)[0].tolist()
    [3.0, 1.0]
    """
    check.non_negative(damping=damping)
    check.in_range("rank", rank, 1)
    return transform(empty_init, _scale_by_saddle_free_newton_update, damping=damping, rank=static(rank))


@storable
def saddle_free_newton(learning_rate: Any = 1.0, damping: Any = 1e-3, *, rank: int | None = None) -> Transform:
    """Saddle-free Newton (Dauphin et al., arXiv 1406.2572): every curvature counts by its size, so saddles repel.

    The recurrence heads this module.  The loss of the batch is ``value_fn``, as for `newton`.

    Args:
      learning_rate: a number, a schedule, or a tree of these that is a prefix of the parameters.
      damping: added to the size of every curvature; a number or a schedule.  It bounds steps along flat directions.
      rank: (static) None takes the eigenvectors of the whole Hessian, n^3; a number those of its Lanczos matrix, for
        larger models: ``rank`` Hessian-vector products, and ``rank`` times n numbers at a time.

    Raises:
      ValueError: a negative number, a rank below 1; ``update`` without ``params`` or ``value_fn``.

    >>> tx, params = saddle_free_newton(damping=0.0, rank=2), jnp.array([1.5, 0.25])
    >>> loss = lambda p: (p[0] - 1) ** 2 - p[1] ** 2
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(float(x), 4) for x in params + updates]
    [1.0, 0.5]
    """
    check.non_negative(learning_rate=learning_rate)
    return chain(scale_by_saddle_free_newton(damping, rank=rank), scale_by_learning_rate(learning_rate))
