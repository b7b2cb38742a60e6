"""Which parameters are matrices, and AdamW for those that are not: what the optimizers for matrices share."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import chain
from gradlab.core.matrixwise import is_layout, spread_layout
from gradlab.core.rule import Static, static
from gradlab.core.transform import Transform
from gradlab.core.values import relabel
from gradlab.optimizers.adam import scale_by_adam
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.route import partition
from gradlab.transforms.scaling import scale_by_learning_rate

HEADS = ("head", "logits", "classifier", "unembed")


@dataclasses.dataclass(frozen=True)
class _FlaxMatrices:
    """The layout that `flax_matrices` makes."""

    fallback: tuple[str, ...]

    def __call__(self, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(self._layout, params)

    def _layout(self, path: tuple, p: Any) -> MuonDimensionNumbers | None:
        *modules, name = trees.path_name(path).split("/")
        excluded = any(re.search(pattern, "/".join(modules)) for pattern in self.fallback)
        if name != "kernel" or jnp.ndim(p) < 2 or excluded:
            return None
        if jnp.ndim(p) == 3 and modules and modules[-1] in ("query", "key", "value"):
            return MuonDimensionNumbers(0, (1, 2))
        return MuonDimensionNumbers(tuple(range(jnp.ndim(p) - 1)), -1)


def flax_matrices(*fallback: str) -> Any:
    """Which parameters of a Flax model are matrices, by Flax's conventions; for ``muon_weight_dimension_numbers``.

    Kernels are: (in, out) of ``Dense``, (h, w, in, out) of ``Conv``, (in, heads, size) of attention's query, key and
    value, (heads, size, out) of its output.  Embeddings, norms and biases are not, and neither is a kernel in a module
    with one of the patterns in its path.

    Args:
      *fallback: regular expressions; ``'head', 'logits', 'classifier', 'unembed'`` if none is given.  A last layer
        that Flax named, ``Dense_2``, does not show: name it here.

    >>> params = {'Embed_0': {'embedding': jnp.ones((9, 4))}, 'Dense_0': {'kernel': jnp.ones((4, 4))}}
    >>> flax_matrices()(params)['Dense_0']['kernel'], flax_matrices()(params)['Embed_0']['embedding']
    (MuonDimensionNumbers(reduction_axis=(0,), output_axis=-1), None)
    """
    return _FlaxMatrices(fallback or HEADS)


def named_layout(choice: Any) -> Any:
    if not isinstance(choice, str):
        return choice
    check.one_of("muon_weight_dimension_numbers", choice, ("flax",))
    return flax_matrices()


@dataclasses.dataclass(frozen=True)
class _MuonOrAdam:
    """The labels of `muon`'s partition: matrices are what has a layout, without one what has two axes."""

    layout: Static

    def __repr__(self) -> str:
        return f"muon for {self.layout.value!r}"

    def __call__(self, params: Any) -> Any:
        if self.layout.value is None:
            return jax.tree.map(lambda p: "muon" if jnp.ndim(p) == 2 else "adam", params)
        layouts = spread_layout(self.layout.value, params)
        return jax.tree.map(lambda one: "adam" if one is None else "muon", layouts, is_leaf=is_layout)


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
