import numpy as np

from gradlab.plots import contest_curves
from gradlab.sweeps import Entrant, contest
from gradlab.tasks import quadratic, surface_task


def test_the_picture_shows_median_range_and_target():
    space = {"learning_rate": {"log": [1e-2, 1e-1]}}
    task = surface_task(quadratic(condition=10.0), jitter=0.5)
    result = contest(
        task, {"A": Entrant("sgd", space), "B": Entrant("adam", space)}, trials=2, fresh_seeds=3, steps=20, eval_every=5
    )
    ax = contest_curves(result)
    lines = {line.get_label(): line for line in ax.lines}
    for label in "AB":
        step, values = result.fresh[label].curve(result.metric)
        np.testing.assert_array_equal(lines[label].get_xdata(), step)
        np.testing.assert_allclose(lines[label].get_ydata(), np.median(values[0], axis=0))
    assert any(np.allclose(line.get_ydata(), np.median(result.targets)) for line in ax.lines)
    assert "A at the end" in [text.get_text() for text in ax.texts]
    assert len(ax.collections) == 2
    low, high = ax.get_ylim()
    assert low < np.median(result.targets) < high
