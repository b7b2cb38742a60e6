import numpy as np
import pytest

from gradlab.plots import best_of_k, save_figure
from gradlab.sweeps.outcomes.best_of_k import expected_best
from tests.plots.sweeps import swept


def rates(finals, start=9.0, diverged_at=None, **changes):
    values = [(float(rate),) for rate in np.logspace(-4, 0, len(finals))]
    curves = [[start, final] for final in finals]
    return swept({"learning_rate": {"log": [1e-4, 1]}}, values, curves, diverged_at, **changes)


def drawn(ax):
    """Mean, median and band of each sweep in the picture."""
    solid = [line for line in ax.lines if line.get_linestyle() != ":"]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    return [tuple(line.get_xydata() for line in pair) for pair in zip(solid, dotted, strict=True)]


def check(found, scores, mode="min"):
    best = expected_best(scores, mode)
    mean, median = found
    np.testing.assert_array_equal(mean[:, 0], best.k)
    np.testing.assert_allclose(mean[:, 1], best.mean)
    np.testing.assert_allclose(median[:, 1], best.median)


def test_mean_median_and_band_of_the_best_of_k():
    ax = best_of_k(rates([3.0, 1.0, 2.0, 4.0]), quantiles=(0.1, 0.9))
    check(drawn(ax)[0], [3, 1, 2, 4])
    best = expected_best([3, 1, 2, 4], quantiles=(0.1, 0.9))
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices}
    assert set(zip(best.k, best.low, strict=True)) | set(zip(best.k, best.high, strict=True)) <= corners
    assert ax.get_xlabel() == "number of trials k" and ax.get_ylabel() == "best validation loss of k"
    legend = ax.get_legend()
    assert legend.get_title().get_text() == "mean, median dotted, 10% to 90%"
    assert [text.get_text() for text in legend.get_texts()] == ["4 trials"]


def test_a_trial_that_diverged_or_grew_worse_counts_as_before_training():
    ax = best_of_k(rates([3.0, 1.0, 2.0, 1e30, 0.0], 9.0, [-1, -1, -1, -1, 3]))
    check(drawn(ax)[0], [3, 1, 2, 9, 9])
    assert ax.get_legend().get_texts()[0].get_text() == "1 of 5 diverged"


def test_accuracies_are_to_be_large():
    """The accuracies are 1 - loss / 10, and 0.1 before training."""
    ax = best_of_k(rates([3.0, 1.0, 9.5, 0.0], 9.0, [-1, -1, -1, 3]), "valid_accuracy")
    check(drawn(ax)[0], [0.7, 0.9, 0.1, 0.1], "max")
    assert ax.get_yscale() == "linear"


def test_without_an_evaluation_before_training_the_worst_of_the_others_counts():
    ax = best_of_k(rates([3.0, 1.0, 0.0], 9.0, [-1, -1, 3], eval_step=[5, 10]))
    check(drawn(ax)[0], [3, 1, 3])


def test_sweeps_are_compared_by_the_same_measure():
    results = {"few": rates([3.0, 1.0]), "many": rates([4.0, 2.0, 0.0], 8.0, [-1, -1, 3])}
    ax = best_of_k(results)
    few, many = drawn(ax)
    check(few, [3, 1])
    check(many, [4, 2, 9])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["few: 2 trials", "many: 1 of 3 diverged"]
    assert ax.get_xlim() == (1, 3)


def test_one_trial_is_drawn(tmp_path):
    save_figure(best_of_k(rates([3.0])), tmp_path / "one.png")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="at least one sweep"):
        best_of_k({})
    with pytest.raises(ValueError, match="no trial ended with a finite valid_loss"):
        best_of_k(rates([3.0, 1.0], 9.0, [1, 1]))
    with pytest.raises(ValueError, match="unknown metric"):
        best_of_k(rates([3.0, 1.0]), "valid_los")
    with pytest.raises(ValueError, match="unknown mode"):
        best_of_k(rates([3.0, 1.0]), mode="most")
