r"""Measurements inside of a chain: the updates pass, and what was measured of them lies in the state.

::

    state.measurement[name] = measure(u)                              snapshot
    state.measurements[name] = measure(u), for each of several        monitor
    ema of measure(u), as a measure of `monitor`                      measure_with_ema

``optax.tree.get(state, name)`` finds a measurement wherever the stage is nested.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.transforms import MonitorState, SnapshotState

from gradlab.core.rule import static
from gradlab.core.transform import Transform, is_transform, transform
from gradlab.transforms.accumulate import ema

Tree = Any


def snapshot(measure_name: str, measure: Callable[[Tree], Tree]) -> Transform:
    """Keeps ``measure(updates)`` of the last step in ``state.measurement[measure_name]``.

    Before the first step it holds zeros; Optax's holds the measure of the parameters.

    Args:
      measure_name: (static) the name of the measurement.
      measure: (static) a function of the updates, as they are at this place of the chain.

    >>> import gradlab
    >>> tx = gradlab.chain(gradlab.scale(2.0), snapshot('norm', gradlab.global_norm), gradlab.clip(1.0))
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> float(optax.tree.get(state, 'norm'))
    10.0
    """
    bound = {"measure_name": static(measure_name), "measure": static(measure)}
    return transform(_snapshot_init, _snapshot_update, at_init=bound, **bound)


def monitor(measures: Mapping[str, Any]) -> Transform:
    """Keeps several measurements of the updates, by name, in ``state.measurements``.

    Before the first step they are zeros of the right shapes, so that the state keeps its structure in a loop (Optax's
    has no entries then, which `jax.lax.scan` refuses).

    Args:
      measures: name -> a function of the updates (static), `measure_with_ema`, or any other transform whose updates
        are the measurement; those of others appear with the first step.

    >>> import gradlab
    >>> tx = monitor({'norm': gradlab.global_norm, 'mean': measure_with_ema(jnp.mean, decay=0.9)})
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> {name: round(float(value), 4) for name, value in state.measurements.items()}
    {'mean': 3.5, 'norm': 5.0}
    """
    stages = tuple(value if is_transform(value) else _measured(value) for value in measures.values())
    names = static(tuple(measures))
    return transform(_monitor_init, _monitor_update, inner=stages, at_init={"names": names}, names=names)


def measure_with_ema(
    measure: Callable[[Tree], Tree], decay: Any, debias: bool = True, accumulator_dtype: Any = None
) -> Transform:
    """The running average of a measurement of the updates, for `monitor`.

    Args:
      measure: (static) a function of the updates; truth values count as 0 and 1.
      decay: decay of the average, in [0, 1).
      debias: (static) true divides by the total weight of the average.
      accumulator_dtype: (static) dtype in which the average is stored; the measurement's if None.

    Raises:
      ValueError: a decay outside of [0, 1).

    >>> tx = measure_with_ema(lambda updates: jnp.max(updates) > 2.0, decay=0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> for largest in (3.0, 1.0):
    ...     share, state = tx.update(jnp.array([0.0, largest]), state)
    >>> round(float(share), 4)
    0.3333
    """
    bound = {"measure": static(_InNumbers(measure))}
    average = ema(decay, debias, accumulator_dtype)
    return transform(_measure_with_ema_init, _measure_with_ema_update, inner=average, at_init=bound, **bound)


@dataclasses.dataclass(frozen=True)
class _InNumbers:
    """A measure whose truth values and integers are floating-point numbers, which can be averaged."""

    measure: Callable[[Tree], Tree]

    def __call__(self, updates: Tree) -> Tree:
        return jax.tree.map(_as_number, self.measure(updates))


def _as_number(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _zeros_of(measure: Callable, params: Tree) -> Tree:
    """Zeros of the shapes of a measurement; one zero if there are no leaves to measure."""
    if not jax.tree.leaves(params):
        return jnp.zeros([])
    return jax.tree.map(lambda struct: jnp.zeros(struct.shape, struct.dtype), jax.eval_shape(measure, params))


def _snapshot_init(params, *, measure_name, measure):
    return SnapshotState({measure_name: _zeros_of(measure, params)})


def _snapshot_update(grads, state, params=None, *, measure_name, measure, **extra):
    del state, params, extra
    return grads, SnapshotState({measure_name: measure(grads)})


def _measured(measure: Callable) -> Transform:
    """The stage whose updates are ``measure(updates)``."""
    bound = {"measure": static(measure)}
    return transform(_measured_init, _measured_update, at_init=bound, **bound)


def _measured_init(params, *, measure):
    del params, measure
    return optax.EmptyState()


def _measured_update(grads, state, params=None, *, measure, **extra):
    del params, extra
    return measure(grads), state


def _measure_with_ema_init(params, *, inner, measure):
    return optax.EmptyState(), inner(_zeros_of(measure, params))


def _measure_with_ema_update(grads, state, params=None, *, inner, measure, **extra):
    del params, extra
    average, ema_state = inner(measure(grads), state[1])
    return average, (state[0], ema_state)


def _monitor_init(params, *, inner, names):
    measures = [dict(getattr(init.func, "structure", ())).get("measure") for init in inner]
    known = {name: measure.value for name, measure in zip(names, measures, strict=True) if measure is not None}
    measurements = {name: _zeros_of(measure, params) for name, measure in known.items()}
    return MonitorState(measurements, tuple(init(params) for init in inner))


def _monitor_update(grads, state, params=None, *, inner, names, **extra):
    measurements, states = {}, []
    for name, update, measure_state in zip(names, inner, state.measure_states, strict=True):
        measurements[name], measure_state = update(grads, measure_state, params, **extra)
        states.append(measure_state)
    return grads, MonitorState(measurements, tuple(states))
