r"""EMA-Nesterov: gradients taken ahead along the average of past steps (arXiv 2605.25395).

With u the incoming update (minus the learning rate included), q = p and d = 0 before the first step::

    q = q + u
    d = decay * d + (1 - decay) * u
    p = q + strength * d                         the parameters of the caller, where the next gradient is taken

q is what ``gradlab.eval_params`` returns.  `gradlab.nesterov_sgd` differs in that its look-ahead is part of the
velocity with which q moves; here q moves by the updates alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.leafwise import leafwise
from gradlab.core.rule import static
from gradlab.core.transform import Transform, transform
from gradlab.core.tree import real_dtype, zeros_like
from gradlab.core.update import readout_map, register_readout

Tree = Any


class EmaNesterovState(NamedTuple):
    """The average of steps, and how much of it the parameters are ahead."""

    strength: jax.Array  # ()
    ema: Tree  # like params


def _ema_nesterov_init(params, *, accumulator_dtype):
    return EmaNesterovState(jnp.zeros([], real_dtype(params)), zeros_like(params, accumulator_dtype))


def _ema_nesterov_rule(u, ema, *, decay, strength, strength_before):
    moved = decay * ema + (1 - decay) * u
    return u + strength * moved - strength_before * ema, moved


def _ema_nesterov_update(updates, state, params=None, *, decay, strength, **extra):
    del params, extra
    values = {"decay": decay, "strength": strength, "strength_before": state.strength}
    updates, ema = leafwise(_ema_nesterov_rule, updates, [state.ema], **values)
    return updates, EmaNesterovState(jnp.asarray(strength, state.strength.dtype), ema)


def _readout(state: EmaNesterovState, params: Tree) -> Tree:
    return readout_map(lambda ema, p: (p - state.strength * ema).astype(p.dtype), state.ema, params)


register_readout(EmaNesterovState, _readout)


def ema_nesterov(strength: Any = 0.5, decay: Any = 0.99, accumulator_dtype: Any = None) -> Transform:
    """EMA-Nesterov (arXiv 2605.25395) behind any optimizer: the last stage of a chain, after the learning rate.

    The recurrence heads this module.

    Args:
      strength: how many average steps the gradient is taken ahead; a number or a schedule, whose value at one call is
        that of the next gradient's look-ahead.  The authors let it follow the learning rate, 0.3 to 0.6 at its peak,
        and turn it off at both ends of a run.
      decay: of the average of steps, in [0, 1).
      accumulator_dtype: (static) dtype in which the average is stored; the parameter's if None.

    Raises:
      ValueError: a decay outside of [0, 1).

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.sgd(0.5), ema_nesterov(strength=2.0, decay=0.5))
    >>> params = jnp.array([4.0])
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> params = params + updates
    >>> params.tolist(), gradlab.eval_params(tx, state, params).tolist()  # u = -2, d = -1
    ([0.0], [2.0])
    """
    check.decay_rate(decay=decay)
    at_init = {"accumulator_dtype": static(accumulator_dtype)}
    return transform(_ema_nesterov_init, _ema_nesterov_update, at_init=at_init, decay=decay, strength=strength)
