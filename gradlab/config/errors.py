"""What is wrong with a config, all at once: file, dotted path, what, and a suggestion."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from gradlab.core.check import suggestion

WORDED = "gradlab"  # the type of the errors whose message is final

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "sequence_type": "a list",
    "string_type": "a string",
    "tuple_type": "a list",
}
_BOUNDS = {"greater_than_equal": (">=", "ge"), "greater_than": (">", "gt"), "less_than": ("<", "lt")}


class Problem(NamedTuple):
    """One thing that is wrong."""

    source: str  # a file, or '--set'
    path: str  # dotted; empty for the file as a whole
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


class ConfigError(ValueError):
    """A config that cannot be run; its text has one line for each of its ``problems``."""

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def error_at(path: Iterable[str | int], message: str, value: Any = None) -> InitErrorDetails:
    """An error with its final wording, for `errors_together`."""
    kind = PydanticCustomError(WORDED, "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=tuple(path), input=value)


def errors_together(errors: Iterable[InitErrorDetails]) -> ValidationError:
    """Several errors as one exception, which a validator may raise: pydantic puts the path before theirs."""
    return ValidationError.from_exception_data("config", list(errors))


def details_of(error: ValidationError) -> list[InitErrorDetails]:
    """The errors of an exception whose messages are final, for `errors_together` with others."""
    return [error_at(item["loc"], item["msg"], item["input"]) for item in error.errors(include_url=False)]


def worded(error: ValidationError, owner: str, known: Iterable[str]) -> ValidationError:
    """The same errors in gradlab's words.

    Args:
      error: what pydantic found.
      owner: whose keys these are: ``'argument of adamw'``.
      known: the keys that exist, to suggest one of them.
    """
    return errors_together(
        error_at(item["loc"], _message(item, owner, known), item["input"]) for item in error.errors(include_url=False)
    )


def _message(item: Any, owner: str, known: Iterable[str]) -> str:
    kind, got = item["type"], item["input"]
    if kind == "extra_forbidden":
        return f"unknown {owner}{suggestion(item['loc'][-1], known)}"
    if kind == "missing":
        return f"missing {owner}"
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, got {shown(got)}"
    if kind in _BOUNDS:
        sign, bound = _BOUNDS[kind]
        return f"must be {sign} {item['ctx'][bound]}, got {shown(got)}"
    if kind == "literal_error":
        return f"must be {item['ctx']['expected']}, got {shown(got)}"
    return item["msg"].removeprefix("Value error, ")


def shown(value: Any) -> str:
    """A value with the name of its kind, as YAML has it.

    >>> shown('1,5'), shown(None), shown([1])
    ("the string '1,5'", 'null', 'the list [1]')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    kinds = ((str, "the string "), (list, "the list "), (dict, "the mapping "))
    return next((kind for of, kind in kinds if isinstance(value, of)), "") + repr(value)
