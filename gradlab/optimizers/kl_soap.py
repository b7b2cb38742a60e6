r"""KL-SOAP: Adam in the eigenbases of KL-Shampoo's factors; `gradlab.optimizers.kl_shampoo` has the recurrence."""

from typing import Any

from gradlab.core import check
from gradlab.core.compose import chain
from gradlab.core.storage import storable
from gradlab.core.transform import Transform
from gradlab.optimizers.kl_shampoo import scale_by_kl
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate


def scale_by_kl_soap(
    b1: Any = 0.95,
    b2: Any = 0.9,
    eps: Any = 1e-8,
    shampoo_beta: Any = 0.9,
    *,
    initial_value: Any = 0.1,
    max_inverse_root: Any = 4000.0,
    precondition_frequency: int = 1,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `kl_soap`; all parameters must be matrices.

    >>> import jax.numpy as jnp
    >>> tx, grads = scale_by_kl_soap(b1=0.0, b2=0.0), jnp.diag(jnp.array([3.0, -0.5]))
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> jnp.diag(tx.update(grads, state)[0]).round(3).tolist()
    [1.0, -1.0]
    """
    return scale_by_kl(
        adam=True,
        b1=b1,
        b2=b2,
        eps=eps,
        shampoo_beta=shampoo_beta,
        initial_value=initial_value,
        max_inverse_root=max_inverse_root,
        precondition_frequency=precondition_frequency,
        layout=weight_dimension_numbers,
        strategy=strategy,
    )


@storable
def kl_soap(
    learning_rate: Any,
    b1: Any = 0.95,
    b2: Any = 0.9,
    eps: Any = 1e-8,
    shampoo_beta: Any = 0.9,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    initial_value: Any = 0.1,
    max_inverse_root: Any = 4000.0,
    precondition_frequency: int = 1,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """KL-SOAP (Lin et al. 2025, arXiv 2509.03378) for matrices, AdamW for everything else.

    `gradlab.optimizers.kl_shampoo` has the recurrence: the averages are not corrected for their bias, the bases not
    sorted, and the average of squares does not follow them.

    Args:
      learning_rate: a number or a schedule.
      b1: decay of the average of the turned gradients, in [0, 1).
      b2: decay of the average of their squares, in [0, 1).
      eps: added to its root.
      shampoo_beta: decay of the factors and of their eigenvalues, in [0, 1).
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      initial_value: of the eigenvalues, positive.
      max_inverse_root: the largest inverse root of an eigenvalue.
      precondition_frequency: (static) steps between two refreshments of the bases.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None.  It is a number of its own to `replace`.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, an unknown name, a layout that does not fit, with the path.

    >>> import jax.numpy as jnp
    >>> params = {'kernel': jnp.diag(jnp.array([2.0, -1.0])), 'bias': jnp.array([1.0])}
    >>> tx = kl_soap(0.1, b1=0.0)
    >>> updates, state = tx.update(params, tx.init(params), params)  # the first step of the matrices is empty
    >>> [round(float(u), 3) for u in jnp.diag(tx.update(params, state, params)[0]['kernel'])]
    [-0.316, 0.316]
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_kl_soap(
        b1,
        b2,
        eps,
        shampoo_beta,
        initial_value=initial_value,
        max_inverse_root=max_inverse_root,
        precondition_frequency=precondition_frequency,
        weight_dimension_numbers=within(layout),
        strategy=strategy,
    )
    decay = add_decayed_weights(weight_decay, weight_decay_mask)
    return beside_adamw(
        chain(direction, decay, scale_by_learning_rate(learning_rate)),
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
