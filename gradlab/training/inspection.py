"""What a run looks like where it stands: instruments at one point, with errors, of the optimizer's next step.

The loss is that of training, on given examples, with one fixed noise; the step is the one that the optimizer would make
there.  Instruments of `gradlab.training.instruments` look while a run goes on and must be cheap; these may cost
hundreds of gradients.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradlab.core import check
from gradlab.instruments.critical import KINDS, classify
from gradlab.instruments.edge import edge_of
from gradlab.instruments.eigen import extreme
from gradlab.instruments.health import health, leaf_names
from gradlab.instruments.noise import noise
from gradlab.instruments.operators import hessian
from gradlab.instruments.saddle_free import saddle_report
from gradlab.instruments.stability import gauge
from gradlab.instruments.step_probe import step_probe
from gradlab.instruments.trace import trace
from gradlab.tasks.task import Task
from gradlab.training.step import Run, train_step
from gradlab.training.watch import Sight, sight_of

PRODUCTS = 32  # Hessian-vector products of a Krylov space
CHUNK = 64  # examples whose gradients are held at once


class Reading(NamedTuple):
    """One number of an inspection."""

    instrument: str
    name: str
    value: float | str
    error: float  # standard error or residual; NaN where there is none
    about: str


class Scene(NamedTuple):
    """A point of a run."""

    task: Task
    sight: Sight
    model_state: Any
    noise_key: jax.Array  # of the loss


def inspect(
    task: Task,
    tx: optax.GradientTransformation,
    run: Run,
    data: Any,
    *,
    instruments: Any = None,
    key: Any = 0,
) -> list[Reading]:
    """Measures where a run stands.

    Args:
      task: what is trained.
      tx: the optimizer.
      run: where it stands, such as ``fit(...).run``.
      data: the examples on which the loss is taken, a tree like ``task.train``; None for a task without data.
      instruments: names from `INSPECTORS`; all that the task allows by default.
      key: a seed or a key, for the noise of the loss and for random vectors.

    Raises:
      ValueError: an unknown name, or ``'noise'`` for a task without data.

    >>> import gradlab
    >>> from gradlab.tasks import quadratic, surface_task
    >>> task, tx = surface_task(quadratic(condition=10.0)), gradlab.sgd(0.1)
    >>> readings = inspect(task, tx, gradlab.fit(task, tx, steps=5).run, None, instruments=['stability'])
    >>> [(reading.name, round(reading.value, 3)) for reading in readings[:2]]
    [('sharpness', 10.0), ('threshold', 20.0)]
    """
    key = jax.random.key(key) if isinstance(key, int | np.integer) else key
    names = [name for name in INSPECTORS if name != "noise" or data is not None] if instruments is None else instruments
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        check.one_of("instrument", name, INSPECTORS)
    if "noise" in names and data is None:
        raise ValueError("instrument 'noise' needs examples, but the task has no data")
    scene = _scene(task, tx, run, data, key)
    return [reading for name in names for reading in INSPECTORS[name](scene)]


@jax.jit
def _scene(task: Task, tx: optax.GradientTransformation, run: Run, data: Any, key: jax.Array) -> Scene:
    alive = run._replace(status=jnp.zeros_like(run.status), memory=())
    after, _ = train_step(task, tx, alive, data, key, jnp.int32(0))
    grads = jax.grad(lambda params: task.loss(params, run.model_state, data, key)[0])(run.params)
    return Scene(task, sight_of(task, tx, alive, after, grads, data, key, jnp.int32(0)), run.model_state, key)


def _rows(instrument: str, found: Any, about: Mapping[str, str], errors: Mapping[str, Any] | None = None) -> list:
    number = lambda name: float(jax.device_get(getattr(found, name)))
    error = lambda name: float((errors or {}).get(name, np.nan))
    return [Reading(instrument, name, number(name), error(name), text) for name, text in about.items()]


def _inspect_health(scene: Scene) -> Iterator[Reading]:
    sight = scene.sight
    found = jax.device_get(jax.jit(health)(sight.params, sight.grads, sight.update))
    for index, leaf in enumerate(leaf_names(sight.params)):
        yield Reading("health", f"{leaf}: |p|", float(found.params.norm[index]), np.nan, "norm of the parameters")
        yield Reading("health", f"{leaf}: |g|", float(found.grads.norm[index]), np.nan, "norm of the gradient")
        yield Reading("health", f"{leaf}: |u| / |p|", float(found.ratio[index]), np.nan, "relative size of the step")


def _inspect_probe(scene: Scene) -> list[Reading]:
    sight = scene.sight
    found = jax.jit(lambda sight: step_probe(sight.loss, sight.params, sight.batch, sight.update))(sight)
    return _rows(
        "probe",
        found,
        {
            "loss": "on the examples",
            "grad_squared": "g'g",
            "grad_curvature": "g'Hg",
            "predicted": "change of the loss by the quadratic model",
            "actual": "change of the loss by the step",
            "ratio": "actual / predicted; 1 where the model holds",
            "best_rate": "the step times this is best by the model",
            "alpha": "0: ends at the lowest point of the model; above 1: the loss rises",
        },
        {"actual": found.rounding},
    )


def _inspect_stability(scene: Scene) -> list[Reading]:
    def measure(sight):
        edge = edge_of(sight.tx, sight.opt_state, sight.opt_state_after)
        op = hessian(sight.loss, sight.params, sight.batch)
        return gauge(op, sight.grads, edge.threshold, sight.key, PRODUCTS, diagonal=edge.diagonal)

    found = jax.jit(measure)(scene.sight)
    about = {
        "sharpness": "largest curvature, as the optimizer feels it",
        "threshold": "the largest that it can hold; nan if that is not known",
        "ratio": "sharpness / threshold",
        "alignment": "part of the gradient's square along the sharpest direction",
    }
    return _rows("stability", found, about, {"sharpness": found.residual})


def _inspect_spectrum(scene: Scene) -> Iterator[Reading]:
    def measure(sight):
        op = hessian(sight.loss, sight.params, sight.batch)
        k = min(5, op.size // 2) or 1
        return extreme(op, sight.key, k=k, which="both" if op.size > 1 else "LA", m=2 * PRODUCTS)

    found = jax.device_get(jax.jit(measure)(scene.sight))
    half = len(found.values) // 2 or 1
    for index, (value, residual) in enumerate(zip(found.values, found.residuals, strict=True)):
        name = f"largest {index + 1}" if index < half else f"smallest {index - half + 1}"
        yield Reading("spectrum", name, float(value), float(residual), "eigenvalue of the Hessian")


def _inspect_trace(scene: Scene) -> list[Reading]:
    measure = lambda sight: trace(hessian(sight.loss, sight.params, sight.batch), sight.key, products=PRODUCTS)
    value, error = jax.device_get(jax.jit(measure)(scene.sight))
    return [Reading("trace", "trace", float(value), float(error), "of the Hessian: the sum of all curvatures")]


def _inspect_saddle(scene: Scene) -> list[Reading]:
    measure = lambda sight: saddle_report(
        hessian(sight.loss, sight.params, sight.batch), sight.grads, sight.update, PRODUCTS
    )
    about = {
        "curvature": "along the step",
        "share": "part of the step along negative curvature",
        "escape": "above 0: the step descends there; below: it is drawn to the saddle",
        "alignment": "cosine of the step and of the saddle-free direction",
        "unseen": "part of the step that the last two do not see",
    }
    return _rows("saddle", jax.jit(measure)(scene.sight), about)


def _inspect_critical(scene: Scene) -> list[Reading]:
    found = jax.device_get(
        jax.jit(lambda sight: classify(sight.loss, sight.params, sight.batch, sight.key, m=PRODUCTS))(scene.sight)
    )
    rows = [Reading("critical", "kind", KINDS[int(found.kind)], np.nan, "of point; critical if |g| is at most 1e-4")]
    rows.append(Reading("critical", "slope", float(found.slope), np.nan, "|g|"))
    for name in ("negative", "zero", "positive"):
        part = getattr(found, name)
        rows.append(Reading("critical", name, float(part.value), float(part.error), "part of the curvatures"))
    return rows


def _inspect_noise(scene: Scene) -> list[Reading]:
    sight = scene.sight

    def losses(params, batch):
        one = lambda example: scene.task.loss(
            params, scene.model_state, jax.tree.map(lambda x: x[None], example), scene.noise_key
        )[0]
        return jax.vmap(one)(batch)

    found = noise(losses, sight.params, sight.batch, chunk=CHUNK)
    about = {
        "square": "|G|^2, unbiased",
        "trace": "tr(Sigma), the variance of the gradient of one example",
        "simple": "tr(Sigma) / |G|^2: batches far below this are mostly noise, far above mostly wasted",
    }
    rows = {name: jax.device_get(getattr(found, name)) for name in about}
    return [Reading("noise", name, float(rows[name].value), float(rows[name].error), about[name]) for name in about]


INSPECTORS: dict[str, Callable[[Scene], Any]] = {
    "health": _inspect_health,
    "probe": _inspect_probe,
    "stability": _inspect_stability,
    "spectrum": _inspect_spectrum,
    "trace": _inspect_trace,
    "saddle": _inspect_saddle,
    "critical": _inspect_critical,
    "noise": _inspect_noise,
}
