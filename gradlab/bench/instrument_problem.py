"""What the instruments are measured on: a classifier of the digits after some training, and one batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradlab.optimizers as optimizers
from gradlab.bench.programs import planned_bytes
from gradlab.instruments import extreme, hessian
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
        return optax.softmax_cross_entropy_with_integer_labels(self.outputs(params, batch), batch["y"])

    def loss(self, params: Any, batch: Any) -> jax.Array:
        """Their mean."""
        return jnp.mean(self.losses(params, batch))

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


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
    """A perceptron with 64 units, whose loss on 64 examples takes microseconds."""
    from gradlab.tasks.networks import MLP

    return make_problem(MLP((64, 10), "relu"), examples=64)


def lanczos_bytes(problem: Problem, products: int) -> int:
    """Bytes that XLA plans for the top eigenvalue by so many products."""
    top = lambda op, key: extreme(op, key, m=products)
    return planned_bytes(jax.jit(top).lower(hessian(problem.loss, problem.params, problem.batch), _KEY()).compile())


def _KEY() -> jax.Array:
    return jax.random.key(0)
