"""A sweep of learning rates, compilation included: gradlab's lanes against three ways to run it with optax.

All train one network from one start on the same minibatches in the same order, and return the last loss of each
configuration.  Gradlab also evaluates every configuration before and after the run; the others do not.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.paired import Contestant, paired
from gradlab.bench.rows import Case, Samples
from gradlab.optimizers.adam import adam
from gradlab.sweeps import sweep as run_sweep
from gradlab.tasks.catalogue import digits_mlp
from gradlab.tasks.task import Task
from gradlab.training.batches import draw, make_feed
from gradlab.training.segment import DATA, INIT

SEED = 0


class Sweep(NamedTuple):
    """What all contestants are given."""

    task: Task
    learning_rates: np.ndarray  # (configurations,)
    steps: int
    batch_size: int

    def first(self, configurations: int) -> "Sweep":
        return self._replace(learning_rates=self.learning_rates[:configurations])


class Fixture(NamedTuple):
    """The start and the minibatches that the seed stands for in gradlab's sweeps."""

    params: Any
    model_state: Any
    rows: jax.Array  # (steps, batch) int32: examples of each minibatch


def digits_sweep(configurations: int = 64, steps: int = 500, batch_size: int = 64) -> Sweep:
    """Learning rates from 1e-4 to 1e-1 for Adam on a 64-64-64-10 network on the digits."""
    return Sweep(digits_mlp(), np.geomspace(1e-4, 1e-1, configurations), steps, batch_size)


def gradlab_lanes(sweep: Sweep) -> np.ndarray:
    """All configurations as lanes of one program, by `gradlab.sweep`."""
    result = run_sweep(
        sweep.task,
        adam,
        {"learning_rate": {"choice": sweep.learning_rates.tolist()}},
        sampler="grid",
        seeds=[SEED],
        steps=sweep.steps,
        batch_size=sweep.batch_size,
        eval_every=sweep.steps,
    )
    return result.loss[:, 0, -1]


def optax_loop(sweep: Sweep) -> np.ndarray:
    """One jitted step for each configuration, called in a Python loop."""
    return _one_by_one(sweep, _run_loop)


def optax_scans(sweep: Sweep) -> np.ndarray:
    """One jitted scan for each configuration."""
    return _one_by_one(sweep, _run_scan)


def optax_vmap(sweep: Sweep) -> np.ndarray:
    """One jitted scan of all configurations, vmapped by hand over a learning rate that is traced."""
    fixture = fixture_of(sweep)

    def final_loss(learning_rate, rows):
        start, step = _optax_training(sweep.task, fixture, optax.adam(learning_rate))
        return jax.lax.scan(step, start, rows)[1][-1]

    learning_rates = jnp.asarray(sweep.learning_rates, jnp.float32)
    return np.asarray(jax.jit(jax.vmap(final_loss, in_axes=(0, None)))(learning_rates, fixture.rows))


def fixture_of(sweep: Sweep) -> Fixture:
    """The initial parameters and the order of examples that gradlab derives from the seed."""
    key = jax.random.key(SEED)
    params, model_state = sweep.task.init(jax.random.fold_in(key, INIT))
    examples = jnp.arange(sweep.task.num_examples, dtype=jnp.int32)
    take = functools.partial(draw, data=examples, batch_size=sweep.batch_size, sampling="epoch")
    feed = make_feed(examples, jax.random.fold_in(key, DATA))
    _, rows = jax.lax.scan(lambda feed, step: take(feed, step=step), feed, jnp.arange(sweep.steps))
    return Fixture(params, model_state, rows)


def _one_by_one(sweep: Sweep, run: Callable) -> np.ndarray:
    fixture = fixture_of(sweep)
    trainings = (_optax_training(sweep.task, fixture, optax.adam(float(rate))) for rate in sweep.learning_rates)
    return np.array([run(*training, fixture.rows) for training in trainings])


def _run_loop(start: Any, step: Callable, rows: jax.Array) -> float:
    jitted, carry = jax.jit(step, donate_argnums=0), jax.tree.map(jnp.copy, start)
    for batch in np.asarray(rows):
        carry, loss = jitted(carry, batch)
    return float(loss)


def _run_scan(start: Any, step: Callable, rows: jax.Array) -> float:
    return float(jax.jit(lambda start, rows: jax.lax.scan(step, start, rows)[1][-1])(start, rows))


def _optax_training(task: Task, fixture: Fixture, tx: optax.GradientTransformation) -> tuple[Any, Callable]:
    """The first carry of a run and its step ``(carry, rows) -> (carry, loss)``."""

    def loss_of(params, model_state, batch):
        return task.loss(params, model_state, batch, jax.random.key(SEED))

    def step(carry, rows):
        params, model_state, opt_state = carry
        batch = jax.tree.map(lambda data: data[rows], task.train)
        (loss, model_state), grads = jax.value_and_grad(loss_of, has_aux=True)(params, model_state, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    return (fixture.params, fixture.model_state, tx.init(fixture.params)), step


class _Baseline(NamedTuple):
    run: Callable[[Sweep], np.ndarray]
    what: str
    at_most: float
    when_quick: int | None = None  # configurations that are run to estimate the time of all


BASELINES = {
    "loop": _Baseline(optax_loop, "a Python loop over jitted optax steps", at_most=1 / 10, when_quick=3),
    "scan": _Baseline(optax_scans, "a jitted optax scan for each configuration", at_most=1 / 6, when_quick=3),
    "vmap": _Baseline(optax_vmap, "a hand-written vmap over optax", at_most=1.0),
}


def sweep_cases(make_sweep: Callable[[], Sweep] = digits_sweep, *, quick: bool = False) -> list[Case]:
    """One row for each way to run the sweep with optax.

    Args:
      make_sweep: the sweep; it is made when a row is measured.
      quick: estimate the slow baselines from their first configurations, whose cost does not depend on the value of
        the learning rate; the rows say so.
    """
    return [_case(name, baseline, make_sweep, quick) for name, baseline in BASELINES.items()]


def _case(name: str, baseline: _Baseline, make_sweep: Callable[[], Sweep], quick: bool) -> Case:
    subset = baseline.when_quick if quick else None
    return Case(
        name=f"sweep/{name}",
        what=f"sweep of learning rates, lanes against {baseline.what}, compilation included",
        unit="s",
        measure=functools.partial(_time_sweep, make_sweep, baseline.run, subset),
        at_most=baseline.at_most,
        most_rounds=1 if quick else 3,
        note=f"optax estimated: measured on {subset} configurations and scaled to all" if subset else "",
    )


def _time_sweep(
    make_sweep: Callable[[], Sweep], baseline: Callable[[Sweep], np.ndarray], subset: int | None, rounds: int
) -> Samples:
    sweep = make_sweep()
    part = sweep if subset is None else sweep.first(subset)
    contestants = {
        "gradlab": Contestant(functools.partial(gradlab_lanes, sweep), _forget_programs),
        "optax": Contestant(functools.partial(baseline, part), _forget_programs),
    }
    seconds = paired(contestants, rounds=rounds, warmup=0)
    scale = len(sweep.learning_rates) / len(part.learning_rates)
    return {"gradlab": seconds["gradlab"], "optax": [scale * value for value in seconds["optax"]]}


def _forget_programs() -> tuple:
    jax.clear_caches()
    return ()
