r"""SCALE: gradient descent on matrices whose columns are brought to one size, with momentum in the last layer alone.

With G the gradient of a matrix (in, out) in Flax's layout, whose columns are what its outputs receive, and ema = 0
before the first step::

    ema = momentum * ema + (1 - momentum) * G                      the last layer; elsewhere ema is G
    u = ema / max(rms(ema_j), eps) for every column j              the authors' code
    u = ema / max(|ema_j|, eps)                                    arXiv 2506.16659; sqrt(in) shorter
    p = p - learning_rate * (u + weight_decay * p)

PyTorch stores a layer as (out, in): there the columns are rows.  An embedding (vocabulary, size) counts the vocabulary
for its inputs in both.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import chain, empty_init
from gradlab.core.layouts import is_layout, matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.optimizers.matrices import beside_adamw, flax_matrices, named_layout, within
from gradlab.transforms.accumulate import ema
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.route import masked
from gradlab.transforms.scaling import scale_by_learning_rate

NOTHING = "(?!)"  # a pattern that no path has
MEASURES = ("rms", "norm")


@dataclasses.dataclass(frozen=True)
class _EveryFlaxMatrix:
    """The layout of `flax_matrices`, with the last layer and the embeddings."""

    def __repr__(self) -> str:
        return "flax_matrices with embeddings and heads"

    def __call__(self, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(self._layout, params, flax_matrices(NOTHING)(params))

    def _layout(self, path: tuple, p: Any, layout: Any) -> Any:
        name = trees.path_name(path).removesuffix("/value").rpartition("/")[2]
        return MuonDimensionNumbers() if name == "embedding" and jnp.ndim(p) == 2 else layout


@dataclasses.dataclass(frozen=True)
class _LastLayer:
    """True for the kernels that `flax_matrices` leaves to another optimizer."""

    def __repr__(self) -> str:
        return "the last layer by flax_matrices"

    def __call__(self, params: Any) -> Any:
        every, hidden = flax_matrices(NOTHING)(params), flax_matrices()(params)
        is_last = lambda one, other: one is not None and other is None
        return jax.tree.map(is_last, every, hidden, is_leaf=is_layout)


def _normalize_columns_rule(g, *, eps, matrices, measure):
    x = matrices.stack(g)
    length = norm(x, axis=1, keepdims=True)
    size = length / matrices.upright[0] ** 0.5 if measure == "rms" else length
    return (matrices.leaf(safe_quotient(x, jnp.maximum(size, eps))),)


def _normalize_columns_update(grads, state, params=None, *, eps, measure, layout, **extra):
    del params, extra
    of_leaf = {"matrices": matrices_in(grads, layout)}
    structure = {"measure": measure}
    (updates,) = leafwise(_normalize_columns_rule, grads, leaf_structure=of_leaf, structure=structure, eps=eps)
    return updates, state


def normalize_columns(eps: Any = 1e-8, *, measure: str = "rms", weight_dimension_numbers: Any = None) -> Transform:
    """Brings what each output of a matrix receives to one size; all parameters must be matrices.

    Args:
      eps: the least size that a column is divided by.
      measure: (static) of the size: ``'rms'``, the root mean square of a column, or ``'norm'``, its length.
      weight_dimension_numbers: (static) as for `gradlab.scale_by_muon`.

    >>> tx, grads = normalize_columns(measure='norm'), jnp.array([[3.0, 0.0], [-3.0, -0.5], [3.0, 0.0], [3.0, 0.0]])
    >>> tx.update(grads, tx.init(grads))[0].tolist()
    [[0.5, 0.0], [-0.5, -1.0], [0.5, 0.0], [0.5, 0.0]]
    """
    check.non_negative(eps=eps)
    check.one_of("measure", measure, MEASURES)
    layout = static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers)
    return transform(empty_init, _normalize_columns_update, eps=eps, measure=static(measure), layout=layout)


@storable
def scale_sgd(
    learning_rate: Any,
    momentum: Any = 0.9,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    head: Any = None,
    measure: str = "rms",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
) -> Transform:
    """SCALE (Glentis et al. 2025, arXiv 2506.16659) for matrices, AdamW for vectors and scalars.

    The recurrence heads this module.  Only the last layer costs memory, the size of its weights.

    Args:
      learning_rate: a number or a schedule; with ``'rms'`` the root mean square of the steps.
      momentum: decay of the average of the last layer's gradients, in [0, 1).
      eps: the least size that a column is divided by.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which averages of gradients are stored.
      head: (static) which matrices have momentum; as the mask of `gradlab.masked`.  By default the modules that
        `flax_matrices` excludes: those with ``head``, ``logits``, ``classifier`` or ``unembed`` in their path, or else
        the last ``Dense_k`` of the outermost module.  A model without such, as where the embedding is also the last
        layer, has no momentum.
      measure: (static) as for `normalize_columns`: ``'rms'``, the authors' code, or ``'norm'``, the paper.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`, but
        ``'flax'`` includes the last layer and the embeddings.

    Raises:
      ValueError: a number out of its range, an unknown name, a pattern for ``head`` that no matrix has, a layout that
        does not fit, with the path.

    >>> params = {'Dense_0': {'kernel': jnp.ones((2, 3))}, 'Dense_1': {'kernel': jnp.ones((3, 4))}}
    >>> state = scale_sgd(1e-3).init(params)
    >>> [leaf.shape for leaf in jax.tree.leaves(state.inner_states['muon']) if leaf.ndim]
    [(3, 4)]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check.decay_rate(momentum=momentum)
    is_flax = isinstance(weight_dimension_numbers, str) and weight_dimension_numbers == "flax"
    layout = _EveryFlaxMatrix() if is_flax else named_layout(weight_dimension_numbers)
    average = relabel(ema(momentum, debias=False, accumulator_dtype=mu_dtype), decay="momentum")
    of_matrices = chain(
        masked(average, _LastLayer() if head is None else head),
        normalize_columns(eps, measure=measure, weight_dimension_numbers=within(layout)),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    return beside_adamw(
        of_matrices,
        layout,
        learning_rate=learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=False,
    )
