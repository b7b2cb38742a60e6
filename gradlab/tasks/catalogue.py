"""The tasks by name, for configurations and the command line.

Flax and scikit-learn are imported when a task is made, not before.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from gradlab.core import check
from gradlab.tasks import curves, data, surfaces
from gradlab.tasks.surface import Surface, surface_task
from gradlab.tasks.task import Task

SURFACES: dict[str, Callable[..., Surface]] = {
    make.__name__: make
    for make in (
        surfaces.quadratic,
        surfaces.rosenbrock,
        surfaces.beale,
        surfaces.himmelblau,
        surfaces.saddle,
        surfaces.bounded_saddle,
        surfaces.plateau,
        surfaces.cliff,
        curves.parabola,
        curves.sine_parabola,
        curves.sine_hill,
        curves.damped_sine,
    )
}


def digits_linear(
    *, seed: int = 0, label_smoothing: float | None = None, l2: float | None = None, init_scale: float = 1.0
) -> Task:
    """Softmax regression on the digits: 650 parameters, convex.

    Args:
      seed: (static) of the split into training, validation and test rows.
      label_smoothing: as in `flax_task`, like all further arguments.
    """
    from gradlab.tasks.networks import Linear

    options = {"label_smoothing": label_smoothing, "l2": l2, "init_scale": init_scale}
    return _supervised("digits_linear", Linear(10), data.digits(seed=seed), "cross_entropy", options)


def digits_mlp(
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    seed: int = 0,
    label_smoothing: float | None = None,
    l2: float | None = None,
    init_scale: float = 1.0,
) -> Task:
    """A multi-layer perceptron on the digits, by default 64-64-64-10.

    Args:
      hidden: (static) widths of the hidden layers.
      activation: (static) relu, gelu, silu, tanh or sigmoid.
      seed: (static) of the split into training, validation and test rows.
      label_smoothing: as in `flax_task`, like all further arguments.
    """
    options = {"label_smoothing": label_smoothing, "l2": l2, "init_scale": init_scale}
    return _supervised("digits_mlp", _mlp(hidden, 10, activation), data.digits(seed=seed), "cross_entropy", options)


def digits_cnn(
    *,
    features: Sequence[int] = (16, 32),
    seed: int = 0,
    label_smoothing: float | None = None,
    l2: float | None = None,
    init_scale: float = 1.0,
) -> Task:
    """A small convolutional network on the digits as NHWC images.

    Args:
      features: (static) channels of the two convolutions.
      seed: (static) of the split into training, validation and test rows.
      label_smoothing: as in `flax_task`, like all further arguments.
    """
    from gradlab.tasks.networks import SmallCNN

    check.in_range("features", features, 1)
    model = SmallCNN(10, tuple(features))
    options = {"label_smoothing": label_smoothing, "l2": l2, "init_scale": init_scale}
    return _supervised("digits_cnn", model, data.digits(images=True, seed=seed), "cross_entropy", options)


def breast_cancer_linear(*, seed: int = 0, l2: float | None = None, init_scale: float = 1.0) -> Task:
    """Logistic regression on the tumours: 31 parameters, convex; l2 keeps the weights finite."""
    from gradlab.tasks.networks import Linear

    options = {"l2": l2, "init_scale": init_scale}
    rows = data.breast_cancer(seed=seed)
    return _supervised("breast_cancer_linear", Linear(1), rows, "sigmoid_cross_entropy", options)


def breast_cancer_mlp(
    *,
    hidden: Sequence[int] = (32,),
    activation: str = "relu",
    seed: int = 0,
    l2: float | None = None,
    init_scale: float = 1.0,
) -> Task:
    """A multi-layer perceptron with one logit on the tumours."""
    options = {"l2": l2, "init_scale": init_scale}
    rows = data.breast_cancer(seed=seed)
    return _supervised("breast_cancer_mlp", _mlp(hidden, 1, activation), rows, "sigmoid_cross_entropy", options)


def diabetes_linear(*, seed: int = 0, l2: float | None = None, init_scale: float = 1.0) -> Task:
    """Linear least squares on the diabetes patients: 11 parameters, with a solution in closed form."""
    from gradlab.tasks.networks import Linear

    options = {"l2": l2, "init_scale": init_scale}
    return _supervised("diabetes_linear", Linear(1), data.diabetes(seed=seed), "squared_error", options)


def diabetes_mlp(
    *,
    hidden: Sequence[int] = (32,),
    activation: str = "tanh",
    seed: int = 0,
    l2: float | None = None,
    init_scale: float = 1.0,
) -> Task:
    """A multi-layer perceptron on the diabetes patients."""
    options = {"l2": l2, "init_scale": init_scale}
    rows = data.diabetes(seed=seed)
    return _supervised("diabetes_mlp", _mlp(hidden, 1, activation), rows, "squared_error", options)


def chars(
    *,
    max_characters: int = 1_000_000,
    context: int = 64,
    stride: int | None = None,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    dropout: float = 0.0,
    label_smoothing: float | None = None,
    l2: float | None = None,
    init_scale: float = 1.0,
) -> Task:
    """A small transformer that predicts the next character of Python's standard library.

    The task's ``facts`` hold the hash of the text, which depends on the version of Python.

    Args:
      max_characters: (static) length of the text, see `stdlib_text`.
      context: (static) characters that the model sees.
      stride: (static) of the training windows; by default ``context``.
      width: (static) of the residual stream.
      heads: (static) of attention.
      layers: (static) number of blocks.
      dropout: (static) rate, after attention and after the dense block.
      label_smoothing: as in `flax_task`, like all further arguments.
    """
    from gradlab.tasks.language import language_task
    from gradlab.tasks.networks import CharTransformer

    for size, value in {"context": context, "width": width, "heads": heads}.items():
        check.in_range(size, value, 1)
    text = data.stdlib_text(max_characters)
    vocabulary = len(data.VOCABULARY) + 1
    return language_task(
        CharTransformer(vocabulary, context, width, heads, layers, dropout),
        text.tokens,
        context=context,
        stride=stride,
        name="chars",
        facts=(("sha256", text.sha256), ("files", text.files), ("characters", len(text.tokens))),
        label_smoothing=label_smoothing,
        l2=l2,
        init_scale=init_scale,
    )


def _mlp(hidden: Sequence[int], outputs: int, activation: str) -> Any:
    from gradlab.tasks.networks import MLP

    check.in_range("hidden", hidden, 1)
    return MLP((*hidden, outputs), activation)


def _supervised(name: str, model: Any, rows: data.Dataset, loss: str, options: dict[str, Any]) -> Task:
    from gradlab.tasks.supervised import flax_task

    return flax_task(model, rows.train, valid=rows.valid, test=rows.test, loss=loss, name=name, **options)


def _surface_factory(make: Callable[..., Surface]) -> Callable[..., Task]:
    """The factory of a surface as a factory of its task, with the arguments of both."""

    @functools.wraps(make)
    def factory(*, start: Any = None, jitter: float | None = None, **values: Any) -> Task:
        return surface_task(make(**values), start=start, jitter=jitter)

    own = inspect.signature(factory, follow_wrapped=False).parameters
    arguments = [*inspect.signature(make).parameters.values(), own["start"], own["jitter"]]
    arguments = [argument.replace(kind=inspect.Parameter.KEYWORD_ONLY) for argument in arguments]
    factory.__signature__ = inspect.Signature(arguments, return_annotation=Task)
    return factory


TASKS: dict[str, Callable[..., Task]] = {
    "digits_linear": digits_linear,
    "digits_mlp": digits_mlp,
    "digits_cnn": digits_cnn,
    "breast_cancer_linear": breast_cancer_linear,
    "breast_cancer_mlp": breast_cancer_mlp,
    "diabetes_linear": diabetes_linear,
    "diabetes_mlp": diabetes_mlp,
    "chars": chars,
    **{name: _surface_factory(make) for name, make in SURFACES.items()},
}
