r"""Hyperball: matrices that stay on the sphere of their first norm, and steps that are a fraction of its radius.

With u the direction of an optimizer, p a matrix and ``radius = |p|`` at the start::

    n = p - learning_rate * radius * u / |u|
    p = radius * n / |n|                                arXiv 2606.16899

What is no matrix goes to AdamW.  Weight decay has no meaning for the matrices.
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
from gradlab.optimizers.muon import scale_by_muon
from gradlab.optimizers.soap import scale_by_soap
from gradlab.transforms.norm_control import hyperball, relative_updates
from gradlab.transforms.scaling import scale_by_learning_rate


def on_hyperball(
    direction: Transform, layout: Any, *, learning_rate: Any, adam_learning_rate: Any = None, **adam: Any
) -> Transform:
    """A direction on the spheres for what has a layout, AdamW for the others.

    Args:
      direction: for matrices, built with the layout ``within(layout)``.
      layout: what is a matrix, as for `gradlab.optimizers.matrices.beside_adamw`.
      learning_rate: of the matrices, in parts of their norms.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.
      **adam: the numbers of AdamW, as for `gradlab.optimizers.matrices.beside_adamw`.
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    of_matrices = chain(
        direction,
        relative_updates(weight_dimension_numbers=within(layout)),
        scale_by_learning_rate(learning_rate),
        hyperball(weight_dimension_numbers=within(layout), refuse_zeros=True),
    )
    return beside_adamw(
        of_matrices,
        layout,
        learning_rate=learning_rate if adam_learning_rate is None else adam_learning_rate,
        nesterov=False,
        **adam,
    )


@storable
def adamh(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
) -> Transform:
    """AdamH (arXiv 2606.16899): Adam's direction for matrices on the spheres of their first norms; AdamW for the rest.

    The recurrence heads `gradlab.optimizers.hyperball`.  A matrix that starts at zero could never move: ``init``
    refuses it by its path, unless it is traced by `jax.jit` or sees shapes alone.

    Args:
      learning_rate: a number or a schedule, in parts of a matrix's norm; about 0.018, decayed to zero over the run.
      b1, b2, eps, eps_root, nesterov: of the matrices, as for `adam`.
      mu_dtype: (static) dtype in which the averages of gradients are stored.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None, which is too large for most models.  It is a number of
        its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.

    Raises:
      ValueError: a number out of its range, a layout that does not fit, a matrix that starts at zero, with the path.

    >>> import jax.numpy as jnp
    >>> params = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> tx = adamh(0.1)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> round(float(jnp.linalg.norm(params + updates)), 4)
    5.0
    """
    layout = named_layout(weight_dimension_numbers)
    return on_hyperball(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        layout,
        learning_rate=learning_rate,
        adam_learning_rate=adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
    )


@storable
def muonh(
    learning_rate: Any,
    ns_coeffs: Any = STANDARD,
    ns_steps: int = 5,
    beta: Any = 0.95,
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
    weight_dimension_numbers: Any = "flax",
    spectral_map: str | Callable = "newton_schulz",
    strategy: str | None = None,
) -> Transform:
    """MuonH (arXiv 2606.16899): Muon's direction for matrices on the spheres of their first norms; AdamW for the rest.

    As `adamh`, with the momentum of Jordan's form; the scale by shape has no meaning here.  Arguments that are not
    listed are those of `adamh`.

    Args:
      ns_coeffs, ns_steps, nesterov, spectral_map, strategy: (static) as for `muon`.
      beta: decay of the average of gradients, in [0, 1).
      ns_eps: added to the norm by which a matrix is divided before the iteration.

    Raises:
      ValueError: as `adamh`; an unknown name.

    >>> import jax.numpy as jnp
    >>> params = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> tx = muonh(0.1, 'polar_express_8')
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> (params + updates).diagonal().round(2).tolist()
    [2.94, 4.05]
    """
    layout = named_layout(weight_dimension_numbers)
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
    return on_hyperball(
        relabel(direction, eps="ns_eps"),
        layout,
        learning_rate=learning_rate,
        adam_learning_rate=adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=mu_dtype,
    )


@storable
def soaph(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    *,
    shampoo_beta: Any = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10_000,
    bias_correction: bool = True,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """SOAP-H (arXiv 2606.16899): SOAP's direction for matrices on the spheres of their first norms; AdamW for the rest.

    As `adamh`; the first direction of the matrices is empty.  Arguments that are not listed are those of `adamh`.

    Args:
      b1, b2, eps, shampoo_beta, precondition_frequency, max_precond_dim, bias_correction, strategy: as for `soap`.

    Raises:
      ValueError: as `adamh`.

    >>> import jax.numpy as jnp
    >>> params = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> tx = soaph(0.1)
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> updates, _ = tx.update(params, state, params)
    >>> (params + updates).diagonal().round(2).tolist()
    [2.94, 4.05]
    """
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_soap(
        b1,
        b2,
        eps,
        shampoo_beta=shampoo_beta,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        bias_correction=bias_correction,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    return on_hyperball(
        direction,
        layout,
        learning_rate=learning_rate,
        adam_learning_rate=adam_learning_rate,
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        mu_dtype=None,
    )
