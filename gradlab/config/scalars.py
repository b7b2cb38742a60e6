"""The scalars of a config, without conversions: ``'3'`` is no number and 1 is no flag."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr


def _whole(value: Any) -> Any:
    """1e6 is a whole number, which YAML reads as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Flag = StrictBool
Text = StrictStr
Number = StrictFloat  # takes integers too
Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Count = Annotated[StrictInt, Field(ge=1), BeforeValidator(_whole)]
