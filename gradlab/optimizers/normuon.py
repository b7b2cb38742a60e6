r"""NorMuon: Muon whose output neurons are brought to one size, by an average of the squares of their steps.

With o the orthogonalised momentum of `gradlab.optimizers.muon`, a matrix (in, out), and nu = 0, a number for each
output, before the first step::

    nu = b2 * nu + (1 - b2) * mean of |o|^2 over the inputs
    s = o / (sqrt(nu) + eps)
    p = p - learning_rate * (scale * s * |o| / |s| + weight_decay * p)                              the authors' code
    p = p - learning_rate * (consistent_rms * sqrt(in * out) * s / |s| + weight_decay * p)          arXiv 2510.05491

``scale`` is Muon's, ``|.|`` the norm of a matrix.  The bias of nu is not corrected: the division by ``|s|`` undoes it.
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
from gradlab.core.numerics import abs_sq, safe_quotient, safe_sqrt
from gradlab.core.rule import static
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype
from gradlab.core.values import relabel
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.muon import scale_by_muon, scale_by_shape
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import is_placeholder


class NormalizeOutputsState(NamedTuple):
    """State of `normalize_outputs`."""

    nu: Any  # (matrices, 1, outputs) for each leaf; real, at least float32


def _normalize_outputs_init(params, *, layout):
    if is_placeholder(params):
        return NormalizeOutputsState(nu=params)

    def zeros(p, matrices):
        return jnp.zeros([matrices.count, 1, matrices.upright[1]], real_dtype(p))

    return NormalizeOutputsState(nu=jax.tree.map(zeros, params, matrices_in(params, layout)))


def _normalize_outputs_rule(o, nu, *, matrices, b2, eps, consistent_rms):
    o = matrices.stack(o)
    nu = b2 * nu + (1 - b2) * jnp.mean(abs_sq(o), axis=1, keepdims=True)
    s = o / (safe_sqrt(nu) + eps)
    length = lambda x: norm(x, axis=(1, 2), keepdims=True)
    target = length(o) if consistent_rms is None else consistent_rms * math.prod(matrices.upright) ** 0.5
    return matrices.leaf(safe_quotient(target, length(s)) * s), nu


def _normalize_outputs_update(grads, state, params=None, *, b2, eps, consistent_rms, layout, **extra):
    del params, extra
    rms = {"consistent_rms": consistent_rms}
    updates, nu = leafwise(
        _normalize_outputs_rule,
        grads,
        [state.nu],
        own_shapes=True,
        leaf_structure={"matrices": matrices_in(grads, layout)},
        structure=rms if consistent_rms is None else {},
        b2=b2,
        eps=eps,
        **({} if consistent_rms is None else rms),
    )
    return updates, NormalizeOutputsState(nu=nu)


def normalize_outputs(
    b2: Any = 0.95, eps: Any = 1e-10, consistent_rms: Any = None, *, weight_dimension_numbers: Any = None
) -> Transform:
    """Brings what each output of a matrix receives to one size, and the matrix to its former norm; see `normuon`.

    Args:
      b2: decay of the average of squares, in [0, 1).
      eps: added to its root.
      consistent_rms: root mean square of the result; None keeps the norm of each matrix.
      weight_dimension_numbers: (static) as for `scale_by_muon`.

    >>> updates = jnp.array([[3.0, 0.5], [3.0, 0.5]])
    >>> tx = normalize_outputs(consistent_rms=0.2)
    >>> tx.update(updates, tx.init(updates))[0].round(4).tolist()
    [[0.2, 0.2], [0.2, 0.2]]
    """
    check.decay_rate(b2=b2)
    check.non_negative(eps=eps)
    check.positive(consistent_rms=consistent_rms)
    layout = static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers)
    return transform(
        _normalize_outputs_init,
        _normalize_outputs_update,
        at_init={"layout": layout},
        b2=b2,
        eps=eps,
        consistent_rms=consistent_rms,
        layout=layout,
    )


@storable
def normuon(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-10,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    ns_eps: Any = 1e-7,
    nesterov: bool = True,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = "flax",
    consistent_rms: Any = None,
    shape_scale: str = "jordan",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """NorMuon (Li et al. 2025, arXiv 2510.05491) for matrices, AdamW for everything else.

    The recurrence heads this module.  By default it is the authors' code; the paper's algorithm is
    ``consistent_rms=0.2, nesterov=False``.  It keeps one number for each output neuron more than Muon.

    Args:
      learning_rate: a number or a schedule; about 0.02, or AdamW's with ``consistent_rms=0.2``.
      ns_coeffs, ns_steps, nesterov, spectral_map, strategy: as for `muon`; the momentum is Jordan's.
      beta: decay of the average of gradients, in [0, 1).
      b2: decay of the average of the squared steps, in [0, 1).
      eps: added to the root of that average.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which the averages of gradients are stored.
      ns_eps: added to the norm by which a matrix is divided before the iteration.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      muon_weight_dimension_numbers: (static) as for `muon`, but by default ``'flax'``, for `flax_matrices()`.
      consistent_rms: root mean square of the steps; None keeps the norm of Muon's, times ``shape_scale``.
      shape_scale: (static) as for `muon`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx = normuon(0.1, consistent_rms=0.2)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.sqrt(jnp.mean(updates**2))), 4)
    0.02
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(muon_weight_dimension_numbers, "muon_weight_dimension_numbers")
    direction = scale_by_muon(
        ns_coeffs,
        ns_steps,
        beta,
        ns_eps,
        mu_dtype,
        nesterov=nesterov,
        weight_dimension_numbers=within(layout),
        bias_correction=False,
        spectral_map=spectral_map,
        strategy=strategy,
    )
    stages = [
        relabel(direction, eps="ns_eps"),
        normalize_outputs(b2, eps, consistent_rms, weight_dimension_numbers=within(layout)),
    ]
    if consistent_rms is None:
        stages.append(scale_by_shape(within(layout), shape_scale=shape_scale))
    stages += [add_decayed_weights(weight_decay, weight_decay_mask), scale_by_learning_rate(learning_rate)]
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
