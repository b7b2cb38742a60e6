"""The tour in notebooks/: pairs of one source that run from top to bottom, with texts that say what the cells print."""

import base64
import os
from pathlib import Path

import jupytext
import pytest

from tests.notebooks.conftest import STORE
from tests.notebooks.execute import execute, store, stored
from tests.notebooks.stated import changed, printed_text, unprinted, varies

FOLDER = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
LARGEST_PICTURE = 300_000  # bytes


@pytest.fixture(scope="module", params=SOURCES, ids=lambda source: source.stem)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def executed(source, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(FOLDER.parent), prepend=os.pathsep)  # this tree, not an installed package
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of the time is compiling, as in all tests
        notebook = execute(source)
    if request.config.getoption(STORE, default=False):
        store(notebook, source)
    return notebook


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_a_pair():
    assert SOURCES
    assert [path.stem for path in SOURCES] == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_it_prints_what_is_stored_and_what_its_text_states(source, executed):
    before = stored(source)
    complaints = list(dict.fromkeys([*unprinted(before.cells), *unprinted(executed.cells)]))
    for was, now in zip(code(before), code(executed), strict=True):
        if not varies(now):
            complaints += changed(printed_text(was), printed_text(now))
    assert not complaints, "\n".join(complaints)


def test_the_pair_has_one_source(source):
    parts = lambda notebook: [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]
    assert parts(jupytext.read(source)) == parts(stored(source))


def test_it_is_stored_as_executed(source):
    cells = code(stored(source))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert max(len(base64.b64decode(picture)) for picture in pictures) <= LARGEST_PICTURE
