"""The page in Chromium, opened from a file and used as a reader would."""

import pytest

from gradlab.plots import PALETTE
from gradlab.report.page import page_of
from tests.report.examples import HOSTILE, example, large, stopped
from tests.report.opened import Page

UIDS = [trial.uid for trial in example().trials]
RATE, LOSS, STATUS = 2, 5, 8  # columns
CONFIG = f"# {HOSTILE}\ntask: {{name: digits}}\n"
EVENTS = '{"time": "12:00", "event": "begun", "process": 7}\n'


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page_of(example(facts={"task": HOSTILE}), CONFIG, EVENTS), "utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser, path):
    return Page(browser, path)


@pytest.fixture
def page(opened):
    opened.reset()
    yield opened
    assert opened.errors() == []


def test_the_page_shows_the_sweep_and_loads_nothing(page):
    assert page.find("h1").text == page.driver.title == f"{HOSTILE}: 6 trials"
    assert page.find("#config").get_property("textContent") == CONFIG
    assert page.js("return [...document.querySelectorAll('#events td')].map(c => c.textContent)") == [
        "12:00",
        "begun",
        "process 7",
    ]
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    assert page.js("return document.images.length") == 0
    assert page.js("return document.querySelectorAll('.no-webgl').length") == 0


def test_what_comes_from_data_is_text_in_every_chart(page):
    texts = page.js("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert texts.count(f"{HOSTILE[:23]}…") == 2  # the tick of the parallel coordinates and the one of the sensitivity
    assert page.column(4).count(HOSTILE) == 2


def test_a_diverged_trial_is_shown_as_such(page):
    (row,) = [row for row in page.rows() if row[1] == UIDS[5]]
    assert row[0] == "6" and row[LOSS:STATUS] == ["", "", ""]
    assert row[STATUS] == "diverged: 1 of 2 seeds, first at step 12"
    curve = page.curves()[UIDS[5]]
    assert curve["x"] == [0, 10] and curve["y"] == [2, 26] and curve["mode"] == "lines+markers"
    assert page.find("#lost-word").text == "diverged" and not page.find("#stopped-key").is_displayed()
    assert page.find("#sensitivity-note").text == "Crosses on the upper edge: diverged."
    text = page.js(
        "return document.body.innerText + [...document.querySelectorAll('svg text')].map(t => t.textContent)"
    )
    assert not [word for word in ("NaN", "undefined", "null", "Infinity", "[object") if word in text]


def test_curves_are_coloured_by_rank(page):
    colors = {uid: curve["color"] for uid, curve in page.curves().items()}
    assert [colors[UIDS[i]] for i in (3, 4, 0, 5)] == ["#00224e", "#707173", "#d6c35f", "#555555"]


def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(page):
    assert page.column(1) == [UIDS[i] for i in (3, 2, 4, 1, 0, 5)]  # best first
    page.sort("learning rate")
    assert page.column(RATE) == ["1e-4", "0.001", "0.01", "0.1", "1", "10"]
    page.sort("learning rate")
    assert page.column(RATE) == ["10", "1", "0.1", "0.01", "0.001", "1e-4"]
    assert page.find("th[aria-sort=descending]").text.startswith("learning rate")


def test_what_has_no_value_is_last_in_both_directions(page):
    page.sort("validation loss")
    assert page.column(1) == [UIDS[i] for i in (3, 2, 4, 1, 0, 5)]
    page.sort("validation loss")
    assert page.column(1) == [UIDS[i] for i in (0, 1, 4, 2, 3, 5)]
    assert page.column(LOSS)[0] == "0.91 ± 0.014"


def test_the_filter_keeps_the_rows_and_curves_with_all_of_its_words(page):
    page.type_filter("COSINE")
    page.until(lambda: len(page.rows()) == 2)
    assert set(page.column(1)) == {UIDS[1], UIDS[4]} == page.curves().keys()
    assert page.find("#shown").text == "2 of 6 trials shown"
    page.type_filter(f"cosine {UIDS[4]}")
    page.until(lambda: page.column(1) == [UIDS[4]])
    page.find("#clear").click()
    page.until(lambda: len(page.rows()) == 6 == len(page.curves()))
    assert page.find("#filter").get_property("value") == ""


def test_a_click_on_a_row_marks_the_trial_in_every_chart(page):
    page.row(UIDS[2]).click()
    page.row(UIDS[4]).click()
    curves = page.curves()
    assert (curves[UIDS[2]]["color"], curves[UIDS[4]]["color"]) == PALETTE[:2]
    assert [uid for uid, curve in curves.items() if curve["width"] > 1] == [UIDS[4], UIDS[2]]
    assert curves[UIDS[0]]["color"] == "#B8B8B8"
    assert page.row(UIDS[2]).get_attribute("aria-selected") == "true"
    marks = page.js("return [...document.getElementById('sensitivity').children].map(d => d.data.at(-1).marker.color)")
    assert marks == [list(PALETTE[:2])] * 3
    lines = page.js("return document.getElementById('parallel').data[0].line.color")
    assert lines == [2.5, 3.5, 4.5, 2.5, 2.5, 2.5]  # best first: 2.5 is grey, 3.5 the first colour
    rates = page.js("return document.getElementById('parallel').data[0].dimensions[0].values")
    assert rates == pytest.approx([-1, -2, 0, -3, -4, 1])
    page.row(UIDS[2]).click()
    page.row(UIDS[4]).click()
    assert {curve["width"] for curve in page.curves().values()} == {1}


def test_the_keyboard_marks_and_the_colours_of_the_others_stay(page):
    for uid in (UIDS[0], UIDS[1]):
        page.row(uid).send_keys("\ue007")
    page.row(UIDS[0]).send_keys(" ")
    assert page.curves()[UIDS[1]]["color"] == PALETTE[1]
    page.row(UIDS[3]).send_keys(" ")
    assert page.curves()[UIDS[3]]["color"] == PALETTE[0]
    assert page.js("return document.activeElement.dataset.uid") == UIDS[3]


def test_a_constraint_on_the_parallel_coordinates_filters_rows_and_curves(page):
    page.drag_along_axis(0, 0.3, 0.7)  # of six rates: 1e-4 to 10, the third and the fourth
    page.until(lambda: len(page.rows()) < 6)
    assert set(page.column(1)) == {UIDS[2], UIDS[3]} == page.curves().keys()
    page.row(UIDS[3]).click()
    constraint = page.js("return document.getElementById('parallel').data[0].dimensions[0].constraintrange")
    ((low, high),) = constraint
    assert low < -2 < -1 < high  # it outlives a change of the colours
    assert set(page.column(1)) == {UIDS[2], UIDS[3]} and page.curves()[UIDS[3]]["width"] == 3
    page.drag_along_axis(3, 0.15, 0.0)
    page.until(lambda: len(page.rows()) < 2)
    page.find("#clear").click()
    page.until(lambda: len(page.rows()) == 6)
    page.drag_along_axis(0, 0.3, 0.7)
    page.until(lambda: len(page.rows()) == 2)


def test_another_metric_ranks_and_draws_anew(page):
    page.choose_metric("validation accuracy")
    page.until(lambda: page.curves()[UIDS[3]]["y"][-1] > 0.9)
    assert page.column(1) == [UIDS[i] for i in (3, 2, 4, 1, 0, 5)]
    assert list(page.curves())[-1] == UIDS[3]  # the best on top
    labels = page.js("return document.getElementById('parallel').data[0].dimensions.map(d => d.label)")
    assert labels == ["learning rate", "1 - b2", "schedule", "validation accuracy"]


def test_a_click_on_a_curve_marks_its_trial(page):
    trial = UIDS.index(UIDS[1])
    page.js("document.getElementById('curves').emit('plotly_click', {points: [{customdata: arguments[0]}]})", trial)
    assert page.row(UIDS[1]).get_attribute("class") == "marked"


def test_the_page_fits_a_phone(browser, path):
    page = Page(browser, path, width=400)
    width, needed, window = page.js(
        "const {clientWidth, scrollWidth} = document.documentElement;return [clientWidth, scrollWidth, innerWidth]"
    )
    assert needed == width <= window == 400
    assert page.errors() == []


def test_a_stopped_trial_keeps_its_value_and_ranks_below_those_that_ran_on(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(stopped()), "utf-8")
    page = Page(browser, path)
    assert page.column(1) == [UIDS[i] for i in (3, 2, 1, 0, 4, 5)]
    assert page.rows()[4][LOSS] == "0.05 ± 0" and page.rows()[4][STATUS] == "stopped: at step 10"
    curve = page.curves()[UIDS[4]]
    assert (curve["x"], curve["color"], curve["mode"]) == ([0, 10], "#B8B8B8", "lines")
    assert page.find("#stopped-key").is_displayed() and page.find("#lost-word").text == "diverged"
    assert "Open circles: stopped" in page.find("#sensitivity-note").text
    symbols = page.js("return document.getElementById('sensitivity').children[0].data[1].marker.symbol")
    assert symbols == ["circle"] * 4 + ["circle-open"]
    assert page.errors() == []


def test_a_value_beyond_the_ceiling_is_drawn_there_and_told_as_it_is(browser, tmp_path):
    metrics = {name: values.copy() for name, values in example().metrics.items()}
    metrics["valid_loss"][0, :, 2] = 1e6
    path = tmp_path / "report.html"
    path.write_text(page_of(example(metrics=metrics)), "utf-8")
    page = Page(browser, path)
    assert page.find("#sensitivity-note").text.endswith("diverged. What is beyond 20 is drawn there.")
    panel = page.js("const {y, text} = document.getElementById('sensitivity').children[0].data[1]; return [y, text]")
    assert panel[0][-1] == 20 and panel[1][-1] == f"{UIDS[0]}<br>learning rate 1e-4<br>validation loss 1e+6 ± 0"
    ticks = page.js("return document.getElementById('parallel').data[0].dimensions.at(-1).ticktext")
    assert ticks[-2:] == ["20 and more", "diverged"]
    assert page.errors() == []


def test_a_page_of_many_trials_shows_the_best_of_them(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(large(3000)), "utf-8")
    page = Page(browser, path)
    assert len(page.rows()) == len(page.curves()) == 200
    assert page.find("#curves-note").text.startswith("200 of 3,000 curves: the marked first, then the best")
    assert page.find("#sensitivity-note").text.startswith("1,000 of 3,000 trials")
    page.find("#more").click()
    assert len(page.rows()) == 400
    page.sort("#")
    worst = page.rows()[0]
    assert worst[0] == "3000" and worst[-1] == "diverged: at step 5"
    page.find("#trials tbody tr").click()
    marked = [uid for uid, curve in page.curves().items() if curve["width"] > 1]
    assert marked == [worst[1]] and len(page.curves()) == 200
    assert page.errors() == []
