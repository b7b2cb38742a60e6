r"""K-FAC: the natural gradient, each layer's Fisher matrix a Kronecker product of two small ones.

A dense layer with inputs a, outputs ``s = a W`` and the loss's derivatives ``g = d loss / d s`` has for one example the
gradient ``a g^T``.  With A and B the means over a batch of ``a a^T`` (in, in) and ``g g^T`` (out, out), t = 1, 2, ...
and the batch's gradient G::

    beta_t = min(beta, 1 - 1 / t)
    L = beta_t * L + (1 - beta_t) * A,  R = beta_t * R + (1 - beta_t) * B
    pi = sqrt((tr L / in) / (tr R / out))
    u = (L + pi * sqrt(damping) * I)^-1 G (R + sqrt(damping) / pi * I)^-1            arXiv 1503.05671
    p = p - learning_rate * (u + weight_decay * p)

The inverses are taken anew every ``inverse_frequency`` steps.  g belongs to labels drawn from the model's own
prediction: with those of the data, B is no part of a Fisher matrix.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.branch import update_if
from gradlab.core.compose import chain
from gradlab.core.decompositions import inv
from gradlab.core.kronecker import precise
from gradlab.core.layouts import matrices_in
from gradlab.core.matrixwise import Groups, check_strategy, on_stacks, strategy_here
from gradlab.core.numerics import safe_quotient
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.optimizers.matrices import beside_adamw, named_layout, within
from gradlab.optimizers.soap import factors, identities
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.scaling import scale_by_learning_rate
from gradlab.transforms.select import stands_for_params


class Factors(NamedTuple):
    """What K-FAC wants to know of a kernel (in, out): see `dense_factors`."""

    inputs: jax.Array  # (in, in), the mean of a a^T
    outputs: jax.Array  # (out, out), the mean of g g^T


class ScaleByKfacState(NamedTuple):
    """State of `scale_by_kfac`: by group, for its k wide matrices (m, n)."""

    count: jax.Array  # () int32
    left: dict[str, Any]  # (k, m, m)
    right: dict[str, Any]  # (k, n, n)
    left_inverse: dict[str, Any]
    right_inverse: dict[str, Any]


def _scale_by_kfac_init(params, *, layout, strategy):
    if stands_for_params(params):
        return ScaleByKfacState(jnp.zeros([], jnp.int32), *[params] * 4)
    stacks = Groups(params, layout, strategy=strategy_here(strategy)).zeros()
    left, right = factors(stacks, max((stack.shape[2] for stack in stacks.values()), default=1))
    return ScaleByKfacState(jnp.zeros([], jnp.int32), left, right, identities(left), identities(right))


def _average_rule(left, right, new_left, new_right, *, beta, count):
    weight = jnp.minimum(beta, 1 - 1 / count)
    return tuple(weight * old + (1 - weight) * new for old, new in ((left, new_left), (right, new_right)))


def _inverse_rule(left_inverse, right_inverse, left, right, *, damping):
    del left_inverse, right_inverse
    sizes = [jnp.trace(side).real / side.shape[0] for side in (left, right)]
    pi = jnp.sqrt(safe_quotient(*sizes))
    pi = jnp.where(pi > 0, pi, 1)
    root = jnp.sqrt(damping)
    damped = left + pi * root * jnp.eye(left.shape[0]), right + root / pi * jnp.eye(right.shape[0])
    with precise():
        return tuple(inv(side) for side in damped)


def _direction_rule(g, left_inverse, right_inverse):
    with precise():
        return (left_inverse @ g @ right_inverse,)


def _scale_by_kfac_update(
    grads,
    state,
    params=None,
    *,
    beta,
    damping,
    inverse_frequency,
    layout,
    strategy,
    step=None,
    kfac_factors=None,
    **extra,
):
    del params, extra
    strategy = strategy_here(strategy)
    run = functools.partial(on_stacks, strategy=strategy)
    groups = Groups(grads, layout, strategy=strategy)
    count = optax.safe_increment(state.count)
    new = _stacked(groups, grads, layout, kfac_factors)
    sides = run(_average_rule, state.left, [state.right], new, beta=beta, count=count)
    inverses = (state.left_inverse, state.right_inverse)
    invert = lambda: ((), run(_inverse_rule, inverses[0], [inverses[1]], sides, damping=damping))
    clock = state.count if step is None else step
    _, inverses = update_if(clock % inverse_frequency == 0, invert, inverses)
    (u,) = run(_direction_rule, groups.stack(grads), [], inverses)
    return groups.unstack(u), ScaleByKfacState(count, *sides, *inverses)


def _stacked(groups: Groups, grads: Any, layout: Any, kfac_factors: Any) -> list[dict[str, jax.Array]]:
    """The factors of the short and of the long sides, by group."""
    if kfac_factors is None:
        raise TypeError(
            "kfac needs the factors of the layers: call tx.update(grads, state, params, "
            "kfac_factors=dense_factors(model, params, inputs, losses))"
        )
    known = {trees.path_name(path): of for path, of in _leaves(kfac_factors)}

    def of_leaf(path, matrices):
        name = trees.path_name(path)
        if name not in known:
            raise ValueError(f"kfac_factors has nothing for parameter '{name}'{check.suggestion(name, known)}")
        shapes = tuple(jnp.shape(factor) for factor in known[name])
        expected = tuple((size, size) for size in matrices.upright)
        if shapes != expected or matrices.count > 1:
            raise ValueError(f"the factors of parameter '{name}' must have shapes {expected}, got {shapes}")
        return known[name][::-1] if matrices.is_tall else known[name]

    matrices = matrices_in(grads, layout)
    sides = lambda side: jax.tree_util.tree_map_with_path(lambda *leaf: of_leaf(*leaf)[side][None], matrices)
    return [groups.gather(sides(side)) for side in (0, 1)]


def _leaves(kfac_factors: Any) -> list[tuple]:
    return jax.tree_util.tree_leaves_with_path(kfac_factors, is_leaf=lambda x: isinstance(x, Factors))


def scale_by_kfac(
    beta: Any = 0.95,
    damping: Any = 1e-3,
    *,
    inverse_frequency: int = 1,
    weight_dimension_numbers: Any = None,
    strategy: str | None = None,
) -> Transform:
    """The direction of `kfac`; all parameters must be matrices.

    >>> tx, p = scale_by_kfac(damping=0.0), jnp.ones((1, 2))
    >>> factors = Factors(jnp.full((1, 1), 4.0), jnp.diag(jnp.array([1.0, 0.5])))
    >>> tx.update(p, tx.init(p), kfac_factors=factors)[0].tolist()
    [[0.25, 0.5]]
    """
    check.in_range("beta", beta, 0.0, 1.0)
    check.non_negative(damping=damping)
    check.in_range("inverse_frequency", inverse_frequency, 1)
    check_strategy(strategy)
    layout = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    fixed = {"layout": static(layout), "strategy": static(strategy)}
    return transform(
        _scale_by_kfac_init,
        _scale_by_kfac_update,
        at_init=fixed,
        beta=beta,
        damping=damping,
        inverse_frequency=static(inverse_frequency),
        **fixed,
    )


def kfac(
    learning_rate: Any,
    beta: Any = 0.95,
    damping: Any = 1e-3,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    inverse_frequency: int = 1,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps: Any = 1e-8,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    weight_dimension_numbers: Any = "flax",
    strategy: str | None = None,
) -> Transform:
    """K-FAC (Martens and Grosse 2015, arXiv 1503.05671) for dense kernels, AdamW for everything else.

    The recurrence heads this module.  ``update`` takes one more argument, ``kfac_factors``: a tree with `Factors` at
    the path of every kernel, which `gradlab.dense_factors` makes for Flax models.  Unlike the paper's, a bias is no
    row of its layer's matrix but AdamW's; learning rate and damping do not adapt.

    Args:
      learning_rate: a number or a schedule; 1 is the step of a quadratic model.
      beta: the largest decay of the averages of A and B, in [0, 1]; 1 averages all steps alike.
      damping: added to the Fisher matrix, not negative.
      weight_decay: factor of the matrices, multiplied by the learning rate.
      weight_decay_mask: which matrices decay; as for `gradlab.masked`.
      inverse_frequency: (static) steps between two inversions.
      adam_b1, adam_b2, adam_eps, adam_eps_root, adam_weight_decay: of AdamW for the other parameters.
      adam_learning_rate: of AdamW; ``learning_rate`` if None, which is too large for most models.
      weight_dimension_numbers: (static) what is a matrix: as ``muon_weight_dimension_numbers`` of `muon`.
      strategy: (static) how matrices of equal shape run; see `gradlab.core.matrixwise.matrixwise`.

    Raises:
      ValueError: a number out of its range, a kernel without factors or with factors of another shape, with the path.
      TypeError: ``update`` called without ``kfac_factors``.
    """
    check.non_negative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    layout = named_layout(weight_dimension_numbers)
    direction = scale_by_kfac(
        beta, damping, inverse_frequency=inverse_frequency, weight_dimension_numbers=within(layout), strategy=strategy
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
