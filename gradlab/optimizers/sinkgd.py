r"""SinkGD: gradient descent on gradients whose outputs and inputs have equal shares, without any state.

With G the gradient of a matrix (in, out), ``iterations`` times::

    G = G / |G_j| for every output j                the rows of the authors' matrices (out, in); times sqrt(in)
    G = sqrt(out) * G / |G_i| for every input i     their columns, which undo that factor
    p = p - learning_rate * (G + weight_decay * p)  arXiv 2502.06742

What is zero stays zero.  The squares of G undergo Sinkhorn's iteration: in the limit all outputs have the length
sqrt(in), all inputs sqrt(out), and the root mean square of the matrix is one, as it is after every iteration.
"""

from typing import Any

import jax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.layouts import matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


def _sinkhorn_rule(g, *, matrices, iterations):
    outputs = matrices.upright[1]

    def iterate(_, x):
        x = safe_quotient(x, norm(x, axis=1, keepdims=True))
        return outputs**0.5 * safe_quotient(x, norm(x, axis=2, keepdims=True))

    return (matrices.leaf(jax.lax.fori_loop(0, iterations, iterate, matrices.stack(g))),)


def _scale_by_sinkhorn_update(grads, state, params=None, *, iterations, layout, **extra):
    del params, extra
    of_leaf = {"matrices": matrices_in(grads, layout)}
    (updates,) = leafwise(_sinkhorn_rule, grads, leaf_structure=of_leaf, structure={"iterations": iterations})
    return updates, state


def scale_by_sinkhorn(iterations: int = 5, *, weight_dimension_numbers: Any = None) -> Transform:
    """Gives the outputs of a matrix, and its inputs, equal shares; all parameters must be matrices.

    >>> import jax.numpy as jnp
    >>> tx, grads = scale_by_sinkhorn(), jnp.array([[5.0, 0.1], [-5.0, 0.1]])
    >>> tx.update(grads, tx.init(grads))[0].round(3).tolist()
    [[1.0, 1.0], [-1.0, 1.0]]
    """
    if not isinstance(iterations, int):
        raise TypeError(f"`iterations` must be an int, got {type(iterations).__name__}: it is structure, not data")
    check.in_range("iterations", iterations, 1)
    layout = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    return transform(empty_init, _scale_by_sinkhorn_update, iterations=static(iterations), layout=static(layout))


@storable
def sinkgd(
    learning_rate: Any,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    iterations: int = 5,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
) -> Transform:
    """SinkGD (Scetbon et al. 2025, arXiv 2502.06742) for matrices, AdamW for everything else.

    The recurrence heads this module.  A matrix costs nothing beside its gradient.

    Args:
      learning_rate: a number or a schedule; the root mean square of the steps.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      iterations: (static) the last leaves the inputs exact, the outputs nearly so.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.

    Raises:
      ValueError: a number out of its range, a layout that does not fit, with the path.
      TypeError: ``iterations`` is no int.

    >>> import jax.numpy as jnp
    >>> params = {'kernel': jnp.array([[5.0, 0.1], [-5.0, 0.1]]), 'bias': jnp.array([1.0, 1.0])}
    >>> tx = sinkgd(0.5)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates['kernel'].round(3).tolist()
    [[-0.5, -0.5], [0.5, -0.5]]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    of_matrices = chain(
        scale_by_sinkhorn(iterations, weight_dimension_numbers=within(layout)),
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
        mu_dtype=None,
        nesterov=False,
    )
