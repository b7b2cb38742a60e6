"""The pages for users: their Python runs, commands and links exist, and every public name is described."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import gradlab

ROOT = pathlib.Path(gradlab.__file__).parents[1]
PAGES = sorted([*(ROOT / "gradlab" / "docs").glob("*.md"), ROOT / "README.md", ROOT / "notebooks" / "README.md"])
RUN = [page for page in PAGES if "```python" in page.read_text() and page.name != "README.md"]  # test_readme has that
PUBLIC = ["gradlab", *(f"gradlab.{name}" for name in ("instruments", "plots", "sweeps", "tasks"))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path):
    program = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


COMMAND = r"gradlab ((?:run|sweep|contest|report|inspect|list|bench|plan) [^`\n|]*)"


def commands():
    for page in PAGES:
        for line in re.findall(COMMAND, page.read_text()):
            yield pytest.param(line, id=f"{page.stem}: {line.strip()[:50]}")


@pytest.mark.parametrize("line", list(commands()))
def test_the_configs_and_options_that_a_page_names_exist(line):
    from typer.main import get_command

    from gradlab.cli.app import app

    words = line.replace("(", " ").split()
    command = get_command(app).commands[words[0]]
    if words[0] == "bench" and words[1] in command.commands:
        command = command.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.rstrip("`.,;)") for word in words if re.match(r"--[a-z]", word)} <= known | {"--help"}
    for config in re.findall(r"configs/[\w/]+\.yaml", line):
        assert (ROOT / config).is_file()


def described():
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            yield package, name, getattr(module, name)


def test_every_public_name_is_described():
    """Functions and classes carry docstrings of a sentence; constants and modules are described where they stand."""
    missing, count = [], 0
    for package, name, thing in described():
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            continue
        count += 1
        text = inspect.getdoc(thing) or ""
        generated = text.startswith(f"{name}(")  # what a NamedTuple or dataclass without a docstring says of itself
        if len(text.split()) < 3 or generated or not text.split("\n\n")[0].rstrip().endswith((".", ":", "``")):
            missing.append(f"{package}.{name}: {text[:60]!r}")
    assert not missing
    assert count > 400
