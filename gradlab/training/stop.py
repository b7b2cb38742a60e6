"""When a run is over: rules that read the loss inside of the compiled run, and patience between evaluations.

::

    Tolerance(eps)      stop at step k if |f_k - f_(k-1)| <= eps
    Threshold(loss)     stop at step k if f_k <= loss
    Patience(...)       stop when a validation metric has not improved for some evaluations

Step and epoch counts are arguments of `fit`.  The parameters that a run returns are those at which the rule held.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gradlab.core import check


class Tolerance(NamedTuple):
    """Stops when the loss changes by at most ``eps`` from one step to the next.

    Meant for full batches: with minibatches the change is mostly noise.
    """

    eps: Any

    def holds(self, previous: Any, loss: Any) -> Any:
        return jnp.abs(loss - previous) <= self.eps


class Threshold(NamedTuple):
    """Stops when the loss is at most ``loss``."""

    loss: Any

    def holds(self, previous: Any, loss: Any) -> Any:
        del previous
        return loss <= self.loss


class Patience(NamedTuple):
    """Stops after ``patience`` evaluations in a row without improvement of a validation metric (early stopping).

    Args:
      patience: number of evaluations, at least 1.
      metric: a name among the task's metrics.
      mode: ``'min'`` or ``'max'``.
      min_delta: an improvement counts if it is larger than this.
    """

    patience: int
    metric: str = "loss"
    mode: str = "min"
    min_delta: float = 0.0

    def exhausted(self, values: list[float]) -> bool:
        """Whether the history of the metric, oldest first, calls for a stop; NaN never improves.

        >>> Patience(2).exhausted([3.0, 2.0, 2.5]), Patience(2).exhausted([3.0, 2.0, 2.5, 2.1])
        (False, True)
        """
        sign = 1.0 if self.mode == "min" else -1.0
        best, since = np.inf, 0
        for value in values:
            improved = sign * value < best - self.min_delta
            best, since = (sign * value, 0) if improved else (best, since + 1)
        return since >= self.patience


def check_rules(stop: Any) -> tuple[tuple, Patience | None]:
    """Splits stop rules into those of the compiled run and the patience rule, refusing what is neither.

    Raises:
      TypeError: not a rule of this module.
      ValueError: two patience rules, or impossible numbers.
    """
    rules = (stop,) if isinstance(stop, Tolerance | Threshold | Patience) else tuple(stop)
    for rule in rules:
        if not isinstance(rule, Tolerance | Threshold | Patience):
            raise TypeError(
                f"stop must hold Tolerance, Threshold or Patience rules, got {type(rule).__name__}: {rule!r}"
            )
        if isinstance(rule, Tolerance):
            check.non_negative(eps=rule.eps)
    patient = [rule for rule in rules if isinstance(rule, Patience)]
    if len(patient) > 1:
        raise ValueError(f"give one Patience rule, got {len(patient)}: {patient}")
    for rule in patient:
        check.in_range("patience", rule.patience, 1)
        check.one_of("mode", rule.mode, ("min", "max"))
    compiled = tuple(rule for rule in rules if not isinstance(rule, Patience))
    return compiled, patient[0] if patient else None
