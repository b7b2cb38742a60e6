"""YAML as version 1.2 reads it: ``1e-3`` is a number, ``no`` is a string, and a key occurs once.

PyYAML follows version 1.1, where a number with an exponent and no dot is a string, ``off`` is false and ``010`` is 8.
"""

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag != f"{_TAG}merge" and isinstance(key_node, yaml.ScalarNode):
                key = self.construct_object(key_node)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} occurs twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        bases = {"0o": 8, "0x": 16}
        return int(text[2:], bases[text[:2]]) if text[:2] in bases else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that either version of YAML would read as something else."""

    yaml_implicit_resolvers = {first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}


for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_integer)


def parse(text: str) -> Any:
    """The value of a YAML document.

    Raises:
      ValueError: what is wrong with the text, and where.

    >>> parse('{rate: 1e-3, decay: .5, flag: no, width: 010}')
    {'rate': 0.001, 'decay': 0.5, 'flag': 'no', 'width': 10}
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: it builds plain data only
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{problem}") from error


def dump(data: Any) -> str:
    """The text of plain data, which `parse` reads back; innermost lists and mappings stand on one line.

    >>> print(dump({'task': {'name': 'digits_mlp', 'hidden': [64, 64]}, 'rate': 1e-5, 'text': '1e-5'}), end='')
    task:
      name: digits_mlp
      hidden: [64, 64]
    rate: 1.0e-05
    text: '1e-5'
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)
