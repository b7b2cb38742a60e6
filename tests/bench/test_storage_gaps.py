"""Which losses count as noticed, and at which rate they are compared."""

import numpy as np
import pytest

import gradlab
from gradlab.bench.storage_gaps import Gap, final_losses, gaps
from gradlab.tasks.catalogue import digits_mlp


@pytest.mark.parametrize(
    ("gap", "spread", "error", "expected"),
    [
        (0.04, 0.0, 0.0, False),  # within 5 %
        (0.06, 0.0, 0.0, True),
        (0.06, 0.07, 0.0, False),  # within the spread over seeds
        (0.06, 0.0, 0.04, False),  # not two errors from zero
        (-0.5, 0.0, 0.0, False),  # better
        (np.nan, 0.1, np.nan, True),
    ],
)
def test_what_is_noticed(gap, spread, error, expected):
    assert Gap("lion", "int8", 1e-3, 1.0, spread, 1.0 + gap, gap, error).is_noticed is expected


def test_storages_are_compared_at_the_best_rate_that_no_seed_diverges_at():
    task = digits_mlp(hidden=(64,))
    optimizers = {"lion": gradlab.lion, "sgd": gradlab.sgd}
    run = {"seeds": 2, "steps": 20, "batch_size": 16}
    found = list(gaps(task, optimizers, {"int8": "int8", "factored": "factored"}, rates=(1e-5, 1e-3, 1e30), **run))
    assert [(gap.optimizer, gap.storage) for gap in found] == [("lion", "int8")]  # no squares, and sgd keeps nothing
    (gap,) = found
    exact = final_losses(task, gradlab.lion, rates=(1e-3,), **run)[0]
    kept = final_losses(task, gradlab.lion, "int8", rates=(1e-3,), **run)[0]
    assert gap.learning_rate == 1e-3 and not np.array_equal(exact, kept)
    np.testing.assert_allclose((gap.exact, gap.spread), (exact.mean(), exact.std()), rtol=1e-5)
    np.testing.assert_allclose((gap.loss, gap.gap), (kept.mean(), (kept - exact).mean()), rtol=1e-5)
    np.testing.assert_allclose(gap.error, np.std(kept - exact, ddof=1) / np.sqrt(2), rtol=1e-5)
