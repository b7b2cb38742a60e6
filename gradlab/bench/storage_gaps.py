"""Whether training notices how moments are kept: final losses against those in float32.

    gap = loss(storage) - loss(float32)     of the same seeds: initial parameters, batches, and the best learning rate

The rate is chosen in float32, of some powers of ten: what is stable there by a hair need not be with rounding, nor with
another order of sums, so that a rate at which one seed diverges is no candidate.  Rates and seeds are lanes of one
program, and so are the seeds of each storage.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradlab.core.storage import CODECS, MOMENTS, Factored, Storage, slots, store
from gradlab.core.storage.slots import NON_NEGATIVE
from gradlab.core.update import apply_updates, eval_params
from gradlab.tasks.catalogue import chars, digits_mlp
from gradlab.tasks.task import Task

RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
STORAGES: dict[str, Storage] = {name: name for name in CODECS if name not in ("float32", "factored")} | {
    "factored": Factored(least=32)  # networks of these tasks have no sides of 128
}
TASKS = {
    "digits_mlp": (digits_mlp, {"steps": 200, "batch_size": 64}),
    "chars": (
        functools.partial(chars, max_characters=10_000, context=8, width=32, layers=1, heads=1),
        {"steps": 100, "batch_size": 16},
    ),
}
"""What is trained: a network of three layers, and a small transformer, with the length of a run."""


class Gap(NamedTuple):
    """One optimizer under one storage."""

    optimizer: str
    storage: str
    learning_rate: float | None  # None where it has one of its own
    exact: float  # mean loss in float32
    spread: float  # its deviation over seeds
    loss: float  # with the storage
    gap: float
    error: float  # of the gap: the deviation of paired differences over the root of their number

    @property
    def is_noticed(self) -> bool:
        """A loss that is higher by more than the spread over seeds, by more than 5 %, and by twice its error."""
        return not self.gap <= max(self.spread, 0.05 * self.exact, 2 * self.error)


def optimizer_at(factory: Callable, learning_rate: Any) -> Any:
    """An optimizer with one number for every rate that it has no default for."""
    return factory(**{name: learning_rate for name in _rates_without_default(factory)})


def _rates_without_default(factory: Callable) -> list[str]:
    parameters = inspect.signature(factory).parameters.values()
    is_left = lambda p: p.default is p.empty or (p.name == "learning_rate" and p.default is None)
    return [p.name for p in parameters if is_left(p)]


def final_losses(
    task: Task,
    make: Callable[[jax.Array], Any],
    storage: Storage = None,
    *,
    rates: Sequence[float] = (1e-3,),
    seeds: int = 5,
    steps: int = 300,
    batch_size: int = 64,
) -> np.ndarray:
    """The loss on the training data after training: (rates, seeds).

    Args:
      task: what is trained.
      make: from a learning rate to an optimizer.
      storage: as for `gradlab.store`; None for the optimizer itself.
      rates: learning rates.
      seeds: how many; each has its own initial parameters, batches and rounding, the same for all rates and storages.
      steps: updates.
      batch_size: examples in an update.
    """
    one = functools.partial(_final_loss, task, make, storage, steps, batch_size)
    lanes = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return np.asarray(jax.jit(lanes)(jnp.asarray(rates, jnp.float32), jnp.arange(seeds)))


def _final_loss(task: Task, make: Callable, storage: Storage, steps: int, batch_size: int, rate: Any, seed: Any):
    tx = make(rate)
    tx = tx if storage is None else store(tx, storage, seed=seed)
    key = jax.random.key(seed)
    params, model_state = task.init(key)
    rows = jax.tree.leaves(task.train)[0].shape[0]

    def body(carry, index):
        params, model_state, state = carry
        now = jax.random.fold_in(key, index)
        batch = jax.tree.map(lambda x: jnp.asarray(x)[jax.random.randint(now, (batch_size,), 0, rows)], task.train)
        loss = lambda params: task.loss(params, model_state, batch, now)
        (value, model_state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        of_params = lambda params: loss(params)[0]
        updates, state = tx.update(grads, state, params, value=value, value_fn=of_params)
        return (apply_updates(params, updates), model_state, state), None

    start = (params, model_state, tx.init(params))
    (params, model_state, state), _ = jax.lax.scan(body, start, jnp.arange(steps))
    return task.metrics(eval_params(tx, state, params), model_state, task.train)["loss"]


def gaps(task: Task, optimizers: Mapping[str, Callable], storages: Mapping[str, Storage], **run: Any) -> Iterator[Gap]:
    """Every optimizer under every storage that keeps something of it, each as soon as it is known.

    Args:
      task: what is trained.
      optimizers: factories by name.
      storages: by name.
      **run: as for `final_losses`.
    """
    rates = run.pop("rates", RATES)
    for name, factory in optimizers.items():
        make = functools.partial(optimizer_at, factory)
        kept = _moments(task, make)
        if not kept:
            continue
        is_tuned = bool(_rates_without_default(factory))
        exact = final_losses(task, make, rates=rates if is_tuned else rates[:1], **run)
        best = int(np.argmin(np.where(np.isfinite(exact).all(1), exact.mean(1), np.inf)))
        for storage, how in storages.items():
            if storage == "factored" and not NON_NEGATIVE & kept:
                continue
            losses = final_losses(task, make, how, rates=rates[best : best + 1], **run)[0]
            yield _gap(name, storage, rates[best] if is_tuned else None, exact[best], losses)


def _moments(task: Task, make: Callable) -> set[str]:
    """The names of what one storage for all applies to in the optimizer's state for this task."""
    init = lambda: make(1e-3).init(task.init(jax.random.key(0))[0])
    return MOMENTS & slots(jax.eval_shape(init)).keys()


def _gap(optimizer: str, storage: str, rate: float | None, exact: np.ndarray, losses: np.ndarray) -> Gap:
    difference = losses - exact
    numbers = (exact.mean(), exact.std(), losses.mean(), difference.mean(), difference.std() / np.sqrt(len(exact) - 1))
    return Gap(optimizer, storage, rate, *map(float, numbers))
