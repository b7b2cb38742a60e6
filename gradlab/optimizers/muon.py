r"""Muon: momentum whose matrices are orthogonalised before the step.

With g the gradient, p a parameter of matrices (in, out), count = 1, 2, ... and mu = 0 before the first step::

    mu = beta * mu + (1 - beta) * g
    u = beta * mu / (1 - beta^(count+1)) + (1 - beta) * g / (1 - beta^count)     Optax's; nesterov=False: mu alone
    u = beta * mu + (1 - beta) * g                                               bias_correction=False: Jordan's
    o = orthogonalised u                                                         singular values near one
    p = p - learning_rate * (scale * o + weight_decay * p)

    scale = sqrt(max(1, out / in))                      Jordan 2024
    scale = consistent_rms * sqrt(max(in, out))         arXiv 2502.16982; 0.2 takes AdamW's learning rate and decay
    scale = sqrt(out / in)                              arXiv 2502.07529, Scion

PyTorch's and Jordan's ``buffer = momentum * buffer + g`` points where mu does, and what follows forgets its length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core.compose import chain, empty_init
from gradlab.core.layouts import matrices_in
from gradlab.core.leafwise import leafwise
from gradlab.core.matrixwise import matrixwise
from gradlab.core.numerics import debias
from gradlab.core.rule import static
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import zeros_like
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.orthogonal import check_orthogonalizer, coefficient_rows, orthogonal_rule
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate

SHAPE_SCALES = ("jordan", "scion")


def _scale_by_muon_init(params, *, ns_coeffs, mu_dtype):
    return contrib.MuonState(
        count=jnp.zeros([], jnp.int32), mu=zeros_like(params, mu_dtype), ns_coeffs=jnp.asarray(ns_coeffs)
    )


def _momentum_rule(g, mu, *, count, beta, nesterov, bias_correction):
    mu = beta * mu + (1 - beta) * g
    weight = lambda count: debias(beta, count) if bias_correction else 1.0
    if nesterov:
        return beta * mu / weight(count + 1) + (1 - beta) * g / weight(count), mu
    return mu / weight(count), mu


def _dual_norm_rule(u, o):
    return (jnp.sum(u.conj() * o) * o,)


def _scale_by_muon_update(
    grads,
    state,
    params=None,
    *,
    beta,
    eps,
    ns_steps,
    nesterov,
    bias_correction,
    adaptive,
    preconditioning,
    spectral_map,
    layout,
    strategy,
    **extra,
):
    del params, extra
    count = optax.safe_increment(state.count)
    flags = {"nesterov": nesterov, "bias_correction": bias_correction}
    u, mu = leafwise(_momentum_rule, grads, [state.mu], structure=flags, count=count, beta=beta)
    rows = state.ns_coeffs
    updates = matrixwise(
        orthogonal_rule,
        u,
        layout,
        structure={"scaling": preconditioning, "spectral_map": spectral_map},
        strategy=strategy,
        coefficients=rows if jnp.ndim(rows) == 2 else jnp.broadcast_to(rows, (ns_steps, 3)),
        eps=eps,
    )
    if adaptive:
        (updates,) = leafwise(_dual_norm_rule, u, params=updates)
    return updates, contrib.MuonState(count=count, mu=mu, ns_coeffs=state.ns_coeffs)


def scale_by_muon(
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
    bias_correction: bool = True,
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """Orthogonalised momentum, without the scale of `muon`; all parameters must be matrices.

    >>> tx = scale_by_muon('polar_express_8')
    >>> grads = jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> tx.update(grads, tx.init(grads))[0].round(3).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    check.decay_rate(beta=beta)
    check.non_negative(eps=eps)
    check_orthogonalizer(ns_steps, preconditioning, spectral_map, strategy)
    return transform(
        _scale_by_muon_init,
        _scale_by_muon_update,
        at_init={"ns_coeffs": static(coefficient_rows(ns_coeffs, ns_steps)), "mu_dtype": static(mu_dtype)},
        beta=beta,
        eps=eps,
        ns_steps=static(ns_steps),
        nesterov=static(nesterov),
        bias_correction=static(bias_correction),
        adaptive=static(adaptive),
        preconditioning=static(preconditioning),
        spectral_map=static(spectral_map),
        layout=static(MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers),
        strategy=static(strategy),
    )


def _shape_rule(u, *, factor, consistent_rms):
    return (factor * u if consistent_rms is None else consistent_rms * factor * u,)


def _scale_by_shape_update(grads, state, params=None, *, layout, shape_scale, consistent_rms, **extra):
    del params, extra

    def factor(matrices):
        m, n = matrices.upright
        if consistent_rms is not None:
            return max(m, n) ** 0.5
        return (n / m if shape_scale == "scion" else max(1.0, n / m)) ** 0.5

    factors = jax.tree.map(factor, matrices_in(grads, layout))
    rms = {} if consistent_rms is None else {"consistent_rms": consistent_rms}
    structure = {} if rms else {"consistent_rms": None}
    (updates,) = leafwise(_shape_rule, grads, leaf_structure={"factor": factors}, structure=structure, **rms)
    return updates, state


def scale_by_shape(
    weight_dimension_numbers: Any = None, consistent_rms: Any = None, *, shape_scale: str = "jordan"
) -> Transform:
    """Multiplies the updates by a function of the shape of their matrices; see `muon`.

    >>> scale_by_shape().update(jnp.ones((1, 4)), optax.EmptyState())[0].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    check.positive(consistent_rms=consistent_rms)
    check.one_of("shape_scale", shape_scale, SHAPE_SCALES)
    layout = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    return transform(
        empty_init,
        _scale_by_shape_update,
        layout=static(layout),
        shape_scale=static(shape_scale),
        consistent_rms=consistent_rms,
    )


@storable
def muon(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
    bias_correction: bool = True,
    shape_scale: str = "jordan",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """Muon (Jordan 2024; Liu et al., arXiv 2502.16982) for matrices, AdamW for everything else.

    The recurrence heads this module.  By default every parameter of two axes is a matrix, as in Optax: embeddings and
    the last layer too, which is not what the authors advise.  ``muon_weight_dimension_numbers='flax'`` takes Flax's
    kernels alone, see `flax_matrices`.  Equal shapes are orthogonalised together, traced and compiled once.

    Args:
      learning_rate: a number or a schedule; about 0.02, or AdamW's with ``consistent_rms=0.2``.
      ns_coeffs: (static) a name in `gradlab.core.spectral.COEFFICIENTS`, or three numbers, or a row for each step.
      ns_steps: (static) steps of the iteration, where the coefficients do not say it.
      beta: decay of the average of gradients, in [0, 1).
      eps: added to the norm by which a matrix is divided, and to Adam's root.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which the averages of gradients are stored.
      nesterov: (static) whether the step looks ahead.
      adaptive: (static) whether a leaf's step is multiplied by its dual norm, ``<u, o>`` (arXiv 2409.20325).
      preconditioning: (static) what bounds the singular values first; see `gradlab.core.spectral.bounded`.
      adam_b1, adam_b2, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      muon_weight_dimension_numbers: (static) ``MuonDimensionNumbers(input axes, output axes)`` for all parameters, a
        prefix tree of these with None for AdamW's, a function from parameters to one, or ``'flax'`` for
        ``flax_matrices()``.  Other axes are batch axes.
      consistent_rms: root mean square of the steps, which the shape then does not change; None for ``shape_scale``.
      bias_correction: (static) false mixes gradient and average as Jordan and PyTorch do; Optax's first twenty steps
        weigh the gradient more.
      shape_scale: (static) ``'jordan'`` or ``'scion'``.
      spectral_map: (static) what brings the singular values to one: ``'newton_schulz'``; ``'newton_schulz_bf16'``, the
        same in bfloat16, faster on accelerators; ``'gram_newton_schulz'``, in float32 with fewer operations for long
        matrices; ``'svd'``, exact and slow; or a function of the bounded matrix (m, n), m <= n, and the coefficients.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.array([[3.0, 0.0], [0.0, -0.5]]), 'bias': jnp.array([1.0])}
    >>> tx = muon(0.1, 'polar_express_8')
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jnp.diag(updates['kernel']).round(3).tolist()  # minus the learning rate, whatever the gradient's length
    [-0.1, 0.1]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(muon_weight_dimension_numbers, "muon_weight_dimension_numbers")
    of_matrices = chain(
        scale_by_muon(
            ns_coeffs,
            ns_steps,
            beta,
            eps,
            mu_dtype,
            nesterov=nesterov,
            adaptive=adaptive,
            preconditioning=preconditioning,
            weight_dimension_numbers=within(layout),
            bias_correction=bias_correction,
            spectral_map=spectral_map,
            strategy=strategy,
        ),
        scale_by_shape(within(layout), consistent_rms, shape_scale=shape_scale),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    return beside_adamw(
        of_matrices,
        layout,
        learning_rate=learning_rate if adam_learning_rate is None else adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
    )
