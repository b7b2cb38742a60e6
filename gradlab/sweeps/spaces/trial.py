"""A trial is one assignment of values to hyperparameters; its identity is what it assigns, not where it stands."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

UID_LENGTH = 12  # hexadecimal digits: 48 bits, a collision in ten thousand trials has probability 2e-7


@dataclasses.dataclass(frozen=True)
class Trial:
    """Values by dotted hyperparameter name, and the hash of them that names files, table rows and random keys."""

    uid: str
    values: dict[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Trial":
        """The trial of these values.

        The uid is the beginning of the sha256 of `canonical_json`: the same for any order of the names, in any
        process, on any machine.

        >>> Trial.of({'learning_rate': 0.1, 'b1': 1}).uid == Trial.of({'b1': 1.0, 'learning_rate': 0.1}).uid
        True
        """
        values = dict(values)
        digest = hashlib.sha256(canonical_json(values).encode()).hexdigest()
        return cls(digest[:UID_LENGTH], values)


def canonical_json(value: Any) -> str:
    """One text for each value: sorted names, no spaces, and a whole number written the same as int and as float.

    Raises:
      ValueError: a number is NaN or infinite.

    >>> canonical_json({'b': 2.0, 'a': None})
    '{"a":null,"b":2}'
    """
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
