r"""AdaMuon: Muon of the momentum's signs, whose entries are divided by the root of their average square.

With u Muon's momentum (see `gradlab.optimizers.muon`), a matrix (in, out), and nu = 0 before the first step::

    o = orthogonalised sign(u)                         signed=False: of u, the paper's listing
    nu = b2 * nu + (1 - b2) * |o|^2
    s = o / (sqrt(nu) + eps)
    p = p - learning_rate * (consistent_rms * sqrt(in * out) * s / (|s| + eps) + weight_decay * p)    arXiv 2507.11005

``|s|`` is the norm of a matrix, |o|^2 is elementwise.  The bias of nu is not corrected: the division by ``|s|`` undoes
it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.layouts import matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.norms import norm
from gradlab.core.numerics import abs_sq, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.core.values import relabel
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.orthogonal import orthogonalize
from gradlab.optimizers.sign import scale_by_sign
from gradlab.transforms.accumulate import trace
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


class NormalizeEntriesState(NamedTuple):
    """State of `normalize_entries`."""

    nu: Any  # like the parameters; real, at least float32


def _normalize_entries_init(params):
    return NormalizeEntriesState(nu=jax.tree.map(lambda p: jnp.zeros_like(p, real_dtype(p)), params))


def _normalize_entries_rule(o, nu, *, matrices, b2, eps, consistent_rms):
    nu = b2 * nu + (1 - b2) * abs_sq(o)
    s = matrices.stack(o / (safe_sqrt(nu) + eps))
    target = consistent_rms * math.prod(matrices.upright) ** 0.5
    return matrices.leaf(target / (norm(s, axis=(1, 2), keepdims=True) + eps) * s), nu


def _normalize_entries_update(grads, state, params=None, *, b2, eps, consistent_rms, layout, **extra):
    del params, extra
    updates, nu = leafwise(
        _normalize_entries_rule,
        grads,
        [state.nu],
        leaf_structure={"matrices": matrices_in(grads, layout)},
        b2=b2,
        eps=eps,
        consistent_rms=consistent_rms,
    )
    return updates, NormalizeEntriesState(nu=nu)


def normalize_entries(
    b2: Any = 0.95, eps: Any = 1e-8, consistent_rms: Any = 0.2, *, weight_dimension_numbers: Any = None
) -> Transform:
    """Brings what each entry of a matrix receives to one size, and the matrix to a given one; see `adamuon`.

    Args:
      b2: decay of the average of squares, in [0, 1).
      eps: added to its root, and to the norm of a matrix.
      consistent_rms: root mean square of the result.
      weight_dimension_numbers: (static) as for `scale_by_muon`.

    >>> updates = jnp.array([[3.0, -0.5], [2.0, 0.1]])
    >>> tx = normalize_entries()
    >>> tx.update(updates, tx.init(updates))[0].round(4).tolist()
    [[0.2, -0.2], [0.2, 0.2]]
    """
    check.decay_rate(b2=b2)
    check.non_negative(eps=eps)
    check.positive(consistent_rms=consistent_rms)
    return transform(
        _normalize_entries_init,
        _normalize_entries_update,
        b2=b2,
        eps=eps,
        consistent_rms=consistent_rms,
        layout=static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
    )


@storable
def adamuon(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    consistent_rms: Any = 0.2,
    ns_eps: Any = 1e-7,
    nesterov: bool = True,
    signed: bool = True,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """AdaMuon (Si et al. 2025, arXiv 2507.11005) for matrices, AdamW for everything else.

    The recurrence heads this module; by default it is the authors' code, which uses ``beta`` for ``b2`` too.  The
    momentum is a sum, ``trace = g + beta * trace``: what follows forgets its length.  Arguments that are not listed are
    those of `muon`.

    Args:
      learning_rate: a number or a schedule.
      beta: decay of the sum of gradients, in [0, 1).
      b2: decay of the average of the squared entries of o, in [0, 1).
      eps: added to the root of that average, and to the norm of a matrix.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which the sums of gradients are stored.
      consistent_rms: root mean square of the steps.
      ns_eps: added to the norm by which a matrix is divided before the iteration.
      nesterov: (static) whether the step looks ahead.
      signed: (static) whether the signs of the momentum are orthogonalised, or the momentum itself.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = jnp.array([[3.0, 0.2], [0.1, -0.5]])
    >>> tx = adamuon(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.sqrt(jnp.mean(updates**2))), 4)  # whatever the gradient's length
    0.02
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check.decay_rate(beta=beta)
    layout = named_layout(weight_dimension_numbers)
    orthogonal = orthogonalize(
        ns_coeffs,
        ns_steps,
        ns_eps,
        spectral_map=spectral_map,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    stages = [
        relabel(trace(beta, nesterov, mu_dtype), decay="beta"),
        *([scale_by_sign()] if signed else []),
        relabel(orthogonal, eps="ns_eps"),
        normalize_entries(b2, eps, consistent_rms, weight_dimension_numbers=within(layout)),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    ]
    return beside_adamw(
        chain(*stages),
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
