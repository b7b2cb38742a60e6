"""Curvature matrices as linear maps of trees: nothing of size n x n is stored.

With ``f(params)`` the outputs of a model, ``L = mean_i loss_i`` and J a Jacobian with respect to the parameters::

    hessian   H = d^2 L / d params^2                             forward over reverse mode, Pearlmutter 1994
    ggn       G = J_f' (d^2 L / d outputs^2) J_f                 Schraudolph 2002; H without the curvature of f
    fisher    F = (1/N) sum_i g_i g_i' = J_loss' J_loss / N      g_i the gradient of example i

G equals H where the outputs are linear in the parameters.  F has the labels of the data, so it is the *empirical*
Fisher matrix, which is not G in general (arXiv 1905.12558).  All three are exact for the batch that is given.

One product costs 2 to 4 gradients of the batch.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.closures import as_pytree
from gradlab.core.curvature import cast_like, ravel, unravel, widen
from gradlab.core.leafwise import convert
from gradlab.instruments.arguments import real_params, require_outputs

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric matrix as a function of vectors that are trees; itself a pytree: it may be traced and vmapped.

    Attributes:
      matvec: ``vector -> vector``, a `jax.tree_util.Partial` over the arrays that it needs.
      like: a tree whose leaves have the shapes and dtypes of the vectors, ``None`` where they have none.

    >>> op = Operator(Partial(lambda v: {'a': 2.0 * v['a']}), {'a': jnp.zeros(3)})
    >>> op({'a': jnp.ones(3)})['a'].tolist(), op.size
    ([2.0, 2.0, 2.0], 3)
    """

    matvec: Partial
    like: Tree

    def __call__(self, vector: Tree) -> Tree:
        """The product with a tree like ``like``; its leaves are cast to those dtypes."""
        return self.matvec(like_vector(vector, self.like))

    @property
    def size(self) -> int:
        """The number of rows, n."""
        return sum(jnp.size(leaf) for leaf in jax.tree.leaves(self.like))


def like_vector(vector: Tree, like: Tree) -> Tree:
    """The vector in the dtypes of ``like``, or an error that says where their trees or shapes differ."""
    if jax.tree.structure(vector) != jax.tree.structure(like):
        trees.require_same_structure("the vector", vector, "the operator", like)
        raise ValueError("the vector has None where the operator has a leaf; give zeros there")

    def cast(path, leaf, target):
        if jnp.shape(leaf) != jnp.shape(target):
            raise ValueError(
                f"the vector's leaf at '{trees.path_name(path)}' has the shape {jnp.shape(leaf)}, "
                f"but the operator's has {jnp.shape(target)}"
            )
        return convert(jnp.asarray(leaf), jnp.result_type(target))

    return jax.tree_util.tree_map_with_path(cast, vector, like)


def hessian(loss: Callable, params: Tree, batch: Any = None) -> Operator:
    """The Hessian of ``loss(params, batch)`` at ``params``.

    Args:
      loss: ``(params, batch) -> scalar``, deterministic.
      params: any tree of real floating-point arrays; the arithmetic is in at least float32.
      batch: any tree of arrays, or ``None``.

    Raises:
      TypeError: a parameter is complex or an integer, or the loss is; the message names it.
      ValueError: the loss is not a scalar.

    >>> op = hessian(lambda p, batch: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0})
    >>> [float(x) for x in op({'a': 1.0, 'b': 0.0}).values()]
    [10.0, 6.0]
    """
    params, batch = real_params("hessian", params), _arrays(batch)
    require_outputs("hessian", loss, params, batch, axes=0)
    return Operator(Partial(_hessian_product, as_pytree(loss), params, batch), widen(params))


def _hessian_product(loss: Callable, params: Tree, batch: Any, vector: Tree) -> Tree:
    gradient = jax.grad(lambda wide: loss(cast_like(wide, params), batch))
    return jax.jvp(gradient, (widen(params),), (vector,))[1]


def ggn(model: Callable, out_loss: Callable, params: Tree, batch: Any = None) -> Operator:
    """The generalised Gauss-Newton matrix of ``out_loss(model(params, batch), batch)`` at ``params``.

    It is positive semidefinite where ``out_loss`` is convex in the outputs.

    Args:
      model: ``(params, batch) -> outputs``, any tree of real arrays.
      out_loss: ``(outputs, batch) -> scalar``, usually a mean over the examples.
      params: see `hessian`.
      batch: see `hessian`.

    >>> op = ggn(lambda p, x: p * x, lambda outputs, x: jnp.sum(outputs**2), jnp.array(2.0), jnp.array([1.0, 3.0]))
    >>> float(op(1.0))
    20.0
    """
    params, batch = real_params("ggn", params), _arrays(batch)
    require_outputs("ggn", lambda params, batch: out_loss(model(params, batch), batch), params, batch, axes=0)
    return Operator(Partial(_ggn_product, as_pytree(model), as_pytree(out_loss), params, batch), widen(params))


def _ggn_product(model: Callable, out_loss: Callable, params: Tree, batch: Any, vector: Tree) -> Tree:
    wide = widen(params)
    outputs, jacobian = jax.linearize(lambda wide: model(cast_like(wide, params), batch), wide)
    curved = jax.jvp(jax.grad(lambda outputs: out_loss(outputs, batch)), (outputs,), (jacobian(vector),))[1]
    return jax.linear_transpose(jacobian, wide)(curved)[0]


def fisher(losses: Callable, params: Tree, batch: Any = None) -> Operator:
    """The empirical Fisher matrix: the mean of ``g_i g_i'`` over the examples, without any ``g_i`` being stored.

    Args:
      losses: ``(params, batch) -> (examples,)``, one loss for each example.
      params: see `hessian`.
      batch: see `hessian`.

    Raises:
      ValueError: ``losses`` does not return one axis of numbers.

    >>> op = fisher(lambda p, x: p * x, jnp.array(2.0), jnp.array([1.0, 3.0]))
    >>> float(op(1.0))
    5.0
    """
    params, batch = real_params("fisher", params), _arrays(batch)
    require_outputs("fisher", losses, params, batch, axes=1)
    return Operator(Partial(_fisher_product, as_pytree(losses), params, batch), widen(params))


def _fisher_product(losses: Callable, params: Tree, batch: Any, vector: Tree) -> Tree:
    wide = widen(params)
    values, jacobian = jax.linearize(lambda wide: losses(cast_like(wide, params), batch), wide)
    return jax.linear_transpose(jacobian, wide)(jacobian(vector) / values.size)[0]


def preconditioned(op: Operator, diagonal: Tree) -> Operator:
    """``P^-1/2 A P^-1/2`` for ``P = diag(diagonal)``: symmetric, with the eigenvalues of ``P^-1 A``.

    Args:
      op: A.
      diagonal: numbers above zero, a tree like ``op.like``; Adam's is ``sqrt(nu_hat) + eps``.

    Raises:
      ValueError: a number is not above zero, or the trees differ.

    >>> op = hessian(lambda p, batch: 8 * p**2, jnp.array(1.0))
    >>> float(preconditioned(op, 4.0)(1.0))
    4.0
    """
    check.positive(diagonal=diagonal)
    scale = jax.tree.map(jax.lax.rsqrt, like_vector(diagonal, op.like))
    return Operator(Partial(_preconditioned_product, op, scale), op.like)


def _preconditioned_product(op: Operator, scale: Tree, vector: Tree) -> Tree:
    return jax.tree.map(jnp.multiply, scale, op.matvec(jax.tree.map(jnp.multiply, scale, vector)))


def restrict(op: Operator, pattern: str | Sequence[str]) -> Operator:
    """The diagonal block of an operator that belongs to some of the leaves; the vectors have ``None`` for the others.

    Args:
      op: the operator of all leaves.
      pattern: (static) a regular expression, or several, searched in the path of a leaf, ``'Dense_0/kernel'``.

    Raises:
      ValueError: a pattern is in no path, or is no regular expression.

    >>> op = hessian(lambda p, batch: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0})
    >>> block = restrict(op, '^a$')
    >>> float(block({'a': 1.0, 'b': None})['a']), block.size
    (10.0, 1)
    """
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    named, treedef = jax.tree_util.tree_flatten_with_path(op.like)
    names = [trees.path_name(path) for path, _ in named]
    kept = [any(_found(pattern, name) for pattern in patterns) for name in names]
    unused = [pattern for pattern in patterns if not any(_found(pattern, name) for name in names)]
    if unused or not patterns:
        raise ValueError(f"patterns {unused} match no parameter; the paths are {names}")
    like = jax.tree.unflatten(treedef, [leaf if keep else None for keep, (_, leaf) in zip(kept, named, strict=True)])
    return Operator(Partial(_restricted_product, op, like), like)


def _found(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is no regular expression for a parameter path: {error}") from None


def _restricted_product(op: Operator, like: Tree, vector: Tree) -> Tree:
    fill = lambda full, part: jnp.zeros_like(full) if part is None else part
    whole = jax.tree.map(fill, op.like, vector)  # ``vector`` may have None where ``op.like`` has an array
    image = op.matvec(whole)
    return jax.tree.map(lambda part, full: None if part is None else full, like, image, is_leaf=trees.is_none)


def dense(op: Operator) -> jax.Array:
    """The matrix itself, (n, n) in the order of the leaves: n products at once, n^2 numbers.

    >>> dense(hessian(lambda p, batch: p['a'] ** 2 * p['b'], {'a': 3.0, 'b': 5.0})).tolist()
    [[10.0, 6.0], [6.0, 0.0]]
    """
    return _dense(op)


@jax.jit
def _dense(op: Operator) -> jax.Array:
    start = ravel(op.like)
    product = lambda vector: ravel(op(unravel(vector, op.like)))
    return jax.vmap(product, out_axes=1)(jnp.eye(start.size, dtype=start.dtype))


def _arrays(batch: Any) -> Any:
    return jax.tree.map(jnp.asarray, batch)
