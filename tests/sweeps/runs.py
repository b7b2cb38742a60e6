"""Small runs in float64 whose hypergradients are known by differences: tasks, optimizers, and runs by `fit`."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import gradlab
from gradlab.sweeps.engine.hypergradients import hypergradients
from gradlab.sweeps.engine.lanes import Plan
from gradlab.sweeps.spaces.dimensions import integer, linear, log, one_minus
from gradlab.tasks import flax_task

STEPS, SEEDS = 11, (3, 8)
PLAN = Plan(steps=STEPS, segment=4, batch_size=16, sampling="epoch")


def rows(x, y):
    return {"train": {"x": x[:40], "y": y[:40]}, "valid": {"x": x[40:], "y": y[40:]}}


@functools.cache
def task():
    """A classification in float64, so that differences are exact to many digits; three batches are an epoch."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 5))
    y = (x @ generator.normal(size=(5, 3)) + generator.normal(size=(60, 3))).argmax(1)
    return flax_task(nn.Dense(3, param_dtype=jnp.float64), **rows(x, y), label_smoothing=0.1)


@functools.cache
def regression():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(60, 5))
    y = x @ generator.normal(size=(5, 1)) + 0.3 * generator.normal(size=(60, 1))
    return flax_task(nn.Dense(1, param_dtype=jnp.float64), **rows(x, y), loss="squared_error")


def warm(peak, warmup, length):
    return gradlab.sgd(gradlab.warmup_cosine_decay_schedule(0.0, peak, warmup, length))


CASES = {
    "sgd": (gradlab.sgd, {"learning_rate": log(0.01, 1.0)}, {"learning_rate": 0.2}),
    "momentum": (
        functools.partial(gradlab.sgd, nesterov=True),
        {"learning_rate": log(0.01, 1.0), "momentum": linear(0.0, 0.95)},
        {"learning_rate": 0.1, "momentum": 0.7},
    ),
    "adamw": (
        gradlab.adamw,
        {"learning_rate": log(1e-3, 1.0), "b2": one_minus(log(1e-3, 1e-1)), "weight_decay": log(1e-3, 1.0)},
        {"learning_rate": 0.05, "b2": 0.98, "weight_decay": 0.3},
    ),
    "schedule": (
        warm,
        {"peak": log(0.01, 1.0), "warmup": 2, "length": integer(5, 40)},
        {"peak": 0.3, "warmup": 2, "length": 13},
    ),
    "task": (
        gradlab.sgd,
        {"task.label_smoothing": linear(0.0, 0.5), "learning_rate": [0.2, 0.5]},
        {"task.label_smoothing": 0.2, "learning_rate": 0.5},
    ),
}


def cost_of_fit(make, values, metric="loss", task_=None):
    """The mean of the last metric over the seeds, each run alone by `fit`."""
    own = {name.removeprefix("task."): value for name, value in values.items() if name.startswith("task.")}
    rest = {name: value for name, value in values.items() if not name.startswith("task.")}
    problem = (task_ or task()).replace(**own)
    runs = [
        gradlab.fit(problem, make(**rest), steps=STEPS, key=seed, batch_size=16, eval_every=STEPS) for seed in SEEDS
    ]
    return np.mean([run.metrics[metric][-1] for run in runs])


def difference(make, values, name, width=1e-5, **options):
    """The central difference of the cost by one number."""
    ends = [cost_of_fit(make, {**values, name: values[name] + move}, **options) for move in (width, -width)]
    return (ends[0] - ends[1]) / (2 * width)


def of(make, space, trials, task_=None, **options):
    return hypergradients(task_ or task(), make, space, trials, **{"seeds": SEEDS, "plan": PLAN, **options})
