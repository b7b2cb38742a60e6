"""Different treatment for different parameters, by path pattern or by tree.

Patterns are regular expressions searched in the path of a parameter, ``'Dense_0/kernel'``: anchor them with ``^``
and ``$`` where a part of the path must not match.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import empty_init
from gradlab.core.rule import Static, static
from gradlab.core.transform import Transform, transform
from gradlab.transforms.select import as_mask, is_placeholder, resolve

Tree = Any


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


def _select(mask: Tree, tree: Tree) -> Tree:
    return jax.tree.map(lambda keep, part: part if keep else optax.MaskedNode(), mask, tree)


def _masked_init(params, *, inner, mask):
    if is_placeholder(params):
        return optax.MaskedState(inner_state=inner(params))
    return optax.MaskedState(inner_state=inner(_select(resolve("mask", mask, params), params)))


def _masked_update(grads, state, params=None, *, inner, mask, mask_compatible_extra_args, **extra):
    if params is not None:
        trees.require_same_structure("gradients", grads, "parameters", params)
    mask = resolve("mask", mask, grads if params is None else params)
    structure = jax.tree.structure(grads)
    same = {name: jax.tree.structure(value) == structure for name, value in extra.items()}
    extra = {
        name: _select(mask, value) if same[name] and (mask_compatible_extra_args or name == "grad") else value
        for name, value in extra.items()
    }
    if params is not None and "value_fn" in extra:
        extra["value_fn"] = _of_selected(extra["value_fn"], mask, params)
    selected_params = None if params is None else _select(mask, params)
    updates, inner_state = inner(_select(mask, grads), state.inner_state, selected_params, **extra)
    return _merge(mask, updates, grads), optax.MaskedState(inner_state=inner_state)


def _merge(mask: Tree, selected: Tree, others: Tree) -> Tree:
    return jax.tree.map(lambda keep, new, old: new if keep else old, mask, selected, others)


def _of_selected(value_fn: Callable, mask: Tree, params: Tree) -> Callable:
    """The loss as a function of the selected parameters alone."""
    return lambda selected: value_fn(_merge(mask, selected, params))


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

    >>> from gradlab.transforms.select import by_path
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
    if is_placeholder(params):
        states = {name: _masked_init(params, inner=init, mask=None) for name, init in inner.items()}
        return optax.transforms.PartitionState(states)
    masks = _masks(resolve("tree of labels", param_labels, params), inner)
    states = {name: _masked_init(params, inner=init, mask=masks[name]) for name, init in inner.items()}
    return optax.transforms.PartitionState(states)


def _partition_update(grads, state, params=None, *, inner, param_labels, mask_compatible_extra_args, **extra):
    masks = _masks(resolve("tree of labels", param_labels, grads if params is None else params), inner)
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
        return jax.tree.map(lambda m: "freeze" if m else "train", resolve("mask", self.mask.value, params))


def set_to_zero() -> Transform:
    """Replaces every update by zero, whatever it was (NaN included).

    >>> set_to_zero().update(jnp.array([1.0, jnp.nan]), optax.EmptyState())[0].tolist()
    [0.0, 0.0]
    """
    return transform(empty_init, _set_to_zero_update)


def _set_to_zero_update(grads, state, params=None, **extra):
    del params, extra
    return jax.tree.map(jnp.zeros_like, grads), state
