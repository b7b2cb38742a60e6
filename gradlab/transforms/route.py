"""Different treatment for different parameters, by path pattern or by tree.

Patterns are regular expressions searched in the path of a parameter, ``'Dense_0/kernel'``: anchor them with ``^``
and ``$`` where a part of the path must not match.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import empty_init
from gradlab.core.rule import Static, static
from gradlab.core.transform import Transform, transform

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
        _check_pattern(pattern)
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


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{pattern!r} is no regular expression for a parameter path: {error}") from None


def as_mask(mask: Any) -> Any:
    """A mask as rules keep it: patterns as one function of the parameters, anything else as it is."""
    patterns = (mask,) if isinstance(mask, str) else mask
    if isinstance(patterns, list | tuple) and patterns and all(isinstance(item, str) for item in patterns):
        for pattern in patterns:
            _check_pattern(pattern)
        return _AnyPattern(tuple(patterns))
    return mask


def _resolve(what: str, choice: Any, tree: Tree) -> Tree:
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
    if _is_placeholder(tree):
        return tree
    choice = True if mask is None else _resolve("mask", as_mask(mask), tree)
    structure = jax.tree.structure(tree, is_leaf=trees.is_none)
    return jax.tree.unflatten(structure, trees.broadcast_prefix("mask", choice, tree))


def masked(inner: optax.GradientTransformation, mask: Any, *, mask_compatible_extra_args: bool = False) -> Transform:
    """Applies ``inner`` to some of the parameters; the updates of the others pass through.

    Args:
      inner: a transform; it keeps state only for its parameters.
      mask: (static) a pattern or a list of patterns searched in the parameters' paths, a tree of bools that is a prefix
        of the parameters, or a function from parameters to such a tree.
      mask_compatible_extra_args: (static) also mask extra arguments that have the tree of the updates; ``grad``
        always is.

    Raises:
      ValueError: a pattern that matches no parameter, or a mask that is no prefix of the parameters.

    >>> tx = masked(optax.scale(0.0), 'bias$')
    >>> grads = {'w': jnp.ones(1), 'bias': jnp.ones(1)}
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> updates['w'].tolist(), updates['bias'].tolist()
    ([1.0], [0.0])
    """
    mask = static(as_mask(mask))
    return transform(
        _masked_init,
        _masked_update,
        inner=inner,
        at_init={"mask": mask},
        mask=mask,
        mask_compatible_extra_args=static(mask_compatible_extra_args),
    )


def masked_factor(mask: Any, params: Tree) -> Tree:
    """One for the parameters that ``mask`` selects, as for `masked`, and zero for the others: a prefix of ``params``.

    >>> masked_factor('kernel', {'kernel': 0, 'bias': 0})
    {'bias': 0.0, 'kernel': 1.0}
    """
    return 1.0 if mask is None else jax.tree.map(float, _resolve("mask", as_mask(mask), params))


def _select(mask: Tree, tree: Tree) -> Tree:
    return jax.tree.map(lambda keep, part: part if keep else optax.MaskedNode(), mask, tree)


def _is_placeholder(params: Tree) -> bool:
    """Whether ``params`` is one empty node, as in `optax.tree.map_params`: masks and labels do not fit it."""
    structure = jax.tree.structure(params)
    return structure.num_leaves == 0 and structure.num_nodes == 1


def _masked_init(params, *, inner, mask):
    if _is_placeholder(params):
        return optax.MaskedState(inner_state=inner(params))
    return optax.MaskedState(inner_state=inner(_select(_resolve("mask", mask, params), params)))


def _masked_update(grads, state, params=None, *, inner, mask, mask_compatible_extra_args, **extra):
    mask = _resolve("mask", mask, grads if params is None else params)
    structure = jax.tree.structure(grads)
    same = {name: jax.tree.structure(value) == structure for name, value in extra.items()}
    extra = {
        name: _select(mask, value) if same[name] and (mask_compatible_extra_args or name == "grad") else value
        for name, value in extra.items()
    }
    selected_params = None if params is None else _select(mask, params)
    updates, inner_state = inner(_select(mask, grads), state.inner_state, selected_params, **extra)
    merged = jax.tree.map(lambda keep, new, old: new if keep else old, mask, updates, grads)
    return merged, optax.MaskedState(inner_state=inner_state)


def partition(
    transforms: Mapping[Any, optax.GradientTransformation],
    param_labels: Any,
    *,
    mask_compatible_extra_args: bool = False,
) -> Transform:
    """Gives each parameter to the transform of its label.

    Args:
      transforms: label -> transform.
      param_labels: (static) a tree of labels that is a prefix of the parameters, a function from parameters to such a
        tree, or `by_path` rules: ``by_path(('embed|head', 'adam'), ('.', 'muon'))``.
      mask_compatible_extra_args: (static) as for `masked`.

    Raises:
      ValueError: a parameter's label has no transform; the message names path and label.

    >>> tx = partition({'slow': optax.scale(-0.1), 'fast': optax.scale(-1.0)}, by_path(('w', 'slow'), ('.', 'fast')))
    >>> grads = {'w': jnp.ones(1), 'b': jnp.ones(1)}
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> round(float(updates['w'][0]), 4), float(updates['b'][0])
    (-0.1, -1.0)
    """
    labels = static(param_labels)
    return transform(
        _partition_init,
        _partition_update,
        inner=dict(transforms),
        at_init={"param_labels": labels},
        param_labels=labels,
        mask_compatible_extra_args=static(mask_compatible_extra_args),
    )


multi_transform = partition
"""Optax's former name of `partition`."""


def _masks(labels: Tree, known: Mapping[Any, Any]) -> dict[Any, Tree]:
    for path, label in jax.tree_util.tree_leaves_with_path(labels):
        if label not in known:
            raise ValueError(
                f"parameter '{trees.path_name(path)}' has the label {label!r}, for which there is no "
                f"transform{check.suggestion(label, known)}"
            )
    return {name: jax.tree.map(lambda label, name=name: label == name, labels) for name in known}


def _partition_init(params, *, inner, param_labels):
    if _is_placeholder(params):
        states = {name: _masked_init(params, inner=init, mask=None) for name, init in inner.items()}
        return optax.transforms.PartitionState(states)
    masks = _masks(_resolve("tree of labels", param_labels, params), inner)
    states = {name: _masked_init(params, inner=init, mask=masks[name]) for name, init in inner.items()}
    return optax.transforms.PartitionState(states)


def _partition_update(grads, state, params=None, *, inner, param_labels, mask_compatible_extra_args, **extra):
    masks = _masks(_resolve("tree of labels", param_labels, grads if params is None else params), inner)
    updates, states = grads, {}
    for name, update in inner.items():
        updates, states[name] = _masked_update(
            updates,
            state.inner_states[name],
            params,
            inner=update,
            mask=masks[name],
            mask_compatible_extra_args=mask_compatible_extra_args,
            **extra,
        )
    return updates, optax.transforms.PartitionState(states)


def freeze(mask: Any) -> Transform:
    """Zero updates for the parameters that ``mask`` selects; it selects as for `masked`.

    Freezing last in a chain still keeps optimizer state for the frozen parameters; to save it as well, use
    `partition` with ``set_to_zero()`` for their label.

    >>> tx = freeze('embed')
    >>> grads = {'embed': jnp.ones(1), 'head': jnp.ones(1)}
    >>> updates, _ = tx.update(grads, tx.init(grads))
    >>> updates['embed'].tolist(), updates['head'].tolist()
    ([0.0], [1.0])
    """
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: optax.GradientTransformation, *, freeze_mask: Any) -> Transform:
    """Gives ``optimizer`` the parameters that ``freeze_mask`` does not select; the others stay, and take no state.

    Args:
      optimizer: for the parameters that train.
      freeze_mask: (static) which ones do not; it selects as for `masked`.

    >>> tx = selective_transform(optax.trace(0.9), freeze_mask='embed')
    >>> params = {'embed': jnp.ones((9, 9)), 'head': jnp.ones(1)}
    >>> updates, state = tx.update(params, tx.init(params))
    >>> float(jnp.sum(updates['embed'])), updates['head'].tolist(), [leaf.shape for leaf in jax.tree.leaves(state)]
    (0.0, [1.0], [(1,)])
    """
    labels = _TrainOrFreeze(static(as_mask(freeze_mask)))
    return partition({"train": optimizer, "freeze": set_to_zero()}, labels)


@dataclasses.dataclass(frozen=True)
class _TrainOrFreeze:
    """The labels of `selective_transform`."""

    mask: Static

    def __repr__(self) -> str:
        return f"freeze {self.mask.value!r}"

    def __call__(self, params: Tree) -> Tree:
        return jax.tree.map(lambda m: "freeze" if m else "train", _resolve("mask", self.mask.value, params))


def set_to_zero() -> Transform:
    """Replaces every update by zero, whatever it was (NaN included).

    >>> set_to_zero().update(jnp.array([1.0, jnp.nan]), optax.EmptyState())[0].tolist()
    [0.0, 0.0]
    """
    return transform(empty_init, _set_to_zero_update)


def _set_to_zero_update(grads, state, params=None, **extra):
    del params, extra
    return jax.tree.map(jnp.zeros_like, grads), state
