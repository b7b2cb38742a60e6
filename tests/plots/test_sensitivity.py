import numpy as np
import pytest

from gradlab.plots import heat_map, save_figure, sensitivity
from gradlab.sweeps.outcomes.results import SweepResult
from gradlab.sweeps.samplers.designs import grid, sobol
from gradlab.sweeps.spaces.space import Space
from tests.sweeps.results import only_rates, small_result


def swept(space, trials, losses, diverged=()):
    count = len(trials)
    return SweepResult.from_lanes(
        space,
        trials,
        [0],
        steps=10,
        loss=np.ones((count, 1, 1)),
        loss_step=[0],
        metrics={"valid_loss": np.reshape(losses, (count, 1, 1))},
        eval_step=[10],
        diverged_at=np.where(np.isin(np.arange(count), diverged), 3, -1)[:, None],
        bucket=np.zeros(count, int),
        compile_seconds=[0.0],
        run_seconds=np.zeros(count),
    )


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_sensitivity_shows_each_trial_the_best_and_the_median():
    space = Space({"learning_rate": {"choice": [1e-4, 1e-3, 1e-2, 1e-1]}, "decay": {"choice": [0, 1, 2]}})
    trials = grid(space, {})
    losses = np.arange(12.0) + 1
    ax = sensitivity(swept(space, trials, losses, diverged=[5]))
    lines = by_label(ax)
    np.testing.assert_array_equal(lines["best of a bin"].get_xydata(), [[1e-4, 1], [1e-3, 4], [1e-2, 7], [1e-1, 10]])
    np.testing.assert_array_equal(
        lines["median of a bin"].get_xydata(), [[1e-4, 2], [1e-3, 4.5], [1e-2, 8], [1e-1, 11]]
    )
    shown = lines["a trial"].get_xydata()
    expected = [(trial.values["learning_rate"], loss) for trial, loss in zip(trials, losses, strict=True) if loss != 6]
    assert [tuple(point) for point in shown] == expected
    assert ax.get_ylabel() == "final validation loss" and ax.get_xlabel() == "learning rate"


def test_diverged_trials_are_crosses_on_the_upper_edge():
    ax = sensitivity(only_rates([1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.0, np.nan, 0.5], diverged=[3]))
    crosses = by_label(ax)["diverged: 2"]
    np.testing.assert_array_equal(crosses.get_xdata(), [1e-1, 1.0])
    ax.figure.draw_without_rendering()
    height = crosses.get_transform().transform(crosses.get_xydata())[:, 1]
    np.testing.assert_allclose(height, ax.bbox.y1)
    assert not crosses.get_clip_on()


def test_the_best_trial_is_named():
    lines = by_label(sensitivity(only_rates([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0])))
    np.testing.assert_array_equal(lines["best: 1 at learning rate 0.01"].get_xydata(), [[1e-2, 1.0]])
    lines = by_label(sensitivity(only_rates([1e-3, 1e-2, 1e-1], [2.0, 1.0, 3.0]), mode="max"))
    np.testing.assert_array_equal(lines["best: 3 at learning rate 0.1"].get_xydata(), [[1e-1, 3.0]])


def test_many_values_are_gathered_in_bins_of_equal_width_on_paper():
    rates = np.logspace(-6, 3, 120)
    losses = np.random.default_rng(0).random(120) + 0.1
    lines = by_label(sensitivity(only_rates(rates, losses)))
    tens = losses.reshape(12, 10)
    np.testing.assert_allclose(lines["best of a bin"].get_ydata(), tens.min(1))
    np.testing.assert_allclose(lines["median of a bin"].get_ydata(), np.median(tens, axis=1))
    np.testing.assert_allclose(lines["best of a bin"].get_xdata(), rates.reshape(12, 10)[range(12), tens.argmin(1)])
    middles = np.median(np.log10(rates).reshape(12, 10), axis=1)
    np.testing.assert_allclose(lines["median of a bin"].get_xdata(), 10**middles)


@pytest.mark.parametrize(
    ("dimension", "scale", "label", "drawn"),
    [
        ({"log": [1e-3, 1e-1]}, "log", "b2", [1e-3, 1e-1]),
        ({"linear": [0, 1]}, "linear", "b2", [0, 1]),
        ({"one_minus": {"log": [1e-3, 1e-1]}}, "log", "1 - b2", [1e-3, 1e-1]),
        ({"one_minus": {"linear": [0, 0.5]}}, "linear", "b2", [1, 0.5]),
        ({"integer": [1, 100], "log": True}, "log", "b2", [1, 100]),
        ({"integer": [1, 100]}, "linear", "b2", [1, 100]),
        (["x", "y"], "linear", "b2", [0, 1]),
    ],
)
def test_axes_are_scaled_as_the_dimension_was_drawn(dimension, scale, label, drawn):
    space = Space({"b2": dimension})
    ax = sensitivity(swept(space, grid(space, {} if isinstance(dimension, list) else 2), [1.0, 2.0]), "b2")
    assert (ax.get_xscale(), ax.get_xlabel()) == (scale, label)
    np.testing.assert_allclose(by_label(ax)["a trial"].get_xdata(), drawn)
    if isinstance(dimension, list):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["x", "y"]


def test_losses_over_decades_are_logarithmic_and_accuracies_never():
    assert sensitivity(only_rates([1e-3, 1e-2], [1.0, 10.0])).get_yscale() == "log"
    assert sensitivity(only_rates([1e-3, 1e-2], [-1.0, 10.0])).get_yscale() == "linear"
    accuracy = only_rates([1e-3, 1e-2], [0, 0], metrics={"valid_accuracy": np.array([[[0.1]], [[0.9]]])})
    assert sensitivity(accuracy).get_yscale() == "linear"


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        sensitivity(small_result(), "learning_rat")
    with pytest.raises(ValueError, match="unknown hyperparameter"):
        heat_map(small_result(), "learning_rate", "weight_decay")


def test_a_grid_becomes_cells_with_the_best_trial_of_each():
    space = Space({"a": {"choice": [1, 2]}, "b": {"log": [1e-2, 1]}, "c": {"choice": [0, 1]}})
    trials = grid(space, 3)
    losses = np.arange(12.0) + 1
    ax = heat_map(swept(space, trials, losses, diverged=[0, 10, 11]), "a", "b")
    (mesh,) = ax.collections
    best = np.array([[2, 7], [3, 9], [5, np.nan]])
    np.testing.assert_array_equal(np.ma.filled(mesh.get_array(), np.nan), best)
    edges = mesh.get_coordinates()
    np.testing.assert_allclose(edges[0, :, 0], [0.5, 1.5, 2.5])
    np.testing.assert_allclose(edges[:, 0, 1], 10.0 ** np.array([-2.5, -1.5, -0.5, 0.5]))
    np.testing.assert_allclose(by_label(ax)["diverged: 3"].get_xydata(), [[1, 1e-2], [2, 1], [2, 1]])
    highest = heat_map(swept(space, trials, losses), "a", "b", mode="max").collections[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(highest, np.nan), [[2, 8], [4, 10], [6, 12]])


def test_scattered_trials_keep_their_places_over_contours():
    space = Space({"a": {"log": [1e-4, 1]}, "b": {"linear": [0, 1]}})
    trials = sobol(space, 32)
    places = np.array([list(trial.values.values()) for trial in trials])
    losses = 1 + np.log10(places[:, 0]) ** 2 + places[:, 1]
    ax = heat_map(swept(space, trials, losses, diverged=[3]), "a", "b")
    contours, points = ax.collections
    kept = np.arange(32) != 3
    np.testing.assert_allclose(points.get_offsets(), places[kept])
    np.testing.assert_allclose(points.get_array(), losses[kept])
    np.testing.assert_allclose(by_label(ax)["diverged: 1"].get_xydata(), places[[3]])
    assert contours.norm.vmin == losses[kept].min() and contours.norm.vmax == losses[kept].max()
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "linear", "a", "b")
    assert ax.figure.axes[1].get_ylabel() == "final validation loss"


def test_contours_between_trials_are_straight_on_paper():
    space = Space({"a": {"log": [1e-4, 1]}, "b": {"linear": [5, 9]}})
    trials = sobol(space, 64)
    plane = [np.log10(trial.values["a"]) + 4 + trial.values["b"] for trial in trials]  # from 5 to 13
    contours = heat_map(swept(space, trials, plane), "a", "b").collections[0]
    checked = 0
    for level, path in zip(contours.levels[1:-2], contours.get_paths()[1:], strict=False):
        height = np.log10(path.vertices[:, 0]) + 4 + path.vertices[:, 1]
        on_it = np.isclose(height, level, atol=1e-3)
        assert (height > level - 1e-3).all()
        checked += on_it.sum()
    assert checked > 1000


@pytest.mark.parametrize("diverged", [range(8), range(1, 8), range(2, 8)])
def test_heat_maps_of_few_completed_trials_are_drawn(tmp_path, diverged):
    space = Space({"a": {"log": [1e-4, 1]}, "b": {"linear": [0, 1]}})
    result = swept(space, sobol(space, 8), np.arange(8.0) + 1, diverged)
    save_figure(heat_map(result, "a", "b"), tmp_path / "map.png")


def test_a_sweep_of_equal_losses_is_drawn(tmp_path):
    space = Space({"a": {"log": [1e-4, 1]}, "b": {"linear": [0, 1]}})
    result = swept(space, sobol(space, 8), np.ones(8))
    save_figure(heat_map(result, "a", "b"), tmp_path / "map.png")
    save_figure(sensitivity(result, "a"), tmp_path / "line.png")


def test_colours_of_a_heat_map_end_at_the_loss_before_training():
    space = Space({"a": {"choice": [1, 2]}, "b": {"choice": [1, 2]}})
    losses = np.array([0.5, 1.0, 1e35, 4.0])
    start = np.full((4, 1), 2.0)
    result = swept(space, grid(space, 2), losses)
    whole = SweepResult.from_lanes(
        space, result.trials, [0], steps=10, loss=np.ones((4, 1, 1)), loss_step=[0],
        metrics={"valid_loss": np.stack([start, losses[:, None]], -1)}, eval_step=[0, 10],
        diverged_at=np.full((4, 1), -1), bucket=np.zeros(4, int), compile_seconds=[0.0], run_seconds=np.zeros(4),
    )  # fmt: skip
    ax = heat_map(whole, "a", "b")
    (mesh,) = ax.collections
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.5, 1.0)
    assert mesh.colorbar.extend == "max"
    assert heat_map(result, "a", "b").collections[0].norm.vmax == 1e35  # nothing is known of the start
