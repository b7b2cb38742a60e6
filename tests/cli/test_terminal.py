import io
import os
import subprocess
import sys

from rich.console import Console

from gradlab.cli.terminal import Terminal


def printed(width, *table, **options):
    terminal = Terminal()
    terminal.results = Console(file=io.StringIO(), width=width)
    terminal.table(*table, **options)
    return terminal.results.file.getvalue()


def test_numbers_and_names_stay_whole_when_the_terminal_is_narrow():
    text = printed(20, "title", ["name", "a long heading"], [["an_optimizer_name", "0.12345 ± 0.00067"]])
    assert "an_optimizer_name" in text
    assert "0.12345 ± 0.00067" in text


def test_words_wrap():
    text = printed(40, "title", ["name", "what it is"], [["adam", "many words " * 8]], words=2)
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("many") == 8


def test_brackets_are_no_markup():
    assert "[red]x" in printed(80, "[bold]title", ["[i]head"], [["[red]x"]])
    terminal = Terminal()
    terminal.results = Console(file=io.StringIO())
    terminal.say("[64, 64] [bold]")
    assert terminal.results.file.getvalue() == "[64, 64] [bold]\n"


def test_progress_is_silent_when_quiet(capsys):
    with Terminal(quiet=True).progress("run", 10) as show:
        show(5, "half")
    assert capsys.readouterr() == ("", "")


def test_progress_shows_what_how_far_and_the_note(capsys):
    with Terminal().progress("a run", 10) as show:
        show(5, "loss 0.1")
    assert capsys.readouterr().err.split() == ["a", "run", "━" * 10, "50%", "loss", "0.1"]


def test_decompositions_have_one_thread_unless_told_otherwise():
    program = "import os, gradlab.cli; print(os.environ['OPENBLAS_NUM_THREADS'])"
    for given, expected in ({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3"):
        kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
        result = subprocess.run(
            [sys.executable, "-c", program], env=kept | given, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == expected
