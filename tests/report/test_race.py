"""The player of a race: what it holds, and how it plays in a browser."""

import json

import numpy as np
import pytest

from gradlab.report.race import race_data, write_race
from tests.report.examples import HOSTILE
from tests.report.opened import Page
from tests.report.test_page import Elements

X, Y = np.linspace(-2, 2, 21), np.linspace(-1, 1, 11)
BOWL = X**2 + 3 * Y[:, None] ** 2
STEPS = np.arange(41)[:, None]
PATHS = {
    HOSTILE: [1.5, 0.8] * 0.9**STEPS,
    "fast": [-1.5, 0.8] * 0.7**STEPS,
    "lost": np.array([[-1.0, -0.5], [1.0, 0.5], [np.inf, 0.0]]),
}
HEIGHTS = {name: path[:, 0] ** 2 + 3 * path[:, 1] ** 2 for name, path in PATHS.items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("race") / "race.html"
    known = {"minima": [[0, 0]], "saddles": [[1, 0.5]], "title": HOSTILE, "labels": ("u", HOSTILE)}
    write_race(path, X, Y, BOWL, PATHS, HEIGHTS, height_name=HOSTILE, **known)
    return path


@pytest.fixture(scope="module")
def page(browser, path):
    page = Page(browser, path)
    yield page
    assert page.errors() == []


def test_paths_end_where_they_are_not_finite():
    data = race_data(X, Y, PATHS, HEIGHTS, minima=[[0, 0]])
    lost = data["paths"][2]
    assert lost["points"] == [[-1, -0.5], [1, 0.5]] and lost["heights"] == [1.75, 1.75]
    assert data["steps"] == list(range(41)) and data["minima"] == [[0, 0]] and data["saddles"] == []
    np.testing.assert_allclose(data["paths"][0]["points"], PATHS[HOSTILE], rtol=1e-4)


def test_of_long_races_some_steps_are_shown():
    long = np.linspace([0.0, 0.0], [1.0, 1.0], 5001)
    data = race_data(X, Y, {"a": long, "b": long[:10]}, {"a": long[:, 0], "b": long[:10, 0]})
    assert data["steps"] == list(range(0, 5001, 5))
    assert len(data["paths"][0]["points"]) == 1001 and len(data["paths"][1]["points"]) == 2


def test_a_race_without_paths_or_heights_is_refused():
    with pytest.raises(ValueError, match="at least one path"):
        race_data(X, Y, {}, {})
    with pytest.raises(ValueError, match=r"not so for \['lost'\]"):
        race_data(X, Y, PATHS, {**HEIGHTS, "lost": [1.0]})


def test_the_file_is_small_whole_and_names_no_address(path):
    text = path.read_text("utf-8")
    assert len(text) < 200_000 and "http" not in text.replace("http-equiv", "")
    elements = Elements(text)
    (attributes, data), (_, code) = elements.all("script")
    assert attributes["type"] == "application/json" and json.loads(data)["title"] == HOSTILE
    assert "eval" not in code and "src" not in code
    assert [entry.name for entry in path.parent.iterdir()] == ["race.html"]


def test_it_opens_at_the_end_and_loads_nothing(page):
    assert page.driver.title == page.find("h1").text == HOSTILE
    assert page.find("#step").text == "40 of 40" and page.find("#play").text == "Play"
    assert (
        page.js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    )
    assert page.js("return [...document.querySelectorAll('#standing tr')].map(r => r.cells[1].textContent)") == [*PATHS]


def standing(page):
    return page.js(
        "return [...document.querySelectorAll('#standing tr')].map(r => [2, 3].map(i => r.cells[i].textContent))"
    )


def move(page, frame):
    page.js(
        "const s = document.getElementById('slider'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
        frame,
    )


def color_at(page, x, y):
    """The colour of the canvas at a place of the surface."""
    return page.js(
        "const r = canvas.width / (MARGIN.left + width + MARGIN.right);"
        "return [...pen.getImageData(toX(arguments[0]) * r, toY(arguments[1]) * r, 1, 1).data.slice(0, 3)]",
        x,
        y,
    )


def test_the_axes_point_right_and_up(page):
    ends = page.js("return [toX(-2), toX(2), toY(1), toY(-1), MARGIN.left, MARGIN.top, width, height]")
    left, right, top, bottom, margin, above, width, height = ends
    assert (left, right, top, bottom) == (margin, margin + width, above, above + height)
    assert page.js("return ticks(-2, 2)") == [-2, -1, 0, 1, 2] and page.js("return ticks(0, 0.3).length") == 7


def test_the_slider_moves_squares_and_standing(page):
    move(page, 0)
    assert page.find("#step").text == "0 of 40"
    assert [place for _, place in standing(page)] == ["2", "2", "1"]
    assert color_at(page, 1.5, 0.8) == [0, 114, 178] and color_at(page, -1.5, 0.8) == [213, 94, 0]
    move(page, 10)
    heights = [1.5**2 * 0.9**20 + 3 * 0.8**2 * 0.9**20, 1.5**2 * 0.7**20 + 3 * 0.8**2 * 0.7**20]
    assert [float(height) for height, _ in standing(page)[:2]] == pytest.approx(heights, rel=1e-3)
    assert standing(page)[2] == ["not finite", "3"]
    assert [place for _, place in standing(page)[:2]] == ["2", "1"]
    assert color_at(page, *(np.array([1.5, 0.8]) * 0.9**10)) == [0, 114, 178]
    assert color_at(page, 1.0, 0.5) == [0, 158, 115]  # the lost one stays


def test_it_plays_to_the_end_from_where_it_is_and_again_from_the_start(page):
    page.js("const s = document.getElementById('speed'); s.value = '4'; s.dispatchEvent(new Event('change'))")
    move(page, 30)
    page.find("#play").click()
    page.until(lambda: page.find("#step").text == "40 of 40")
    assert page.find("#play").text == "Play"
    page.find("#play").click()
    page.until(lambda: 0 < page.js("return state.frame") < 30)
    page.find("#play").click()
    assert page.find("#play").text == "Play"
    frame = page.js("return state.frame")
    assert 0 < frame < 40 and page.js("return state.frame") == frame


def test_it_fits_a_phone(page):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.js("return document.documentElement.scrollWidth") <= 400
