"""Which parameters are matrices, and AdamW for those that are not: what the optimizers for matrices share."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import chain
from gradlab.core.layouts import is_layout, spread_layout
from gradlab.core.rule import Static, static
from gradlab.core.transform import Transform
from gradlab.core.values import relabel
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.route import partition
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import check_pattern

HEADS = ("head", "logits", "classifier", "unembed")
NO_MATRICES = re.compile("embed|^position|^w[tp]e$|^scale$|^bias$")


@dataclasses.dataclass(frozen=True)
class _FlaxMatrices:
    """The layout that `flax_matrices` makes."""

    fallback: tuple[str, ...]
    is_whole: bool = True  # false for a tree from which what is no matrix was already taken

    def __repr__(self) -> str:
        return f"flax_matrices({', '.join(map(repr, self.fallback))})"

    def __call__(self, params: Any) -> Any:
        layouts = jax.tree_util.tree_map_with_path(self._layout, params)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        modules = [_place(path)[0] for path, p in leaves if jnp.ndim(p) >= 2]
        last = _last_layer(modules)
        is_named = self.fallback != HEADS or not self.is_whole
        if is_named or last is None or any(self._is_excluded(module) for module in modules):
            return layouts
        without = lambda path, layout: None if _place(path)[0] == last else layout
        return jax.tree_util.tree_map_with_path(without, layouts, is_leaf=is_layout)

    def _is_excluded(self, module: str) -> bool:
        return any(re.search(pattern, module) for pattern in self.fallback)

    def _layout(self, path: tuple, p: Any) -> MuonDimensionNumbers | None:
        module, name = _place(path)
        is_matrix = jnp.ndim(p) == 2 and not NO_MATRICES.search(name) or jnp.ndim(p) > 2 and name == "kernel"
        if not is_matrix or self._is_excluded(module):
            return None
        if jnp.ndim(p) == 3 and module.rpartition("/")[2] in ("query", "key", "value"):
            return MuonDimensionNumbers(0, (1, 2))
        return MuonDimensionNumbers(tuple(range(jnp.ndim(p) - 1)), -1)


def _place(path: tuple) -> tuple[str, str]:
    """The module of a parameter and its name there; in a state of nnx the path ends in ``/value``."""
    module, _, name = trees.path_name(path).removesuffix("/value").rpartition("/")
    return module, name


def _last_layer(modules: list[str]) -> str | None:
    """The outermost module that Flax named ``Dense_k``, of the greatest k, if it is not the only matrix."""
    numbers = [int(module.removeprefix("Dense_")) for module in modules if re.fullmatch(r"Dense_\d+", module)]
    return f"Dense_{max(numbers)}" if numbers and len(modules) > 1 else None


def flax_matrices(*fallback: str) -> Any:
    """Which parameters of a model are matrices, by Flax's conventions: a layout.

    Kernels are: (in, out) of ``Dense``, (h, w, in, out) of ``Conv``, (in, heads, size) of attention's query, key and
    value, (heads, size, out) of its output; so are other arrays of two axes.  Not matrices are embeddings, of tokens
    and positions, norms and biases, by their names, anything in a module with one of the patterns in its path, and, if
    no pattern was given or matches, the last ``Dense_k`` of the outermost module, by which Flax's compact models end.

    Args:
      *fallback: regular expressions; ``'head', 'logits', 'classifier', 'unembed'`` if none is given.

    Raises:
      TypeError: what is given is no string.

    >>> params = {name: {'kernel': jnp.ones((4, 4))} for name in ('Dense_0', 'Dense_1')}
    >>> layout = flax_matrices()(params | {'Embed_0': {'embedding': jnp.ones((9, 4))}})
    >>> layout['Dense_0']['kernel'], layout['Dense_1']['kernel'], layout['Embed_0']['embedding']
    (MuonDimensionNumbers(reduction_axis=(0,), output_axis=-1), None, None)
    """
    for pattern in fallback:
        if not isinstance(pattern, str):
            raise TypeError(
                f"flax_matrices takes patterns and makes a layout, but got {type(pattern).__name__}: pass "
                "flax_matrices() as the layout, not flax_matrices"
            )
    return _FlaxMatrices(fallback or HEADS)


@dataclasses.dataclass(frozen=True)
class _ByPath:
    """The layout that `matrices_by_path` makes."""

    rules: tuple[tuple[str, Any], ...]
    otherwise: Static
    is_whole: bool = True

    def __repr__(self) -> str:
        return f"matrices_by_path({dict(self.rules)!r}, otherwise={self.otherwise.value!r})"

    def __call__(self, params: Any) -> Any:
        names = trees.paths(params)
        unused = [pattern for pattern, _ in self.rules if not any(re.search(pattern, name) for name in names)]
        if unused and names and self.is_whole:
            raise ValueError(f"the layout's patterns {unused} match no parameter; the paths are {names}")
        others = spread_layout(self.otherwise.value, params)
        return jax.tree_util.tree_map_with_path(self._layout, others, is_leaf=is_layout)

    def _layout(self, path: tuple, other: Any) -> Any:
        name = trees.path_name(path)
        found = [(pattern, layout) for pattern, layout in self.rules if re.search(pattern, name)]
        if len(found) > 1:
            raise ValueError(
                f"the layout's patterns {[pattern for pattern, _ in found]} all claim parameter '{name}'; "
                "narrow them until one does"
            )
        return found[0][1] if found else other


def matrices_by_path(rules: Mapping[str, Any], otherwise: Any = "flax") -> Any:
    """A layout by patterns, where a model departs from `flax_matrices`.

    Args:
      rules: a regular expression searched in the parameters' paths -> ``MuonDimensionNumbers``,
        `SplitDimensionNumbers`, or None for AdamW.
      otherwise: a layout for the parameters that no pattern claims.

    Raises:
      ValueError: a pattern is no regular expression; on use, a pattern that matches nothing, or two that claim one
        parameter.

    >>> from gradlab import SplitDimensionNumbers
    >>> layout = matrices_by_path({'qkv/kernel$': SplitDimensionNumbers(output_parts=3)})
    >>> layout({'qkv': {'kernel': jnp.ones((4, 12)), 'bias': jnp.ones(12)}})
    {'qkv': {'bias': None, 'kernel': SplitDimensionNumbers(reduction_axis=0, output_axis=1, reduction_parts=1, \
output_parts=3)}}
    """
    for pattern, layout in rules.items():
        check_pattern(pattern)
        if not is_layout(layout):
            raise TypeError(
                f"the layout of {pattern!r} must be MuonDimensionNumbers, SplitDimensionNumbers or None, got {layout!r}"
            )
    return _ByPath(tuple(rules.items()), static(named_layout(otherwise, "otherwise")))


def within(layout: Any) -> Any:
    """A layout for the stages within `beside_adamw`, to which only the matrices are shown."""
    if isinstance(layout, _ByPath):
        return dataclasses.replace(layout, otherwise=static(within(layout.otherwise.value)), is_whole=False)
    return dataclasses.replace(layout, is_whole=False) if isinstance(layout, _FlaxMatrices) else layout


def named_layout(choice: Any, argument: str = "weight_dimension_numbers") -> Any:
    if not isinstance(choice, str):
        return choice
    check.one_of(argument, choice, ("flax",))
    return flax_matrices()


@dataclasses.dataclass(frozen=True)
class _MuonOrAdam:
    """The labels of `muon`'s partition: matrices are what has a layout, without one what has two axes, and entries."""

    layout: Static

    def __repr__(self) -> str:
        return f"muon for {self.layout.value!r}"

    def __call__(self, params: Any) -> Any:
        label = lambda is_matrix, p: "muon" if is_matrix and 0 not in jnp.shape(p) else "adam"
        if self.layout.value is None:
            return jax.tree.map(lambda p: label(jnp.ndim(p) == 2, p), params)
        layouts = spread_layout(self.layout.value, params)
        return jax.tree.map(lambda one, p: label(one is not None, p), layouts, params, is_leaf=is_layout)


def beside_adamw(
    of_matrices: Transform, layout: Any, *, learning_rate: Any, weight_decay: Any, nesterov: bool, **adam: Any
) -> Transform:
    """A transform for the parameters that are matrices, with AdamW for the others: its numbers go by ``adam_...``.

    Args:
      of_matrices: for the parameters to which ``layout`` gives one, or if it is None for those of two axes.
      layout: as ``muon_weight_dimension_numbers`` of `muon`.
      learning_rate, weight_decay, nesterov, **adam: of AdamW.
    """
    direction = scale_by_adam(nesterov=nesterov, **adam)
    of_others = chain(
        relabel(direction, b1="adam_b1", b2="adam_b2", eps="adam_eps", eps_root="adam_eps_root"),
        relabel(add_decayed_weights(weight_decay), weight_decay="adam_weight_decay"),
        relabel(scale_by_learning_rate(learning_rate), learning_rate="adam_learning_rate"),
    )
    return partition({"muon": of_matrices, "adam": of_others}, _MuonOrAdam(static(layout)))
