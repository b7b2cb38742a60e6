r"""How the back-propagated signal changes over depth and over time, and what clipping does to a gradient.

With h_l the output of layer l, or the state of a recurrent network after l steps, and J_l the Jacobian of the step
from l - 1 to l::

    dL/dh_(l-1) = J_l' dL/dh_l       vanishes where the J_l shrink it, explodes where they stretch it

The gradients at all h_l come from one backward pass, as those of perturbations that are zero: h_l + 0.  See Pascanu et
al., arXiv 1211.5063, for recurrent networks, and Saxe et al., arXiv 1312.6120, for deep ones.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.norms import global_norm
from gradlab.core.numerics import safe_quotient

Tree = Any
Tap = Callable[[str, Tree], Tree]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Profile:
    """The back-propagated signal at every tapped value, in the order in which they are computed."""

    loss: jax.Array  # ()
    grad_norms: jax.Array  # (taps,) the norm of dL/dh over the whole value, the batch included
    value_norms: jax.Array  # (taps,) the norm of h itself
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


class TimeProfile(NamedTuple):
    """The back-propagated signal at every state of a recurrence."""

    loss: jax.Array  # ()
    grad_norms: jax.Array  # (steps + 1,) the norm of dL/dh_t, the start first
    value_norms: jax.Array  # (steps + 1,) the norm of h_t


class ClipEffect(NamedTuple):
    """A gradient beside its clipped self."""

    cosine: jax.Array  # () of the angle between them: 1 for clipping by norm; NaN where one is zero
    before: jax.Array  # () norm
    after: jax.Array  # () norm


def backprop_profile(tapped: Callable[..., jax.Array], *args: Any) -> Profile:
    """The norm of dL/dh at every tapped value, by one gradient: G and one abstract trace.

    ``tapped(tap, *args)`` is a loss that sends each value of interest through ``h = tap(name, h)``.  `layer_taps` makes
    one of a list of layers, `gradlab.instruments.taps` of a Flax model.  Under `jax.jit` and `jax.vmap` the function is
    static.  Values that do not reach the loss have norm 0.

    Args:
      tapped: as above; deterministic.
      *args: what it is called with, such as ``params, batch``.

    Raises:
      ValueError: nothing is tapped; a value is tapped inside of a loop, whose steps would share one perturbation.
      TypeError: the loss is no real number, or a tapped value is not of a floating-point dtype.

    >>> def tapped(tap, x):
    ...     first = tap('first', 3.0 * x)
    ...     return jnp.sum(tap('second', 2.0 * first))
    >>> profile = backprop_profile(tapped, jnp.ones(1))
    >>> profile.names, profile.grad_norms.tolist(), profile.value_norms.tolist()
    (('first', 'second'), [2.0, 1.0], [3.0, 6.0])
    """
    shapes: dict[str, Tree] = {}
    jax.eval_shape(lambda *args: _one_number(tapped(_Recorder(shapes), *args)), *args)
    if not shapes:
        raise ValueError("the function taps nothing: send values through h = tap(name, h), or widen the pattern")
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), list(shapes.values()))

    def perturbed(perturbations):
        values: dict[str, Tree] = {}
        loss = tapped(_Perturber(dict(zip(shapes, perturbations, strict=True)), values), *args)
        return loss, [global_norm(value) for value in values.values()]

    (loss, value_norms), grads = jax.value_and_grad(perturbed, has_aux=True)(zeros)
    grad_norms = jnp.stack([global_norm(grad) for grad in grads])
    return Profile(loss, grad_norms, jnp.stack(value_norms), tuple(shapes))


def layer_taps(layers: Sequence[Callable[[Any, Any], Any]], out_loss: Callable[[Any, Any], Any]) -> Callable:
    """A tapped loss of ``(params, batch)`` for `backprop_profile` from a list of layers.

    Args:
      layers: each ``(params of the layer, h) -> h``; the values are named ``input``, ``1``, ``2``, ...
      out_loss: ``(output, batch) -> scalar``.  The first layer gets ``batch["x"]`` if the batch is a dict that has it,
        and the batch itself otherwise.

    >>> scale = lambda factor, h: factor * h
    >>> tapped = layer_taps([scale, scale], lambda output, batch: jnp.sum(output))
    >>> backprop_profile(tapped, [3.0, 2.0], jnp.ones(1)).grad_norms.tolist()
    [6.0, 2.0, 1.0]
    """
    layers = tuple(layers)

    def tapped(tap, params, batch):
        if len(params) != len(layers):
            raise ValueError(f"{len(layers)} layers need as many entries of `params`, got {len(params)}")
        h = tap("input", batch["x"] if isinstance(batch, dict) and "x" in batch else batch)
        for index, (layer, own) in enumerate(zip(layers, params, strict=True), start=1):
            h = tap(f"{index}", layer(own, h))
        return out_loss(h, batch)

    return tapped


def time_profile(
    step: Callable[[Any, Any], Any],
    loss: Callable[[Any], Any],
    start: Tree,
    inputs: Tree = None,
    *,
    steps: int | None = None,
) -> TimeProfile:
    """The norm of dL/dh_t at every state of ``h_t = step(h_(t-1), x_t)``, by one gradient through a scan: G.

    Args:
      step: ``(state, input) -> state``; the parameters are in its closure.  Static under `jax.jit`.
      loss: ``states -> scalar``, of all states after the steps, stacked along a first axis; static.
      start: the state before the first step.
      inputs: a tree of arrays (steps, ...), or None for a recurrence without inputs, which needs ``steps``.
      steps: (static) number of steps; by default the length of ``inputs``.

    Raises:
      ValueError: neither inputs nor steps, or no step at all.
      TypeError: a loss that is no real number, or a state that is not of a floating-point dtype.

    >>> profile = time_profile(lambda h, x: 0.5 * h, lambda states: jnp.sum(states[-1]), jnp.ones(1), steps=3)
    >>> profile.grad_norms.tolist(), profile.value_norms.tolist()
    ([0.125, 0.25, 0.5, 1.0], [1.0, 0.5, 0.25, 0.125])
    """
    if steps is None:
        leaves = jax.tree.leaves(inputs)
        if not leaves:
            raise ValueError("a recurrence without inputs needs `steps`, its length")
        steps = len(leaves[0])
    check.in_range("steps", steps, 1)
    start = jax.tree.map(jnp.asarray, start)
    zeros = jax.tree.map(lambda h: jnp.zeros((steps + 1, *h.shape), h.dtype), _floating("the state", start))

    def perturbed(perturbations):
        first = jax.tree.map(lambda h, p: h + p[0], start, perturbations)
        later = jax.tree.map(lambda p: p[1:], perturbations)

        def one(h, item):
            x, perturbation = item
            h = _add(step(h, x), perturbation)
            return h, h

        _, states = jax.lax.scan(one, first, (inputs, later), length=steps)
        return _one_number(loss(states)), jax.tree.map(lambda h, hs: jnp.concatenate([h[None], hs]), first, states)

    (value, states), grads = jax.value_and_grad(perturbed, has_aux=True)(zeros)
    return TimeProfile(value, jax.vmap(global_norm)(grads), jax.vmap(global_norm)(states))


def clip_effect(grads: Tree, clipped: Tree) -> ClipEffect:
    """What clipping, or any other transform, did to a gradient: the angle and both norms.  Cost: no gradient.

    Clipping by the global norm (arXiv 1211.5063) keeps the cosine at 1 and the norm at most the bound, and leaves
    shorter gradients as they are; clipping element by element turns the direction.

    >>> effect = clip_effect({'w': jnp.array([3.0, 4.0])}, {'w': jnp.array([1.0, 1.0])})
    >>> [round(float(x), 3) for x in effect]
    [0.99, 5.0, 1.414]
    """
    before, after = global_norm(grads), global_norm(clipped)
    scaled = lambda tree, size: jax.tree.map(lambda x: x * safe_quotient(1.0, size), tree)  # no overflow of products
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), scaled(grads, before), scaled(clipped, after))
    cosine = jax.tree.reduce(jnp.add, products, jnp.zeros([], before.dtype))
    return ClipEffect(jnp.where((before == 0) | (after == 0), jnp.nan, cosine), before, after)


def _current_trace() -> Any:
    return jax.extend.core.get_opaque_trace_state(convention="gradlab")


class _Recorder:
    """A tap that keeps the shapes of the values sent through it."""

    def __init__(self, shapes: dict[str, Tree]):
        self.shapes, self.trace = shapes, _current_trace()

    def __call__(self, name: str, h: Tree) -> Tree:
        if _current_trace() != self.trace:
            raise ValueError(
                f"the value {name!r} is tapped inside of scan, vmap, jit or remat, where one name stands for several "
                "values; leave it out of the pattern, or measure a recurrence with time_profile"
            )
        self.shapes[_unused(name, self.shapes)] = _floating(f"the value {name!r}", h)
        return h


class _Perturber:
    """A tap that adds the perturbation of its name."""

    def __init__(self, perturbations: dict[str, Tree], values: dict[str, Tree]):
        self.perturbations, self.values = perturbations, values

    def __call__(self, name: str, h: Tree) -> Tree:
        name = _unused(name, self.values)
        self.values[name] = _add(h, self.perturbations[name])
        return self.values[name]


def _unused(name: str, names: dict[str, Any]) -> str:
    """The name, or for the second use of a layer and later ones the name with its number."""
    count = sum(other == name or other.rpartition("#")[0] == name for other in names)
    return f"{name}#{count + 1}" if count else name


def _add(h: Tree, perturbation: Tree) -> Tree:
    return jax.tree.map(lambda x, p: x + p, h, perturbation)


def _floating(what: str, tree: Tree) -> Tree:
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"{what} has {jnp.result_type(leaf)} in it: signals are of real floating-point numbers")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def _one_number(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"the loss must be one real number, got {value.dtype}{list(value.shape)}; reduce it first")
    return value
