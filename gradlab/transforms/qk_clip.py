r"""QK-clip: attention whose logits grew too large gets smaller query and key weights, head by head.

With p the kernels and biases of an attention's query and key, d the step that would be added (after the learning rate)
and S the largest scaled logit of a head before the softmax, in the forward pass that gave the gradient::

    gamma = min(1, tau / S)
    d = sqrt(gamma) * (p + d) - p                    arXiv 2507.20534

The logits are products of queries and keys, so that the new weights give about ``gamma`` times the old ones.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import at_least_float32
from gradlab.core.compose import empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.transforms.select import check_pattern

Tree = Any


def qk_clip(tau: Any = 100.0, *, query: str = "query", key: str = "key") -> Transform:
    """Bounds attention's logits by scaling the query and key weights after the step (arXiv 2507.20534): the last stage.

    ``update`` takes one more argument, ``max_logits``: for each attention module, by its path, the largest logit of
    every head, (heads,).  It is a mapping from paths, a tree, or what the modules have sown, whose paths go deeper; of
    several values for one module the largest counts.  Heads at or below ``tau``, and modules that it does not
    name, keep their step to the bit.  Kernels are (in, heads, size) or (in, heads * size), biases (heads, size) or
    (heads * size,); axes that the logits have before the heads, as those of scanned layers, come first in the weights
    too.  A largest logit of infinity or NaN makes the head NaN.

    Args:
      tau: the largest logit to be left alone, above zero.
      query, key: (static) regular expressions that match the whole names of the two submodules of an attention.

    Raises:
      ValueError: a ``tau`` that is not positive; ``update`` called without ``params``, or with logits of a module that
        has no query and key, or whose number of heads is another, with the path.
      TypeError: ``update`` called without ``max_logits``.

    >>> params = {'attention': {name: {'kernel': jnp.ones((1, 2, 1))} for name in ('query', 'key')}}
    >>> zero, tx = jax.tree.map(jnp.zeros_like, params), qk_clip(tau=25.0)
    >>> updates, _ = tx.update(zero, tx.init(params), params, max_logits={'attention': jnp.array([100.0, 20.0])})
    >>> (params['attention']['key']['kernel'] + updates['attention']['key']['kernel']).ravel().tolist()
    [0.5, 1.0]
    """
    check.positive(tau=tau)
    check_pattern(query)
    check_pattern(key)
    return transform(empty_init, _qk_clip_update, tau=tau, query=static(query), key=static(key))


def _qk_clip_rule(d, p, *, factor):
    return (factor * d - (1 - factor) * p,)


def _qk_clip_update(updates, state, params=None, *, tau, query, key, max_logits=None, **extra):
    del extra
    params = check.required_params("qk_clip", params)
    if max_logits is None:
        raise TypeError(
            "qk_clip reads the largest logits of each head: call tx.update(grads, state, params, max_logits={path of "
            "an attention module: array of shape (heads,)})"
        )
    trees.require_same_structure("gradients", updates, "parameters", params)
    factors = _factors_by_leaf(max_logits, _attention_modules(trees.paths(params), query, key), tau, (query, key))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates, is_leaf=trees.is_none)
    named = [(trees.path_name(path), d) for path, d in leaves]
    shaped = [None if d is None or name not in factors else _shaped(name, d, *factors[name]) for name, d in named]
    only = lambda values: treedef.unflatten([None if f is None else x for x, f in zip(values, shaped, strict=True)])
    (clipped,) = leafwise(
        _qk_clip_rule,
        only([d for _, d in named]),
        params=only(treedef.flatten_up_to(params)),
        factor=treedef.unflatten(shaped),
    )
    pairs = zip(named, jax.tree.leaves(clipped, is_leaf=trees.is_none), strict=True)
    return treedef.unflatten([d if new is None else new for (_, d), new in pairs]), state


def _attention_modules(names: list[str], query: str, key: str) -> dict[str, list[str]]:
    """The paths of the kernels and biases of query and key, by the path of the attention that has both."""
    sides = {"query": query, "key": key}
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = name.removesuffix("/value").split("/")
        if len(parts) < 2 or parts[-1] not in ("kernel", "bias"):
            continue
        for side, pattern in sides.items():
            if re.fullmatch(pattern, parts[-2]):
                found.setdefault("/".join(parts[:-2]), {}).setdefault(side, []).append(name)
    return {module: sum(of.values(), []) for module, of in found.items() if len(of) == len(sides)}


def _factors_by_leaf(
    max_logits: Tree, modules: dict[str, list[str]], tau: jax.Array, sides: tuple[str, str]
) -> dict[str, tuple[str, jax.Array]]:
    """For the path of each kernel and bias: the path of its module, and the factor of every head."""
    logits: dict[str, list[jax.Array]] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(max_logits):
        name = trees.path_name(path)
        module = next((module for module in _and_parents(name) if module in modules), None)
        if module is None:
            raise ValueError(
                f"max_logits has an entry '{name}', but the module of that path has no '{sides[0]}' and '{sides[1]}' "
                f"with kernels; the attention modules are {sorted(modules)}"
            )
        logits.setdefault(module, []).append(at_least_float32(jnp.asarray(value)))
    factors = {}
    for module, values in logits.items():
        largest = functools.reduce(jnp.maximum, values)
        gamma = jnp.where(largest == jnp.inf, jnp.nan, tau / jnp.maximum(largest, tau))
        factors |= {name: (module, jnp.sqrt(gamma)) for name in modules[module]}
    return factors


def _and_parents(name: str) -> Iterator[str]:
    """``'a/b'``, ``'a'``, ``''`` of ``'a/b'``."""
    while name:
        yield name
        name = name.rpartition("/")[0]
    yield ""


def _shaped(name: str, d: jax.Array, module: str, factor: jax.Array) -> jax.Array:
    """The factor of each head in the shape in which it multiplies a kernel or a bias."""
    *batch, heads = jnp.shape(factor) or (0,)
    inputs = 1 if name.removesuffix("/value").endswith("kernel") else 0
    rest = jnp.shape(d)[len(batch) + inputs :]
    fits = jnp.shape(d)[: len(batch)] == tuple(batch) and heads > 0
    if fits and len(rest) == 2 and rest[0] == heads:
        return factor.reshape(*batch, *[1] * inputs, heads, 1)
    if fits and len(rest) == 1 and rest[0] % heads == 0:
        return jnp.repeat(factor, rest[0] // heads, axis=-1).reshape(*batch, *[1] * inputs, rest[0])
    raise ValueError(
        f"max_logits of '{module}' has the shape {jnp.shape(factor)}, which does not fit parameter '{name}' of shape "
        f"{jnp.shape(d)}: give one number for each head, (heads,), and the parameter as (..., heads, size)"
    )
