"""The instruments that `gradlab.fit` knows by name, each with what a look costs in gradients (G) and copies of the
parameters that it keeps.

::

    norms       0 G    0   parameters, gradient and update, and their ratio
    health      0 G    2   the same, with the distance from the start and how far the gradient turned
    probe       7 G    0   what the update was expected to do to the loss of its batch, and what it did
    noise       1 G    0   the noise of the gradient and the critical batch size, averaged over the looks
    stability   3m G   1   the sharpness beside the one that the optimizer can hold; m = 8
    saddle      6m G   0   how much of the update lies along negative curvature, and whether it descends there; m = 16

Curvatures and noises are those of the loss of the step: on its batch, with its model state.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core import tree as trees
from gradlab.core.across import squared_distance, vdot
from gradlab.core.curvature import widen
from gradlab.core.norms import global_norm
from gradlab.instruments.edge import edge_of
from gradlab.instruments.noise_stream import NoiseStream, noise_stream, stream_noise, streamed_noise, two_batch
from gradlab.instruments.operators import hessian
from gradlab.instruments.saddle_free import saddle_report
from gradlab.instruments.stability import gauge
from gradlab.instruments.step_probe import step_probe
from gradlab.training.watch import Instrument, Sight

Tree = Any
Numbers = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Norms:
    """Sizes of what moves."""

    name: ClassVar[str] = "norms"

    def start(self, params: Tree) -> tuple:
        return ()

    def look(self, sight: Sight, memory: tuple) -> tuple[Numbers, tuple]:
        params, grads, update = (global_norm(tree) for tree in (sight.params, sight.grads, sight.update))
        numbers = {"params": params, "grads": grads, "update": update, "ratio": update / params}
        return numbers, memory


@dataclasses.dataclass(frozen=True)
class Health:
    """Sizes of what moves, how far it went, how the gradient turned, and how many of its entries are not finite."""

    name: ClassVar[str] = "health"

    def start(self, params: Tree) -> tuple[Tree, Tree]:
        return trees.copied(params), trees.zeros_like(params)

    def look(self, sight: Sight, memory: tuple[Tree, Tree]) -> tuple[Numbers, tuple[Tree, Tree]]:
        (start, previous), (numbers, _) = memory, Norms().look(sight, ())
        lengths = numbers["grads"] * global_norm(previous)
        numbers["cosine"] = vdot(sight.grads, previous) / lengths
        numbers["distance"] = jnp.sqrt(squared_distance(sight.params, start))
        numbers["nonfinite"] = sum(jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sight.grads)) * 1.0
        return numbers, (start, jax.tree.map(lambda g, p: g.astype(p.dtype), sight.grads, previous))


@dataclasses.dataclass(frozen=True)
class Probe:
    """The update beside the quadratic model of the loss: `gradlab.instruments.step_probe`, rates as factors of it."""

    name: ClassVar[str] = "probe"

    def start(self, params: Tree) -> tuple:
        return ()

    def look(self, sight: Sight, memory: tuple) -> tuple[Numbers, tuple]:
        found = step_probe(sight.loss, sight.params, sight.batch, sight.update)
        kept = ("grad_squared", "grad_curvature", "slope", "curvature", "predicted", "actual", "ratio", "alpha")
        return {name: getattr(found, name) for name in kept} | {"best_factor": found.best_rate}, memory


@dataclasses.dataclass(frozen=True)
class Noise:
    """The gradient's noise from parts of each batch, averaged over the looks: `gradlab.instruments.two_batch`.

    Args:
      parts: pieces of one size that a batch is cut into; by default 8, 4 or 2, the most that divide it.
      decay: of the averages, from one look to the next.
    """

    name: ClassVar[str] = "noise"
    parts: int | None = None
    decay: float = 0.9

    def start(self, params: Tree) -> NoiseStream:
        return noise_stream(trees.real_dtype(widen(params)))

    def look(self, sight: Sight, memory: NoiseStream) -> tuple[Numbers, NoiseStream]:
        examples = min((len(leaf) for leaf in jax.tree.leaves(sight.batch)), default=0)
        parts = self.parts or next((parts for parts in (8, 4, 2) if examples % parts == 0), 2)
        found = two_batch(sight.loss, sight.params, sight.batch, parts)
        memory = stream_noise(memory, found.square, found.trace, self.decay)
        read = streamed_noise(memory)
        values = {"square": read.square.value, "trace": read.trace.value, "scale": read.simple.value}
        return values | {"scale_error": read.simple.error}, memory


@dataclasses.dataclass(frozen=True)
class Stability:
    """The sharpness beside the threshold: `gradlab.instruments.gauge`, each look from the last one's eigenvector.

    Args:
      products: m, Hessian-vector products a look.
    """

    name: ClassVar[str] = "stability"
    products: int = 8

    def start(self, params: Tree) -> Tree:
        return trees.zeros_like(widen(params))

    def look(self, sight: Sight, memory: Tree) -> tuple[Numbers, Tree]:
        edge = edge_of(sight.tx, sight.opt_state, sight.opt_state_after)
        op = hessian(sight.loss, sight.params, sight.batch)
        found = gauge(op, sight.grads, edge.threshold, sight.key, self.products, memory, edge.diagonal)
        kept = ("sharpness", "residual", "threshold", "ratio", "alignment")
        top = jax.tree.map(lambda vectors, old: vectors[0].astype(old.dtype), found.eigs.vectors, memory)
        return {name: getattr(found, name) for name in kept}, top


@dataclasses.dataclass(frozen=True)
class Saddle:
    """How the update deals with negative curvature: `gradlab.instruments.saddle_report`.

    Args:
      products: m, Hessian-vector products for each of the two Krylov spaces of a look.
    """

    name: ClassVar[str] = "saddle"
    products: int = 16

    def start(self, params: Tree) -> tuple:
        return ()

    def look(self, sight: Sight, memory: tuple) -> tuple[Numbers, tuple]:
        op = hessian(sight.loss, sight.params, sight.batch)
        found = saddle_report(op, sight.grads, sight.update, self.products)
        kept = ("curvature", "share", "gradient_share", "escape", "descent", "alignment", "unseen")
        return {name: getattr(found, name) for name in kept}, memory


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of the user's: ``sight -> number``, or a mapping of numbers by name."""

    function: Callable[[Sight], Any]

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def start(self, params: Tree) -> tuple:
        return ()

    def look(self, sight: Sight, memory: tuple) -> tuple[Numbers, tuple]:
        seen = self.function(sight)
        return dict(seen) if isinstance(seen, dict) else {"value": seen}, memory


INSTRUMENTS = {kind.name: kind for kind in (Norms, Health, Probe, Noise, Stability, Saddle)}
PRESETS = {
    "light": ("norms",),
    "normal": ("health", "probe", "noise"),
    "full": ("health", "probe", "noise", "stability", "saddle"),
}


def make_instruments(given: Any, examples: int) -> tuple[Instrument, ...]:
    """Instruments from what a user writes: a preset, a name, or a list of names, instruments and functions.

    Args:
      given: ``'light'``, ``'normal'``, ``'full'``, ``'probe'``, ``['health', Stability(products=16), my_function]``.
      examples: in a batch; 0 for a task without data, of which a preset leaves the noise out.

    Raises:
      ValueError: an unknown name, the same instrument twice, a noise without two parts of a batch to compare.
      TypeError: something else.

    >>> [instrument.name for instrument in make_instruments('normal', examples=64)]
    ['health', 'probe', 'noise']
    """
    if isinstance(given, str) and given in PRESETS:
        given = [name for name in PRESETS[given] if name != "noise" or examples]
    single = isinstance(given, str) or callable(given) or hasattr(given, "look")
    items: Iterable[Any] = [given] if single else given
    made = tuple(_instrument(item) for item in items)
    names = [instrument.name for instrument in made]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"instrument {name!r} is given {names.count(name)} times; give each once")
    for instrument in made:
        parts = getattr(instrument, "parts", None) or 2
        if isinstance(instrument, Noise) and (not examples or examples % parts):
            what = f"cut a batch of {examples} examples into {parts}" if examples else "measure noise without data"
            raise ValueError(f"instrument 'noise' cannot {what}; change batch_size, or leave it out")
    return made


def _instrument(item: Any) -> Instrument:
    if isinstance(item, str):
        check.one_of("instrument", item, (*INSTRUMENTS, *PRESETS))
        if item in PRESETS:
            raise ValueError(f"{item!r} is a preset of instruments: give it alone, or name them: {PRESETS[item]}")
        return INSTRUMENTS[item]()
    if hasattr(item, "look") and hasattr(item, "start") and not isinstance(item, type):
        return item
    if callable(item) and not isinstance(item, type):
        return Function(item)
    raise TypeError(
        f"an instrument must be one of {', '.join(INSTRUMENTS)}, an object with `start` and `look`, or a function of "
        f"a Sight, got {type(item).__name__}: {item!r}"
    )
