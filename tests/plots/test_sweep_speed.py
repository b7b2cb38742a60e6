"""The picture of contenders: every number in its panel, estimates hollow."""

import numpy as np

from gradlab.plots.style import save_figure
from gradlab.plots.sweep_speed import sweep_speed


def record(task, lanes, contender, rate, estimated=False):
    return {
        "task": task,
        "lanes": lanes,
        "contender": contender,
        "estimated": estimated,
        "steps_per_second": rate,
        "warm_steps_per_second": None if rate is None else 10 * rate,
    }


RECORDS = [
    record("mlp", 8, "gradlab", 200.0),
    record("mlp", 1, "gradlab", 30.0),
    record("mlp", 1, "scan", 20.0),
    record("mlp", 8, "scan", 21.0, estimated=True),
    record("cnn", 1, "gradlab", 3.0),
    record("cnn", 8, "gradlab", None),
]


def lines_of(panel):
    return [line for line in panel.lines if len(line.get_xdata())]


def marked(line):
    return np.asarray(line.get_ydata())[np.asarray(line.get_markevery(), int)].tolist()


def test_a_column_for_each_task_and_a_row_with_and_without_compiling(tmp_path):
    figure = sweep_speed(RECORDS)
    panels = np.array(figure.axes).reshape(2, 2)
    assert [panel.get_title() for panel in figure.axes] == [
        f"{task}, {kind}" for kind in ("compiling included", "compiled before") for task in ("mlp", "cnn")
    ]
    for row, factor in enumerate((1, 10)):
        ours, ours_estimated, scan, scan_estimated = lines_of(panels[row, 0])
        np.testing.assert_array_equal(ours.get_xdata(), [1, 8])
        np.testing.assert_array_equal(ours.get_ydata(), factor * np.array([30.0, 200.0]))
        assert marked(ours) == [factor * 30.0, factor * 200.0] and marked(ours_estimated) == []
        assert marked(scan) == [factor * 20.0] and marked(scan_estimated) == [factor * 21.0]
        assert scan_estimated.get_markerfacecolor() == "white" != scan.get_markerfacecolor()
        assert lines_of(panels[row, 1])[0].get_ydata().tolist() == [factor * 3.0]
    assert {(panel.get_xscale(), panel.get_yscale()) for panel in figure.axes} == {("log", "log")}
    save_figure(figure, tmp_path / "speed.png")
    assert [tick.get_text() for tick in panels[1, 0].get_xticklabels()] == ["1", "8"]


def test_the_legend_names_each_contender_once():
    (legend,) = sweep_speed(RECORDS).legends
    assert [text.get_text() for text in legend.get_texts()] == ["gradlab", "scan", "estimated"]
