"""Which parameters: masks and labels by path pattern, by tree or by function.

Patterns are regular expressions searched in the path of a parameter, ``'Dense_0/kernel'``: anchor them with ``^``
and ``$`` where a part of the path must not match.
"""

import dataclasses
import re
from typing import Any

import jax
import optax

from gradlab.core import tree as trees

Tree = Any


@dataclasses.dataclass(frozen=True)
class ByPath:
    """Labels for parameters by the first pattern that occurs in their path; made by `by_path`."""

    rules: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        return f"by_path({', '.join(map(repr, self.rules))})"

    def __call__(self, params: Tree) -> Tree:
        matched = set()
        labels = jax.tree_util.tree_map_with_path(lambda path, _: self._label(trees.path_name(path), matched), params)
        unused = [pattern for pattern, _ in self.rules if pattern not in matched]
        if unused and jax.tree.leaves(params):
            raise ValueError(f"patterns {unused} decide for no parameter; the paths are {trees.paths(params)}")
        return labels

    def _label(self, name: str, matched: set[str]) -> Any:
        for pattern, label in self.rules:
            if re.search(pattern, name):
                matched.add(pattern)
                return label
        raise ValueError(f"no pattern matches parameter '{name}'; the patterns are {[p for p, _ in self.rules]}")


def by_path(*rules: tuple[str, Any]) -> ByPath:
    """Labels by path for `partition`: the first pattern found in a parameter's path decides.

    Raises:
      ValueError: a pattern is no regular expression; on use, a parameter without label or a pattern without use.

    >>> by_path(('bias$', 'plain'), ('.', 'fancy'))({'w': 0, 'bias': 0})
    {'bias': 'plain', 'w': 'fancy'}
    """
    for pattern, _ in rules:
        check_pattern(pattern)
    return ByPath(tuple(rules))


@dataclasses.dataclass(frozen=True)
class _AnyPattern:
    """True for the parameters in whose path one of the patterns occurs."""

    patterns: tuple[str, ...]

    def __repr__(self) -> str:
        return repr(self.patterns[0] if len(self.patterns) == 1 else list(self.patterns))

    def __call__(self, params: Tree) -> Tree:
        names = trees.paths(params)
        unused = [pattern for pattern in self.patterns if not any(re.search(pattern, name) for name in names)]
        if unused and names:
            raise ValueError(f"patterns {unused} match no parameter; the paths are {names}")
        hit = lambda path, _: any(re.search(pattern, trees.path_name(path)) for pattern in self.patterns)
        return jax.tree_util.tree_map_with_path(hit, params)


def check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is no regular expression for a parameter path: {error}") from None


def as_mask(mask: Any) -> Any:
    """A mask as rules keep it: patterns as one function of the parameters, anything else as it is."""
    patterns = (mask,) if isinstance(mask, str) else mask
    if isinstance(patterns, list | tuple) and patterns and all(isinstance(item, str) for item in patterns):
        for pattern in patterns:
            check_pattern(pattern)
        return _AnyPattern(tuple(patterns))
    return mask


def resolve(what: str, choice: Any, tree: Tree) -> Tree:
    """The tree of bools or labels itself, or what a function of the parameters returns; a prefix of ``tree``."""
    is_function = callable(choice) and jax.tree_util.all_leaves([choice])
    choice = choice(tree) if is_function else choice
    try:
        jax.tree.map(lambda leaf, part: None, choice, tree)
    except ValueError as error:
        raise ValueError(
            f"the {what} has the leaves {trees.paths(choice)}, which is no prefix of the parameters "
            f"{trees.paths(tree)}: {str(error).splitlines()[0]}"
        ) from None
    return choice


def mask_leaves(mask: Any, tree: Tree) -> Tree:
    """Whether ``mask``, which selects as for `masked`, selects each leaf of ``tree``; ``None`` selects all.

    For rules that treat their leaves differently: the ``leaf_structure`` of `leafwise`.

    >>> mask_leaves('bias$', {'w': 0.0, 'bias': 0.0})
    {'bias': True, 'w': False}
    """
    if is_placeholder(tree):
        return tree
    choice = True if mask is None else resolve("mask", as_mask(mask), tree)
    structure = jax.tree.structure(tree, is_leaf=trees.is_none)
    return jax.tree.unflatten(structure, trees.broadcast_prefix("mask", choice, tree))


def masked_factor(mask: Any, params: Tree) -> Tree:
    """One for the parameters that ``mask`` selects, as for `masked`, and zero for the others: a prefix of ``params``.

    >>> masked_factor('kernel', {'kernel': 0, 'bias': 0})
    {'bias': 0.0, 'kernel': 1.0}
    """
    return 1.0 if mask is None else jax.tree.map(float, resolve("mask", as_mask(mask), params))


def is_placeholder(params: Tree) -> bool:
    """Whether ``params`` is one empty node, as in `optax.tree.map_params`: masks and labels do not fit it."""
    structure = jax.tree.structure(params)
    return structure.num_leaves == 0 and structure.num_nodes == 1


def stands_for_params(params: Tree) -> bool:
    """Whether ``params`` is what `optax.tree.map_params` puts in their place, and not merely a tree without leaves.

    >>> stands_for_params({}), stands_for_params(optax.MaskedNode())
    (False, False)
    """
    return is_placeholder(params) and not isinstance(params, optax.MaskedNode | dict | list | tuple)
