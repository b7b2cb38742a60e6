"""One rule on one array, lifted to trees.

An elementwise optimizer is a pure function of one array: ``rule(g, *slots, p, *, hyper...) -> (update, *slots)``.
`leafwise` gives it trees, low-precision arithmetic, per-leaf hyperparameters, ``None`` leaves and errors that name
the path.  Each distinct shape is traced once: a rule on a leaf is a nested jit whose trace is shared.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import tree as trees
from gradlab.core.axes import laid_like
from gradlab.core.rule import Rule, static

Tree = Any


def leafwise(
    rule: Callable,
    grads: Tree,
    slots: Sequence[Tree] = (),
    params: Tree | None = None,
    *,
    structure: dict[str, Any] | None = None,
    leaf_structure: dict[str, Tree] | None = None,
    own_shapes: bool = False,
    **hyper: Any,
) -> tuple[Tree, ...]:
    """Applies a rule for one array to every leaf; returns the updates followed by the new slots.

    The rule is called as ``rule(g, *slots, [p,] **structure, **hyper)`` with arrays of at least float32: float16 and
    bfloat16 leaves are widened for the arithmetic.  Updates return in the gradient's dtype and slots in
    the dtype in which they are stored, both where these lie.  A ``None`` gradient leaves its slots as they are.

    Args:
      rule: a module-level function for one array.
      grads: tree of gradients.
      slots: trees like ``grads``, one for each buffer the rule keeps.
      params: tree like ``grads``; passed to the rule after the slots if given.
      structure: what the rule branches on in Python (flags, choices).
      leaf_structure: the same where it differs from leaf to leaf (axes): trees like ``grads``.
      own_shapes: what a slot holds for a leaf is the rule's business, an array of another shape (a factored second
        moment) or a subtree (a list of row and column sums); else slots have the shape of the gradient or none.
      **hyper: numbers, or trees that are a prefix of ``grads``.

    Raises:
      ValueError: trees or shapes differ; the message names the path.
      TypeError: a gradient is not of a floating-point dtype.

    >>> def _momentum_rule(g, m, *, decay): return g + decay * m, g + decay * m
    >>> leafwise(_momentum_rule, {'w': jnp.ones(2)}, [{'w': jnp.ones(2)}], decay=0.5)[0]['w'].tolist()
    [1.5, 1.5]
    """
    names = [f"state buffer {index}" for index in range(len(slots))] + ["parameters"]
    operands = [*slots, params] if params is not None else list(slots)
    paths_and_grads, treedef = jax.tree_util.tree_flatten_with_path(grads, is_leaf=trees.is_none)
    columns = [
        _leaves_like(name, tree, treedef, grads, own_shapes) for name, tree in zip(names, operands, strict=False)
    ]
    values = {name: trees.broadcast_prefix(name, value, grads) for name, value in hyper.items()}
    bound = _bound_to_leaves(rule, structure or {}, leaf_structure or {}, treedef)
    outputs = []
    for index, (path, g) in enumerate(paths_and_grads):
        operand = [column[index] for column in columns]
        if g is None:
            outputs.append((None, *operand[: len(slots)]))
            continue
        g = _check_leaf(path, g, operand, names, free=len(slots) if own_shapes else 0)
        hyper = {name: value[index] for name, value in values.items()}
        outputs.append(_on_one_array(bound[index], len(slots), g, operand, hyper))
    columns = zip(*outputs, strict=True) if outputs else [()] * (1 + len(slots))
    return tuple(jax.tree.unflatten(treedef, column) for column in columns)


def _leaves_like(name: str, tree: Tree, treedef: Any, grads: Tree, own_shapes: bool) -> list[Any]:
    leaves, own = jax.tree.flatten(tree, is_leaf=trees.is_none)
    if own != treedef:
        if own_shapes and name != "parameters":
            return treedef.flatten_up_to(tree)
        trees.require_same_structure("gradients", grads, name, tree)
    return leaves


def _bound_to_leaves(rule: Callable, structure: dict[str, Any], leaf_structure: dict[str, Tree], treedef: Any):
    """The rule with its structure for every leaf; one object where the leaves share it."""
    shared = Rule(rule, tuple((name, static(value)) for name, value in structure.items()))
    if not leaf_structure:
        return [shared] * treedef.num_leaves
    columns = [treedef.flatten_up_to(tree) for tree in leaf_structure.values()]
    rows = [zip(leaf_structure, values, strict=True) for values in zip(*columns, strict=True)]
    return [Rule(rule, shared.structure + tuple((name, static(value)) for name, value in row)) for row in rows]


def _check_leaf(path: tuple, g: Any, operands: list[Any], names: list[str], free: int) -> jax.Array:
    g = jnp.asarray(g)
    if not jnp.issubdtype(g.dtype, jnp.inexact):
        raise TypeError(
            f"gradient at '{trees.path_name(path)}' is {g.dtype}: optimizers move floating-point parameters; "
            "cast the parameter, or leave it out with partition(...) or freeze(...)"
        )
    for name, operand in list(zip(names, operands, strict=False))[free:]:
        if operand is None:
            raise ValueError(f"the gradient at '{trees.path_name(path)}' is an array, but {name} hold None there")
        if jnp.shape(operand) not in ((), g.shape):
            raise ValueError(
                f"gradient at '{trees.path_name(path)}' has shape {g.shape}, but {name} have {jnp.shape(operand)} there"
            )
    return g


def _inline_on_one_array(bound: Rule, number_of_slots: int, g: jax.Array, operands: list[Any], hyper: dict):
    wide = jnp.promote_types(jnp.float32, jnp.result_type(g, *_inexact(operands)))
    real = jnp.finfo(wide).dtype
    widened = lambda x: convert(x, wide if jnp.iscomplexobj(x) else real) if _is_inexact(x) else x
    hyper = {name: value if _is_key(value) else convert(value, real) for name, value in hyper.items()}
    update, *slots = bound.inline(widened(g), *jax.tree.map(widened, operands), **hyper)
    stored = [_as_stored(slot, old) for slot, old in zip(slots, operands[:number_of_slots], strict=True)]
    return laid_like(convert(update, g.dtype), g), *stored


def _as_stored(slot: Tree, old: Tree) -> Tree:
    """The new buffers in the dtypes and containers of the old, and where these lie: nnx has containers of its own."""
    leaves, treedef = jax.tree.flatten(old)
    as_was = lambda new, was: laid_like(convert(new, was.dtype), was)
    return treedef.unflatten(as_was(new, was) for new, was in zip(jax.tree.leaves(slot), leaves, strict=True))


def _inexact(operands: list[Any]) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(operands) if _is_inexact(x)]


def _is_inexact(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def convert(x: jax.Array, dtype: Any) -> jax.Array:
    """``x`` in ``dtype``; no operation if it has it already (tracing one for every operand costs)."""
    return x if x.dtype == dtype else x.astype(dtype)


_on_one_array = jax.jit(_inline_on_one_array, static_argnums=(0, 1))
