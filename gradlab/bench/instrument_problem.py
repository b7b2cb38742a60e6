"""What the instruments are measured on: a classifier of the digits after some training, and one batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradlab.optimizers as optimizers
from gradlab.tasks import data
from gradlab.tasks.supervised import flax_task
from gradlab.training.loop import fit

TRAIN_BATCH = 64


class Problem(NamedTuple):
    """A loss with all that an instrument may ask for; ``batch`` is what every cost is counted on."""

    outputs: Callable  # (params, batch) -> (examples, classes)
    params: Any
    batch: dict[str, jax.Array]
    start: Any  # the parameters before training

    def losses(self, params: Any, batch: Any) -> jax.Array:
        """One loss for each example."""
        return cross_entropies(self.outputs(params, batch), batch)

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """Their mean."""
        return jnp.mean(self.losses(params, batch))

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def cross_entropies(outputs: jax.Array, batch: Any) -> jax.Array:
    """One number for each example."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])


def make_problem(model: Any, *, images: bool = False, examples: int = 256, steps: int = 60) -> Problem:
    """A Flax model of the digits after so many steps of Adam, and a batch of so many examples."""
    from gradlab.tasks import networks

    rows = data.digits(images=images)
    network, _ = networks.as_network(model, rows.train["x"])
    task = flax_task(model, rows.train)
    start, _ = task.init(jax.random.split(jax.random.key(0), 3)[0])
    run = fit(task, optimizers.adam(1e-3), steps=steps, batch_size=min(TRAIN_BATCH, examples), eval_every=steps)
    batch = {name: jnp.asarray(array[:examples]) for name, array in rows.train.items()}
    return Problem(functools.partial(_outputs, network), jax.tree.map(jnp.asarray, run.params), batch, start)


def _outputs(network: Any, params: Any, batch: Any) -> jax.Array:
    return network.apply(params, {}, batch["x"], None, train=False)[0]


@functools.cache
def digits_cnn() -> Problem:
    """The convolutional network of the catalogue."""
    from gradlab.tasks.networks import SmallCNN

    return make_problem(SmallCNN(10), images=True)


@functools.cache
def digits_mlp() -> Problem:
    """A perceptron with two hidden layers and 1024 examples, whose gradient takes milliseconds."""
    from gradlab.tasks.networks import MLP

    return make_problem(MLP((128, 128, 10), "relu"), examples=1024)


@functools.cache
def small_mlp() -> Problem:
    """A perceptron with 64 units and 64 examples, whose loss takes microseconds."""
    from gradlab.tasks.networks import MLP

    return make_problem(MLP((64, 10), "relu"), examples=64)


class Problems(NamedTuple):
    """Makes each problem when the first row needs it."""

    cnn: Callable[[], Problem] = digits_cnn
    mlp: Callable[[], Problem] = digits_mlp
    small: Callable[[], Problem] = small_mlp
