"""YAML 1.2's scalars, told by its specification (section 10.3.2, the core schema) and not by PyYAML."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlab.config import yaml12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3e4", 30000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5E+2", -250.0),
        ("+1", 1),
        ("010", 10),
        ("0o10", 8),
        ("0xff", 255),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("-.inf", -math.inf),
    ],
)
def test_what_is_no_string(text, value):
    read = yaml12.parse(f"key: {text}")["key"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["no", "off", "yes", "on", "y", "1_000", "1:30", "2024-01-01", "e3", ".", "-"])
def test_what_is_a_string_although_version_1_1_disagrees(text):
    assert yaml12.parse(f"[{text!s}]" if text != "-" else "['-']") == [text]


def test_nan_is_a_number():
    assert math.isnan(yaml12.parse("[.nan]")[0])


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "outer: {a: 1, b: 2, a: 1}", "- {1: x, 1: y}"])
def test_a_key_that_occurs_twice_is_an_error(text):
    with pytest.raises(ValueError, match=r"line 1, column \d+: the key .* occurs twice"):
        yaml12.parse(text)


def test_a_merge_key_may_be_overridden():
    assert yaml12.parse("base: &b {x: 1, y: 2}\nnew: {<<: *b, y: 3}")["new"] == {"x": 1, "y": 3}


def test_a_syntax_error_says_where():
    with pytest.raises(ValueError, match="line 2, column"):
        yaml12.parse("task: {name: digits\noptimizer: }")


def test_no_code_is_built():
    with pytest.raises(ValueError, match="could not determine a constructor"):
        yaml12.parse("!!python/object/apply:os.getcwd []")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@given(data)
def test_what_is_dumped_reads_back(value):
    assert yaml12.parse(yaml12.dump(value)) == value


@pytest.mark.parametrize("text", ["1e-3", "no", "010", "0o7", "null", "1:30", "2024-01-01"])
def test_strings_that_some_version_reads_as_something_else_are_quoted(text):
    assert f"'{text}'" in yaml12.dump({"key": text})
