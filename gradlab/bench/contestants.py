"""AdamW, with and without clipping by the global norm, in gradlab, optax and torch: equal work on equal numbers."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.machine import current_device
from gradlab.bench.trees import Shapes, normal
from gradlab.core.buckets import bucket, unbucket
from gradlab.core.compose import chain
from gradlab.core.transform import Transform
from gradlab.core.update import apply_updates
from gradlab.optimizers.adam import adamw, scale_by_adam
from gradlab.transforms.clip import clip_by_global_norm
from gradlab.transforms.decay import add_decayed_weights
from gradlab.transforms.layout import flatten
from gradlab.transforms.scaling import scale_by_learning_rate

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0


class Library(NamedTuple):
    """The functions that a training step needs, by the names that gradlab and optax share."""

    adamw: Callable
    clip_by_global_norm: Callable
    chain: Callable
    apply_updates: Callable
    static_argnums: Sequence[int]  # of a jitted function whose first argument is the optimizer
    hold: Callable = lambda params: params  # how parameters are held between steps
    join: Callable = lambda params, grads: grads  # gradients, as a backward pass gives them, like the parameters held

    def optimizer(self, clip: bool = False, learning_rate: float = LEARNING_RATE) -> optax.GradientTransformation:
        tx = self.adamw(learning_rate, weight_decay=WEIGHT_DECAY)
        return self.chain(self.clip_by_global_norm(MAX_NORM), tx) if clip else tx

    def jitted_update(self) -> Any:
        """A function that jax has not seen: ``(tx, grads, state, params) -> (updates, state)``."""

        def update(tx, grads, state, params):
            return tx.update(grads, state, params)

        return jax.jit(update, static_argnums=self.static_argnums)

    def jitted_step(self) -> Any:
        """A function that jax has not seen: ``(tx, params, state, grads) -> (params, state)``, which it donates."""

        def step(tx, params, state, grads):
            updates, state = tx.update(self.join(params, grads), state, params)
            return self.apply_updates(params, updates), state

        return jax.jit(step, static_argnums=self.static_argnums, donate_argnums=(1, 2))


LIBRARIES = {
    "gradlab": Library(adamw, clip_by_global_norm, chain, apply_updates, static_argnums=()),
    "optax": Library(optax.adamw, optax.clip_by_global_norm, optax.chain, optax.apply_updates, static_argnums=(0,)),
}


def flat_adamw(learning_rate: Any, weight_decay: Any) -> Transform:
    """AdamW whose averages are one vector: few kernels for many small leaves."""
    direction = flatten(scale_by_adam())
    return chain(direction, add_decayed_weights(weight_decay), scale_by_learning_rate(learning_rate))


FLAT = {"gradlab": LIBRARIES["gradlab"]._replace(adamw=flat_adamw), "optax": LIBRARIES["optax"]}
BUCKETS = {
    "gradlab": LIBRARIES["gradlab"]._replace(hold=bucket, join=lambda params, grads: params.like(grads)),
    "optax": LIBRARIES["optax"],
}


class JaxTraining:
    """Parameters that always move along the same gradients."""

    def __init__(self, library: Library, params: Any, grads: Any, clip: bool):
        self._held = library.hold(jax.tree.map(lambda p: jnp.array(p, copy=True), params))
        self._grads = grads
        self._tx = library.optimizer(clip)
        self._state = self._tx.init(self._held)
        self._jitted_step = library.jitted_step()

    @property
    def params(self) -> Any:
        return unbucket(self._held)

    def step(self) -> Any:
        """Moves the parameters by one jitted step."""
        self._held, self._state = self._jitted_step(self._tx, self._held, self._state, self._grads)
        return self._held

    def update(self) -> Any:
        """Calls the optimizer outside of jit; nothing moves."""
        return self._tx.update(self._grads, self._state, self._held)


class TorchTraining:
    """The same in torch: its fused AdamW, after its foreach clipping."""

    def __init__(self, params: Any, grads: Any, clip: bool):
        import torch

        self._torch, self._clip = torch, clip
        self.leaves = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for leaf in jax.tree.leaves(params)]
        self._treedef = jax.tree.structure(params)
        for leaf, grad in zip(self.leaves, jax.tree.leaves(grads), strict=True):
            leaf.grad = torch.tensor(np.asarray(grad))
        self._optimizer = torch.optim.AdamW(self.leaves, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    @property
    def params(self) -> Any:
        return jax.tree.unflatten(self._treedef, [leaf.detach().numpy() for leaf in self.leaves])

    def step(self) -> None:
        """Moves the parameters by one step."""
        if self._clip:
            self._torch.nn.utils.clip_grad_norm_(self.leaves, MAX_NORM, foreach=True)
        self._optimizer.step()

    update = step


def torch_takes_part() -> bool:
    """Whether torch is installed and jax computes where torch does, on the CPU."""
    return current_device().platform == "cpu" and importlib.util.find_spec("torch") is not None


def trainings(
    shapes: Shapes, clip: bool, libraries: Mapping[str, Library] = LIBRARIES
) -> dict[str, JaxTraining | TorchTraining]:
    """One training for each library, from equal parameters along equal gradients."""
    params, grads = normal(shapes, seed=0, scale=0.02), normal(shapes, seed=1)
    torch = {"torch": TorchTraining(params, grads, clip)} if torch_takes_part() else {}
    grads = jax.tree.map(jnp.asarray, grads)
    return {**{name: JaxTraining(library, params, grads, clip) for name, library in libraries.items()}, **torch}
