"""Running a step so that it reads its new moments as they are stored.

A step computes new moments and, of these, the updates.  XLA:CPU makes a kernel for each buffer that a program writes;
if the parameters' kernel reads the old moments, which the moments' kernels write over, XLA copies these first.  So here
the step, as a list of operations, goes on with each moment as it was stored as soon as it has been computed: the
parameters' kernel then reads the new buffers alone.  Rounding reaches the updates one step earlier, with one term more
of an average in which it stays anyway.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from gradlab.core.axes import laid_like
from gradlab.core.storage.codecs import decoded

Tree = Any
Hook = Callable[[jax.Array], Any]  # what is stored of an array


def run_storing(function: Callable, operands: Sequence[Tree], plan: Callable[[Tree], Tree]) -> Tree:
    """The results of a function, those that are to be stored stored, and read so by what is computed of them.

    Args:
      function: of ``operands``, pure.
      operands: trees of arrays.
      plan: from the shapes of the results to a tree like them, a function of each array to be stored in its place.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*operands)
    planned, treedef = jax.tree.flatten(plan(shapes))
    hooks = {index: hook for index, hook in enumerate(planned) if callable(hook)}
    results, stored = _run(closed.jaxpr, closed.consts, jax.tree.leaves(operands), hooks)
    return treedef.unflatten([stored.get(index, result) for index, result in enumerate(results)])


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], hooks: Mapping[int, Hook]):
    """The results of a jaxpr as they are read afterwards, and what is stored of those with a hook, by their index."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    read = lambda var: var.val if isinstance(var, Literal) else known[var]
    due = {jaxpr.outvars[index]: hook for index, hook in hooks.items() if not isinstance(jaxpr.outvars[index], Literal)}
    stored = {}
    for equation in jaxpr.eqns:
        here = {index: due[var] for index, var in enumerate(equation.outvars) if var in due}
        results, kept = _run_one(equation, [read(var) for var in equation.invars], here)
        known.update(zip(equation.outvars, results, strict=True))
        stored.update((equation.outvars[index], value) for index, value in kept.items())
    of_hooks = {index: _last(stored, jaxpr.outvars[index], read, hook) for index, hook in hooks.items()}
    return [read(var) for var in jaxpr.outvars], of_hooks


def _last(stored: Mapping, var: Any, read: Callable, hook: Hook) -> Any:
    """What is stored of a result; of one that no operation made, an argument or a constant, only now."""
    return hook(read(var)) if isinstance(var, Literal) or var not in stored else stored[var]


def _run_one(equation: Any, arguments: Sequence[Any], hooks: Mapping[int, Hook]):
    if hooks and equation.primitive.name == "jit":
        inner = equation.params["jaxpr"]
        return _run(inner.jaxpr, inner.consts, arguments, hooks)
    params = equation.primitive.get_bind_params(equation.params)
    with equation.ctx.manager:  # an operation with automatic axes among others with explicit ones
        results = equation.primitive.bind(*arguments, **params)
    results = list(results) if equation.primitive.multiple_results else [results]
    stored = {index: hook(results[index]) for index, hook in hooks.items()}
    for index, kept in stored.items():
        results[index] = laid_like(decoded(kept).astype(results[index].dtype), results[index])
    return results, stored
