r"""Muon^2: Muon of a momentum that is first divided by the root of an average of squared gradients, as Adam's.

With g the gradient of a matrix (in, out) and mu = nu = 0 before the first step::

    mu = beta * mu + (1 - beta) * g
    nu = b2 * nu + (1 - b2) * |g|^2                                   elementwise
    u = mu / sqrt(nu + eps_root)                                      nesterov=False, eps=0: arXiv 2604.09967
    u = (beta * mu + (1 - beta) * g) / (sqrt(nu) + eps)               nesterov=True, eps_root=0: the speedrun's record
    p = p - learning_rate * (scale * orthogonalised u + weight_decay * p)

    scale = sqrt(out / in)                 shape_scale='scion': the paper
    scale = sqrt(max(1, out / in))         shape_scale='jordan': the record

The division evens the singular values out, so that fewer steps of the iteration do.  Neither average's bias is
corrected: orthogonalisation forgets it.
"""

from collections.abc import Callable
from typing import Any

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform
from gradlab.core.values import relabel
from gradlab.optimizers.adam import scale_by_adam
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.muon import scale_by_shape
from gradlab.optimizers.orthogonal import orthogonalize
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


@storable
def muon_squared(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 0.0,
    eps_root: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    ns_eps: Any = 1e-7,
    nesterov: bool = False,
    shape_scale: str = "scion",
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
    """Muon^2 (Liu et al. 2026, arXiv 2604.09967) for matrices, AdamW for everything else.

    The recurrence heads this module; by default it is the paper's.  That of the speedrun's record is
    ``muon_squared(0.1, 'simple_12', eps=1e-10, eps_root=0.0, weight_decay=0.0125, nesterov=True,
    shape_scale='jordan')``.  Arguments that are not listed are those of `muon`.

    Args:
      learning_rate: a number or a schedule.
      beta: decay of the average of gradients, in [0, 1).
      b2: decay of the average of squared gradients, in [0, 1).
      eps: added to its root.
      eps_root: added under the root.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which the averages of gradients are stored.
      ns_eps: added to the norm by which a matrix is divided before the iteration.
      nesterov: (static) whether the step looks ahead.
      shape_scale: (static) ``'scion'`` or ``'jordan'``.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> import jax.numpy as jnp
    >>> params = jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx = muon_squared(0.1, 'polar_express_8')
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jnp.diag(updates).round(3).tolist()
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check.decay_rate(beta=beta)
    layout = named_layout(weight_dimension_numbers)
    divided = scale_by_adam(beta, b2, eps, eps_root, mu_dtype, nesterov=nesterov, bias_correction=False)
    orthogonal = orthogonalize(
        ns_coeffs,
        ns_steps,
        ns_eps,
        spectral_map=spectral_map,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    of_matrices = chain(
        relabel(divided, b1="beta"),
        relabel(orthogonal, eps="ns_eps"),
        scale_by_shape(within(layout), shape_scale=shape_scale),
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
