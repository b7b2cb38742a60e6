"""A user's own Flax model as a task.

::

    loss(params)    = criterion(model(x), y) + l2/2 sum(kernels^2)      in training mode
    metrics(params) = criterion(model(x), y), accuracy or mse and r2    in evaluation mode, without smoothing and l2
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradlab.core import check
from gradlab.core.rule import static
from gradlab.tasks.losses import LOSSES, METRICS, check_loss, cross_entropy
from gradlab.tasks.task import Task, as_arrays, bind, make_task


def batch_x(batch: Any) -> Any:
    """The inputs of ``{"x": inputs, "y": targets}``."""
    return batch["x"]


def batch_y(batch: Any) -> Any:
    """The targets of ``{"x": inputs, "y": targets}``."""
    return batch["y"]


def flax_task(
    model: Any,
    train: Any,
    *,
    loss: str | Callable = "cross_entropy",
    valid: Any = None,
    test: Any = None,
    inputs: Callable[[Any], Any] = batch_x,
    targets: Callable[[Any], Any] = batch_y,
    label_smoothing: float | None = None,
    l2: float | None = None,
    init_scale: float = 1.0,
    name: str | None = None,
    facts: tuple[tuple[str, Any], ...] = (),
) -> Task:
    """The task of training a Flax model, Linen or NNX, with batch statistics and dropout where it has them.

    A model whose call takes ``train``, ``training``, ``is_training``, ``deterministic`` or ``use_running_average`` is
    told; NNX modules are switched by ``train()`` and ``eval()``.

    Args:
      model: a Linen module; an NNX module, which starts from its own parameters whatever the key; or a function that
        builds an NNX module with fresh ones: ``lambda rngs: MyModel(64, rngs=rngs)``.
      train: tree of arrays, each of shape (examples, ...); ``{"x": inputs, "y": targets}`` unless ``inputs`` and
        ``targets`` say otherwise.
      loss: (static) ``"cross_entropy"`` (logits and integer labels), ``"sigmoid_cross_entropy"`` (logits and labels 0
        or 1), ``"squared_error"``, or a function ``(outputs, batch) -> scalar``.
      valid: like ``train``.
      test: like ``train``.
      inputs: (static) ``batch -> what the model is called with``.
      targets: (static) ``batch -> what the outputs are compared with``.
      label_smoothing: weight in [0, 1) of the uniform distribution in the targets; ``None`` is off.
      l2: adds half of it times the sum of squares of the kernels, the parameters with two or more axes; ``None`` is
        off.
      init_scale: multiplies the initial kernels.
      name: (static) shown in tables and messages; by default the model's class.
      facts: (static) pairs of names and hashable values to keep with results.

    Raises:
      ValueError: an unknown loss, labels without an output, negative ``l2`` or ``init_scale``, and what `make_task`
        refuses.
      TypeError: a model that is none, or labels that are no integers.

    >>> import flax.linen as nn
    >>> import numpy as np
    >>> data = {"x": np.eye(3, dtype=np.float32), "y": np.array([0, 1, 2])}
    >>> task = flax_task(nn.Dense(3), data, loss="cross_entropy", l2=1e-4)
    >>> params, model_state = task.init(jax.random.key(0))
    >>> sorted(task.metrics(params, model_state, task.train)), task.num_params
    (['accuracy', 'loss'], 12)
    """
    from gradlab.tasks import networks

    check_loss(loss, label_smoothing)
    check.non_negative(l2=l2, init_scale=init_scale)
    _check_entries(train, inputs, targets, needs_targets=not callable(loss))
    train = as_arrays("train", train)
    network, start = networks.as_network(model, inputs(train))
    structure = {"network": network, "criterion": loss, "inputs": inputs, "targets": targets}
    structure = {key: static(value) for key, value in structure.items()}
    if start is None:
        init = bind(_fresh_init, network=structure["network"], init_scale=init_scale)
    else:
        init = bind(_given_init, start, init_scale=init_scale)
    task = make_task(
        init,
        bind(_supervised_loss, **structure, label_smoothing=label_smoothing, l2=l2),
        bind(_supervised_metrics, **structure),
        train=train,
        valid=valid,
        test=test,
        name=name or network.name,
        facts=facts,
    )
    if loss == "cross_entropy":
        _check_labels(task, network, inputs, targets)
    return task


def _fresh_init(key, *, network, init_scale):
    params, model_state = network.init(key)
    return _scaled_kernels(params, init_scale), model_state


def _given_init(start, key, *, init_scale):
    del key
    params, model_state = start
    return _scaled_kernels(params, init_scale), model_state


def _scaled_kernels(params, init_scale):
    return jax.tree.map(lambda p: p * jnp.asarray(init_scale, p.dtype) if p.ndim >= 2 else p, params)


def _supervised_loss(params, model_state, batch, key, *, network, criterion, inputs, targets, label_smoothing, l2):
    outputs, model_state = network.apply(params, model_state, inputs(batch), key, train=True)
    if callable(criterion):
        value = criterion(outputs, batch)
    elif label_smoothing is not None:
        value = cross_entropy(outputs, targets(batch), label_smoothing)
    else:
        value = LOSSES[criterion](outputs, targets(batch))
    if l2 is not None:
        kernels = [p for p in jax.tree.leaves(params) if p.ndim >= 2]
        value = value + jnp.asarray(0.5 * l2, value.dtype) * sum(jnp.sum(jnp.square(p)) for p in kernels)
    return value, model_state


def _supervised_metrics(params, model_state, data, *, network, criterion, inputs, targets):
    outputs, _ = network.apply(params, model_state, inputs(data), None, train=False)
    if callable(criterion):
        return {"loss": criterion(outputs, data)}
    measures = {"loss": LOSSES[criterion], **METRICS[criterion]}
    return {name: measure(outputs, targets(data)) for name, measure in measures.items()}


def _check_entries(train: Any, inputs: Callable, targets: Callable, needs_targets: bool) -> None:
    reads = {"x": inputs is batch_x, "y": needs_targets and targets is batch_y}
    wanted = [key for key, read in reads.items() if read]
    if any(not isinstance(train, dict) or key not in train for key in wanted):
        got = f"the entries {sorted(train)}" if isinstance(train, dict) else type(train).__name__
        raise ValueError(
            f"`train` must be a dict with the entries {wanted}, got {got}; "
            "name the arrays so, or pass functions `inputs` and `targets` that read a batch"
        )


def _check_labels(task: Task, network: Any, inputs: Callable, targets: Callable) -> None:
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    apply = lambda p, s, x: network.apply(p, s, x, None, train=False)[0]
    classes = jax.eval_shape(apply, params, model_state, inputs(task.train)).shape[-1]
    for key, data in (("train", task.train), ("valid", task.valid), ("test", task.test)):
        if data is None:
            continue
        low, high = int(targets(data).min()), int(targets(data).max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels of `{key}` reach from {low} to {high}, but the model has {classes} outputs: they must be "
                f"0 to {classes - 1}"
            )
