import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlab.plots.health import health_panels

NORMS = np.array([[1.0, 10.0], [2.0, 100.0], [3.0, np.nan]])
COSINES = np.array([[-0.5, 0.5], [0.1, 0.2], [1.0, 1.0]])


def test_each_panel_has_a_line_for_each_leaf():
    axes = health_panels(["a", "b"], {"norm": NORMS, "cosine": COSINES}, step=[0, 10, 20])
    for ax, title, values in zip(axes, ("norm", "cosine"), (NORMS, COSINES), strict=True):
        assert ax.get_ylabel() == title
        for line, column in zip(ax.lines, values.T, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.column_stack([[0, 10, 20], column]))
    assert [ax.get_yscale() for ax in axes] == ["log", "linear"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["a", "b"]
    colors = [[line.get_color() for line in ax.lines] for ax in axes]
    assert colors[0] == colors[1] and len(set(colors[0])) == 2
    assert axes[1].get_xlabel() == "step"


def test_what_is_not_finite_is_counted():
    axes = health_panels(["a", "b"], {"norm": np.where(NORMS == 2, np.inf, NORMS), "cosine": COSINES})
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [["2 not finite"], []]
    assert np.isnan(axes[0].lines[0].get_ydata()[1])


def test_a_reference_is_a_dotted_line_in_its_panel():
    axes = health_panels(["a", "b"], {"norm": NORMS, "ratio": NORMS}, references={"ratio": 1e-3})
    dotted = [[line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"] for ax in axes]
    assert dotted == [[], [1e-3]]


def test_numbers_of_the_whole_model_are_one_line_without_a_legend():
    (ax,) = health_panels([], {"g'g": [3.0, 2.0]})
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [3.0, 2.0])
    assert ax.get_legend() is None


def test_of_many_leaves_the_largest_are_drawn():
    names, norms = [f"layer_{i}" for i in range(20)], np.ones((2, 20)) * (np.arange(20) + 1)
    norms[:, 3] = np.nan
    (ax,) = health_panels(names, {"norm": norms})
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["layer_3"] + names[7:]
    assert legend.get_title().get_text() == "the 14 largest of 20"


def test_it_is_drawn_in_the_axes_given():
    axes = Figure().subplots(2)
    assert health_panels(["a", "b"], {"norm": NORMS, "cosine": COSINES}, axes=axes) == list(axes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"panels": {}}, "at least one panel"),
        ({"panels": {"norm": np.ones((3, 3))}}, r"panel 'norm' must have the shape \(steps, leaves\) = \(3, 2\)"),
        ({"panels": {"norm": NORMS, "cosine": COSINES[:2]}}, "panel 'cosine' must have"),
        ({"panels": {"norm": NORMS}, "step": [1, 2]}, r"= \(2, 2\)"),
        ({"panels": {"norm": NORMS}, "references": {"ratio": 1.0}}, r"given for \['ratio'\]"),
        ({"panels": {"norm": NORMS}, "axes": []}, "one axes for each of the 1 panels, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        health_panels(["a", "b"], **arguments)
