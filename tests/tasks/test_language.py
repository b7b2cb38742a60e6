import jax
import numpy as np
import pytest

from gradlab.tasks import language_task, windows
from gradlab.tasks.networks import CharTransformer

MODEL = CharTransformer(vocabulary=11, context=4, width=8, heads=2, layers=1)


def test_every_token_but_the_first_is_a_target_once():
    tokens = np.arange(13)
    cut = windows(tokens, context=4)
    assert cut[:, 1:].ravel().tolist() == tokens[1:].tolist()
    assert cut[:, :-1].ravel().tolist() == tokens[:-1].tolist()


@pytest.mark.parametrize("stride", [1, 2, 7])
def test_windows_start_a_stride_apart(stride):
    cut = windows(np.arange(30), context=4, stride=stride)
    assert cut[:, 0].tolist() == list(range(0, 26, stride))
    assert np.all(np.diff(cut, axis=1) == 1)


def test_texts_and_strides_that_are_too_short_are_refused():
    with pytest.raises(ValueError, match="a text of 4 tokens has no window of context 4"):
        windows(np.arange(4), context=4)
    with pytest.raises(ValueError, match="`stride` must be >= 1"):
        windows(np.arange(9), context=4, stride=0)


def test_the_three_parts_of_the_text_do_not_overlap():
    tokens = np.arange(2000)
    task = language_task(
        CharTransformer(vocabulary=2000, context=4, width=8, heads=2, layers=1), tokens, context=4, stride=1
    )
    parts = [set(np.asarray(part).ravel().tolist()) for part in (task.train, task.valid, task.test)]
    assert parts[0] == set(range(1800))
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])


def test_the_loss_predicts_the_next_token():
    task = language_task(MODEL, np.arange(500) % 11, context=4)
    params, model_state = task.init(jax.random.key(0))
    batch = task.train[:6]
    logits = np.asarray(MODEL.apply({"params": params}, batch[:, :-1]), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probabilities, np.asarray(batch)[:, 1:, None], axis=2)
    loss, _ = task.loss(params, model_state, batch, jax.random.key(1))
    np.testing.assert_allclose(loss, -np.log(chosen).mean(), rtol=1e-5)
    metrics = task.metrics(params, model_state, batch)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(-1) == np.asarray(batch)[:, 1:]).mean())


def test_tokens_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="labels of `train` reach from 0 to 14, but the model has 11 outputs"):
        language_task(MODEL, np.arange(500) % 15, context=4)
