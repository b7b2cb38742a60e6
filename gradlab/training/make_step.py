"""A training step that changes its buffers in place: one compiled function from a state and a batch to the next state.

::

    state = start_step(tx, params)
    step = make_step(loss)
    state, metrics = step(state, batch)      the old state is gone: its memory holds the new one

With ``parts`` the batch is cut along the examples, and the gradients are added up in a scan with one accumulator; with
``remat`` the activations of the forward pass are computed again instead of kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.buckets import unbucket
from gradlab.core.norms import global_norm
from gradlab.core.transform import from_optax
from gradlab.core.update import apply_updates
from gradlab.training.layouts import Layout, split_gradient, within
from gradlab.training.placement import PlacedStep
from gradlab.training.savable import savable

Tree = Any


class StepState(NamedTuple):
    """All of a training run: a pytree, so that it may be donated, sharded, saved and batched."""

    step: jax.Array  # () int32, steps done
    params: Tree
    opt_state: Tree
    tx: optax.GradientTransformation  # the optimizer: its hyperparameters are leaves


def start_step(tx: optax.GradientTransformation, params: Tree, layout: Layout | None = None) -> StepState:
    """The state before the first step; parameters and optimizer are copied, since steps destroy what they are given.

    With a layout it is made where it shall lie: no buffer is first on one device.

    Raises:
      TypeError: a parameter is a shape without numbers, or no floating-point number.

    >>> import gradlab
    >>> state = start_step(gradlab.sgd(0.5), {'w': jnp.ones(2)})
    >>> int(state.step), state.params['w'].tolist()
    (0, [1.0, 1.0])
    """
    for path, p in jax.tree_util.tree_leaves_with_path(params):
        _check_parameter(trees.path_name(path), p)
    tx = savable(from_optax(tx))
    begin = lambda tx, params: StepState(jnp.zeros([], jnp.int32), params, tx.init(params), tx)
    if layout is None:
        return begin(trees.copied(tx), trees.copied(params))
    copied = partial(jax.device_put, may_alias=False)
    tx = jax.tree.map(lambda leaf: copied(jnp.asarray(leaf), layout.everywhere), tx)
    params = jax.tree.map(copied, params, layout.params)
    near = layout if layout.near is None else layout._replace(opt_state=layout.near)
    state = jax.jit(within(layout, begin), out_shardings=_shardings(near))(tx, params)
    return state if layout.near is None else state._replace(opt_state=jax.device_put(state.opt_state, layout.opt_state))


def _check_parameter(name: str, p: Any) -> None:
    if isinstance(p, jax.ShapeDtypeStruct):
        raise TypeError(
            f"start_step: the parameter at '{name}' is a shape, and training starts from numbers: make them, with a "
            "layout where they shall lie, as in jax.jit(model.init, out_shardings=layout.params)(key)"
        )
    if not jnp.issubdtype(jnp.result_type(p), jnp.inexact):
        raise TypeError(
            f"start_step: the parameter at '{name}' is {jnp.result_type(p)}, and only floating-point numbers have "
            "gradients: leave it out, as nnx.split(model, nnx.Param, ...) does with counters and keys"
        )


def _shardings(layout: Layout) -> StepState:
    """A prefix of the state's tree."""
    return StepState(layout.everywhere, layout.params, layout.opt_state, layout.everywhere)


def make_step(
    loss: Callable,
    *,
    donate: bool = True,
    parts: int = 1,
    remat: bool | Callable = False,
    accumulator_dtype: Any = None,
    layout: Layout | None = None,
) -> Callable[[StepState, Any], tuple[StepState, dict[str, jax.Array]]]:
    """A compiled training step for a loss.

    Args:
      loss: ``(params, batch) -> scalar``, a mean over the batch, or ``-> (scalar, metrics)`` with a dictionary.  Where
        the state holds `gradlab.bucket` of a tree it sees the tree.
      donate: whether the state is updated in place; false keeps the old one.
      parts: pieces of one size that a batch is cut into along its first axis, to hold the activations of one at a
        time; gradients, loss and metrics are means over them, as they are over devices.
      remat: true keeps no activations for the backward pass but computes them again; a policy of
        ``jax.checkpoint_policies`` says which are kept.
      accumulator_dtype: of floating-point numbers, in which the gradients of the parts are added up (its complex
        counterpart for complex ones); the parameters', but at least float32, if None.
      layout: where the state lies and batches are split, from `zero_layout`, `fsdp_layout` or `layout_of`; with the
        first two the loss sees the share of one device.

    Returns:
      ``(state, batch) -> (state, metrics)``, jitted, with ``trace`` and ``lower`` as jitted functions have them; with a
      layout the batch may lie anywhere.  The metrics are those of the loss, ``'loss'`` and ``'grad_norm'``.  As means
      over parts, and over the devices of the first two layouts, they should be means over examples: a count comes out
      as that of one part on one device, and an array has its numbers averaged in place, those of examples that only
      share a position too.  With several such devices arrays are refused.

    Raises:
      TypeError: ``parts`` or ``accumulator_dtype`` of another kind.
      ValueError: a loss that is no scalar, metrics that are arrays or have a name that is taken, a batch that the parts
        or devices do not divide.

    >>> import gradlab
    >>> step = make_step(lambda params, batch: jnp.mean((batch - params['w']) ** 2), parts=2)
    >>> state = start_step(gradlab.sgd(0.25), {'w': jnp.zeros(())})
    >>> state, metrics = step(state, jnp.array([1.0, 3.0, 1.0, 3.0]))
    >>> float(state.params['w']), float(metrics['loss']), float(metrics['grad_norm'])
    (1.0, 5.0, 4.0)
    """
    _check_options(parts, accumulator_dtype)
    devices = 1 if layout is None or layout.axis is None else layout.batch.mesh.shape[layout.axis]
    with_metrics = lambda params, batch: _with_metrics(loss, unbucket(params), batch, devices)
    if remat:
        with_metrics = jax.checkpoint(with_metrics, policy=remat if callable(remat) else None)
    gradient = jax.value_and_grad(with_metrics, has_aux=True)
    if parts > 1:
        gradient = partial(_over_parts, gradient, parts=parts, dtype=accumulator_dtype)
    if layout is not None and layout.axis is not None:
        gradient = split_gradient(gradient, layout)

    def step(state: StepState, batch: Any) -> tuple[StepState, dict[str, jax.Array]]:
        (value, metrics), grads = gradient(state.params, batch)
        grads = jax.tree.map(jnp.conj, grads)  # of complex parameters JAX's is the conjugate of the way up
        told = {
            "value": value,
            "grad": grads,
            "step": state.step,
            "value_fn": lambda params: with_metrics(params, batch)[0],
        }
        held = state.params if layout is None else jax.lax.with_sharding_constraint(state.params, layout.grads)
        slots = (
            state.opt_state if layout is None or layout.near is None else jax.device_put(state.opt_state, layout.near)
        )
        updates, slots = state.tx.update(grads, slots, held, **told)
        params = apply_updates(held, updates)
        opt_state = slots if layout is None or layout.near is None else jax.device_put(slots, layout.opt_state)
        new = StepState(state.step + 1, params, opt_state, state.tx)
        return new, {**metrics, "loss": value, "grad_norm": global_norm(grads)}

    placed = {} if layout is None else _placed(layout)
    jitted = jax.jit(within(layout, step), donate_argnums=0 if donate else (), **placed)
    return jitted if layout is None else PlacedStep(jitted, layout, parts)


def _check_options(parts: int, accumulator_dtype: Any) -> None:
    if not isinstance(parts, int | np.integer):
        raise TypeError(f"`parts` must be an integer, got {parts!r}")
    check.in_range("parts", parts, 1)
    if accumulator_dtype is not None and not jnp.issubdtype(jnp.dtype(accumulator_dtype), jnp.floating):
        raise TypeError(
            f"`accumulator_dtype` must be of floating-point numbers, as 'float32' or 'bfloat16' are, got "
            f"{jnp.dtype(accumulator_dtype)}: gradients are added up in it"
        )


def _placed(layout: Layout) -> dict[str, Any]:
    state = _shardings(layout)
    return {"in_shardings": (state, layout.batch), "out_shardings": (state, layout.everywhere)}


def _with_metrics(loss: Callable, params: Tree, batch: Any, devices: int) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss and metrics as arrays, checked.

    Args:
      loss: as for `make_step`.
      params: as the loss takes them.
      batch: or a share of one.
      devices: over whose shares the metrics will be averaged.
    """
    returned = loss(params, batch)
    if isinstance(returned, tuple) and len(returned) != 2:
        raise ValueError(f"make_step: the loss must return a number or (number, metrics), got {len(returned)} values")
    value, metrics = returned if isinstance(returned, tuple) else (returned, {})
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"make_step: the loss must be one real number, the mean over the batch; got "
            f"{jnp.result_type(value)}{list(jnp.shape(value))}"
        )
    if not isinstance(metrics, dict) or {"loss", "grad_norm"} & metrics.keys():
        got = jax.tree.map(jnp.shape, metrics)
        raise ValueError(f"make_step: metrics must be a dictionary without 'loss' and 'grad_norm', got {got}")
    metrics = jax.tree.map(jnp.asarray, metrics)
    for path, metric in jax.tree_util.tree_leaves_with_path(metrics):
        if devices > 1 and metric.ndim:
            raise ValueError(
                f"make_step: the metric '{trees.path_name(path)}' is an array of shape {metric.shape}, and the mean "
                f"over {devices} devices would mix examples that only share a position: return numbers that are means "
                "over the batch, or evaluate state.params outside of the step"
            )
    return value, metrics


def _over_parts(gradient: Callable, params: Tree, batch: Any, parts: int, dtype: Any) -> tuple[tuple, Tree]:
    """The mean over the parts, added up in one accumulator."""
    pieces = jax.tree_util.tree_map_with_path(lambda path, x: _cut(path, x, parts), batch)
    first = jax.tree.map(lambda x: x[0], pieces)
    aux, grads = jax.eval_shape(gradient, params, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), aux)
    zeros = zeros, jax.tree.map(lambda g: jnp.zeros(g.shape, _summed_in(dtype, g)), grads)

    def add(sums, piece):
        return jax.tree.map(
            lambda total, x: total + (x / parts).astype(total.dtype), sums, gradient(params, piece)
        ), None

    (aux, sums), _ = jax.lax.scan(add, zeros, pieces)
    return aux, jax.tree.map(lambda total, p: total.astype(p.dtype), sums, params)


def _summed_in(dtype: Any, g: jax.ShapeDtypeStruct) -> Any:
    if dtype is None:
        return jnp.promote_types(g.dtype, jnp.float32)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.promote_types(dtype, jnp.complex64) if jnp.issubdtype(g.dtype, jnp.complexfloating) else dtype


def _cut(path: tuple, x: jax.Array, parts: int) -> jax.Array:
    if not jnp.ndim(x) or jnp.shape(x)[0] % parts:
        raise ValueError(
            f"make_step: the batch's leaf at '{trees.path_name(path)}' of shape {jnp.shape(x)} does not divide into "
            f"parts={parts} along its first axis"
        )
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
