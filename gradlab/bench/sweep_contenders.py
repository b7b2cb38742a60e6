"""Ways to train a network with each of many learning rates: gradlab's lanes, and what people write with optax.

All train one network from one start on the same minibatches in the same order with Adam, and return the last loss of
each configuration.  Each is started with a sweep and gives a function that runs it; called again, nothing compiles.

Gradlab does more than the others: it draws the minibatches inside of the program, evaluates every configuration before
and after the run, keeps the loss of every step, and freezes lanes that diverge.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.bench.sweep_problem import SEED, Fixture, Sweep, fixture_of
from gradlab.optimizers.adam import adam
from gradlab.sweeps.engine.prepare import prepare
from gradlab.sweeps.engine.run import sweep as run_sweep
from gradlab.sweeps.engine.setup import Setup
from gradlab.sweeps.engine.width import memory_budget, program_bytes
from gradlab.sweeps.samplers.optuna_sampler import quiet
from gradlab.tasks.task import Task

Run = Callable[[], np.ndarray]  # the last losses of the configurations
ENQUEUED = 8  # trials of Optuna whose learning rates are the sweep's; its sampler draws the others


class DoesNotFit(Exception):
    """A program that needs more than `memory_budget`."""

    def __init__(self, planned: int, budget: float):
        super().__init__(f"does not fit: {planned / 1e9:.3g} GB planned, {budget / 1e9:.3g} GB allowed")


def require_memory(planned: int | None) -> None:
    """Raises DoesNotFit if a program with these planned bytes takes more than half of the free memory."""
    budget = memory_budget(None)
    if planned is not None and planned > budget:
        raise DoesNotFit(planned, budget)


def _arguments(sweep: Sweep) -> dict[str, Any]:
    return {
        "task": sweep.task,
        "make": adam,
        "space": {"learning_rate": {"choice": sweep.learning_rates.tolist()}},
        "trials": len(sweep.learning_rates),
        "sampler": "grid",
        "seeds": [SEED],
        "steps": sweep.steps,
        "batch_size": sweep.batch_size,
        "eval_every": sweep.steps,
    }


def setup_of(sweep: Sweep) -> Setup:
    """What `gradlab_lanes` runs, prepared."""
    return prepare(**_arguments(sweep))


def gradlab_lanes(sweep: Sweep, lane_method: str = "vmap") -> Run:
    """Configurations as lanes of one program, by `gradlab.sweep`."""
    return lambda: run_sweep(**_arguments(sweep), lane_method=lane_method).loss[:, 0, -1]


def optax_loop(sweep: Sweep) -> Run:
    """One jitted step for each configuration, called in a Python loop."""
    fixture = fixture_of(sweep)
    batches = np.asarray(fixture.rows)
    return _one_by_one(sweep, fixture, lambda start, step: functools.partial(_loop, start, _jitted(step), batches))


def optax_scans(sweep: Sweep) -> Run:
    """One jitted scan for each configuration."""
    fixture = fixture_of(sweep)

    def scanned(start: Any, step: Callable) -> Callable[[], float]:
        run = jax.jit(lambda start, rows: jax.lax.scan(step, start, rows)[1][-1])
        return lambda: float(run(start, fixture.rows))

    return _one_by_one(sweep, fixture, scanned)


def _one_by_one(sweep: Sweep, fixture: Fixture, prepared: Callable) -> Run:
    trainings = (optax_training(sweep.task, fixture, optax.adam(float(rate))) for rate in sweep.learning_rates)
    runs = [prepared(*training) for training in trainings]
    return lambda: np.array([run() for run in runs])


def _jitted(step: Callable) -> Callable:
    return jax.jit(step, donate_argnums=0)


def _loop(start: Any, step: Callable, batches: np.ndarray) -> float:
    carry = jax.tree.map(jnp.copy, start)
    for batch in batches:
        carry, loss = step(carry, batch)
    return float(loss)


class HandWritten(NamedTuple):
    """All configurations side by side: ``jit(scan(vmap(step)))`` over optax, the learning rate traced."""

    segment: Callable  # (learning_rates, carry, rows) -> (carry, losses of (steps, configurations)); destroys the carry
    begin: Callable  # learning_rates -> carry
    learning_rates: jax.Array
    rows: jax.Array
    planned_bytes: int | None

    def last_losses(self) -> np.ndarray:
        """Runs all steps, from the start."""
        return np.asarray(self.segment(self.learning_rates, self.begin(self.learning_rates), self.rows)[1][-1])


def hand_written(sweep: Sweep) -> HandWritten:
    """The lanes that one would write by hand, compiled.

    Raises:
      DoesNotFit: the program takes more memory than there is.
    """
    fixture = fixture_of(sweep)
    rates = jnp.asarray(sweep.learning_rates, jnp.float32)
    training = lambda rate: optax_training(sweep.task, fixture, optax.adam(rate))
    begin = jax.jit(jax.vmap(lambda rate: training(rate)[0]))
    lanes = jax.vmap(lambda rate, carry, batch: training(rate)[1](carry, batch), in_axes=(0, 0, None))

    def segment(rates, carry, rows):
        return jax.lax.scan(lambda carry, batch: lanes(rates, carry, batch), carry, rows)

    carry = jax.eval_shape(begin, rates)
    compiled = jax.jit(segment, donate_argnums=1).lower(rates, carry, fixture.rows).compile()
    planned = program_bytes(compiled)
    require_memory(planned)
    return HandWritten(compiled, begin, rates, fixture.rows, planned)


def optax_vmap(sweep: Sweep) -> Run:
    """One jitted scan of all configurations, vmapped by hand over a learning rate that is traced."""
    return hand_written(sweep).last_losses


def optuna_study(sweep: Sweep) -> Run:
    """A study of Optuna's TPE whose objective is one jitted scan: its learning rate is traced, so it compiles once.

    The first trials are enqueued with the first learning rates of the sweep; their losses are returned.
    """
    import optuna

    fixture = fixture_of(sweep)
    rates = sweep.learning_rates
    enqueued, lowest, highest = rates[:ENQUEUED], float(rates.min()), float(rates.max())

    @jax.jit
    def last_loss(learning_rate, rows):
        start, step = optax_training(sweep.task, fixture, optax.adam(learning_rate))
        return jax.lax.scan(step, start, rows)[1][-1]

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", lowest, highest, log=True)
        return float(last_loss(rate, fixture.rows))

    def run() -> np.ndarray:
        with quiet():
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
            for rate in enqueued:
                study.enqueue_trial({"learning_rate": float(rate)})
            study.optimize(objective, n_trials=len(rates))
        return np.array([trial.value for trial in study.trials[: len(enqueued)]])

    return run


def optax_training(task: Task, fixture: Fixture, tx: optax.GradientTransformation) -> tuple[Any, Callable]:
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
