import numpy as np
import pytest

from gradlab.plots import importances
from gradlab.sweeps.outcomes.importance import importances as importances_of
from tests.plots.sweeps import swept

RANDOM = np.random.default_rng(0).random((40, 2))
SPACE = {"optimizer.learning_rate": {"linear": [0, 1]}, "b2": {"linear": [0, 1]}, "b1": 0.9}
RESULT = swept(SPACE, [(*row, 0.9) for row in RANDOM.tolist()], [[5, abs(rate - 0.4)] for rate, _ in RANDOM])


@pytest.mark.parametrize(("options", "best"), [({}, 0.1), ({"best": 0.5}, 0.5), ({"mode": "max"}, 0.1)])
def test_bars_are_as_long_as_the_importances_the_largest_on_top(options, best):
    ax = importances(RESULT, **options)
    found = importances_of(RESULT, **options)
    (bars,) = ax.containers
    assert [bar.get_width() for bar in bars] == list(found.values())
    assert [text.get_text() for text in ax.texts] == [f"{share:.0%}" for share in found.values()]
    names = {"optimizer.learning_rate": "learning rate", "b2": "b2"}
    assert [text.get_text() for text in ax.get_yticklabels()] == [names[name] for name in found]
    top, bottom = (bar.get_y() + bar.get_height() / 2 for bar in bars)
    heights = ax.transData.transform([[0, top], [0, bottom]])[:, 1]
    assert heights[0] > heights[1] and next(iter(found)) == "optimizer.learning_rate"
    assert ax.get_title() == "What sets the best apart: validation loss of 40 trials"


def test_the_metric_is_passed_on():
    assert "training" not in importances(RESULT, "valid_accuracy").get_title()
    with pytest.raises(ValueError, match="better than the worst"):
        importances(RESULT, "loss")  # the same for all trials
