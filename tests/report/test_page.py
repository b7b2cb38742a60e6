import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from gradlab.report import write_report
from gradlab.report.data import page_data
from gradlab.report.page import page_of
from tests.report.examples import HOSTILE, example, large


class Elements(HTMLParser):
    """The elements of a page: tag, attributes, and the text right inside."""

    def __init__(self, page):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        if tag not in ("meta", "input", "img"):
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, text):
        if self._open:
            self._open[-1][2] += text

    def all(self, tag):
        return [(attributes, text) for own, attributes, text in self.elements if own == tag]


def plain(data):
    return json.loads(json.dumps(data))


@pytest.fixture(scope="module")
def elements():
    config = f"task: {HOSTILE}\n$data $plotly\n"
    event = json.dumps({"time": "now", "event": HOSTILE})
    hostile = example(facts={"task": HOSTILE})
    return Elements(page_of(hostile, config, event)), plain(page_data(hostile, config, event))


def test_the_page_holds_the_data_whatever_its_strings_are(elements):
    page, data = elements
    (attributes, text), _, _ = page.all("script")
    assert attributes == {"type": "application/json", "id": "data"}
    assert json.loads(text) == data and "<" not in text
    assert HOSTILE in data["title"] and HOSTILE in data["config"] and data["events"][0][1] == HOSTILE


def test_no_string_of_the_data_becomes_markup(elements):
    page, _ = elements
    assert len(page.all("script")) == 3 and page.all("img") == []
    assert page._open == []
    assert [text for _, text in page.all("title")] == ["Sweep"]


def test_the_page_names_no_address(elements):
    page, _ = elements
    for tag, attributes, text in page.elements:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "data", "poster", "background"}, tag
        assert not any(name.startswith("on") for name in attributes)
        if tag == "style":
            assert "url(" not in text and "@import" not in text and "//" not in text
    _, _, (_, code) = page.all("script")
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|innerHTML", code)


def test_the_policy_allows_these_scripts_and_nothing_from_elsewhere(elements):
    page, _ = elements
    (policy,) = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    _, (_, plotly), (_, code) = page.all("script")
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'" for own in (plotly, code)]
    assert rules.pop("default-src") == "'none'"
    assert rules == {
        "script-src": f"{hashes[0]} {hashes[1]} 'unsafe-eval'",
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
    }
    assert "plotly.js v" in plotly[:100]


def test_the_page_of_a_folder(tmp_path):
    result = example()
    result.save(tmp_path)
    (tmp_path / "config.yaml").write_text("task: {name: digits}\n")
    (tmp_path / "events.jsonl").write_text('{"time": "now", "event": "begun"}\n')
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    data = json.loads(Elements(path.read_text("utf-8")).all("script")[0][1])
    assert data["config"] == "task: {name: digits}\n" and data["events"] == [["now", "begun", ""]]
    assert data["metrics"] == plain(page_data(result))["metrics"]


def test_the_page_goes_where_it_is_told_and_needs_neither_config_nor_events(tmp_path):
    example().save(tmp_path)
    path = write_report(tmp_path, tmp_path / "page.htm")
    assert path == tmp_path / "page.htm" and not (tmp_path / "report.html").exists()
    data = json.loads(Elements(path.read_text("utf-8")).all("script")[0][1])
    assert data["config"] is None and data["events"] == []


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_plotly_the_error_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs plotly.*pip install 'gradlab\[lab\]'"):
        page_of(example())


def test_the_page_of_ten_thousand_trials_is_small_enough_to_open():
    size = len(page_of(large(10_000)).encode())
    assert 5e6 < size < 20e6
