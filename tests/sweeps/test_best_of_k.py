import itertools

import numpy as np
import pytest

from gradlab.sweeps.outcomes.best_of_k import expected_best

SCORES = np.random.default_rng(0).normal(size=9)
TIES = [1.0, 1.0, 2.0, 2.0, 2.0, 7.0]


@pytest.mark.parametrize("scores", [SCORES, TIES, [4.0]])
@pytest.mark.parametrize(("mode", "pick"), [("min", min), ("max", max)])
@pytest.mark.parametrize("quantiles", [(0.25, 0.75), (0.0, 1.0), (0.1, 0.5)])
def test_it_is_the_best_of_all_subsets(scores, mode, pick, quantiles):
    found = expected_best(scores, mode, quantiles)
    np.testing.assert_array_equal(found.k, np.arange(1, len(scores) + 1))
    for k, mean, median, low, high in zip(*found, strict=True):
        best = np.sort([pick(subset) for subset in itertools.combinations(scores, int(k))])
        assert mean == pytest.approx(best.mean(), rel=1e-12)
        middle = np.quantile(-best if mode == "max" else best, 0.5, method="inverted_cdf")
        assert median == (-middle if mode == "max" else middle)
        if mode == "min":
            assert [low, high] == np.quantile(best, quantiles, method="inverted_cdf").tolist()
        else:
            mirrored = np.quantile(-best, [1 - quantiles[1], 1 - quantiles[0]], method="inverted_cdf")
            assert [high, low] == (-mirrored).tolist()


def test_one_trial_is_expected_to_be_average_and_all_to_hold_the_best():
    found = expected_best(SCORES)
    assert found.mean[0] == pytest.approx(SCORES.mean()) and found.mean[-1] == pytest.approx(SCORES.min())
    assert (np.diff(found.mean) < 0).all() and found.low[-1] == found.high[-1] == SCORES.min()


def test_thousands_of_trials_stay_exact():
    """The mean of the smallest of k out of 1, ..., N is (N + 1) / (k + 1)."""
    found = expected_best(np.arange(1.0, 3001))
    np.testing.assert_allclose(found.mean, 3001 / (found.k + 1), rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "with N at least 1"),
        (([[1.0]],), "must have shape"),
        (([1.0, np.nan],), "must be finite, got nan"),
        (([1.0], "best"), "unknown mode 'best'"),
        (([1.0], "min", (0.5, 1.5)), "`quantiles` must be in"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        expected_best(*arguments)
