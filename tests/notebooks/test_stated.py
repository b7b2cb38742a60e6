import nbformat.v4 as v4
import pytest

from tests.notebooks.stated import changed, printed_numbers, stated_numbers, unprinted


def cells(*pairs):
    """Code cells that have printed the texts, each followed by markdown."""
    made = []
    for printed, markdown in pairs:
        made += [v4.new_code_cell("", outputs=[v4.new_output("stream", text=printed)]), v4.new_markdown_cell(markdown)]
    return made


@pytest.mark.parametrize(
    ("text", "value", "half_unit"),
    [
        ("**12**", 12.0, 0.5),
        ("**12.0**", 12.0, 0.05),
        ("**-0.45**", -0.45, 0.005),
        ("**\N{MINUS SIGN}0.45**", -0.45, 0.005),
        ("**12 %**", 12.0, 0.5),
        ("**1,797**", 1797.0, 0.5),
        ("**2.5e-3**", 0.0025, 0.00005),
        (r"**$2.5 \times 10^{-3}$**", 0.0025, 0.00005),
        (r"**$3\cdot10^{4}$**", 30000.0, 5000.0),
    ],
)
def test_a_bold_number_is_read_with_its_precision(text, value, half_unit):
    (number,) = stated_numbers(f"about {text} steps")
    assert (number.value, number.half_unit) == (pytest.approx(value), pytest.approx(half_unit))


@pytest.mark.parametrize("text", ["**2 steps**", "12", "**n = 3**", "*12*", "**x2**", "**12, 13**"])
def test_what_is_no_bold_number_states_nothing(text):
    assert stated_numbers(text) == []


def test_numbers_are_read_from_outputs():
    assert printed_numbers("lr 0.1: x = -1.25e-05, 12% of [1, .5], x2 v1.2.3") == [0.1, -1.25e-05, 12.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("printed", "fits"), [("0.4502", True), ("0.4449", False), ("0.4551", False), ("-0.45", False)]
)
def test_a_stated_number_is_the_printed_one_rounded(printed, fits):
    complaints = list(unprinted(cells((f"x = {printed}", "It ends at **0.45**."))))
    assert len(complaints) == (0 if fits else 1)


def test_only_the_nearest_cell_that_prints_numbers_counts():
    silent = v4.new_code_cell("", outputs=[v4.new_output("stream", text="a picture")])
    assert not list(unprinted([*cells(("3", "first")), silent, v4.new_markdown_cell("**3**")]))
    (complaint,) = unprinted(cells(("3", "first"), ("4", "**3**")))
    assert "states 3, the cell above it prints 4" in complaint
    assert "prints nothing" in next(unprinted([v4.new_markdown_cell("**3**")]))


def test_what_varies_can_not_be_stated():
    seconds = v4.new_code_cell("", metadata={"tags": ["varies"]}, outputs=[v4.new_output("stream", text="4 s")])
    assert not list(unprinted([*cells(("3", "first")), seconds, v4.new_markdown_cell("**3**")]))
    assert list(unprinted([*cells(("3", "first")), seconds, v4.new_markdown_cell("**4**")]))


def test_what_stands_for_a_picture_prints_nothing():
    picture = v4.new_output("display_data", data={"text/plain": "<Figure size 7 with 3 Axes>", "image/png": ""})
    assert list(unprinted([v4.new_code_cell("", outputs=[picture]), v4.new_markdown_cell("**7**")]))
    table = v4.new_output("execute_result", data={"text/plain": "7 rows", "text/html": "<table>"})
    assert not list(unprinted([v4.new_code_cell("", outputs=[table]), v4.new_markdown_cell("**7**")]))


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        ("x = 0.123", "x = 0.125", True),
        ("x = 0.123", "x = 0.126", False),
        ("1.25e-05", "1.27e-05", True),
        ("1.25e-05", "1.25e-06", False),
        ("3e-05", "2e-05", True),
        ("-12 steps", "-13 steps", False),
        ("12 steps", "13 steps", False),
        ("12 steps", "12 runs", False),
        ("one 1", "one 1 2", False),
    ],
)
def test_an_output_is_the_earlier_one_up_to_its_last_digits(was, now, same):
    assert (not list(changed(was, now))) is same
