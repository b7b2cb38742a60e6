"""Next-character prediction: the examples are windows of one long text.

::

    window = tokens[i : i + context + 1]      x = window[:-1]      y = window[1:]
"""

from typing import Any

import jax
import numpy as np

from gradlab.core import check
from gradlab.tasks.supervised import flax_task
from gradlab.tasks.task import Task


def windows(tokens: np.ndarray, context: int, stride: int | None = None) -> np.ndarray:
    """Windows (n, context + 1) of a text, ``stride`` tokens apart.

    Args:
      tokens: (characters,) integer ids.
      context: inputs in a window; its last token is a target only.
      stride: by default ``context``, with which every token but the first is a target once.

    Raises:
      ValueError: the text is shorter than one window.

    >>> windows(np.arange(7), context=3).tolist()
    [[0, 1, 2, 3], [3, 4, 5, 6]]
    """
    stride = context if stride is None else stride
    check.in_range("context", context, 1)
    check.in_range("stride", stride, 1)
    if len(tokens) < context + 1:
        raise ValueError(
            f"a text of {len(tokens)} tokens has no window of context {context} and its target: give more text "
            "or a shorter context"
        )
    return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[::stride].copy()


def window_inputs(batch: jax.Array) -> jax.Array:
    """All tokens of a window but the last."""
    return batch[:, :-1]


def window_targets(batch: jax.Array) -> jax.Array:
    """All tokens of a window but the first."""
    return batch[:, 1:]


def language_task(
    model: Any,
    tokens: np.ndarray,
    *,
    context: int,
    stride: int | None = None,
    held_out: float = 0.05,
    **options: Any,
) -> Task:
    """The task of predicting the next token: the end of the text is held out, one part each to validate and to test.

    Args:
      model: a Flax model from ids (n, context) to logits (n, context, vocabulary).
      tokens: (characters,) integer ids.
      context: tokens the model sees.
      stride: of the training windows, as in `windows`.
      held_out: share of the text in each of the two held-out parts.
      **options: for `flax_task`.

    >>> from gradlab.tasks.networks import CharTransformer
    >>> model = CharTransformer(vocabulary=10, context=4, width=8, heads=2, layers=1)
    >>> task = language_task(model, np.arange(400) % 10, context=4)
    >>> task.train.shape, task.valid.shape, sorted(task.metrics(*task.init(jax.random.key(0)), task.valid))
    ((89, 5), (4, 5), ['accuracy', 'loss'])
    """
    check.in_range("held_out", held_out, 0.0, 0.5, open_low=True, open_high=True)
    size = round(held_out * len(tokens))
    train, valid, test = np.split(np.asarray(tokens, np.int32), [len(tokens) - 2 * size, len(tokens) - size])
    return flax_task(
        model,
        windows(train, context, stride),
        loss="cross_entropy",
        valid=windows(valid, context),
        test=windows(test, context),
        inputs=window_inputs,
        targets=window_targets,
        **options,
    )
