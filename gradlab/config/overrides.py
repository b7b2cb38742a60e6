"""``--set key.path=value``: changes to a config before it is checked."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from gradlab.config import yaml12
from gradlab.config.errors import ConfigError, Problem, shown

SOURCE = "--set"
SPACE = ["sweep", "space"]  # its keys are dotted names themselves


def override(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of the data of a config with some values replaced.

    A path goes through mappings by key and through lists by number; where its end does not exist yet it is made, and
    the check of the whole config says whether such a key is legal.

    Args:
      data: what the file holds.
      assignments: ``'train.steps=500'``, ``'optimizer.learning_rate=1e-3'``; the value is YAML.

    Raises:
      ConfigError: no ``=``, a value that is no YAML, a path through something that has no inside.

    >>> override({'train': {'steps': 500}}, ['train.steps=2', 'optimizer={name: sgd, learning_rate: 1e-1}'])
    {'train': {'steps': 2}, 'optimizer': {'name': 'sgd', 'learning_rate': 0.1}}
    """
    data, problems = copy.deepcopy(dict(data)), []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        try:
            if not equals or not path:
                raise ValueError(f"must have the form key.path=value, got {assignment!r}")
            _assign(data, path.split("."), yaml12.parse(text))
        except ValueError as error:
            problems.append(Problem(SOURCE, path if equals else "", str(error)))
    if problems:
        raise ConfigError(problems)
    return data


def _assign(node: Any, path: list[str], value: Any) -> None:
    walked: list[str] = []
    while True:
        key, rest = _next_key(node, path, walked)
        if not rest:
            node[key] = value
            return
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        walked += path[: len(path) - len(rest)]
        node, path = node[key], rest


def _next_key(node: Any, path: list[str], walked: list[str]) -> tuple[Any, list[str]]:
    """The key of the node that the path leads through, and the rest of the path."""
    if isinstance(node, dict):
        for length in range(len(path), 1, -1):  # keys such as 'optimizer.learning_rate' in a space
            if ".".join(path[:length]) in node:
                return ".".join(path[:length]), path[length:]
        return (".".join(path), []) if walked == SPACE and path[0] not in node else (path[0], path[1:])
    where = ".".join(walked)
    if not isinstance(node, list):
        raise ValueError(f"{where} is {shown(node)}, which has nothing inside")
    if not path[0].isdecimal() or int(path[0]) >= len(node):
        raise ValueError(f"{where} is a list of {len(node)}; give a number from 0 to {len(node) - 1}, got {path[0]!r}")
    return int(path[0]), path[1:]
