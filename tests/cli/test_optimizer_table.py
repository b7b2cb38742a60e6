"""The table of optimizers: what the documentation shows is what the command prints."""

import pathlib
import re

import pytest

import gradlab
from gradlab.cli.optimizer_table import optimizer_table, state_bytes
from gradlab.optimizers import ROWS

PAGE = pathlib.Path(gradlab.__file__).parent / "docs" / "optimizers.md"


def test_the_page_holds_the_table_that_the_command_prints(gradlab_command):
    output = gradlab_command("list", "optimizers", "--markdown").output
    assert output.strip() == optimizer_table()
    assert optimizer_table() in PAGE.read_text(), "write the output of `gradlab list optimizers --markdown` to the page"


def test_every_row_is_filled_and_names_its_source():
    names = [row.factory.__name__ for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert row.rule and row.paper
        assert re.search(r"\d{4}\.\d{4,5}|\d{4}", row.paper), row


@pytest.mark.parametrize(("name", "expected"), [("sgd", 0), ("lion", 4), ("adamw", 8), ("amsgrad", 12)])
def test_state_bytes_of_states_that_are_known(name, expected):
    row = next(row for row in ROWS if row.factory.__name__ == name)
    assert state_bytes(row) == expected


def test_the_table_is_of_optimizers_alone(gradlab_command):
    result = gradlab_command("list", "tasks", "--markdown")
    assert result.exit_code != 0
    assert "none of tasks" in str(result.exception)
