import numpy as np
import pytest
from matplotlib.colors import LogNorm

from gradlab.plots import rate_by_steps, save_figure
from tests.plots.sweeps import by_label, swept

SPACE = {"learning_rate": {"log": [1e-3, 1]}, "rule": ["a", "b"]}
NAN, INF = np.nan, np.inf


def cells(ax):
    mesh, crossed = ax.collections
    return np.ma.filled(mesh.get_array(), np.nan), ~np.ma.getmaskarray(crossed.get_array())


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_cells_are_the_best_trial_of_each_rate_and_step():
    values = [(1e-1, "a"), (1e-3, "a"), (1e-1, "b"), (1e-2, "a")]
    result = swept(SPACE, values, [[5, 3, 4], [5, 4, 3], [5, 4, 2], [5, 1, 2.5]])
    ax = rate_by_steps(result)
    table, crossed = cells(ax)
    np.testing.assert_array_equal(table, [[5, 4, 3], [5, 1, 2.5], [5, 3, 2]])
    assert not crossed.any() and legend(ax) == ["best at the step"]
    borders = ax.collections[0].get_coordinates()
    np.testing.assert_array_equal(borders[0, :, 0], [-5, 5, 15, 25])
    np.testing.assert_allclose(borders[:, 0, 1], 10 ** np.array([-3.5, -2.5, -1.5, -0.5]))
    np.testing.assert_allclose(by_label(ax)["best at the step"].get_xydata(), [[10, 1e-2], [20, 1e-1]])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "learning rate", "log")
    np.testing.assert_array_equal(cells(rate_by_steps(result, mode="max"))[0], [[5, 4, 3], [5, 1, 2.5], [5, 4, 4]])


def test_a_cell_is_the_mean_of_the_seeds_and_crossed_out_from_where_one_diverged():
    curves = [[[5, 3, 2], [7, 1, 1]], [[5, 3, 2], [7, NAN, 0]], [[5, INF, INF], [7, 1, 1]]]
    diverged_at = [[-1, -1], [-1, 8], [-1, -1]]
    ax = rate_by_steps(swept(SPACE, [(1e-3, "a"), (1e-2, "a"), (1e-1, "a")], curves, diverged_at))
    table, crossed = cells(ax)
    np.testing.assert_array_equal(table, [[6, 2, 1.5], [6, NAN, NAN], [6, NAN, NAN]])
    np.testing.assert_array_equal(crossed, np.isnan(table))
    assert legend(ax) == ["best at the step", "diverged"]


def test_a_rate_of_which_some_trial_goes_on_is_not_crossed_out():
    result = swept(SPACE, [(1e-2, "a"), (1e-2, "b")], [[5, NAN, NAN], [5, 4, 4.5]], [5, -1])
    table, crossed = cells(rate_by_steps(result))
    np.testing.assert_array_equal(table, [[5, 4, 4.5]])
    assert not crossed.any()


def test_where_all_were_stopped_cells_are_white(tmp_path):
    changes = {"outcome": np.array(["completed", "stopped"]), "steps_done": [20, 10]}
    ax = rate_by_steps(swept(SPACE, [(1e-2, "a"), (1e-1, "a")], [[5, 4, 3], [5, 4, NAN]], **changes))
    table, crossed = cells(ax)
    np.testing.assert_array_equal(table, [[5, 4, 3], [5, 4, NAN]])
    assert not crossed.any() and legend(ax) == ["best at the step", "stopped"]
    save_figure(ax, tmp_path / "rates.png")


def test_colours_of_a_loss_end_where_training_began():
    result = swept(SPACE, [(1e-3, "a"), (1e-1, "a")], [[5, 1, 0.5], [4, 40, 1e9]])
    ax = rate_by_steps(result)
    norm = ax.collections[0].norm
    assert isinstance(norm, LogNorm) and (norm.vmin, norm.vmax) == (0.5, 5)
    assert ax.collections[0].colorbar.extend == "max"
    assert cells(ax)[0][1, 2] == 1e9


def test_colours_of_other_metrics_are_linear_and_span_all_values():
    result = swept(SPACE, [(1e-3, "a"), (1e-1, "a")], [[5, 1, 0.5], [4, 4.5, 6]])
    shown = rate_by_steps(result, metric="valid_accuracy").collections[0]
    assert not isinstance(shown.norm, LogNorm) and shown.colorbar.extend == "neither"
    np.testing.assert_allclose([shown.norm.vmin, shown.norm.vmax], [0.4, 0.95])
    narrow = rate_by_steps(swept(SPACE, [(1e-3, "a"), (1e-1, "a")], [[5, 4, 3], [5, 4.5, 4]])).collections[0]
    assert not isinstance(narrow.norm, LogNorm)


def test_the_good_end_is_light_for_losses_and_accuracies():
    result = swept(SPACE, [(1e-3, "a"), (1e-1, "a")], [[5, 1, 0.5], [4, 4.5, 4]])
    for metric, good, bad in (("valid_loss", 0.5, 5.0), ("valid_accuracy", 0.95, 0.5)):
        shown = rate_by_steps(result, metric=metric).collections[0]
        good, bad = (np.sum(shown.cmap(shown.norm(value))[:3]) for value in (good, bad))
        assert good > bad


def test_other_hyperparameters_and_sweeps_without_any_survivor(tmp_path):
    result = swept(SPACE, [(1e-3, "a"), (1e-1, "b")], [[5, NAN, NAN], [5, NAN, NAN]], [3, 5])
    ax = rate_by_steps(result, "rule")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert not len(by_label(ax)["best at the step"].get_xdata()) and cells(ax)[1].sum() == 4
    save_figure(ax, tmp_path / "rates.png")


def test_what_cannot_be_drawn_is_refused():
    result = swept(SPACE, [(1e-3, "a")], [[5, 1]])
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        rate_by_steps(result, "learning_rat")
    nothing = swept(SPACE, [(1e-3, "a")], [[5, 1]], metrics={"valid_loss": np.ones((1, 1, 0))}, eval_step=np.array([]))
    with pytest.raises(ValueError, match="valid_loss was never evaluated"):
        rate_by_steps(nothing)
