r"""Scion: every layer moves towards the extreme point of the ball of a norm that suits it.

With g the gradient, p a parameter of matrices (in, out) or a vector, and mu = 0 before the first step::

    mu = beta * mu + (1 - beta) * g                            the authors' ``momentum`` is 1 - beta
    p = p - learning_rate * (radius * lmo(mu) + weight_decay * p)          arXiv 2502.07529, 2505.13416

    lmo(x) = sqrt(out / in) * orthogonalised x                 'spectral'; for a convolution of k positions over k
    lmo(x) = max(1, sqrt(out / in)) * orthogonalised x         'spectral_max'
    lmo(x) = x / root mean square of x over the outputs        'colnorm', for each input
    lmo(x) = x / (sqrt(in) * |x| over the inputs)              'rownorm', for each output
    lmo(x) = sign(x) / in                                      'sign'; sign(x) for what is no matrix
    lmo(x) = x / root mean square of x                         'rms', for what is no matrix

``in`` and ``out`` of a convolution are its channels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.compose import chain, empty_init
from gradlab.core.leafwise import leafwise
from gradlab.core.matrixwise import matrixwise
from gradlab.core.norms import norm
from gradlab.core.rule import static
from gradlab.core.spectral import STANDARD
from gradlab.core.storage import storable
from gradlab.core.transform import Transform, transform
from gradlab.core.values import relabel
from gradlab.optimizers.orthogonal import check_orthogonalizer, coefficient_rows, orthogonal_rule
from gradlab.optimizers.scion_layers import ROLES, choose_layers
from gradlab.transforms.accumulate import ema
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


def _lmo_rule(x, *, radius, eps, layer):
    if layer.is_spectral:
        return (radius * layer.extent * x,)
    if layer.norm == "sign":
        return (radius * layer.extent * jnp.sign(x),)
    if layer.norm == "rms":
        return (radius * x / (norm(x) / max(x.size, 1) ** 0.5 + eps),)
    x = layer.matrices.stack(x)
    fan_in, fan_out = layer.matrices.upright
    if layer.norm == "colnorm":
        size = norm(x, axis=2, keepdims=True) / fan_out**0.5
    else:
        size = norm(x, axis=1, keepdims=True) * fan_in**0.5
    return (layer.matrices.leaf(radius * x / (size + eps)),)


def _scale_by_lmo_update(
    grads,
    state,
    params=None,
    *,
    input_radius,
    hidden_radius,
    head_radius,
    bias_radius,
    eps,
    ns_eps,
    coefficients,
    spectral_map,
    layers,
    strategy,
    **extra,
):
    del extra
    radii = dict(zip(ROLES, (input_radius, hidden_radius, head_radius, bias_radius), strict=True))
    if params is not None:
        trees.require_same_structure("gradients", grads, "parameters", params)
    leaves, treedef = jax.tree.flatten(grads, is_leaf=trees.is_none)
    of_leaf = treedef.flatten_up_to(layers(grads if params is None else params))
    is_spectral = [x is not None and layer.is_spectral for x, layer in zip(leaves, of_leaf, strict=True)]
    only = lambda values: [value if keep else None for value, keep in zip(values, is_spectral, strict=True)]
    orthogonal = matrixwise(
        orthogonal_rule,
        treedef.unflatten(only(leaves)),
        treedef.unflatten(only([layer and layer.layout for layer in of_leaf])),
        structure={"scaling": "frobenius", "spectral_map": spectral_map},
        strategy=strategy,
        coefficients=jnp.asarray(coefficients),
        eps=ns_eps,
    )
    pairs = zip(leaves, jax.tree.leaves(orthogonal, is_leaf=trees.is_none), strict=True)
    (updates,) = leafwise(
        _lmo_rule,
        treedef.unflatten([x if o is None else o for x, o in pairs]),
        leaf_structure={"layer": treedef.unflatten(of_leaf)},
        radius=treedef.unflatten([layer and radii[layer.role] for layer in of_leaf]),
        eps=eps,
    )
    return updates, state


def scale_by_lmo(
    input_radius: Any = 50.0,
    hidden_radius: Any = 50.0,
    head_radius: Any = 3000.0,
    bias_radius: Any = 50.0,
    eps: Any = 1e-8,
    *,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    ns_eps: Any = 1e-7,
    input_norm: str = "auto",
    hidden_norm: str = "spectral",
    head_norm: str = "sign",
    bias_norm: str = "rms",
    layers: Mapping[str, str] | None = None,
    weight_dimension_numbers: Any = "flax",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """Replaces each update by the point of a ball that lies farthest along it; the arguments are those of `scion`.

    >>> tx, updates = scale_by_lmo(bias_radius=2.0), {'bias': jnp.array([0.1, -0.1])}
    >>> tx.update(updates, tx.init(updates))[0]['bias'].round(3).tolist()
    [2.0, -2.0]
    """
    check.non_negative(eps=eps, ns_eps=ns_eps)
    radii = {"input_radius": input_radius, "hidden_radius": hidden_radius}
    radii |= {"head_radius": head_radius, "bias_radius": bias_radius}
    check.non_negative(**radii)
    check_orthogonalizer(ns_steps, "frobenius", spectral_map, strategy)
    norms = {"input": input_norm, "hidden": hidden_norm, "head": head_norm, "bias": bias_norm}
    rows = coefficient_rows(ns_coeffs, ns_steps)
    return transform(
        empty_init,
        _scale_by_lmo_update,
        **radii,
        eps=eps,
        ns_eps=ns_eps,
        coefficients=static(rows if isinstance(rows[0], tuple) else (rows,) * ns_steps),
        spectral_map=static(spectral_map),
        layers=choose_layers(norms, layers, weight_dimension_numbers),
        strategy=static(strategy),
    )


@storable
def scion(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.9,
    eps: Any = 1e-8,
    weight_decay: Any = 1.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    input_radius: Any = 50.0,
    hidden_radius: Any = 50.0,
    head_radius: Any = 3000.0,
    bias_radius: Any = 50.0,
    ns_eps: Any = 1e-7,
    input_norm: str = "auto",
    hidden_norm: str = "spectral",
    head_norm: str = "sign",
    bias_norm: str = "rms",
    layers: Mapping[str, str] | None = None,
    weight_dimension_numbers: Any = "flax",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """Scion (Pethick et al. 2025, arXiv 2502.07529; Gluon, arXiv 2505.13416): one rule for all parameters, no AdamW.

    The recurrence heads this module.  Parameters that start in the balls of ``radius``, as `scion_init` draws them,
    stay there.  By Flax's conventions embeddings are ``'input'``; so is the outermost ``Dense_0``, if ``Dense_1``
    follows and no embedding or convolution precedes.  Kernels are ``'head'`` where `flax_matrices` leaves them out,
    else ``'hidden'``.  Vectors, scalars and what is no kernel are ``'bias'``.

    Args:
      learning_rate: a number or a schedule, at most one; 2^-12 for GPT with the default radii.
      ns_coeffs, ns_steps, spectral_map, strategy: (static) as for `muon`.
      beta: decay of the average of gradients, in [0, 1).
      eps: added to the norms by which columns, rows and biases are divided.
      weight_decay: 1 keeps the parameters in their balls (the authors' constrained form), 0 does not (unconstrained);
        any other makes the balls' radii ``radius / weight_decay``.
      weight_decay_mask: which parameters decay; as for `gradlab.masked`.
      mu_dtype: (static) dtype in which the averages of gradients are stored.
      input_radius, hidden_radius, head_radius, bias_radius: of the balls; the authors take 50 and 3000 for GPT, 8 and
        128 for a small convolutional network, 1 and 1024 for a perceptron.
      ns_eps: added to the norm by which a matrix is divided before the iteration.
      input_norm: (static) ``'auto'`` is ``'colnorm'`` for embeddings, ``'spectral_max'`` for kernels.
      hidden_norm, head_norm: (static) ``'spectral'``, ``'spectral_max'``, ``'colnorm'``, ``'rownorm'`` or ``'sign'``.
      bias_norm: (static) ``'rms'`` or ``'sign'``.
      layers: (static) a regular expression searched in the parameters' paths -> ``'input'``, ``'hidden'``, ``'head'``
        or ``'bias'``; the first that is found decides.  ``{'embedding$': 'head'}`` where the head shares its weights.
      weight_dimension_numbers: (static) which axes make a matrix: as ``muon_weight_dimension_numbers`` of `muon`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> params = {'kernel': jnp.array([[3.0, 0.0], [0.0, -0.5]]), 'bias': jnp.array([1.0, 1.0])}
    >>> tx = scion(0.5, 'polar_express_8', hidden_radius=2.0, bias_radius=1.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> jnp.diag(params['kernel'] + updates['kernel']).round(3).tolist()  # half p, and half the radius
    [0.5, 0.75]
    """
    check.non_negative(learning_rate=learning_rate)
    check.decay_rate(beta=beta)
    extreme = scale_by_lmo(
        input_radius,
        hidden_radius,
        head_radius,
        bias_radius,
        eps,
        ns_coeffs=ns_coeffs,
        ns_steps=ns_steps,
        ns_eps=ns_eps,
        input_norm=input_norm,
        hidden_norm=hidden_norm,
        head_norm=head_norm,
        bias_norm=bias_norm,
        layers=layers,
        weight_dimension_numbers=weight_dimension_numbers,
        spectral_map=spectral_map,
        strategy=strategy,
    )
    return chain(
        relabel(ema(beta, debias=False, accumulator_dtype=mu_dtype), decay="beta"),
        extreme,
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
